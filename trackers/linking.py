"""Which tracks are the same person: average-linkage clustering of identity embeddings, in memory only."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.55
OVERLAP = 30
"""Frames two tracks of one person may share: the look-ahead of the one reaches into the other."""


def link_tracks(
    embeddings: Mapping[int, NDArray[np.float32]],
    frames: Mapping[int, NDArray[np.int64]],
    *,
    threshold: float = THRESHOLD,
    overlap: int = OVERLAP,
) -> dict[int, int]:
    """Group tracks by person.

    Two people must never share a pseudonym by mistake, so tracks that are seen together for long are never linked and
    the threshold is set well above the impostors' level.

    Args:
        embeddings: track -> `(K, D)` unit embeddings of it; tracks that are not in it stand alone.
        frames: track -> `(F,)` frames it is present in.
        threshold: least cosine between the mean embeddings of two groups.
        overlap: most frames that tracks of one person may share.

    Returns:
        track -> person, the smallest track id of the group; for every track in `frames`.
    """
    groups = [{track} for track in sorted(embeddings) if len(embeddings[track])]
    means = [_mean(embeddings[min(group)]) for group in groups]
    sizes = [len(embeddings[min(group)]) for group in groups]
    present = {track: set(np.asarray(frames[track]).tolist()) for track in embeddings}
    while len(groups) > 1:
        best, pair = threshold, None
        cosines = np.stack(means) @ np.stack(means).T
        for a, b in combinations(range(len(groups)), 2):
            if cosines[a, b] >= best and not _together(groups[a], groups[b], present, overlap):
                best, pair = float(cosines[a, b]), (a, b)
        if pair is None:
            break
        i, j = pair
        means[i] = _unit(means[i] * sizes[i] + means[j] * sizes[j])
        sizes[i] += sizes[j]
        groups[i] |= groups[j]
        del groups[j], means[j], sizes[j]
    people = {track: track for track in frames}
    for group in groups:
        people |= dict.fromkeys(group, min(group))
    return people


def _together(a: set[int], b: set[int], present: Mapping[int, set[int]], overlap: int) -> bool:
    return any(len(present[x] & present[y]) > overlap for x in a for y in b)


def _mean(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    return _unit(np.asarray(embeddings, dtype=np.float64).mean(0))


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vector / max(1e-12, float(np.linalg.norm(vector))))
