"""When a face is edited and when it is masked: limits with hysteresis, and cross-fades that start from the mask.

A fade mixes the mask with the full edit. It never mixes with the original, and frames that must be masked are
masked entirely: the fade lies within the stretch that could be edited.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fluidvid.coverage import Reason

SIZE_SLACK = 0.85
YAW_SLACK = 6.0
REASONS = (None, *Reason)
"""Codes for storage in one byte: index 0 is "no reason"."""


@dataclass(frozen=True)
class GateLimits:
    """Limits in force: shorter side in pixels, yaw in degrees, longest held stretch that is still edited,
    frames of the cross-fade.
    """

    min_face: float
    max_yaw: float
    max_held: int
    fade_frames: int


def code_of(reason: Reason | None) -> int:
    """Storage code of a reason."""
    return REASONS.index(reason)


def _schmitt(values: NDArray[np.float64], enter: float, leave: float) -> NDArray[np.bool_]:
    """True from where `values >= enter` until `values < leave` (leave <= enter)."""
    state = np.zeros(len(values), dtype=bool)
    on = False
    for i, value in enumerate(values):
        on = bool(value >= (leave if on else enter))
        state[i] = on
    return state


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Half-open runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def gate_track(
    sides: NDArray[np.float64],
    yaws: NDArray[np.float64],
    observed: NDArray[np.bool_],
    limits: GateLimits,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Decide over the whole life of a track.

    Args:
        sides: `(T,)` shorter side of the box in pixels, in frame order.
        yaws: `(T,)` absolute yaw in degrees; NaN where no pose could be told.
        observed: `(T,)` True where a detection supports the face.
        limits: the limits.

    Returns:
        `(T,)` float32 weight of the edit in [0, 1] (0 = masked) and `(T,)` uint8 code of the reason
        (index into `REASONS`) for weights below 1.
    """
    count = len(sides)
    reasons = np.zeros(count, dtype=np.uint8)

    def forbid(where: NDArray[np.bool_], reason: Reason) -> None:
        reasons[where & (reasons == 0)] = code_of(reason)

    forbid(~_schmitt(sides, limits.min_face, SIZE_SLACK * limits.min_face), Reason.TOO_SMALL)
    forbid(np.isnan(yaws), Reason.NO_LANDMARKS)
    forbid(~_schmitt(-np.nan_to_num(yaws), -limits.max_yaw, -(limits.max_yaw + YAW_SLACK)), Reason.TOO_TURNED)
    for begin, end in _runs(~observed):
        inside = begin > 0 and end < count
        if not inside or end - begin > limits.max_held:
            where = np.zeros(count, dtype=bool)
            where[begin:end] = True
            forbid(where, Reason.HELD)
    weights = np.zeros(count, dtype=np.float32)
    for begin, end in _runs(reasons == 0):
        steps = np.arange(end - begin, dtype=np.float64)
        since = steps + 1 if begin > 0 else np.full(end - begin, np.inf)
        until = steps[::-1] + 1 if end < count else np.full(end - begin, np.inf)
        weight = np.minimum(1.0, np.minimum(since, until) / (limits.fade_frames + 1))
        if weight.max(initial=0.0) < 1.0:  # too short a spell to show a face at all: it would only flicker
            weight[:] = 0.0
        weights[begin:end] = weight
        reasons[begin:end][weight < 1.0] = code_of(Reason.FADING)
    return weights, reasons


class CausalGate:
    """The same limits without knowledge of the future, for frames that must leave soon.

    A face that must be masked is masked at once; a face that may be edited fades in from the mask.
    """

    def __init__(self, limits: GateLimits) -> None:
        self._limits = limits
        self._weights: dict[int, float] = {}
        self._held: dict[int, int] = {}

    def decide(self, track_id: int, side: float, yaw: float, observed: bool) -> tuple[float, Reason | None]:
        """Weight of the edit in [0, 1] and, below 1, the reason; call once per track and frame, in order."""
        limits = self._limits
        before = self._weights.get(track_id, 0.0)
        on = before > 0
        held = 0 if observed else self._held.get(track_id, 0) + 1
        self._held[track_id] = held
        reason: Reason | None = None
        if side < limits.min_face * (SIZE_SLACK if on else 1.0):
            reason = Reason.TOO_SMALL
        elif np.isnan(yaw):
            reason = Reason.NO_LANDMARKS
        elif abs(yaw) > limits.max_yaw + (YAW_SLACK if on else 0.0):
            reason = Reason.TOO_TURNED
        elif held > limits.max_held:
            reason = Reason.HELD
        weight = 0.0 if reason else min(1.0, before + 1.0 / (limits.fade_frames + 1))
        self._weights[track_id] = weight
        return weight, reason or (Reason.FADING if weight < 1.0 else None)

    def close(self, track_id: int) -> None:
        """The face is masked for reasons of its own: it will fade in from the mask again."""
        self._weights[track_id] = 0.0

    def forget(self, alive: set[int]) -> None:
        """Drop the state of tracks that are not in `alive`."""
        self._weights = {k: v for k, v in self._weights.items() if k in alive}
        self._held = {k: v for k, v in self._held.items() if k in alive}
