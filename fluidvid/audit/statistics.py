"""Figures with what belongs to them: how many faces they rest on, an interval, and the noise floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
BINS = 2000
"""Cosines are counted in bins of 1/1000 from -1 to 1."""
LEVEL = 0.95

_SHARES = (
    "reidentified",
    "rank",
    "true_accepts",
    "equal_error",
    "found_again",
    "tracks_of",
    "different",
    "linked",
    "jumps",
)

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """One number of the report.

    Attributes:
        value: None if it was not measured.
        count: faces it rests on.
        of: faces there are; `count / of` is its coverage.
        low: lower end of the 95 % interval (bootstrap over tracks), None with fewer than two tracks.
        high: upper end.
        floor: the same figure between the source and its own next frame, where that makes sense.
        why: why it was not measured.
    """

    value: float | None
    count: int = 0
    of: int = 0
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain types, floats rounded to 4 digits."""
        plain: dict[str, Any] = {"value": rounded(self.value), "faces": self.count, "of": self.of}
        if self.low is not None:
            plain["interval"] = [rounded(self.low), rounded(self.high)]
        if self.floor is not None:
            plain["floor"] = rounded(self.floor)
        if self.why:
            plain["why"] = self.why
        return plain


def rounded(value: float | None, digits: int = 4) -> float | None:
    """A plain float of few digits; None for None and for what is not finite."""
    return None if value is None or not np.isfinite(value) else round(float(value), digits)


def is_share(name: str) -> bool:
    """Whether the figure of this name is a share of something, to be printed in per cent."""
    return name.startswith(_SHARES) and not name.endswith("score")


def in_digits(value: float, percent: bool) -> str:
    """`12.3%` or `0.123`."""
    return f"{value:.1%}" if percent else f"{value:.3f}"


def not_measured(why: str, of: int = 0) -> Figure:
    """A figure without a value."""
    return Figure(None, 0, of, why=why)


def _draws(tracks: int) -> NDArray[np.int64]:
    """`(DRAWS, tracks)` how often each track is drawn; the same at every call."""
    generator = np.random.default_rng(20511700)
    picked = generator.integers(0, tracks, (DRAWS, tracks))
    counts: NDArray[np.int64] = np.stack([np.bincount(row, minlength=tracks) for row in picked]).astype(np.int64)
    return counts


def _ends(values: Numbers) -> tuple[float | None, float | None]:
    good = values[np.isfinite(values)]
    if not len(good):
        return None, None
    low, high = np.quantile(good, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mean_figure(values: NDArray[Any], tracks: NDArray[np.int64], of: int, floor: float | None = None) -> Figure:
    """Mean over faces with a bootstrap over tracks; values that are not finite are left out and cost coverage.

    Args:
        values: `(N,)`, one per face.
        tracks: `(N,)` whose faces they are.
        of: faces there were, for the coverage.
        floor: see `Figure`.
    """
    return ratio_figure(values, np.ones(len(values)), tracks, of, floor)


def median_figure(values: NDArray[Any], tracks: NDArray[np.int64], of: int) -> Figure:
    """Median over faces with a bootstrap over tracks; see `mean_figure`."""
    numbers = np.asarray(values, np.float64)
    good = np.isfinite(numbers)
    if not good.any():
        return not_measured("no face could be measured", of)
    kept, owner = numbers[good], np.unique(tracks[good], return_inverse=True)[1]
    low = high = None
    if owner.max() > 0:
        order = np.argsort(kept)
        ranked, places = kept[order], owner[order]
        # Each draw says how often every track counts: the weighted median is where half the weight is reached.
        reached = (np.cumsum(draw[places]) for draw in _draws(int(owner.max()) + 1))
        middle = np.array([np.searchsorted(weight, weight[-1] / 2) for weight in reached])
        low, high = _ends(ranked[middle])
    return Figure(float(np.median(kept)), int(good.sum()), of, low, high)


def ratio_figure(
    top: NDArray[Any], bottom: NDArray[Any], tracks: NDArray[np.int64], of: int, floor: float | None = None
) -> Figure:
    """Sum of `top` over sum of `bottom`, `(N,)` each, with a bootstrap over tracks; see `mean_figure`."""
    a, b = np.asarray(top, np.float64), np.asarray(bottom, np.float64)
    good = np.isfinite(a) & np.isfinite(b)
    if not good.any() or b[good].sum() == 0:
        return not_measured("no face could be measured", of)
    owner = np.unique(tracks[good], return_inverse=True)[1]
    above, below = np.bincount(owner, a[good]), np.bincount(owner, b[good])
    low = high = None
    if len(below) > 1:
        drawn = _draws(len(below))
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = _ends((drawn @ above) / (drawn @ below))
    return Figure(float(a[good].sum() / b[good].sum()), int(good.sum()), of, low, high, floor)


@dataclass(frozen=True, eq=False)
class Scores:
    """Cosines counted per track: enough for every curve and its bootstrap.

    Attributes:
        genuine: `(T, BINS)` counts of scores between a face and its own person.
        impostor: `(T, BINS)` counts of scores between a face and somebody else.
    """

    genuine: Numbers
    impostor: Numbers

    @classmethod
    def count(cls, genuine: NDArray[Any], impostor: NDArray[Any], tracks: NDArray[np.int64]) -> Scores:
        """From `(N,)` genuine and `(N, M)` impostor scores of faces of `(N,)` tracks; NaN is left out."""
        owner = np.unique(tracks, return_inverse=True)[1]
        total = int(owner.max()) + 1 if len(owner) else 0
        tables = []
        for scores in (np.asarray(genuine)[:, None], np.asarray(impostor)):
            table = np.zeros((total, BINS))
            good = np.isfinite(scores)
            rows = np.broadcast_to(owner[:, None], scores.shape)[good]
            bins = np.clip(((scores[good] + 1) / 2 * BINS).astype(int), 0, BINS - 1)
            np.add.at(table, (rows, bins), 1.0)
            tables.append(table)
        return cls(tables[0], tables[1])

    def figure(self, measure: Callable[[Numbers, Numbers], float], count: int, of: int) -> Figure:
        """`measure(genuine counts, impostor counts)` over all tracks, bootstrapped over tracks."""
        if self.genuine.sum() == 0 or self.impostor.sum() == 0:
            return not_measured("no impostors: one person and no gallery for this recogniser", of)
        value = measure(self.genuine.sum(0), self.impostor.sum(0))
        low = high = None
        if len(self.genuine) > 1:
            drawn = _draws(len(self.genuine))
            low, high = _ends(np.array([measure(d @ self.genuine, d @ self.impostor) for d in drawn]))
        return Figure(value, count, of, low, high)


def _at_least(counts: Numbers) -> Numbers:
    """Share of scores in this bin or above."""
    return np.asarray(counts[::-1].cumsum()[::-1] / max(counts.sum(), 1e-12))


def equal_error_rate(genuine: Numbers, impostor: Numbers) -> float:
    """Where as many impostors are accepted as genuine faces are rejected, from counts per bin; .5 is chance."""
    accepted, rejected = _at_least(impostor), 1 - _at_least(genuine)
    at = int(np.argmin(np.abs(accepted - rejected)))
    return float((accepted[at] + rejected[at]) / 2)


def true_accept_rate(far: float) -> Callable[[Numbers, Numbers], float]:
    """Share of genuine faces accepted at the threshold where a share `far` of impostors is."""

    def measure(genuine: Numbers, impostor: Numbers) -> float:
        allowed = np.flatnonzero(_at_least(impostor) <= far)
        return float(_at_least(genuine)[allowed[0]]) if len(allowed) else 0.0

    return measure
