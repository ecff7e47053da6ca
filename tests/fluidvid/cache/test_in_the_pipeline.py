"""Where the pipeline meets the memory: linking by identities, release of who left, the account in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fluidvid import pipeline
from fluidvid.api import make_report
from fluidvid.cache.people import People, open_people
from fluidvid.config import Config
from fluidvid.coverage import Coverage
from fluidvid.engine.memory import RunMemory
from fluidvid.frames import process
from fluidvid.trackers.types import Detection, TrackedFace
from tests.fluidvid.fakes import FakeTracker, Rig, picture


def test_tracks_are_linked_by_identities_of_key_crops_and_blank_ones_are_left_out() -> None:
    given: list[dict[int, NDArray[np.float32]]] = []

    def link(
        embeddings: Mapping[int, NDArray[np.float32]], frames: Mapping[int, NDArray[np.int64]]
    ) -> Mapping[int, int]:
        given.append(dict(embeddings))
        return {track: 70 + track for track in frames}

    def identify(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert crops.shape[1:] == (64, 64, 3)
        identities = np.eye(len(crops), 8, dtype=np.float32)
        identities[0] = 0
        return identities

    rig = Rig()
    stages = replace(rig.stages(), identify=identify, link=link)
    outcome = pipeline.run(stages, Config())
    assert rig.editor is not None and set(rig.editor.prepared_with) == {71}
    (linked,) = given
    kept = linked[1]
    assert len(kept) == rig.editor.prepared_with[71] - 1 and (kept.sum(1) == 1).all()
    assert outcome.analysis.people == {1: 71}


class _Leaving(FakeTracker):
    """Track 1 ends after ten pictures."""

    def update(
        self, frame_index: int, detections: Sequence[Detection], embeddings: Any = None, scene_cut: bool = False
    ) -> list[TrackedFace]:
        faces = super().update(frame_index, detections, embeddings, scene_cut)
        return [replace(face, track_id=1 if frame_index < 10 else 2) for face in faces]


def test_who_left_a_live_picture_is_released_once() -> None:
    rig = Rig()
    stages = replace(rig.stages(), tracker=_Leaving(rig.boom))
    config = Config().updated({"edit.key_frames": 2, "track.look_ahead": 4, "track.max_gap": 5})
    assert len(list(process(stages, config, (picture(i) for i in range(30)), Coverage()))) == 30
    assert rig.editor is not None and rig.editor.released == [1]


@pytest.mark.parametrize("broken", [False, True])
def test_report_tells_of_the_memory_and_of_its_trouble(broken: bool, tmp_path: Path) -> None:
    place = tmp_path / "none" / "people.cache" if broken else tmp_path / "people.cache"
    memory: People = open_people(Config().updated({"cache.path": str(place)}).cache, "ab" * 32)
    outcome = pipeline.run(Rig().stages(), Config())
    report = make_report(Path("a"), Path("b"), Config(), outcome, 1.0, memory)
    assert report.memory["ambiguous"] == 0 and ("known" in report.memory) is not broken
    assert sum("goes on without the cache" in line for line in report.warnings) == broken
    assert report.raw == 0 and report.edited > 0
    assert '"memory"' in report.to_json()


def test_lingering_doubt_is_in_the_account() -> None:
    run = RunMemory()
    run.counts["ambiguous"] += 2
    assert People(run).account()["ambiguous"] == 2
