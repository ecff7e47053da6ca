"""The table gives back what went in, by frame and by track, and what completion added."""

from __future__ import annotations

import numpy as np
import pytest

from fluidvid.suspicion import longest_held, suspicious_gaps
from fluidvid.trackers.types import TrackedFace
from fluidvid.tracktable import TrackTable, face_of
from tests.fluidvid.fakes import landmarks_in


def face(track: int, frame: int, x: float = 10.0, observed: bool = True) -> TrackedFace:
    box = (x, 10.0, x + 40, 60.0)
    return TrackedFace(track, frame, np.array(box, np.float32), landmarks_in(box), 0.7, observed)


def filled(faces: list[TrackedFace], frames: int = 100, *, compact: bool = False) -> TrackTable:
    table = TrackTable(compact=compact)
    for frame in range(frames):
        table.append([f for f in faces if f.frame == frame])
    table.finish(frames, (100, 100), lambda members: {f.frame: [f] for f in members})
    return table


@pytest.mark.parametrize("compact", [False, True])
def test_round_trip(compact: bool) -> None:
    faces = [face(t, f, 10.0 * t) for f in range(20) for t in (3, 1, 2)]
    table = filled(faces, compact=compact)
    assert len(table) == 60 and [t for t, _ in table.tracks()] == [1, 2, 3]
    back = [face_of(row) for row in table.at(7)]
    assert [b.track_id for b in back] == [1, 2, 3]
    for b in back:
        assert np.array_equal(b.box, face(b.track_id, 7, 10.0 * b.track_id).box) and b.observed and b.frame == 7
        if not compact:
            assert np.array_equal(b.landmarks, face(b.track_id, 7, 10.0 * b.track_id).landmarks)
    assert len(table.at(50)) == 0


def test_more_than_a_chunk() -> None:
    table = filled([face(t, f) for f in range(100) for t in range(50)])
    assert len(table) == 5000 and all(len(table.at(f)) == 50 for f in range(100))


def test_what_completion_adds_is_kept_and_what_is_outside_is_dropped() -> None:
    table = TrackTable()
    table.append([face(1, 5)])
    added = [face(1, f, observed=False) for f in (3, 4, 6, 12)] + [face(1, 7, x=500.0)]
    table.finish(10, (100, 100), lambda members: {f.frame: [f] for f in [*members, *added]})
    assert [int(r["frame"]) for f in range(10) for r in table.at(f)] == [3, 4, 5, 6]


def test_longest_held_counts_between_detections_only() -> None:
    seen = {5, 6, 10, 11}
    table = filled([face(1, f, observed=f in seen) for f in range(20)])
    assert longest_held(table, (), 60) == 3


def test_a_gap_in_a_track_that_nothing_covers_is_held_for_long_and_suspicious() -> None:
    table = filled([face(1, f) for f in (*range(5), *range(12, 20))])
    assert longest_held(table, (), 60) == 7
    assert suspicious_gaps(table, (), 30) == ("frames 5 to 11 in track 1",)
    assert suspicious_gaps(table, {9}, 30) == ()


@pytest.mark.parametrize(
    ("x", "cuts", "limit", "found"),
    [(10.0, set(), 30, 1), (10.0, {25}, 30, 0), (80.0, set(), 30, 0), (10.0, set(), 5, 0)],
)
def test_suspicious_gaps(x: float, cuts: set[int], limit: int, found: int) -> None:
    table = filled([face(1, f) for f in range(20)] + [face(2, f, x) for f in range(30, 40)])
    assert len(suspicious_gaps(table, cuts, limit)) == found


def test_a_face_that_another_track_takes_up_was_held_though_look_ahead_covers_it() -> None:
    """It looked away, and back as somebody else: both tracks are extended over all frames between."""
    faces = [face(1, f, observed=f < 20) for f in range(32)] + [face(2, f, observed=f >= 40) for f in range(28, 50)]
    table = filled(faces)
    assert suspicious_gaps(table, (), 60) == ()
    assert longest_held(table, (), 60) == 20
    assert longest_held(table, {33}, 60) == 0


def test_a_face_that_walks_on_unseen_is_suspicious_where_it_is_seen_again() -> None:
    def on_the_way(track: int, frames: range, speed: float) -> list[TrackedFace]:
        return [face(track, f, -20 + speed * f) for f in frames]

    walker = on_the_way(1, range(20), 2.5) + on_the_way(2, range(35, 45), 2.5)
    assert suspicious_gaps(filled(walker), (), 30) == ("frames 20 to 34 between tracks 1 and 2",)
    stranger = on_the_way(1, range(20), 0) + [face(2, f, 67.5) for f in range(35, 45)]
    assert suspicious_gaps(filled(stranger), (), 30) == ()
