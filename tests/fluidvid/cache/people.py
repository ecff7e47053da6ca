"""Synthetic people for tests of the cache: unit vectors, and directions that carry a recognisable number."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fluidvid.engine.cache import Known, Provenance

BASIS = "ab" * 32


def person(seed: int, dimension: int = 128) -> NDArray[np.float32]:
    """A unit vector of its own."""
    vector = np.random.default_rng(seed).normal(size=dimension)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def seen_again(seed: int, cosine: float, other: int = 999) -> NDArray[np.float32]:
    """The same person at another time: a unit vector at that cosine."""
    a, b = person(seed), person(other)
    rest = b - (a @ b) * a
    return np.asarray(cosine * a + np.sqrt(1 - cosine**2) * rest / np.linalg.norm(rest), np.float32)


def known(row: int, basis: str = BASIS) -> Known:
    """A direction to pseudonym `row`."""
    return Known(torch.full((2, 3), float(row)), torch.zeros(4, 2, 2), row, Provenance(basis, 25, (1, 2), {"v": 0.1}))
