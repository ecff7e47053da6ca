"""The doctor: a broken installation is named, with the remedy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fluidvid import doctor, models
from fluidvid.errors import ModelError
from fluidvid.models import ModelStore, sha256_of


def test_cpu_build_that_shadows_the_gpu_build_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "1.32.0")
    (finding,) = doctor._onnxruntime()
    assert finding.level == "broken" and "shadows" in finding.text and "pip uninstall" in finding.text


def test_gpu_build_without_cuda_is_said_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "1.32.0" if name == "onnxruntime-gpu" else None)
    (finding,) = doctor._onnxruntime()
    assert finding.level == "broken" and "asked for CUDAExecutionProvider" in finding.text


def test_missing_models_are_broken(tmp_path: Path) -> None:
    findings = doctor._models(ModelStore(assets=tmp_path, store=tmp_path))
    assert findings and all(f.level == "broken" for f in findings) and doctor.broken(findings)


def test_a_model_that_may_not_be_read_is_named_with_its_remedy_beside_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(path: Path) -> str:
        if path.name == "sface.onnx":
            raise PermissionError(13, "Permission denied", str(path))
        return sha256_of(path)

    monkeypatch.setattr(models, "sha256_of", forbidden)
    found = {finding.name: finding for finding in doctor._models(ModelStore())}
    assert found["model sface"].level == "broken" and "the right to read it" in found["model sface"].text
    assert {finding.level for name, finding in found.items() if name != "model sface"} == {"ok"}


def test_the_remedy_of_a_broken_manifest_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable() -> None:
        raise ModelError("the model manifest is unreadable: reinstall fluidvid")

    monkeypatch.setattr(models, "_manifest", unreadable)
    (finding,) = (f for f in doctor.examine() if f.level == "broken")
    assert (finding.name, finding.text) == ("models", "the model manifest is unreadable: reinstall fluidvid")


def test_a_check_that_throws_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode() -> list[doctor.Finding]:
        raise ImportError("libGL.so.1")

    monkeypatch.setattr(doctor, "_opencv", explode)
    assert any(f.level == "broken" and "libGL.so.1" in f.text for f in doctor.examine())


def test_packages_that_cannot_be_imported_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    (finding,) = doctor._packages()
    assert finding.level == "ok" and "scipy" in finding.text
    for missing in ("scipy.optimize", "safetensors.torch", "onnx"):
        monkeypatch.setitem(sys.modules, missing, None)
    found = {finding.name: finding for finding in doctor.examine()}["packages"]
    assert found.level == "broken" and "reinstall" in found.text
    assert all(f"{name} (" in found.text for name in ("scipy", "safetensors", "onnx")) and "numpy" not in found.text


def test_test_encode_tells_a_missing_encoder() -> None:
    assert doctor.encoder_works("libx264") == (True, "")
    works, why = doctor.encoder_works("no_such_encoder")
    assert not works and why


def test_encoders_do_not_write_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    (finding,) = doctor._encoders()
    assert finding.level == "ok" and capfd.readouterr().err == ""
