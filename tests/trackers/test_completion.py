"""Tracks completed from both sides: nothing between, before or after stays bare."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidvid.trackers import TrackedFace, complete_tracks
from fluidvid.trackers.completion import GROWTH
from tests.trackers.scenes import box_at, centre, observed, points_in


def _one(found: dict[int, list[TrackedFace]]) -> dict[int, TrackedFace]:
    assert all(len(faces) == 1 for faces in found.values())
    return {frame: faces[0] for frame, faces in found.items()}


def test_a_gap_is_filled_from_both_sides() -> None:
    faces = [observed(1, 0, 100), observed(1, 10, 200, width=80)]
    done = _one(complete_tracks(faces, frames=11, look_ahead=0, max_gap=9))
    assert list(done) == list(range(11))
    assert [f for f, face in done.items() if face.observed] == [0, 10]
    grown = 2 * 5 * GROWTH * 87.5
    np.testing.assert_allclose(done[5].box, box_at(150, 100, 70 + grown, 87.5 + grown), atol=1e-3)
    np.testing.assert_allclose(done[5].landmarks, points_in(box_at(150, 100, 70, 87.5)), atol=1e-3)
    assert done[5].score == 0.0
    assert done[3].frame == 3
    assert done[3].box.dtype == done[3].landmarks.dtype == np.float32


def test_observed_faces_pass_unchanged() -> None:
    face = observed(3, 4, 100)
    assert complete_tracks([face], frames=9, look_ahead=0, max_gap=0) == {4: [face]}


def test_a_gap_longer_than_max_gap_is_not_filled() -> None:
    faces = [observed(1, 0, 100), observed(1, 10, 200)]
    assert list(complete_tracks(faces, frames=11, look_ahead=0, max_gap=8)) == [0, 10]
    assert list(complete_tracks(faces, frames=11, look_ahead=2, max_gap=8)) == [0, 1, 2, 8, 9, 10]


def test_nothing_is_filled_or_extended_across_a_cut() -> None:
    faces = [observed(1, 2, 100), observed(1, 8, 200)]
    assert list(complete_tracks(faces, frames=20, look_ahead=0, max_gap=30, cuts={5})) == [2, 8]
    done = _one(complete_tracks([observed(1, 6, 100)], frames=20, look_ahead=12, max_gap=30, cuts={4, 9}))
    assert list(done) == [4, 5, 6, 7, 8]


def test_a_cut_at_the_observed_frame_itself_stops_the_look_ahead_backwards() -> None:
    done = complete_tracks([observed(1, 4, 100)], frames=20, look_ahead=3, max_gap=30, cuts=[4])
    assert list(done) == [4, 5, 6, 7]


def test_a_cut_inside_a_gap_is_reached_from_both_sides() -> None:
    """A cut next to one end: the other side covers its own shot up to it."""
    faces = [observed(1, 0, 100), observed(1, 10, 400)]
    done = _one(complete_tracks(faces, frames=11, look_ahead=12, max_gap=30, cuts={2}))
    assert list(done) == list(range(11))
    assert centre(done[1].box)[0] < 150
    assert all(centre(done[f].box)[0] > 350 for f in range(2, 11))


def test_look_ahead_covers_both_ends() -> None:
    faces = [observed(1, f, 100 + 4 * f) for f in range(20, 30)]
    done = _one(complete_tracks(faces, frames=100, look_ahead=12, max_gap=30))
    assert list(done) == list(range(8, 42))
    assert [f for f, face in done.items() if face.observed] == list(range(20, 30))
    # The motion goes on, damped, and the held box still covers where the face is by then.
    for f in (18, 31):
        box, place = done[f].box, 100 + 4 * f
        assert abs(centre(box)[0] - place) < 3
    for f in (12, 37):
        truth = box_at(100 + 4 * f, 100)
        assert (done[f].box[:2] < truth[:2] + 12).all()
        assert (done[f].box[2:] > truth[2:] - 12).all()


def test_two_frames_at_fifty_a_second_are_one_at_twentyfive() -> None:
    slow = _one(complete_tracks([observed(1, f, 100 + 8 * f) for f in (4, 5)], frames=20, look_ahead=10, max_gap=0))
    faces = [observed(1, f, 100 + 4 * f) for f in (8, 9, 10)]
    quick = _one(complete_tracks(faces, frames=40, look_ahead=20, max_gap=0, rate=50))
    for frame in range(6, 16):
        np.testing.assert_allclose(quick[2 * frame].box, slow[frame].box, atol=2.0)


def test_held_boxes_grow_with_the_distance() -> None:
    done = _one(complete_tracks([observed(1, 20, 100)], frames=100, look_ahead=10, max_gap=0))
    sizes = [float(done[f].box[2] - done[f].box[0]) for f in range(20, 31)]
    assert np.all(np.diff(sizes) > 0)
    assert sizes[-1] > 1.2 * sizes[0]
    np.testing.assert_allclose([centre(done[f].box) for f in (10, 30)], [(100, 100)] * 2, atol=0.01)
    # The landmarks do not grow: the edit is aligned to the face, the box is what must be covered.
    np.testing.assert_allclose(done[30].landmarks, done[20].landmarks, atol=0.01)


def test_nothing_lies_outside_the_video() -> None:
    faces = [observed(1, 1, 100), observed(1, 8, 100)]
    assert list(complete_tracks(faces, frames=10, look_ahead=50, max_gap=50)) == list(range(10))


def test_held_faces_are_judged_again() -> None:
    """What the online tracker only guessed is dropped, and guessed anew with both sides known."""
    wrong = TrackedFace(1, 1, box_at(900, 900), points_in(box_at(900, 900)), 0.0, False)
    done = _one(complete_tracks([observed(1, 0, 100), wrong, observed(1, 2, 110)], frames=3, look_ahead=0, max_gap=5))
    np.testing.assert_allclose(centre(done[1].box), (105, 100), atol=1e-3)
    assert complete_tracks([wrong], frames=3, look_ahead=5, max_gap=5) == {}


def test_boxes_clipped_by_the_edge_survive() -> None:
    faces = [observed(1, f, 40 - 10 * f, y=10) for f in range(6)]
    done = _one(complete_tracks(faces, frames=30, look_ahead=10, max_gap=5))
    assert list(done) == list(range(16))
    assert all(done[f].box[1] < 0 for f in done)
    assert done[8].box[2] < 40
    assert done[15].box[0] < -30
    assert all(np.isfinite(face.box).all() and (face.box[2:] > face.box[:2]).all() for face in done.values())


def test_several_tracks_come_in_order_and_apart() -> None:
    faces = [observed(2, 4, 300), observed(1, 6, 104), observed(2, 0, 300), observed(1, 2, 100)]
    done = complete_tracks(faces, frames=8, look_ahead=1, max_gap=5)
    assert {f: [face.track_id for face in here] for f, here in done.items()} == {
        0: [2],
        1: [1, 2],
        2: [1, 2],
        3: [1, 2],
        4: [1, 2],
        5: [1, 2],
        6: [1],
        7: [1],
    }
    assert list(done) == sorted(done)
    assert all((centre(face.box)[0] > 200) == (face.track_id == 2) for here in done.values() for face in here)


def test_the_nearer_end_decides_in_a_gap_that_is_not_filled() -> None:
    faces = [observed(1, 0, 100), observed(1, 11, 300)]
    done = _one(complete_tracks(faces, frames=12, look_ahead=20, max_gap=5))
    assert list(done) == list(range(12))
    assert all(centre(done[f].box)[0] < 150 for f in range(6))
    assert all(centre(done[f].box)[0] > 250 for f in range(6, 12))


def test_an_early_piece_does_not_reach_past_a_later_one() -> None:
    faces = [observed(1, 0, 100), observed(1, 8, 300)]
    done = _one(complete_tracks(faces, frames=20, look_ahead=15, max_gap=5))
    assert list(done) == list(range(20))
    assert all(centre(done[f].box)[0] > 250 for f in range(8, 20))


def test_no_faces_is_no_error() -> None:
    assert complete_tracks([], frames=10, look_ahead=5, max_gap=5) == {}


def test_one_track_twice_in_a_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="track 4 is observed twice in frame 3"):
        complete_tracks([observed(4, 3, 100), observed(4, 3, 110)], frames=9, look_ahead=0, max_gap=0)


@pytest.mark.parametrize(("frames", "look_ahead", "max_gap"), [(-1, 0, 0), (1, -2, 0), (1, 0, -3)])
def test_negative_lengths_are_refused(frames: int, look_ahead: int, max_gap: int) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        complete_tracks([], frames=frames, look_ahead=look_ahead, max_gap=max_gap)


@given(
    seen=st.sets(st.integers(0, 59), min_size=1, max_size=12),
    cuts=st.sets(st.integers(1, 59), max_size=4),
    look_ahead=st.integers(0, 20),
    max_gap=st.integers(0, 20),
)
@settings(max_examples=200, deadline=None)
def test_exactly_the_promised_frames_are_covered(seen: set[int], cuts: set[int], look_ahead: int, max_gap: int) -> None:
    """A frame is covered if it is seen, in a fillable gap, or within look-ahead of a sight, all in one shot."""

    def shot(frame: int) -> int:
        return sum(cut <= frame for cut in cuts)

    faces = [observed(1, f, 100 + f) for f in sorted(seen)]
    done = _one(complete_tracks(faces, frames=60, look_ahead=look_ahead, max_gap=max_gap, cuts=cuts))
    for frame in range(60):
        mates = [s for s in seen if shot(s) == shot(frame)]
        before, after = [s for s in mates if s <= frame], [s for s in mates if s >= frame]
        near = any(abs(s - frame) <= look_ahead for s in mates)
        between = bool(before and after) and min(after) - max(before) - 1 <= max_gap
        assert (frame in done) == (near or between), frame
        if frame in done:
            assert done[frame].observed == (frame in seen)
            assert done[frame].frame == frame
