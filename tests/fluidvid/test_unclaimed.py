"""A confident detection that the tracker does not confirm is covered all the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from fluidvid.config import Config
from fluidvid.coverage import Coverage
from fluidvid.frames import process
from fluidvid.pipeline import run
from fluidvid.trackers.types import Detection, TrackedFace
from fluidvid.unclaimed import FIRST_ID, duplicates, with_unclaimed
from tests.fluidvid.fakes import Rig, landmarks_in, picture, raw_share

CONFIG = Config().updated({"mode": "solid", "track.look_ahead": 0})


class Hesitant:
    """Confirms a face only from its tenth detection on."""

    def __init__(self) -> None:
        self.seen = 0

    def update(self, frame_index: int, detections: Any, embeddings: Any = None, scene_cut: bool = False) -> Any:
        self.seen += 1
        found = detections[0]
        return [] if self.seen < 10 else [TrackedFace(1, frame_index, found.box, found.landmarks, 0.9, True)]


def test_a_hesitant_tracker_lets_no_raw_face_out_of_a_file() -> None:
    rig = Rig(classic=True)
    outcome = run(dataclasses.replace(rig.stages(), tracker=Hesitant()), CONFIG)
    assert outcome.coverage.faces == outcome.coverage.masked == 40
    assert all(raw_share(picture(i), image, i) < 0.02 for i, image in enumerate(rig.writers[0].frames))


def test_a_hesitant_tracker_lets_no_raw_face_out_of_a_stream() -> None:
    coverage = Coverage()
    stages = dataclasses.replace(Rig(classic=True).stages(), tracker=Hesitant())
    out = list(process(stages, CONFIG, (picture(i) for i in range(40)), coverage))
    assert coverage.faces == 40 and all(raw_share(picture(i), image, i) < 0.02 for i, image in enumerate(out))


def detection(x: float, score: float) -> Detection:
    box = (x, 0.0, x + 40, 50.0)
    return Detection(np.array(box, np.float32), score, landmarks_in(box))


def test_only_confident_and_uncovered_detections_are_added() -> None:
    known = TrackedFace(1, 3, detection(0, 1).box, detection(0, 1).landmarks, 0.9, True)
    given = [detection(2, 0.9), detection(100, 0.9), detection(102, 0.8), detection(200, 0.4)]
    found = with_unclaimed([known], given, frame=3, score=0.5, next_id=FIRST_ID + 7)
    assert [f.track_id for f in found] == [1, FIRST_ID + 7] and found[1].box[0] == 100


def test_the_real_track_is_kept_alone() -> None:
    boxes = np.stack([detection(x, 1).box for x in (0.0, 5.0, 100.0, 104.0)])
    ids = np.array([1, FIRST_ID, FIRST_ID + 1, FIRST_ID + 2], np.int32)
    assert duplicates(ids, boxes).tolist() == [False, True, False, True]
    assert duplicates(np.array([1, 2, 3, 4], np.int32), boxes).tolist() == [False] * 4
