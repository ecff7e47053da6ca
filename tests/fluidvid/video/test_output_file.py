"""The target appears whole or not at all, the source's damage is accounted for, and memory does not grow."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import wave
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from fluidvid.errors import ConfigError, FluidvidError, InputError, OutputError
from fluidvid.live.encoding import LiveEncoder
from fluidvid.video import VideoReader, VideoWriter, decoding
from fluidvid.video.encoders import plan_encoder
from fluidvid.video.info import read_info
from fluidvid.video.opening import main_video
from tests.fluidvid.video.media_files import Recipe, build, damage, rewrite, see


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("after", [0, 5])
def test_an_exception_leaves_nothing(clip: Path, tmp_path: Path, failure: type[BaseException], after: int) -> None:
    with pytest.raises(failure), VideoReader(clip) as reader, VideoWriter(tmp_path / "out.mp4", reader) as writer:
        for frame in reader:
            if frame.index == after:
                raise failure
            writer.write(frame)
            assert not (tmp_path / "out.mp4").exists()
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_the_old_file_alone(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_bytes(b"old")
    with (
        pytest.raises(RuntimeError),
        VideoReader(clip) as reader,
        VideoWriter(tmp_path / "out.mp4", reader, overwrite=True) as writer,
    ):
        writer.write(next(iter(reader)))
        raise RuntimeError
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize(
    ("place", "error"), [("os.fsync", None), ("fluidvid.video.copying.StreamCopier.close", OSError)]
)
def test_a_signal_while_the_file_is_finished_or_tidied_up_leaves_nothing(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: type[OSError] | None
) -> None:
    """At once: who holds on to the exception, as a notebook does, would hold on to the file."""

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt) as held,
        VideoReader(clip) as reader,
        VideoWriter(tmp_path / "out.mp4", reader) as writer,
    ):
        writer.write(next(iter(reader)))
        monkeypatch.setattr(place, interrupted)
        if error is not None:
            raise error
    assert held.traceback and list(tmp_path.iterdir()) == []


def test_an_existing_file_is_replaced_only_on_request(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")
    with pytest.raises(OutputError, match="--overwrite"):
        VideoWriter(target, clip)
    assert target.read_bytes() == b"old"
    rewrite(clip, target, overwrite=True)
    assert len(see(target).times) == 120
    assert list(tmp_path.iterdir()) == [target]


def test_a_pipe_is_not_replaced_by_a_file(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    os.mkfifo(target)
    with pytest.raises(OutputError, match="pipe or a device"):
        VideoWriter(target, clip, overwrite=True)
    assert target.is_fifo()


def test_a_link_that_leads_nowhere_is_a_target_that_exists(clip: Path, tmp_path: Path) -> None:
    """It was refused when all the work had been done."""
    target = tmp_path / "out.mp4"
    target.symlink_to(tmp_path / "nowhere.mp4")
    with pytest.raises(OutputError, match="--overwrite"):
        VideoWriter(target, clip)


def test_a_file_that_appears_meanwhile_is_left_alone(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    with (
        pytest.raises(OutputError, match="--overwrite"),
        VideoReader(clip) as reader,
        VideoWriter(target, reader) as writer,
    ):
        writer.write(next(iter(reader)))
        target.write_bytes(b"theirs")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"theirs"]


def test_a_colon_in_a_name_is_no_protocol(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cameras name files by the time; relative names are the ones that FFmpeg misreads."""
    monkeypatch.chdir(tmp_path)
    build(tmp_path / "2024-01-01T12:30:00.mp4", clip, Recipe(audio=["aac"]))
    rewrite(Path("2024-01-01T12:30:00.mp4"), Path("http:out.mp4"))
    assert len(see(tmp_path / "http:out.mp4").times) == 24
    Path("12:30.mp4").write_bytes(b"no media at all")
    with pytest.raises(InputError, match=r"^12:30.mp4 cannot be opened"):
        VideoReader("12:30.mp4")


def test_the_source_is_never_the_target(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "link.mp4").symlink_to(clip)
    with pytest.raises(OutputError, match="the source itself"):
        VideoWriter(tmp_path / "link.mp4", clip, overwrite=True)


@pytest.mark.parametrize("name", ["out.xyz", "out", "missing/out.mp4", ""])
def test_a_target_that_cannot_be_is_refused_before_any_work(clip: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError):
        VideoWriter(tmp_path / name, clip)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"codec": "nonsense"}, {"crf": 99}, {"preset": "nonsense"}])
