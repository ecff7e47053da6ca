"""The published clock, waits between attempts, the ladder, and the figures."""

from __future__ import annotations

import time
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidvid.live import backoff as waits
from fluidvid.live.backoff import Backoff
from fluidvid.live.clock import STEP, TIME_BASE, Timeline
from fluidvid.live.figures import Latencies, Rate
from fluidvid.live.ladder import PATIENCE, SETTLING, STARTING, Ladder, rungs
from fluidvid.live.source import Pace


@given(st.lists(st.fractions(-10_000, 10_000, max_denominator=90_000), min_size=2, max_size=60))
def test_published_times_only_rise(times: list[Fraction]) -> None:
    timeline = Timeline(time.monotonic())
    ticks = [timeline.tick(t) for t in times]
    assert all(b - a >= STEP for a, b in pairwise(ticks)) and ticks[0] >= 0


def test_distances_are_kept_and_jumps_are_not() -> None:
    timeline = Timeline(time.monotonic())
    ticks = [timeline.tick(Fraction(500) + Fraction(i, 30)) for i in range(30)]
    assert {b - a for a, b in pairwise(ticks)} == {3000}
    assert timeline.moved == 0
    after = timeline.tick(Fraction(3))  # the camera was set right
    assert timeline.moved == 1 and 0 < (after - ticks[-1]) * TIME_BASE < 1
    timeline.restart()
    assert 0 < (timeline.tick(Fraction(77)) - after) * TIME_BASE < 1


def test_sound_keeps_in_step_with_pictures() -> None:
    pictures, sounds = (Timeline(time.monotonic()) for _ in range(2))
    first = pictures.tick(Fraction(100))
    sounds.restart(pictures.offset)
    assert sounds.tick(Fraction(201, 2)) - first == 45_000


def test_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    patient = Backoff(0)
    assert [patient.failed() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    limited = Backoff(2)
    assert [limited.failed() for _ in range(3)] == [0.5, 1, None]
    limited = Backoff(2)
    limited.failed()
    limited.succeeded()
    now += 1  # not for long enough
    assert limited.failed() == 1
    limited.succeeded()
    now += waits.STEADY
    assert limited.failed() == 0.5


def descend(ladder: Ladder, latency: float, *, pictures: int = 400, dropped: bool = False) -> list[str]:
    names = [ladder.rung.name]
    for _ in range(pictures):
        if ladder.observe(latency, dropped=dropped):
            names.append(ladder.rung.name)
    return names


def test_the_ladder_goes_down_in_the_stated_order_and_up_again() -> None:
    steps = rungs(edits=True, levels=3)
    assert [s.edit_every for s in steps] == [1, 2, 4, 8, 8, 8, 8]
    assert [s.fewer_levels for s in steps] == [False] * 4 + [True] * 3
    assert [s.editing for s in steps] == [True] * 5 + [False] * 2
    assert [s.dropping for s in steps] == [False] * 6 + [True]
    ladder = Ladder(steps, 0.5)
    assert descend(ladder, 0.6) == [s.name for s in steps]
    assert descend(ladder, 0.1, pictures=3000) == [s.name for s in reversed(steps)]


def test_no_rung_without_a_reason() -> None:
    ladder = Ladder(rungs(edits=True, levels=1), 0.5)
    assert len(rungs(edits=True, levels=1)) == 6, "no rung of fewer levels for a backbone with one"
    descend(ladder, 0.1, pictures=STARTING)
    for _ in range(50):  # late now and then
        assert descend(ladder, 0.9, pictures=PATIENCE - 1) == ["full"]
        assert descend(ladder, 0.2, pictures=1) == ["full"]
    assert descend(ladder, 0.4, pictures=1000) == ["full"], "within the budget"
    classic = Ladder(rungs(edits=False, levels=1), 0.5)
    assert descend(classic, 0.6) == ["full", "dropping pictures"]
    assert descend(classic, 0.1, dropped=True) == ["dropping pictures"], "low latency by dropping is no room"


def test_a_rung_given_back_too_early_is_kept_longer() -> None:
    ladder = Ladder(rungs(edits=False, levels=1), 0.5)
    rests = []
    for _ in range(4):
        while not ladder.observe(0.6, dropped=False):
            pass
        count = 0
        while not ladder.observe(0.1, dropped=False):
            count += 1
        rests.append(count - SETTLING)
    assert rests[0] < rests[1] < rests[2] < rests[3]
    while not ladder.observe(0.6, dropped=False):
        pass
    ladder.reconsider()
    count = 0
    while not ladder.observe(0.1, dropped=False):
        count += 1
    assert count - SETTLING == rests[0]


def test_latencies_are_bounded_and_right() -> None:
    latencies = Latencies()
    assert latencies.recent() is None
    for i in range(100_000):
        latencies.add(i / 100_000)
    recent, overall = latencies.recent(), latencies.overall()
    assert recent is not None and overall is not None
    assert recent[0] > 0.99 and abs(overall[0] - 0.5) < 0.01 and abs(overall[1] - 0.95) < 0.01
    assert len(latencies._all) <= 20_000


def test_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    rate = Rate(5.0)
    assert rate.per_second() == 0
    for _ in range(100):
        rate.add()
        now += 0.1
    assert rate.per_second() == pytest.approx(10, rel=0.05)
    now += 60
    assert rate.per_second() == 0


def test_pace() -> None:
    pace = Pace()
    assert pace.wait(Fraction(10)) == 0
    assert pace.wait(Fraction(21, 2)) == pytest.approx(0.5, abs=0.05)
    assert pace.wait(Fraction(1)) == 0, "a jump back begins anew"
    assert np.isclose(pace.wait(Fraction(3, 2)), 0.5, atol=0.05)
