"""Which networks a configuration asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fluidvid.trackers
from fluidvid import assembly
from fluidvid.config import Config
from fluidvid.models import ModelStore


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
    monkeypatch.setattr(fluidvid.trackers, "RefinedDetector", lambda *_, **__: None)
    assembly.make_detector(Config().updated({"detect.second": None, **changes}), ModelStore())
    assert [path.name for path in asked] == [file]
