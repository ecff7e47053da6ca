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
from fluidvid.live.ladder import LONGEST_REST, PATIENCE, ROOM, SETTLING, SOON, STARTING, Ladder, Rung, rungs
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


def test_a_clock_that_is_set_back_a_little_squeezes_no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They came within milliseconds, until the times were again where they had been."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    timeline, ticks = Timeline(0.0), list[int]()
    for index in range(60):
        now = index / 30
        back = 1.0 if index >= 40 else 0.05 if index == 20 else 0.0  # set back for good; unsteady once
        ticks.append(timeline.tick(Fraction(index, 30) - Fraction(back)))
    steps = [b - a for a, b in pairwise(ticks)]
    assert timeline.moved == 1 and {*steps[:19], *steps[21:]} == {3000} and min(steps) >= STEP


def test_sound_keeps_in_step_with_pictures() -> None:
    pictures, sounds = (Timeline(time.monotonic()) for _ in range(2))
    first = pictures.tick(Fraction(100))
    sounds.follow(pictures, Fraction(201, 2))
    assert sounds.tick(Fraction(201, 2)) - first == 45_000


def published(chunks: list[tuple[float, str, float]], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """What becomes of `(arrival, "picture" or "sound", input time)`: which, and published seconds minus arrival."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pictures, sounds = Timeline(0.0), Timeline(0.0)
    made = []
    for arrival, what, seconds in chunks:
        now, at = arrival, Fraction(seconds).limit_denominator(1000)
        if what == "sound":
            sounds.follow(pictures, at)
        tick = (pictures if what == "picture" else sounds).tick(at)
        made.append((what, round(float(tick * TIME_BASE) - arrival, 2)))
    return made


@pytest.mark.parametrize("jump", [-5000.0, -10.0, -3.0, 3.0, 10.0, 95443.7])  # the last: 33 bits of 90 kHz
@pytest.mark.parametrize("late", [-0.7, 0.7])
def test_sound_is_in_step_after_a_jump(jump: float, late: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """MPEG-TS sends a picture up to a second before its sound, or after: the present tells neither's place."""
    chunks = []
    for i in range(100):
        arrival = i / 10
        for what, behind in (("picture", 0.0), ("sound", late)):
            seconds = 6000.0 + arrival - behind
            chunks.append((arrival, what, seconds + (jump if seconds > 6005 else 0.0)))
    made = published(chunks, monkeypatch)
    before, after = ([dict(made[i : i + 2]) for i in range(*span, 2)] for span in ((20, 80), (140, 200)))
    for offsets in (before, after):
        apart = {round(o["picture"] - o["sound"], 2) for o in offsets}
        assert len(apart) == 1 and apart.pop() == pytest.approx(late, abs=0.02)


def test_a_pause_is_no_jump_and_steps_back_freeze_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    timeline = Timeline(0.0)
    for now in (1.0, 1.1, 9.1, 9.3):  # one that came a little late
        tick = timeline.tick(Fraction(now).limit_denominator(10) + 100)
        assert tick == pytest.approx(now / float(TIME_BASE), abs=1) and timeline.moved == 0
    ticks = []
    for i in range(10):  # its clock is put back by a second: they would come in one burst, then stand still
        now = 9.4 + i / 10
        ticks.append(timeline.tick(Fraction(1084 + i, 10)))
    assert {b - a for a, b in pairwise(ticks)} == {9000} and timeline.moved == 1


def test_sound_with_another_clock_than_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in step with its arrival: by the pictures' offset it would be an hour away."""
    chunks = [(i / 10, what, i / 10 + begin) for i in range(50) for what, begin in (("picture", 5000), ("sound", 9))]
    assert all(abs(apart) < 0.02 for _, apart in published(chunks, monkeypatch))


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


class Viewer:
    """Shows a ladder pictures at a steady pace on a simulated clock."""

    def __init__(self, *steps: Rung, rate: float = 25.0) -> None:
        self.ladder, self.now, self._apart = Ladder(steps, 0.5), 0.0, 1 / rate

    def show(self, latency: float, *, pictures: int, dropped: bool = False) -> list[str]:
        """Names of the rungs from now on."""
        names = [self.ladder.rung.name]
        for _ in range(pictures):
            self.now += self._apart
            if self.ladder.observe(latency, at=self.now, dropped=dropped):
                names.append(self.ladder.rung.name)
        return names

    def until_changed(self, latency: float) -> float:
        """Seconds that the present rung lasts at this latency."""
        began, position = self.now, self.ladder.position
        while self.ladder.position == position:
            assert self.now - began < 1000, "it never changes"
            self.show(latency, pictures=1)
        return self.now - began


def test_the_ladder_goes_down_in_the_stated_order_and_up_again() -> None:
    steps = rungs(edits=True, levels=3)
    assert [s.edit_every for s in steps] == [1, 2, 4, 8, 8, 8, 8]
    assert [s.fewer_levels for s in steps] == [False] * 4 + [True] * 3
    assert [s.editing for s in steps] == [True] * 5 + [False] * 2
    assert [s.dropping for s in steps] == [False] * 6 + [True]
    viewer = Viewer(*steps)
    assert viewer.show(0.6, pictures=400) == [s.name for s in steps]
    assert viewer.show(0.1, pictures=3000) == [s.name for s in reversed(steps)]


def test_no_rung_without_a_reason() -> None:
    assert len(rungs(edits=True, levels=1)) == 6, "no rung of fewer levels for a backbone with one"
    viewer = Viewer(*rungs(edits=True, levels=1))
    viewer.show(0.1, pictures=STARTING)
    for _ in range(50):  # late now and then
        assert viewer.show(0.9, pictures=PATIENCE - 1) == ["full"]
        assert viewer.show(0.2, pictures=1) == ["full"]
    assert viewer.show(0.4, pictures=1000) == ["full"], "within the budget"
    classic = Viewer(*rungs(edits=False, levels=1))
    assert classic.show(0.6, pictures=400) == ["full", "dropping pictures"]
    assert classic.show(0.1, pictures=400, dropped=True) == ["dropping pictures"], "low latency by dropping is no room"


@pytest.mark.parametrize("rate", [5.0, 25.0, 60.0])
def test_a_step_up_that_is_soon_undone_is_tried_less_and_less_often(rate: float) -> None:
    viewer = Viewer(*rungs(edits=False, levels=1), rate=rate)
    rests = []
    for _ in range(10):
        viewer.until_changed(0.6)
        rests.append(viewer.until_changed(0.1))
    settling = (SETTLING + 3) / rate
    wanted = [min(LONGEST_REST, ROOM * 2**n) for n in range(10)]
    assert wanted[-1] == wanted[-2] == LONGEST_REST, "it is tried again and again, but not for nothing"
    assert all(want <= rest + 1e-6 <= want + settling for want, rest in zip(wanted, rests, strict=True))
    viewer.until_changed(0.6)
    viewer.ladder.reconsider()
    assert viewer.until_changed(0.1) <= ROOM + settling


def test_an_outage_is_no_room() -> None:
    viewer = Viewer(*rungs(edits=False, levels=1))
    viewer.until_changed(0.6)
    viewer.show(0.1, pictures=SETTLING + 20)
    viewer.now += 60  # no picture meanwhile
    assert viewer.until_changed(0.1) >= ROOM


def test_a_step_up_that_held_is_forgiven() -> None:
    viewer = Viewer(*rungs(edits=False, levels=1))
    for _ in range(4):
        viewer.until_changed(0.6)
        viewer.until_changed(0.1)
    viewer.show(0.1, pictures=round(25 * SOON))
    viewer.until_changed(0.6)
    assert viewer.until_changed(0.1) <= ROOM + 1


def test_one_picture_without_room_costs_no_long_rest() -> None:
    viewer = Viewer(*rungs(edits=False, levels=1))
    for _ in range(5):
        viewer.until_changed(0.6)
        viewer.until_changed(0.1)
    viewer.until_changed(0.6)
    began = viewer.now
    while viewer.ladder.position:  # a hiccup every ten seconds, as on any machine
        viewer.show(0.45, pictures=1)
        viewer.show(0.1, pictures=249)
        assert viewer.now - began < 2 * 32 * ROOM + 20


def served(viewer: Viewer, seconds: float, *costs: float) -> list[str]:
    """A machine that needs `costs[rung]` seconds for each picture, at 25 pictures/s: the rungs it was on, in order."""
    names, backlog = [viewer.ladder.rung.name], 0.0
    for _ in range(round(25 * seconds)):
        viewer.now += 0.04
        backlog = max(0.0, backlog - 0.04) + costs[viewer.ladder.position]
        if viewer.ladder.observe(0.1 + backlog, at=viewer.now, dropped=False):
            down = viewer.ladder.rung.name != names[-1] and costs[viewer.ladder.position] < 0.04
            backlog = 0.0 if down else backlog  # the session begins with the newest picture
            names.append(viewer.ladder.rung.name)
    return names


def test_a_machine_at_its_limit_does_not_flap() -> None:
    """Every 2nd picture is what it can do. It still climbs there quickly from below, and to the top when it can."""
    viewer = Viewer(*rungs(edits=True, levels=1))
    limit = (0.05, 0.03, 0.02, 0.01, 0.01, 0.01)
    tries = [served(viewer, 600, *limit).count("full") for _ in range(6)]  # an hour
    assert tries[0] <= 9 and max(tries[1:]) <= 3
    assert viewer.ladder.position <= 1
    assert served(viewer, 20, *[0.06] * 6)[-1] == "masking and dropping pictures"  # something else takes the machine
    assert served(viewer, 30, *limit)[-1] == "editing every 2nd picture"
    assert served(viewer, LONGEST_REST + 5, *[0.01] * 6)[-1] == "full"
    assert served(viewer, 600, *[0.01] * 6) == ["full"]


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
