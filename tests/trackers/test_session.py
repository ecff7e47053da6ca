"""Opening models: named errors, and the provider is told."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from fluidvid.trackers.session import check_outputs, open_session


@pytest.fixture
def mesh(root: Path) -> Path:
    return root / "fluidvid" / "assets" / "facemesh468.onnx"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model file .*absent\.onnx"):
        open_session(tmp_path / "absent.onnx")
    with pytest.raises(FileNotFoundError, match="no model file"):
        open_session(tmp_path)


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "page.onnx"
    path.write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"page\.onnx is not a model that onnxruntime can load"):
        open_session(path)


def test_a_provider_that_is_not_there_is_told(mesh: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        session = open_session(mesh, ("MadeUpExecutionProvider", "CPUExecutionProvider"))
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert "facemesh468.onnx runs on CPUExecutionProvider: MadeUpExecutionProvider not available" in caplog.text


def test_the_wanted_provider_is_no_news(mesh: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        open_session(mesh)
    assert not caplog.records


def test_outputs_are_compared_by_their_fixed_sizes(mesh: Path) -> None:
    session = open_session(mesh)
    check_outputs(session, mesh, "face mesh", [(468, 3), (1,)])
    check_outputs(session, mesh, "face mesh", [(468,), ()])
    for wrong in ([(468, 2), (1,)], [(468, 3)], [(468, 3), (1,), (1,)]):
        with pytest.raises(ValueError, match=r"facemesh468\.onnx is no face mesh: .* it has \[\(468, 3\), \(1,\)\]"):
            check_outputs(session, mesh, "face mesh", wrong)
