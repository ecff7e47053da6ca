"""What a study holds of its source."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fluidvid.audit import Auditor
from fluidvid.audit.study import study_source
from fluidvid.trackers.types import Detection
from tests.fluidvid.audit import media


class SlowlySure:
    """Sees one face, and is sure of it from the sixth picture on."""

    def __init__(self) -> None:
        self.seen = 0

    def detect(self, _: media.Picture) -> list[Detection]:
        self.seen += 1
        points = np.array([(50, 50), (70, 50), (60, 60), (52, 70), (68, 70)], np.float32)
        return [Detection(np.array([40, 35, 80, 85], np.float32), 0.95 if self.seen > 5 else 0.4, points)]


class FirstFrames:
    """Sees one face, in the first so many pictures only."""

    def __init__(self, count: int) -> None:
        self.left = count

    def detect(self, _: media.Picture) -> list[Detection]:
        self.left -= 1
        points = np.array([(50, 50), (70, 50), (60, 60), (52, 70), (68, 70)], np.float32)
        return [Detection(np.array([40, 35, 80, 85], np.float32), 0.95, points)] if self.left >= 0 else []


@pytest.mark.parametrize(("rate", "held"), [(25, 3), (50, 6)])
def test_a_place_is_judged_as_long_behind_its_last_detection_at_every_rate(
    auditor: Auditor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int, held: int
) -> None:
    monkeypatch.setattr(media, "RATE", Fraction(rate))
    picture = np.full((128, 128, 3), 128, np.uint8)
    source = media.write(tmp_path / "source.mp4", [picture] * 24)
    study = study_source(source, auditor.panel, FirstFrames(10), tick=lambda *_: None)
    observed = [face.observed for face in study.faces]
    assert observed == [True] * 10 + [False] * held


def test_a_face_is_judged_from_where_it_was_unsure(auditor: Auditor, tmp_path: Path) -> None:
    source = media.write(tmp_path / "source.mp4", [np.full((128, 128, 3), 128, np.uint8)] * 12)
    study = study_source(source, auditor.panel, SlowlySure(), tick=lambda *_: None)
    assert study.frame.tolist() == list(range(12))
    assert study.observed.all() and study.measured.all()
    assert set(study.people.values()) == {study.faces[0].track_id}
