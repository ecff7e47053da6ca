"""Who may judge: guides are known from one place, and altered or missing recognisers are not used silently."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fluidvid.audit import Auditor
from fluidvid.audit.graders import Grader, Part, guides_of, load_panel, part_of
from fluidvid.audit.privacy import thresholds
from fluidvid.errors import ModelError
from fluidvid.models import ModelStore


def test_parts_of_the_known_recognisers() -> None:
    models = ModelStore()
    guides = guides_of(models)
    parts = {
        name: part_of(name, guides, models)
        for name in ("faceplugin", "identity_student", "faceres", "mobilefacenet_ms1m")
    }
    assert set(parts.values()) == {Part.GUIDE}
    assert part_of("dlib_resnet", guides, models) is Part.VERIFIER
    assert part_of("edgeface_xs", guides, models) is Part.INDEPENDENT


def test_a_backbone_names_its_own_guides(tmp_path: Path) -> None:
    models = ModelStore()
    (tmp_path / "fluidvid.json").write_text(json.dumps({"guides": ["edgeface_xs"]}))
    guides = guides_of(models, tmp_path)
    assert part_of("edgeface_xs", guides, models) is Part.GUIDE
    assert {"identity_student", "faceres"} <= set(guides)
    (tmp_path / "fluidvid.json").write_text("{")
    with pytest.raises(ModelError, match="unreadable"):
        guides_of(models, tmp_path)


def test_an_auditor_takes_the_guides_of_the_backbone_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "fluidvid.json").write_text(json.dumps({"guides": ["dlib_resnet"]}))
    own = Auditor.load(backbone=tmp_path)
    assert {g.name: g.part for g in own.panel.graders}["dlib_resnet"] is Part.GUIDE and own.backbone == str(tmp_path)
    assert {g.part for g in Auditor.load(backbone="prior").panel.graders} == {Part.GUIDE, Part.VERIFIER}
    with pytest.raises(ModelError, match="no backbone 'absent'"):
        Auditor.load(backbone="absent")


def test_missing_recognisers_are_named() -> None:
    panel = load_panel(ModelStore(store=Path("/nonexistent")), only=("dlib_resnet", "edgeface_xs"))
    assert [g.name for g in panel.graders] == ["dlib_resnet"]
    assert len(panel.missing) == 1 and "--recognisers" in panel.missing[0]


def test_an_altered_recogniser_is_refused(tmp_path: Path) -> None:
    (tmp_path / "edgeface_xs.onnx").write_bytes(b"another network")
    with pytest.raises(ModelError, match="SHA-256"):
        load_panel(ModelStore(), tmp_path, only=("edgeface_xs",))


@pytest.mark.shared
def test_opt_in_recognisers_load(shared: Path) -> None:
    panel = load_panel(ModelStore(), shared / "weights", only=("edgeface_xs", "mobilefacenet_ms1m"))
    assert {g.name: g.may_acquit for g in panel.graders} == {"edgeface_xs": True, "mobilefacenet_ms1m": False}


def test_thresholds_take_the_stricter_and_say_whose() -> None:
    grader = Grader("any", Part.INDEPENDENT, 0.4)
    scores = np.linspace(-1, 1, 10001, dtype=np.float32)
    loose, strict = thresholds(0.2 * scores, grader)
    assert loose.value == pytest.approx(0.196, abs=1e-3) and loose.origin == "this audit's impostors"
    assert strict.value == pytest.approx(0.1996, abs=1e-3)
    loose, strict = thresholds(scores, grader)
    assert loose.value == 0.4 and "calibration" in loose.origin
    assert strict.value == pytest.approx(0.998, abs=1e-3)
    loose, strict = thresholds(scores[:10], grader)
    assert loose.value == 0.4 and strict.value is None and "too few" in strict.origin
