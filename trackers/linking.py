"""Which tracks are the same person: average-linkage clustering of identity embeddings, in memory only."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.55
OVERLAP = 5
"""Frames two tracks of one person may share: a face that is found twice for a moment. Who is seen together for longer
is two people, however alike."""
MARGIN = 0.05
"""Lead in cosine that a link needs over a rival who is certainly somebody else."""
NOBODY = -1


def link_tracks(
    embeddings: Mapping[int, NDArray[np.float32]],
    frames: Mapping[int, NDArray[np.int64]],
    *,
    threshold: float = THRESHOLD,
    overlap: int = OVERLAP,
) -> dict[int, int]:
    """Group tracks by person.

    Two people must never share a pseudonym by mistake, so tracks that are seen together for long are never linked and
    the threshold is set well above the impostors' level. Nor is a track linked that could as well be another person's:
    where the second choice, seen together with the first, is as near.

    Args:
        embeddings: track -> `(K, D)` unit embeddings of it; tracks that are not in it stand alone.
        frames: track -> `(F,)` frames it is seen in; what look-ahead adds does not count.
        threshold: least cosine between the mean embeddings of two groups.
        overlap: most frames that tracks of one person may share.

    Returns:
        track -> person, the smallest track id of the group; for every track in `frames`.
    """
    groups = [{track} for track in sorted(embeddings) if len(embeddings[track])]
    means = [_mean(embeddings[min(group)]) for group in groups]
    sizes = [len(embeddings[min(group)]) for group in groups]
    present = [set(np.asarray(frames[min(group)]).tolist()) for group in groups]
    apart = np.zeros((len(groups), len(groups)), dtype=bool)
    for a, b in combinations(range(len(groups)), 2):
        apart[a, b] = apart[b, a] = len(present[a] & present[b]) > overlap
    if groups:
        _merge(groups, np.stack(means), np.array(sizes), apart, threshold)
    people = {track: track for track in frames}
    for group in groups:
        people |= dict.fromkeys(group, min(group, default=0))
    return people


def _merge(
    groups: list[set[int]],
    means: NDArray[np.float64],
    sizes: NDArray[np.int64],
    apart: NDArray[np.bool_],
    threshold: float,
) -> None:
    """Join the groups that are one person, in place; of two the second is left empty."""
    cosines = means @ means.T
    # What may be joined, each pair once: kept beside the cosines, of which a step changes but one row and column.
    open_pairs = np.where(np.triu((cosines >= threshold) & ~apart, 1), cosines, -np.inf)
    rivals = np.full(cosines.shape, NOBODY, np.int32)  # who is in the way of a pair, until one of the three changes
    while (pair := _best_pair(cosines, apart, open_pairs, rivals)) is not None:
        i, j = pair
        again = (rivals == i) | (rivals == j)
        open_pairs[again] = cosines[again]
        again[[i, j]] = again[:, [i, j]] = True
        rivals[again] = NOBODY
        means[i] = _unit(means[i] * sizes[i] + means[j] * sizes[j])
        sizes[i] += sizes[j]
        groups[i] |= groups[j]
        groups[j] = set()
        apart[i] |= apart[j]
        apart[:, i] = apart[i]
        gone = np.isneginf(cosines[i])
        cosines[i] = np.where(gone, -np.inf, means @ means[i])
        cosines[:, i] = cosines[i]
        cosines[j] = cosines[:, j] = -np.inf
        allowed = np.where((cosines[i] >= threshold) & ~apart[i], cosines[i], -np.inf)
        open_pairs[i, i + 1 :], open_pairs[:i, i] = allowed[i + 1 :], allowed[:i]
        open_pairs[j] = open_pairs[:, j] = -np.inf


def _best_pair(
    cosines: NDArray[np.float64], apart: NDArray[np.bool_], open_pairs: NDArray[np.float64], rivals: NDArray[np.int32]
) -> tuple[int, int] | None:
    """The most alike two groups that may be one person, and of which neither is as near to a certain third: a pair with
    such a third is no longer open, and the third is noted.
    """
    while True:
        a, b = divmod(int(open_pairs.argmax()), len(open_pairs))
        if np.isneginf(open_pairs[a, b]):
            return None
        near = cosines[a, b] - MARGIN
        thirds = np.flatnonzero((apart[b] & (cosines[a] > near)) | (apart[a] & (cosines[b] > near)))
        if len(thirds) == 0:
            return a, b
        rivals[a, b], open_pairs[a, b] = thirds[0], -np.inf


def _mean(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    return _unit(np.asarray(embeddings, dtype=np.float64).mean(0))


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vector / max(1e-12, float(np.linalg.norm(vector))))
