"""Frames correspond by presentation time, and what does not correspond is said."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidvid.audit.timeline import align, read_times, stretch, walk
from fluidvid.audit.verdict import SAME_SHAPE
from tests.fluidvid.audit.media import pictures_of, write

STEP = Fraction(1001, 30000)


def times(*numbers: int) -> list[Fraction]:
    return [STEP * n for n in numbers]


def test_equal_times() -> None:
    timeline = align(times(0, 1, 2, 5), times(0, 1, 2, 5))
    assert timeline.same and timeline.pairs == {0: 0, 1: 1, 2: 2, 3: 3}
    assert "all 4 frames correspond" in timeline.words()


def test_rounded_to_milliseconds_is_the_same() -> None:
    result = [Fraction(round(t * 1000), 1000) for t in times(*range(20))]
    assert align(times(*range(20)), result).same


def test_a_dropped_frame_is_found_by_time() -> None:
    timeline = align(times(0, 1, 2, 3), times(0, 1, 3))
    assert timeline.pairs == {0: 0, 1: 1, 3: 2} and not timeline.same and timeline.only_result == ()


def test_an_added_frame_has_no_counterpart() -> None:
    timeline = align(times(0, 1, 2), times(0, 1, 2, 3))
    assert timeline.only_result == (3,) and "1 result frames have no counterpart" in timeline.words()


def test_another_clock_pairs_in_order_and_says_so() -> None:
    timeline = align(times(0, 1, 5, 9), times(0, 1, 2, 3))
    assert timeline.by == "order" and timeline.pairs == {i: i for i in range(4)} and not timeline.same
    assert "differ by up to 200 ms" in timeline.words()


def test_what_is_missing_at_the_end_may_be_missing_at_the_beginning() -> None:
    shorter = align(times(*range(60)), times(*range(30)))
    assert shorter.cut and "1.0 s shorter and may be another part of the source" in shorter.words()
    assert not align(times(*range(60)), times(*range(57))).cut


def test_shapes_agree_upright_in_pixels_or_as_shown(clip: Path, tmp_path: Path) -> None:
    picture = pictures_of(clip, 1)[0]
    source = write(tmp_path / "a.mp4", [picture])
    assert stretch(source, write(tmp_path / "half.mp4", [picture[::2, ::2]])) == 1
    assert stretch(source, write(tmp_path / "even.mp4", [picture[:-2]])) < SAME_SHAPE
    turned, upright = np.rot90(picture), tmp_path / "upright.mp4"
    assert stretch(source, write(tmp_path / "turned.mp4", [turned])) == pytest.approx((176 / 144) ** 2)
    assert stretch(source, write(upright, [turned], quarter_turns=3)) == 1, "the display matrix turns it back"
    wide = write(tmp_path / "wide.mp4", [picture[:, ::2]], sar=Fraction(2))
    assert stretch(source, wide) == stretch(wide, source) == 1
    assert stretch(wide, write(tmp_path / "lost.mp4", [picture[:, ::2]])) == 1


@given(
    st.lists(st.integers(0, 200), min_size=1, max_size=40, unique=True),
    st.lists(st.integers(0, 200), min_size=1, max_size=40, unique=True),
)
def test_pairs_rise_and_serve_once(source: list[int], result: list[int]) -> None:
    timeline = align(times(*sorted(source)), times(*sorted(result)))
    pairs = list(timeline.pairs.items())
    assert all(a < c and b < d for (a, b), (c, d) in pairwise(pairs))
    assert len(set(timeline.pairs.values())) == len(pairs)
    assert len(timeline.only_result) == len(result) - len(pairs)


def test_walk_scales_a_result_of_another_size(clip: Path, tmp_path: Path) -> None:
    pictures = pictures_of(clip, 3)
    source = write(tmp_path / "a.mp4", pictures)
    small = write(tmp_path / "b.mp4", [p[::2, ::2] for p in pictures[:2]])
    timeline = align(read_times(source), read_times(small))
    found = list(walk(source, small, timeline))
    assert [index for index, _, _ in found] == [0, 1]
    assert all(a.shape == b.shape == pictures[0].shape for _, a, b in found)
