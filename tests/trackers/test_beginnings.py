"""What a track was before it was sure."""

from __future__ import annotations

import pytest

from fluidvid.trackers import Beginnings, Detection, TrackedFace, Tracker
from tests.trackers.scenes import detection


def _run(
    pictures: list[list[Detection]], cuts: tuple[int, ...] = (), reach: int = 30, rate: float = 25
) -> list[TrackedFace]:
    """Everything that turned out to be the beginning of a track."""
    tracker, beginnings = Tracker(), Beginnings(reach=reach, rate=rate)
    found = []
    for frame, faces in enumerate(pictures):
        tracked = tracker.update(frame, faces, scene_cut=frame in cuts)
        found += beginnings.update(frame, faces, tracked, cut=frame in cuts)
    return found


def _walk(sure_from: int, count: int = 20) -> list[list[Detection]]:
    """Somebody who walks five pixels a picture, and is sure from one of them on."""
    return [[detection(50 + 5 * i, 150, score=0.9 if i >= sure_from else 0.4)] for i in range(count)]


def test_a_face_that_was_unsure_at_first_was_its_track_s_all_the_time() -> None:
    pictures = _walk(12)
    found = _run(pictures)
    assert [face.frame for face in found] == list(range(11, -1, -1))
    assert {face.track_id for face in found} == {1} and all(face.observed for face in found)
    for face in found:
        assert face.box is pictures[face.frame][0].box and face.score == 0.4


def test_a_sure_beginning_has_none_and_an_unsure_face_that_never_is_sure_is_nobody() -> None:
    assert _run(_walk(0)) == [] == _run(_walk(99))


def test_nothing_before_a_cut_belongs_to_a_track_behind_it() -> None:
    assert [face.frame for face in _run(_walk(12), cuts=(8,))] == [11, 10, 9, 8]


@pytest.mark.parametrize(("reach", "first"), [(4, 10), (5, 0)])
def test_gaps_that_would_not_be_filled_end_it(reach: int, first: int) -> None:
    pictures = [[detection(100, 150, score=0.9 if i == 12 else 0.4)] for i in range(13)]
    pictures[5:10] = [[]] * 5
    assert _run(pictures, reach=reach)[-1].frame == first


def test_somebody_else_s_and_what_another_track_covers_are_left_alone() -> None:
    beside = [[*faces, detection(300, 150, score=0.4)] for faces in _walk(12)]
    assert {float(face.box[0]) for face in _run(beside)} == {float(faces[0].box[0]) for faces in _walk(12)[:12]}
    known = detection(110, 150, score=0.9)
    covered = [[known, detection(115, 150, score=0.4)] for _ in range(10)] + [[known, detection(160, 150, score=0.9)]]
    assert _run(covered) == []


def test_two_that_begin_at_once_share_nothing() -> None:
    pictures = [[detection(100, 150, score=0.4), detection(200, 150, score=0.4)] for _ in range(6)]
    pictures.append([detection(100, 150, score=0.9), detection(200, 150, score=0.9)])
    found = _run(pictures)
    assert len(found) == 12 and len({(face.track_id, face.frame) for face in found}) == 12
    assert len({(face.track_id, float(face.box[0])) for face in found}) == 2


def test_ten_seconds_are_remembered_at_any_rate() -> None:
    """Of somebody who stands there, unsure for longer."""
    for rate, pictures in ((10, 250), (25, 250), (50, 500), (59.94, 600)):
        found = _run([[detection(50, 150, score=0.4)]] * 700 + [[detection(50, 150, score=0.9)]], rate=rate)
        assert len(found) == pictures
