"""The Python API over the real reader, detectors, tracker and writer, on the demo clip; the editor is a fake."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

import fluidvid
from fluidvid import assembly
from fluidvid.config import as_config, load
from fluidvid.coverage import Coverage
from fluidvid.errors import ConfigError, InputError, OutputError, StrictError
from fluidvid.progress import ProgressEvent
from fluidvid.video.source_file import SourceFile, _parts
from tests.fluidvid.fakes import Boom, FakeEditor

CONFIG = fluidvid.Config().updated({"media.end": "1", "edit.min_face": 20, "edit.fade_frames": 3})


def decoded(path: Path, count: int) -> list[NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        pairs = zip(container.decode(video=0), range(count), strict=False)
        return [np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8) for frame, _ in pairs]


@pytest.fixture
def fake_editor(monkeypatch: pytest.MonkeyPatch) -> Boom:
    boom = Boom()
    monkeypatch.setattr(assembly, "make_editor", lambda *_: FakeEditor(boom, gain=60.0))
    monkeypatch.setattr(assembly, "alignment", lambda _: None)  # it aligns otherwise than the embedded backbone
    return boom


def test_fluid_with_a_fake_editor(clip: Path, tmp_path: Path, fake_editor: Boom) -> None:
    target = tmp_path / "out.mp4"
    events: list[ProgressEvent] = []
    report = fluidvid.anonymize(clip, target, config=CONFIG, progress=events.append)
    assert report.frames == 30 and report.faces >= 30 and report.raw == 0
    assert report.edited + report.held + report.masked == report.faces
    assert report.edited > 20 and report.people == 1 and report.preparation[0]["ok"]
    assert events[-1].stage == "write" and events[-1].done == 30
    source, result = decoded(clip, 30), decoded(target, 31)
    assert len(result) == 30
    for before, after in zip(source, result, strict=True):
        blue = after[..., 2].astype(int) - before[..., 2]
        assert (blue > 30).mean() > 0.03, "the fake edit shows in every frame"
        far = np.abs(after[:20, :20].astype(int) - before[:20, :20]).mean()
        assert far < 6, "away from the face only the encoder changes pixels"


def test_a_failing_editor_masks_the_clip(clip: Path, tmp_path: Path, fake_editor: Boom) -> None:
    fake_editor.stage = "edit"
    report = fluidvid.anonymize(clip, tmp_path / "out.mp4", config=CONFIG)
    assert report.edited == 0 and report.masked + report.held == report.faces > 0
    assert report.masked_reasons["editor error"] > 0


def test_strict_writes_nothing(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fluidvid.pipeline.suspicious_gaps", lambda *_: ("frames 3 to 5 between tracks 1 and 2",))
    with pytest.raises(StrictError, match="frames 3 to 5"):
        fluidvid.anonymize(clip, tmp_path / "out.mp4", config=CONFIG.updated({"mode": "blur", "strict": True}))
    assert list(tmp_path.iterdir()) == []


def test_paths_are_judged_before_any_work(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        fluidvid.anonymize(tmp_path / "no.mp4", tmp_path / "out.mp4")
    (tmp_path / "out.mp4").touch()
    with pytest.raises(OutputError, match="--overwrite"):
        fluidvid.anonymize(clip, tmp_path / "out.mp4")


def replaced(source: Path) -> None:
    other = source.with_name("other.mp4")
    other.write_bytes(source.read_bytes())  # the same times: no pass could tell
    other.replace(source)


def written(source: Path) -> None:
    with source.open("ab") as file:
        file.write(b"\0\0\0\x08free")


@pytest.mark.parametrize("stage", ["detect", "write"])
@pytest.mark.parametrize("change", [replaced, written, Path.unlink])
def test_a_source_that_changes_between_or_in_the_passes_gives_no_result(
    change: Callable[[Path], None], stage: str, clip: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copy(clip, tmp_path / "in.mp4"))
    (tmp_path / "results").mkdir()
    seen: list[str] = []

    def meanwhile(event: ProgressEvent) -> None:
        if event.stage == stage and stage not in seen:
            change(source)
        seen.append(event.stage)

    chosen = fluidvid.Config(mode="solid").updated({"media.end": "0.4"})
    words = r"no such file|in\.mp4 changed while it was being read: .*; no result was written"
    with pytest.raises(InputError, match=words):
        fluidvid.anonymize(source, tmp_path / "results" / "out.mp4", config=chosen, progress=meanwhile)
    assert list((tmp_path / "results").iterdir()) == []
    assert ("write" in seen) == (stage == "write"), "a change in the first pass costs no second one"


@pytest.mark.parametrize("kind", ["hls", "nested", "concat", "quoted"])
def test_a_part_of_a_playlist_that_changes_between_the_passes_gives_no_result(
    kind: str, clip: Path, tmp_path: Path
) -> None:
    part = Path(shutil.copy(clip, tmp_path / "a part.mp4"))
    inner, source = tmp_path / "inner.m3u8", tmp_path / "in.list"
    lines = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:4.0,\n{}\n#EXT-X-ENDLIST\n"
    inner.write_text(lines.format(part.name))
    text = {
        "hls": lines.format(part.name),
        "nested": f"#EXTM3U\n{inner.name}\n",
        "concat": "ffconcat version 1.0\nfile a\\ part.mp4\n",
        "quoted": "ffconcat version 1.0\n\n  file 'a part.mp4'\nduration 4\n",
    }
    source.write_text(text[kind])
    file = SourceFile(source)
    file.check()
    written(part)
    with pytest.raises(InputError, match="changed while it was being read"):
        file.check()


def test_playlists_that_name_each_other_end(tmp_path: Path) -> None:
    """Each line of each was followed: two small files kept a run busy for ever."""
    one, other = tmp_path / "one.m3u8", tmp_path / "other.m3u8"
    one.write_text("#EXTM3U\n" + "other.m3u8\n./other.m3u8\n" * 3)
    other.write_text("#EXTM3U\n" + "one.m3u8\nother.m3u8\nmissing.m3u8\n" * 3)
    assert list(_parts(one)) == [other]


@pytest.mark.parametrize("key", ["cache.path", "cache.key_file"])
def test_what_is_remembered_never_replaces_a_video(key: str, clip: Path, tmp_path: Path) -> None:
    for kept in (clip, tmp_path / "out.mp4"):
        chosen = fluidvid.Config().updated({key: str(kept)})
        with pytest.raises(ConfigError, match=re.escape(key)):
            fluidvid.anonymize(clip, tmp_path / "out.mp4", config=chosen)
    assert list(tmp_path.iterdir()) == []


def test_modes_without_pseudonyms_say_what_they_do_not_use(clip: Path, tmp_path: Path) -> None:
    chosen = fluidvid.Config(mode="solid").updated({"cache.path": str(tmp_path / "people"), "edit.backbone": "mine"})
    report = fluidvid.anonymize(clip, tmp_path / "out.mp4", config=chosen)
    assert any("--cache, --backbone not used" in line for line in report.warnings)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_iterator_form_masks_every_frame_of_the_clip(clip: Path) -> None:
    pictures = decoded(clip, 20)
    coverage = Coverage()
    config = CONFIG.updated({"mode": "solid", "track.look_ahead": 4, "media.end": None})
    results = list(fluidvid.anonymize_frames(iter(pictures), config=config, coverage=coverage))
    assert len(results) == 20 and coverage.faces >= 20 and coverage.edited == 0
    for before, after in zip(pictures, results, strict=True):
        assert (before != after).any(axis=2).mean() > 0.05


def test_seed_is_fresh_unless_given() -> None:
    assert assembly.run_seed(fluidvid.Config()) != assembly.run_seed(fluidvid.Config())
    assert assembly.run_seed(fluidvid.Config(seed=5)) == 5


def test_a_cache_that_is_a_loop_of_links_is_no_video_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("pool")
    (tmp_path / "pool").symlink_to("loop")
    (tmp_path / "a.mp4").write_bytes(b"no video")
    config = fluidvid.Config().updated({"cache.path": str(tmp_path / "loop"), "mode": "solid"})
    with pytest.raises(InputError, match="cannot be opened"):
        fluidvid.anonymize(tmp_path / "a.mp4", tmp_path / "b.mp4", config=config)


def test_a_preset_or_a_file_may_stand_for_a_configuration(clip: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('mode = "solid"\n[media]\nend = "0.2"\n')
    reports = [
        fluidvid.anonymize(clip, tmp_path / "one.mp4", config=own),
        fluidvid.anonymize(clip, tmp_path / "two.mp4", config=str(own)),
    ]
    assert all(report.mode == "solid" and report.frames == 6 for report in reports)
    assert as_config("live") == load("live") and as_config(CONFIG) is CONFIG


@pytest.mark.parametrize(
    ("config", "words"), [("faster", "presets are default"), ({"mode": "solid"}, "is a dict: give")]
)
def test_what_is_no_configuration_is_one_line(clip: Path, tmp_path: Path, config: Any, words: str) -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    for use in (
        lambda: fluidvid.anonymize(clip, tmp_path / "out.mp4", config=config),
        lambda: list(fluidvid.anonymize_frames([picture], config=config)),
        lambda: fluidvid.stream(str(clip), [str(tmp_path / "out.mp4")], config=config),
    ):
        with pytest.raises(ConfigError, match=words):
            use()
    assert not list(tmp_path.iterdir())
