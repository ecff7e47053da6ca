"""An editor that is built in the background."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fluidvid import assembly
from fluidvid.assembly import file_stages
from fluidvid.config import Config
from fluidvid.errors import ModelError
from fluidvid.pipeline import run
from fluidvid.soon import EditorSoon, alignment

TEMPLATE = np.linspace(0.2, 0.8, 10).reshape(5, 2)


class Made:
    """An editor and its memory in one."""

    closed = False

    def release(self, person_id: int) -> int:
        return person_id + 1

    def account(self) -> dict[str, int]:
        return {"people": 3}

    def warnings(self) -> list[str]:
        return ["a warning"]

    def close(self) -> None:
        self.closed = True


def test_the_alignment_is_known_at_once_and_everything_else_waits() -> None:
    go, made = threading.Event(), Made()

    def build() -> Any:
        assert go.wait(30)
        return made, made

    editor = EditorSoon(build, 96, TEMPLATE)
    assert editor.crop_size == 96 and editor.template is TEMPLATE
    asked: list[int] = []
    asking = threading.Thread(target=lambda: asked.append(editor.release(1)))
    asking.start()
    asking.join(0.2)
    assert asking.is_alive() and not asked
    go.set()
    asking.join(30)
    assert asked == [2]
    editor.wait()
    assert editor.account() == {"people": 3} and editor.warnings() == ["a warning"]
    editor.close()
    assert made.closed


def test_an_editor_may_have_no_memory() -> None:
    editor = EditorSoon(lambda: (Made(), None), 96, TEMPLATE)  # type: ignore[arg-type, return-value]
    assert not editor.account() and not editor.warnings()
    editor.close()


def test_a_failure_is_told_to_whoever_asks_next() -> None:
    def build() -> Any:
        raise ModelError("no such model")

    editor = EditorSoon(build, 96, TEMPLATE)
    with pytest.raises(ModelError, match="no such model"):
        editor.wait()
    with pytest.raises(ModelError, match="no such model"):
        _ = editor.crop_size
    with pytest.raises(ModelError, match="no such model"):
        editor.release(1)
    editor.close()  # nothing was opened


def test_whatever_goes_wrong_is_the_editor_s_fault() -> None:
    def build() -> Any:
        raise MemoryError("CUDA out of memory")

    editor = EditorSoon(build, 96, TEMPLATE)
    with pytest.raises(ModelError, match=r"cannot be built \(MemoryError: CUDA out of memory\)"):
        editor.wait()


@pytest.mark.parametrize(("changes", "soon"), [({"device": "cpu"}, True), ({"device": "cuda"}, False)])
def test_a_gpu_s_libraries_are_loaded_by_torch_first(
    monkeypatch: pytest.MonkeyPatch, clip: Path, tmp_path: Path, changes: dict[str, Any], soon: bool
) -> None:
    monkeypatch.setattr(assembly, "_built", lambda *_: (Made(), None))
    stages = file_stages(clip, tmp_path / "out.mp4", Config().updated(changes), overwrite=False)
    assert isinstance(stages.editor, EditorSoon) is soon


def test_nothing_is_built_behind_a_caller_who_gets_an_error(
    monkeypatch: pytest.MonkeyPatch, clip: Path, tmp_path: Path
) -> None:
    made = Made()
    monkeypatch.setattr(assembly, "_built", lambda *_: (made, made))
    config = Config().updated({"device": "cpu", "detect.model": str(tmp_path / "absent.onnx")})
    with pytest.raises(ModelError, match=r"absent\.onnx"):
        file_stages(clip, tmp_path / "out.mp4", config, overwrite=False)
    assert made.closed


def test_a_card_says_how_faces_are_aligned(tmp_path: Path) -> None:
    card = {"crop_size": 128, "template": {"points": TEMPLATE.tolist()}}
    (tmp_path / "fluidvid.json").write_text(json.dumps(card))
    known = alignment(tmp_path)
    assert known is not None and known[0] == 128
    np.testing.assert_allclose(known[1], TEMPLATE)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "{",
        "[]",
        "{}",
        '{"crop_size": 128}',
        '{"crop_size": "x", "template": {"points": []}}',
        '{"crop_size": 128, "template": {"points": [[0, 1]]}}',
    ],
)
def test_without_a_usable_card_the_backbone_has_to_be_loaded(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "fluidvid.json").write_text(text)
    assert alignment(tmp_path) is None


def test_a_broken_backbone_ends_the_run_whatever_the_film_shows(tmp_path: Path, clip: Path) -> None:
    card = {"crop_size": 128, "template": {"points": TEMPLATE.tolist()}, "sha256": "0" * 64}
    (tmp_path / "fluidvid.json").write_text(json.dumps(card))
    target = tmp_path / "out.mp4"
    config = Config().updated({"edit.backbone": str(tmp_path), "detect.score": 0.99, "detect.low_score": 0.99})
    stages = file_stages(clip, target, config, overwrite=False)
    with pytest.raises(ModelError, match="not those of its"):
        run(stages, config)
    assert not target.exists()
