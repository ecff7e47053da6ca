"""Opening models: named errors, and the provider is told."""

from __future__ import annotations

import logging
import subprocess
import sys
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


def test_a_provider_with_options_is_told_by_its_name(mesh: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        session = open_session(mesh, (("MadeUpExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"))
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert "MadeUpExecutionProvider not available" in caplog.text


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


SHARED = """
import sys
from pathlib import Path
import numpy as np
from fluidvid.trackers.session import give_back, open_session, share_arena

share_arena()

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024

def look(session, side):
    session.run(None, {session.get_inputs()[0].name: np.zeros((1, 3, side, side), np.float32)})

folder = Path(sys.argv[1])
first = open_session(folder / "centerface.onnx", threads=1)
look(first, 64)
little = held()
look(first, 1024)
once = held()
second = open_session(folder / "centerface.onnx", threads=1)
look(second, 1024)
twice = held()
give_back(second)
print(little, once, twice, held())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_networks_share_their_memory_and_give_it_back(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHARED, str(root / "fluidvid" / "assets")], capture_output=True, text=True, check=True
    )
    little, once, twice, after = (int(part) for part in done.stdout.split())
    grown = once - little
    assert grown > 50
    assert twice - once < 0.5 * grown  # its weights, and no memory of its own for what it computes
    assert after - little < 0.4 * grown


def test_a_caller_s_process_keeps_its_own_arena_and_an_odd_network_its_memory(mesh: Path) -> None:
    code = """
import sys
from pathlib import Path
import onnxruntime
from fluidvid.trackers.session import give_back, open_session
registered = []
onnxruntime.create_and_register_allocator = lambda *_: registered.append(1)
session = open_session(Path(sys.argv[1]))
give_back(session)  # takes pictures of 192 pixels only where it says so
class Odd:
    def get_inputs(self): return []
    def run(self, *_): raise RuntimeError("no such picture")
give_back(Odd())
print(len(registered))
"""
    done = subprocess.run([sys.executable, "-c", code, str(mesh)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"]
