"""Gates do not flicker, fades lie within what may be edited, and the future is not needed to be safe."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fluidvid.coverage import Reason
from fluidvid.gating import REASONS, CausalGate, GateLimits, gate_track

LIMITS = GateLimits(min_face=40, max_yaw=50, max_held=3, fade_frames=4)


def gates(
    sides: object = None, yaws: object = None, observed: object = None, count: int = 60
) -> tuple[NDArray[np.float32], list[Reason | None]]:
    weights, codes = gate_track(
        np.full(count, 80.0) if sides is None else np.asarray(sides, float),
        np.zeros(count) if yaws is None else np.asarray(yaws, float),
        np.ones(count, bool) if observed is None else np.asarray(observed, bool),
        LIMITS,
    )
    return weights, [REASONS[c] for c in codes]


def test_a_good_track_is_edited_from_first_to_last() -> None:
    weights, reasons = gates()
    assert (weights == 1).all() and set(reasons) == {None}


def test_too_small_is_masked_and_the_fade_lies_outside_of_it() -> None:
    sides = np.full(60, 80.0)
    sides[20:30] = 20
    weights, reasons = gates(sides)
    assert (weights[20:30] == 0).all() and reasons[25] == Reason.TOO_SMALL
    assert 0 < weights[19] < weights[18] < weights[17] <= 1 and reasons[19] == Reason.FADING
    assert np.abs(np.diff(weights)).max() <= 1 / (LIMITS.fade_frames + 1) + 1e-6


def test_noise_around_the_limit_does_not_flicker() -> None:
    sides = 40 + 3 * np.sin(np.arange(60))
    weights, _ = gates(sides)
    on = weights > 0
    assert np.abs(np.diff(on.astype(int))).sum() <= 1


def test_a_short_spell_stays_masked() -> None:
    yaws = np.full(60, 80.0)
    yaws[30:34] = 0
    weights, reasons = gates(yaws=yaws)
    assert (weights == 0).all() and reasons[31] == Reason.FADING and reasons[10] == Reason.TOO_TURNED


def test_held_short_is_edited_held_long_and_at_the_ends_is_masked() -> None:
    observed = np.ones(60, bool)
    observed[:5] = observed[-5:] = False
    observed[20:23] = observed[35:42] = False
    weights, reasons = gates(observed=observed)
    assert (weights[:5] == 0).all() and (weights[-5:] == 0).all()
    assert (weights[20:23] == 1).all() and (weights[35:42] == 0).all() and reasons[38] == Reason.HELD


def test_no_pose_is_masked() -> None:
    yaws = np.zeros(60)
    yaws[10] = np.nan
    weights, reasons = gates(yaws=yaws)
    assert weights[10] == 0 and reasons[10] == Reason.NO_LANDMARKS


def test_the_causal_gate_masks_at_once_and_fades_in() -> None:
    gate = CausalGate(LIMITS)
    rising = [gate.decide(1, 80, 0, True)[0] for _ in range(6)]
    assert rising[0] == pytest.approx(0.2) and rising[-1] == 1 and rising == sorted(rising)
    assert gate.decide(1, 80, 90, True) == (0.0, Reason.TOO_TURNED)
    assert gate.decide(1, 80, 0, True)[1] == Reason.FADING


def test_the_causal_gate_masks_what_is_held_too_long() -> None:
    gate = CausalGate(GateLimits(40, 50, 2, 0))
    assert [gate.decide(1, 80, 0, seen)[0] for seen in (True, False, False, False, True)] == [1, 1, 1, 0, 1]
