"""Which networks a configuration asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fluidvid.trackers
from fluidvid import assembly
from fluidvid.config import Config
from fluidvid.errors import ConfigError, ModelError
from fluidvid.models import ModelStore
from fluidvid.trackers.types import Detection


@pytest.mark.parametrize(
    ("changes", "file"),
    [
        ({"device": "cpu"}, "centerface_int8.onnx"),
        ({"device": "cpu", "detect.quantised": False}, "centerface.onnx"),
        ({"device": "cuda"}, "centerface.onnx"),
        ({"device": "cpu", "detect.model": "own.onnx"}, "own.onnx"),
        ({"device": "cpu", "detect.detector": "tiny_face"}, "tiny_face.onnx"),
    ],
)
def test_eight_bits_are_for_the_embedded_detector_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], file: str
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(fluidvid.trackers, "build_detector", lambda name, path, **_: asked.append(path))
    monkeypatch.setattr(fluidvid.trackers, "MirroredDetector", lambda *_, **__: None)
    monkeypatch.setattr(fluidvid.trackers, "RefinedDetector", lambda *_, **__: None)
    assembly.make_detector(Config().updated({"detect.second": None, **changes}), ModelStore())
    assert [path.name for path in asked] == [file]


@pytest.mark.parametrize("name", fluidvid.trackers.DETECTORS)
def test_every_detector_has_a_model_or_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    models = ModelStore()
    asked: list[str] = []

    def resolve(model: str) -> Path:
        asked.append(models.entry(model).name)
        return Path(model)

    monkeypatch.setattr(models, "resolve", resolve)
    monkeypatch.setattr(fluidvid.trackers, "build_detector", lambda *_, **__: None)
    monkeypatch.setattr(fluidvid.trackers, "MirroredDetector", lambda *_, **__: None)
    monkeypatch.setattr(fluidvid.trackers, "RefinedDetector", lambda *_, **__: None)
    config = Config().updated({"detect.second": None, "detect.detector": name, "detect.quantised": False})
    if name == "insightface":
        with pytest.raises(ConfigError, match=r"detect\.model"):
            assembly.make_detector(config, models)
    else:
        assembly.make_detector(config, models)
        assert "detector" in models.entry(asked[0]).roles


def test_a_codec_nobody_knows_costs_no_model_and_no_pass(clip: Path, tmp_path: Path) -> None:
    config = Config().updated({"media.codec": "bogus"})
    with pytest.raises(ConfigError, match="unknown codec 'bogus'"):
        assembly.file_stages(clip, tmp_path / "out.mp4", config, overwrite=False)


@pytest.mark.parametrize("content", [None, b"garbage"])
def test_a_file_that_is_no_detector_is_named_with_the_remedy(content: bytes | None, tmp_path: Path) -> None:
    own = tmp_path / "own.onnx"
    if content is not None:
        own.write_bytes(content)
    with pytest.raises(ModelError, match=r"own\.onnx.*name a file of centerface with detect\.model"):
        assembly.make_detector(Config().updated({"detect.model": str(own)}), ModelStore())


def test_an_unknown_detector_is_named() -> None:
    with pytest.raises(ConfigError, match="no detector 'centreface': choose one of centerface"):
        assembly.make_detector(Config().updated({"detect.detector": "centreface"}), ModelStore())


def test_a_track_ends_after_the_longest_gap_that_is_filled() -> None:
    """One that lived longer would have an uncovered middle."""
    config = Config().updated({"mode": "solid", "track.max_gap": 4})
    tracker = assembly.frame_stages(config).tracker
    box, points = np.array([10, 10, 60, 70], np.float32), np.full((5, 2), 30, np.float32)
    living = [len(tracker.update(k, [Detection(box, 0.9, points)] if k == 0 else [])) for k in range(8)]
    assert living == [1] * 5 + [0] * 3


def test_the_tracker_knows_the_rate_of_a_file(monkeypatch: pytest.MonkeyPatch, clip: Path, tmp_path: Path) -> None:
    rates: list[float] = []

    class Told(fluidvid.trackers.Tracker):
        def __init__(self, *, rate: float, **others: Any) -> None:
            rates.append(rate)
            super().__init__(rate=rate, **others)

    monkeypatch.setattr(fluidvid.trackers, "Tracker", Told)
    config = Config().updated({"mode": "solid"})
    assembly.file_stages(clip, tmp_path / "out.mp4", config, overwrite=False)
    assembly.frame_stages(config)
    assert rates == [pytest.approx(30000 / 1001, rel=1e-3), 25]


@pytest.mark.parametrize(
    ("device", "first"),
    [
        ("cpu", "CPUExecutionProvider"),
        ("cuda", "CUDAExecutionProvider"),
        ("cuda:1", ("CUDAExecutionProvider", {"device_id": 1})),
    ],
)
def test_detectors_run_on_the_card_that_was_asked_for(device: str, first: object) -> None:
    providers = assembly.execution_providers(device)
    assert providers[0] == first and providers[-1] == "CPUExecutionProvider"


@pytest.mark.parametrize(("gaze", "glasses"), [(True, False), (False, True)])
def test_what_stays_the_sources_is_up_to_the_configuration(gaze: bool, glasses: bool) -> None:
    """In what is applied and in what is searched: an edit is found for the region that it will have."""
    from fluidvid.engine.glasses import Glasses

    config = Config().updated({"device": "cpu", "edit.gaze": gaze, "edit.glasses": glasses})
    editor: Any = assembly.make_editor(config, ModelStore(), 0)
    assert editor.apply.gaze == gaze and isinstance(editor.apply.glasses, Glasses) == glasses
    assert editor.options.optimise.gaze == gaze and editor.search.apply is editor.apply
