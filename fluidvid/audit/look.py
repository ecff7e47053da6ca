"""Aligned crops, and what every network of the panel says about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fluidvid.audit.graders import Panel
from fluidvid.audit.timeline import Picture
from fluidvid.engine.crops import to_crops
from fluidvid.trackers.align import crop

SIZE = 128
"""Side of the aligned crops in pixels."""
BATCH = 32
Floats = NDArray[np.float32]
Crops = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Look:
    """What the networks say about N crops.

    Attributes:
        embeddings: recogniser -> `(N, D)` unit float32.
        landmarks: `(N, 68, 2)` in crop pixels.
        expression: `(N, 7)` probabilities.
        age: `(N,)` years.
        male: `(N,)` probability.
    """

    embeddings: dict[str, Floats]
    landmarks: Floats
    expression: Floats
    age: Floats
    male: Floats


def crops_of(picture: Picture, matrices: NDArray[np.float64]) -> NDArray[np.uint8]:
    """`(N, SIZE, SIZE, 3)` uint8 aligned crops."""
    return (
        np.stack([crop(picture, m, SIZE) for m in matrices])
        if len(matrices)
        else np.zeros((0, SIZE, SIZE, 3), np.uint8)
    )


@torch.inference_mode()
def embed(panel: Panel, crops: NDArray[np.uint8]) -> dict[str, Floats]:
    """Recogniser -> `(N, D)` unit embeddings of `(N, S, S, 3)` uint8 crops."""
    tensor = to_crops(crops)
    return {net.name: net(tensor).numpy() for net in panel.recognisers}


@torch.inference_mode()
def look(panel: Panel, crops: NDArray[np.uint8]) -> Look:
    """Everything the panel says about `(N, S, S, 3)` uint8 crops."""
    seen = panel.attributes(to_crops(crops), mesh=False)
    landmarks = (seen.landmarks * SIZE).numpy()
    return Look(embed(panel, crops), landmarks, seen.expression.numpy(), seen.age.numpy(), seen.male.numpy())


def concatenated(looks: list[Look]) -> Look:
    """Looks one after another."""
    names = looks[0].embeddings
    return Look(
        {n: np.concatenate([k.embeddings[n] for k in looks]) for n in names},
        *(np.concatenate([getattr(k, part) for k in looks]) for part in ("landmarks", "expression", "age", "male")),
    )


def scattered(part: Floats, where: NDArray[np.bool_]) -> Floats:
    """`(M, ...)` values to `(N, ...)` rows where True, NaN elsewhere."""
    full = np.full((len(where), *part.shape[1:]), np.nan, np.float32)
    full[where] = part
    return full


def spread(found: Look, where: NDArray[np.bool_]) -> Look:
    """A look at M crops as one at N faces, NaN where nothing was looked at."""
    return Look(
        {name: scattered(part, where) for name, part in found.embeddings.items()},
        *(scattered(getattr(found, part), where) for part in ("landmarks", "expression", "age", "male")),
    )