def test_a_wrong_option_is_named_and_leaves_nothing(clip: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    """When the writer is made, not when it begins to write: the first pass over the source lies in between."""
    with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
        VideoWriter(tmp_path / "out.mp4", clip, **wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9"])
def test_an_unknown_preset_is_said_by_no_encoder_itself(
    clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], codec: str
) -> None:
    with pytest.raises(ConfigError, match="no preset 'swift'"):
        VideoWriter(tmp_path / "out.mkv", clip, codec=codec, preset="swift")
    assert capfd.readouterr() == ("", "")


def test_a_codec_the_container_cannot_hold_is_refused_before_any_work(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot hold vp9"):
        VideoWriter(tmp_path / "out.mov", clip, codec="vp9")
    assert list(tmp_path.iterdir()) == []


def test_x265_gets_no_pictures_in_which_it_writes_beyond_its_memory(clip: Path, tmp_path: Path) -> None:
    """The process died, and left the half of a result."""
    source = build(tmp_path / "in.mp4", clip, Recipe(size=(48, 40)))
    info = replace(read_info(source, 30), codec="hevc")
    plan = plan_encoder(info, (48, 40), {"hevc", "h264"}, "h264")
    assert plan.codec == "h264"
    assert any("too small" in warning for warning in plan.warnings)
    assert plan_encoder(info, (176, 144), {"hevc", "h264"}, "h264").codec == "hevc"
    with pytest.raises(OutputError, match="too small"):
        VideoWriter(tmp_path / "out.mp4", source, codec="hevc")
    with pytest.raises(ConfigError, match="too small"):
        LiveEncoder((48, 40), Fraction(25), key_interval=1.0, codec="hevc")


def test_a_truncated_file_fails_with_one_clear_line(clip: Path, tmp_path: Path) -> None:
    whole = build(tmp_path / "whole.mp4", clip, Recipe()).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: whole.index(b"moov") - 4])
    (tmp_path / "whole.mp4").unlink()
    with pytest.raises(InputError) as caught:
        rewrite(cut, tmp_path / "out.mp4")
    assert "\n" not in str(caught.value)
    assert "cut.mp4" in str(caught.value)
    assert "get a complete copy" in str(caught.value)
    assert list(tmp_path.iterdir()) == [cut]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("in.mp4", b"", "is empty"), ("in.mp4", b"no media at all", "cannot be opened"), ("in.nfo", b"hello", "is text")],
)
def test_what_is_no_video_is_said_to_be_none(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} {words}"):
        VideoReader(tmp_path / name)


def test_a_folder_nobody_may_write_in_is_refused_before_any_work(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)  # root may write everywhere
    with pytest.raises(OutputError, match="no permission to write"):
        VideoWriter(tmp_path / "out.mp4", clip)


def test_sound_alone_folders_and_missing_files_are_refused(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(1600))
    with pytest.raises(InputError, match="no video stream"):
        VideoReader(tmp_path / "sound.wav")
    with pytest.raises(InputError, match="no such file"):
        VideoReader(tmp_path / "none.mp4")
    with pytest.raises(InputError, match="folder"):
        VideoReader(tmp_path)


def test_damaged_frames_are_concealed_and_counted(clip: Path, tmp_path: Path) -> None:
    # Every picture a key frame: damage stays in the one frame it hits.
    source = build(tmp_path / "in.mp4", clip, Recipe(options={"g": "1", "bf": "0"}))
    times = see(source).times
    damage(source, slice(10, 11))
    report, reader = rewrite(source, tmp_path / "out.mp4")
    assert reader.corrupt_frames == 1
    assert see(tmp_path / "out.mp4").times == times
    assert any("damaged" in warning for warning in report.warnings)


def test_endless_damage_ends_the_run_and_leaves_nothing(clip: Path, tmp_path: Path) -> None:
    source = build(tmp_path / "in.mp4", clip, Recipe(pts=range(0, 60 * 1001, 1001), options={"g": "1", "bf": "0"}))
    damage(source, slice(10, None))
    with pytest.raises(FluidvidError, match="in a row cannot be decoded"):
        rewrite(source, tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == [source]


def test_damage_is_concealed_alike_in_every_pass(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was inspected is what is written: frame threads conceal by what other threads have done by then."""

    def on_four_cores(*args: Any) -> Any:
        stream = main_video(*args)
        stream.codec_context.thread_count = 4
        return stream

    monkeypatch.setattr(decoding, "main_video", on_four_cores)
    source = build(tmp_path / "in.mp4", clip, Recipe(pts=range(0, 72 * 1001, 1001), options={"g": "250"}))
    data, chance = bytearray(source.read_bytes()), random.Random(1)
    for _ in range(80):
        data[chance.randrange(20_000, len(data) - 20_000)] ^= 1 << chance.randrange(8)
    source.write_bytes(data)

    def passed() -> list[bytes]:
        with VideoReader(source, max_bad_packets=90) as reader:
            return [frame.rgb().tobytes() for frame in reader]

    first, *others = [passed() for _ in range(4)]
    with VideoReader(build(tmp_path / "sound.mp4", clip, Recipe(pts=range(0, 72 * 1001, 1001)))) as reader:
        assert first != [frame.rgb().tobytes() for frame in reader], "nothing was damaged"
    assert all(other == first for other in others)


_MEASURE = """
import resource, sys
from fluidvid.live.encoding import LiveEncoder
from fluidvid.video import VideoReader, VideoWriter, decoding
from fluidvid.video.encoders import plan_encoder
from fluidvid.video.info import read_info
from fluidvid.video.opening import main_video
def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize()
with VideoReader(sys.argv[1]) as reader, VideoWriter(sys.argv[2], reader, preset="ultrafast") as writer:
    for frame in reader:
        frame.rgb()
        writer.write(frame)
        if frame.index == 150:
            early = resident()
    sys.stdout.write(f"{frame.index} {resident() - early}")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="NOT TESTED: memory is read from /proc")
def test_memory_does_not_grow_with_length(clip: Path, root: Path, tmp_path: Path) -> None:
    """450 pictures of 640x480 are 207 MB in yuv420p and 415 MB in RGB; keeping a tenth of them would fail."""
    recipe = Recipe(size=(640, 480), pts=range(0, 600 * 1001, 1001), audio=["aac"])
    source = build(tmp_path / "in.mp4", clip, recipe)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(source), str(tmp_path / "out.mp4")],
        capture_output=True,
        text=True,
        cwd=root,
        check=True,
    )
    last, growth = (int(word) for word in done.stdout.split())
    assert last == 599
    assert growth < 20_000_000


def test_ffmpegs_messages_are_not_sent_to_python() -> None:
    """PyAV's log callback takes the interpreter's lock in decoder threads: closing a decoder then waits for ever."""
    modules = "fluidvid.doctor, fluidvid.api, fluidvid.video, fluidvid.live.muxing"
    code = f"import av, {modules}; print(av.logging.get_level())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"
