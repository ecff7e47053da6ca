"""Encoder, shaper, reuse of residuals, background directions and metrics, each by itself."""

from __future__ import annotations

import errno
import io
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from fluidvid.config import load
from fluidvid.coverage import Coverage, FaceOutcome
from fluidvid.errors import ConfigError, OutputError
from fluidvid.keyframes import KeyCrop
from fluidvid.live import directions as background
from fluidvid.live.addresses import sink_address, source_address
from fluidvid.live.clock import TIME_BASE
from fluidvid.live.command import stream
from fluidvid.live.connection import Connection, Lost, opening
from fluidvid.live.directions import BackgroundDirections
from fluidvid.live.encoding import AUDIO, Coded, LiveEncoder, Look
from fluidvid.live.messages import DISK_FULL, LOGIN_REFUSED
from fluidvid.live.metrics import Health, MetricsServer
from fluidvid.live.muxing import failure
from fluidvid.live.publisher import OutputSettings, Publisher, _Worker
from fluidvid.live.reuse import ReusingEditor
from fluidvid.live.shaping import Shaper
from fluidvid.live.sinks import ContainerSink, Sink, _Written, open_sink, set_aside
from fluidvid.live.source import LiveFrame, LiveSource
from tests.fluidvid.fakes import Boom, FakeEdited, FakeEditor, FakePreparation
from tests.fluidvid.full_disk import no_file_larger_than
from tests.fluidvid.live.conftest import until, workers
from tests.fluidvid.video.media_files import Recipe, build, give_pixel_crop


def grey(width: int, height: int, form: str = "yuv420p") -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 128, np.uint8), format="rgb24").reformat(format=form)
    frame.pts, frame.time_base = 0, Fraction(1, 90_000)
    return frame


def test_encoder_has_no_delay_and_key_frames_on_demand() -> None:
    encoder = LiveEncoder((64, 48), Fraction(25), key_interval=1.0)
    keys = []
    for index in range(60):
        if index == 40:
            encoder.key_frame_due()
        picture = grey(64, 48)
        picture.pts = index * 3600
        (packet,) = encoder.encode(picture, arrived=1.0)
        assert packet.pts == packet.dts == index * 3600
        if packet.key:
            keys.append(index)
            decoder = av.CodecContext.create("h264", "r")
            assert [*decoder.decode(av.Packet(packet.data)), *decoder.decode(None)], "headers are inside"
    assert keys == [0, 25, 40]


def test_description_tells_both_streams() -> None:
    with av.open(io.BytesIO(), "w", format="matroska") as container:
        sound = container.add_stream("aac", rate=48000, layout="stereo")
        assert isinstance(sound, av.AudioStream)
        container.start_encoding()
        described = LiveEncoder((64, 48), Fraction(25), key_interval=1.0).description(sound)
    with av.open(io.BytesIO(described), format="nut", options={"analyzeduration": "0", "probesize": "32"}) as told:
        assert [s.codec_context.name for s in told.streams] == ["h264", "aac"]
        assert all(s.codec_context.extradata for s in told.streams)


@pytest.mark.parametrize("bad", [{"codec": "vp9"}, {"preset": "sluggish"}])
def test_encoder_refusals(bad: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"--codec|--preset"):
        LiveEncoder((64, 48), Fraction(25), key_interval=1.0, **bad)  # type: ignore[arg-type]
    assert capfd.readouterr() == ("", "")


def test_every_picture_is_one_slice() -> None:
    """On any number of cores: there are relays that tear key frames of several slices apart."""
    encoder = LiveEncoder((640, 480), Fraction(25), key_interval=1.0)
    for index in range(3):
        picture = grey(640, 480)
        picture.pts = index * 3600
        (packet,) = encoder.encode(picture, arrived=1.0)
        units = [unit[0] & 31 for unit in packet.data.split(b"\0\0\1")[1:]]
        assert sum(unit in (1, 5) for unit in units) == 1, units


def test_shaper() -> None:
    shaper = Shaper()
    plain = grey(64, 48)
    assert shaper.shape(plain) is plain and shaper.size == (64, 48)
    for other, form in (
        (grey(63, 47, "yuv444p"), "yuv444p"),
        (grey(20, 48), "yuv420p"),
        (grey(64, 48, "nv12"), "nv12"),
    ):
        assert other.format.name == form
        shaped = shaper.shape(other)
        assert (shaped.width, shaped.height, shaped.format.name) == (64, 48, "yuv420p")
        assert shaped.pts == 0
    narrow = shaper.shape(grey(20, 48)).to_ndarray(format="rgb24")
    assert narrow[:, :18].max() < 30 and narrow[:, 26:38].min() > 100
    odd = Shaper()
    assert odd.shape(grey(65, 49, "yuv444p")).width == 64 and odd.size == (64, 48)


def test_interlaced_pictures_are_shown_by_one_field() -> None:
    combed = np.zeros((48, 64, 3), np.uint8)
    combed[::2, 20:40], combed[1::2, 30:50] = 220, 220  # something that moved between the fields
    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 48, "yuv420p", Fraction(1, 25)
    encoder.options = {"crf": "1", "tune": "zerolatency", "x264-params": "interlaced=1"}
    decoder = av.CodecContext.create("h264", "r")
    assert isinstance(decoder, av.VideoCodecContext)
    packets = [*encoder.encode(av.VideoFrame.from_ndarray(combed, format="rgb24")), *encoder.encode(None)]
    (picture,) = [*(frame for packet in packets for frame in decoder.decode(packet)), *decoder.decode(None)]
    assert picture.interlaced_frame
    picture.time_base = Fraction(1, 25)
    shaped = Shaper().shape(picture)
    assert (shaped.width, shaped.height) == (64, 48)
    lines = shaped.to_ndarray(format="rgb24")[12:36, :, 0].astype(int)
    assert np.abs(np.diff(lines, axis=0)).mean() < 5 < np.abs(np.diff(combed[12:36, :, 0].astype(int), axis=0)).mean()


class CountingEditor(FakeEditor):
    """Edits with a residual that tells which call it was."""

    calls = 0

    def edit(
        self, person_ids: Sequence[int], crops: NDArray[np.uint8], strengths: NDArray[np.float32]
    ) -> list[FakeEdited]:
        self.calls += 1
        mask = np.ones((64, 64), np.float32)
        return [FakeEdited(np.full((64, 64, 3), self.calls, np.float32), mask)] * len(crops)


def edits(editor: ReusingEditor, grey_levels: Sequence[int], person: int = 1) -> list[float]:
    return [
        float(editor.edit([person], np.full((1, 64, 64, 3), g, np.uint8), np.ones(1, np.float32))[0].residual.max())
        for g in grey_levels
    ]


def test_residuals_are_reused_only_while_they_fit() -> None:
    editor = ReusingEditor(CountingEditor(Boom()))
    assert edits(editor, [50] * 4) == [1, 2, 3, 4]
    editor.every = 4
    assert edits(editor, [50] * 9) == [5, 5, 5, 5, 6, 6, 6, 6, 7]
    assert editor.reused == 6
    assert edits(editor, [52, 90, 90]) == [7, 8, 8], "another picture is edited anew"
    assert edits(editor, [90], person=2) == [9], "another person has a residual of their own"
    editor.forget({2})
    assert edits(editor, [90]) == [10]


class WatchingEditor(CountingEditor):
    """Recognises people in crops that are dark."""

    def recognised(
        self, person_ids: Sequence[int], crops: NDArray[np.uint8], edited: NDArray[np.uint8]
    ) -> NDArray[np.bool_]:
        assert (edited == crops + self.calls).all(), "what is watched is what would be shown"
        return np.asarray(crops.max((1, 2, 3)) < 50)


def test_a_residual_in_which_somebody_is_recognised_is_not_used_again() -> None:
    editor = ReusingEditor(WatchingEditor(Boom()))
    editor.every = 4
    assert edits(editor, [56, 53, 49, 53, 47]) == [1, 1, 2, 2, 3]
    assert editor.reused == 2


@pytest.mark.parametrize(("contrast", "expected"), [(40, [104]), (10, [102, 104, 106])])
def test_the_recogniser_is_asked_again_when_there_is_something_new_to_see(contrast: int, expected: list[int]) -> None:
    asked: list[int] = []

    class Asked(CountingEditor):
        def recognised(
            self, person_ids: Sequence[int], crops: NDArray[np.uint8], edited: NDArray[np.uint8]
        ) -> NDArray[np.bool_]:
            asked.extend(round(float(crop.mean())) for crop in crops)
            return np.zeros(len(crops), bool)

    editor = ReusingEditor(Asked(Boom()))
    editor.every = 8
    stripes = np.where(np.arange(64) % 2, contrast, -contrast)[None, :, None]
    for grey in (100, 102, 104, 104, 106):
        crop = np.broadcast_to(grey + stripes, (64, 64, 3)).astype(np.uint8)
        editor.edit([1], crop[None], np.ones(1, np.float32))
    assert asked == expected and editor.reused == 4


@pytest.mark.parametrize(("codec", "stored"), [("h264", "h264"), ("hevc", "hevc")])
def test_shape_and_colours_of_pixels_are_published(codec: str, stored: str) -> None:
    look = Look(Fraction(64, 45), 1, 1, 1, 1)
    encoder = LiveEncoder((64, 48), Fraction(25), key_interval=1.0, codec=codec, look=look)
    with av.open(io.BytesIO(encoder.description(None)), "r", format="nut") as told:
        stream = told.streams.video[0]
        assert stream.codec_context.name == stored
        assert stream.sample_aspect_ratio == Fraction(64, 45)
        picture = next(told.decode(video=0))
    assert Look.of(picture, Fraction(64, 45)) == look


def test_what_was_rgb_is_no_longer_tagged_as_rgb() -> None:
    picture = av.VideoFrame(16, 16, "yuv420p")
    picture.colorspace, picture.color_range = 0, 2
    assert Look.of(picture, None) == Look(None, 1, 6, 2, 2)


def publish(sink: Sink, encoder: LiveEncoder, numbers: Iterable[int]) -> None:
    """Pictures of a small stream at 25 a second."""
    for number in numbers:
        picture = av.VideoFrame(64, 48, "yuv420p")
        picture.pts = number * round(1 / (25 * TIME_BASE))
        for packet in encoder.encode(picture, arrived=0.0):
            sink.write(packet)


def test_a_worker_that_replaces_another_goes_on_with_the_playlist(tmp_path: Path) -> None:
    """RFC 8216: a player that is ahead would wait for ever for numbers that begin anew."""
    encoder = LiveEncoder((64, 48), Fraction(25), key_interval=1.0)
    address = sink_address(f"{tmp_path}/hls/", overwrite=False)
    description = encoder.description(None)
    for begin in (0, 4):
        encoder.key_frame_due()
        sink = open_sink(address, description, transport="tcp", segment=1.0)
        publish(sink, encoder, range(begin * 25, (begin + 4) * 25 + 1))
        del sink  # killed: nothing is closed
    lines = (tmp_path / "hls" / "index.m3u8").read_text().splitlines()
    parts = [line for line in lines if line.endswith(".ts")]
    numbers = [int("".join(c for c in part if c.isdigit())) for part in parts]
    assert numbers == list(range(numbers[0], numbers[0] + len(parts))) and numbers[-1] >= 7
    assert "#EXT-X-DISCONTINUITY" in lines
    assert f"#EXT-X-MEDIA-SEQUENCE:{numbers[0]}" in lines


@pytest.mark.parametrize("full", ["index0.ts.tmp", "index1.ts.tmp", "index.m3u8.tmp"])
def test_a_playlist_on_a_full_disk_is_an_error(full: str, tmp_path: Path) -> None:
    """/dev/full takes the place of a file: every write fails as on a full disk."""
    encoder = LiveEncoder((64, 48), Fraction(25), key_interval=1.0)
    (tmp_path / "hls").mkdir()
    (tmp_path / "hls" / full).symlink_to("/dev/full")
    sink = open_sink(
        sink_address(f"{tmp_path}/hls/", overwrite=False), encoder.description(None), transport="tcp", segment=1.0
    )
    with pytest.raises(OSError, match="No space left"):
        publish(sink, encoder, range(76))


@pytest.mark.parametrize(
    ("codec", "rate", "layout", "words"),
    [
        ("pcm_mulaw", 8000, "mono", ""),
        ("libmp3lame", 8000, "mono", "8000 Hz"),
        ("pcm_s16le", 8000, "5.1", "6 channels"),
    ],
)
def test_the_sound_of_a_camera_does_not_end_an_output(
    tmp_path: Path, codec: str, rate: int, layout: str, words: str
) -> None:
    """FFmpeg's FLV muxer, which RTMP uses, aborts the process at PCM without a layout, as G.711 comes over RTSP."""
    with av.open(io.BytesIO(), "w", format="mov") as container:
        sound = container.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(sound, av.AudioStream)
        container.start_encoding()
        described = LiveEncoder((64, 48), Fraction(25), key_interval=1.0).description(sound)
    sink = ContainerSink(str(tmp_path / "out.flv"), "flv", described, {})
    sink.write(Coded(AUDIO, bytes(800), 0, 0, 400, Fraction(1, rate), True, 0.0))
    sink.close()
    assert (len(sink.notes), words in " ".join(sink.notes)) == (1 if words else 0, True)


def publisher_to(target: str, say: Callable[[str], None] = lambda _: None, *, retries: int = 1) -> Publisher:
    """An output that forgives one failure, or as many as said."""
    return Publisher(
        sink_address(target, overwrite=True),
        OutputSettings("tcp", 1.0, 10.0, retries),
        say=say,
        need_key=lambda: None,
        took=lambda _: None,
        gone=lambda: say("gone"),
    )


def publishing(target: str, *packets: Coded) -> str:
    """A run's output from beginning to end, by a real worker; what it says of older files."""
    publisher = publisher_to(target)
    note = publisher.start(LiveEncoder((64, 48), Fraction(25), key_interval=1.0).description(None))
    for packet in packets:
        publisher.publish(packet)
    publisher.close()
    assert not publisher.gave_up
    return note


def test_older_parts_are_moved_aside_once(tmp_path: Path) -> None:
    """They may be raw, and they may be all there is of an archive: neither kept under the name nor deleted."""
    target = f"{tmp_path}/part-%02d.mkv"
    picture = grey(64, 48)
    packets = LiveEncoder((64, 48), Fraction(25), key_interval=1.0).encode(picture, arrived=0.0)
    for number, name in enumerate(("part-00.mkv", "part-2.mkv", "part-00.mkv.old", "party-00.mkv", "part-00.mp4")):
        (tmp_path / name).write_bytes(b"%d" % number)
    note = publishing(target, *packets)
    assert note.endswith("part-%02d.mkv: older parts are moved aside, to NAME.old, and may be raw: 2")
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(found.pop("part-00.mkv")) > 100 and found == {
        "part-00.mkv.old": b"2",
        "part-00.mkv.1.old": b"0",
        "part-2.mkv.old": b"1",
        "party-00.mkv": b"3",
        "part-00.mp4": b"4",
    }


def test_older_segments_of_a_playlist_are_moved_aside(tmp_path: Path) -> None:
    encoder = LiveEncoder((64, 48), Fraction(25), key_interval=1.0)
    for name in ("index0.ts", "index57.ts", "index.m3u8", "index.ts", "other0.ts"):
        (tmp_path / name).write_bytes(b"older")
    note = publishing(f"{tmp_path}/", *encoder.encode(grey(64, 48), arrived=0.0))
    assert note.endswith("index.m3u8: older parts are moved aside, to NAME.old, and may be raw: 2")
    old = {path.name for path in tmp_path.iterdir() if path.read_bytes() == b"older"}
    assert old == {"index0.ts.old", "index57.ts.old", "index.ts", "other0.ts"}
    assert {path.name for path in tmp_path.iterdir()} - old == {"index0.ts", "index.m3u8"}


def test_segments_of_earlier_runs_do_not_pile_up(tmp_path: Path) -> None:
    """What fluidvid published is no raw picture; what somebody else left stays, and is in no playlist."""
    encoder = LiveEncoder((64, 48), Fraction(25), key_interval=1.0)
    (tmp_path / "index3.ts").write_bytes(b"raw")
    os.mkfifo(tmp_path / "index4.ts")
    for _ in range(3):
        encoder.key_frame_due()
        publishing(f"{tmp_path}/", *encoder.encode(grey(64, 48), arrived=0.0))
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"index0.ts", "index.m3u8", "index3.ts.old", "index4.ts.old"}
    assert (tmp_path / "index3.ts.old").read_bytes() == b"raw"


def failing(monkeypatch: pytest.MonkeyPatch, what: str, times: int) -> None:
    """The machine has no process (or thread) left, so many times."""
    popen, start, left = subprocess.Popen, threading.Thread.start, [times]

    def taken() -> bool:
        left[0] -= 1
        return left[0] >= 0

    def no_process(*arguments: Any, **options: Any) -> Any:
        if taken():
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), "python")
        return popen(*arguments, **options)

    def no_thread(thread: Any) -> None:
        if thread._target.__name__ == "_watch" and taken():
            raise RuntimeError("can't start new thread")
        start(thread)

    if what == "process":
        monkeypatch.setattr(subprocess, "Popen", no_process)
    else:
        monkeypatch.setattr(threading.Thread, "start", no_thread)


@pytest.mark.parametrize(
    ("target", "retries", "why", "remedy"),
    [
        ("rtsp://h/a", 3, "Connection refused", "; check that the server is on and takes this address (--retries 0"),
        ("rtmp://h/a/b", 0, "no progress", "; check that the server is on and takes this address"),
        ("rtsp://h/a", 3, LOGIN_REFUSED, ""),
        ("preview:80", 3, "Permission denied", "; choose another port, as in preview:8093"),
        ("a.mkv", 3, DISK_FULL, ""),
        ("a.mkv", 3, "Permission denied", "; check that it can be written, or choose another OUT"),
    ],
)
def test_who_gives_an_output_up_says_what_to_do(target: str, retries: int, why: str, remedy: str) -> None:
    publisher = publisher_to(target, lambda _: None, retries=retries)
    publisher.account.gave_up = why
    before, given_up, told = publisher.given_up.partition(": given up")
    assert before == f"{publisher.address.shown}: {why}" and given_up
    assert told.startswith(remedy) and bool(told) == bool(remedy) and ("--retries" in told) == ("--retries" in remedy)


def test_an_end_that_is_not_written_in_time_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a server that takes what waits for it, but slowly."""
    let, said = threading.Event(), list[str]()
    monkeypatch.setattr(_Worker, "run", lambda worker: (let.wait(20) and "", False))
    publisher = publisher_to("rtsp://h/a", said.append)
    publisher.start(b"")
    monkeypatch.setattr(publisher._thread, "join", lambda limit: None)
    publisher.close()
    let.set()
    assert said == ["rtsp://h/a: not finished properly: its end was not written within 25 s"]
    assert publisher.given_up.startswith("rtsp://h/a: its end was not written within 25 s: not complete; check that")


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts", "p-%d.mkv", "hls/"])
@pytest.mark.parametrize(("room", "left"), [(0, 0), (100, 0), (20_000, 1)])
def test_a_full_disk_leaves_what_can_be_played_and_nothing_else(
    tmp_path: Path, name: str, room: int, left: int
) -> None:
    encoder = LiveEncoder((64, 48), Fraction(25), key_interval=0.2, crf=1)
    noise, packets = np.random.default_rng(0), list[Coded]()
    for index in range(30):
        image = noise.integers(0, 255, (48, 64, 3), np.uint8)
        picture = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
        picture.pts = index * 3600
        packets += encoder.encode(picture, arrived=0.0)
    with no_file_larger_than(room), pytest.raises(OSError, match="File too large"):
        sink = open_sink(
            sink_address(f"{tmp_path}/{name}", overwrite=True), encoder.description(None), transport="tcp", segment=0.5
        )
        for packet in packets:
            sink.write(packet)
        sink.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    videos = [path for path in files if ".m3u8" not in path.suffixes]
    if name == "hls/" and room == 100:
        left = 1  # a part is one without a header
    assert len(videos) == left and all(path.stat().st_size for path in files)
    if room > 100:
        with av.open(str(videos[0])) as container:
            assert next(container.decode(video=0)).width == 64


def test_a_playlist_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    failed, playlist = list[OSError](), tmp_path / "index.m3u8.tmp"
    with no_file_larger_than(10), _Written(playlist, failed) as file:
        file.write(b"#EXTM3U and so on")
    assert failed and not playlist.exists()
    with _Written(playlist, []) as file:
        file.write(b"#EXTM3U and so on")
    assert playlist.read_bytes() == b"#EXTM3U and so on"


@pytest.mark.parametrize(
    ("what", "why"), [("process", "Resource temporarily unavailable"), ("thread", "can't start new thread")]
)
@pytest.mark.parametrize("times", [1, 9])
def test_a_worker_that_cannot_be_started_is_a_failure_like_others(
    what: str, why: str, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, what, times)
    target, said = f"{tmp_path}/out.mkv", list[str]()
    publisher = publisher_to(target, said.append)
    encoder = LiveEncoder((64, 48), Fraction(25), key_interval=1.0)
    publisher.start(encoder.description(None))
    until(lambda: publisher.account.connected or publisher.gave_up)
    assert said[0] == f"{target}: the worker cannot be started ({why}); trying again in 0.5 s"
    if times == 1:
        for packet in encoder.encode(grey(64, 48), arrived=0.0):
            publisher.publish(packet)
        publisher.close()
        assert publisher.account.written == 1 and not publisher.gave_up
    else:
        until(lambda: said[-1] == "gone")
        remedy = "check that it can be written, or choose another OUT"
        assert said[1:] == [f"{target}: the worker cannot be started ({why}): given up; {remedy}", "gone"]
    assert workers() == []


def test_a_slow_receiver_misses_pictures_and_does_not_fall_behind() -> None:
    """It takes all the time something, so that no watchdog sees to it, and would see what was minutes ago."""
    server, ended = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def receive() -> None:
        client, _ = server.accept()
        with client:
            while client.recv(50_000) and not ended.is_set():
                time.sleep(0.05)  # 1 MB a second at most

    threading.Thread(target=receive, daemon=True).start()
    encoder = LiveEncoder((640, 480), Fraction(25), key_interval=100.0, crf=1)
    wished, said = list[float](), list[str]()
    publisher = Publisher(
        sink_address(f"tcp://127.0.0.1:{server.getsockname()[1]}", overwrite=False),
        OutputSettings("tcp", 1.0, 2.0, 1),
        say=said.append,
        need_key=lambda: wished.append(time.monotonic()),
        took=lambda _: None,
        gone=lambda: None,
    )
    publisher.start(encoder.description(None))
    until(lambda: publisher.account.connected)
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    picture = av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format="yuv420p")
    picture.pts = 0
    (coded,) = encoder.encode(picture, arrived=0.0)  # a key frame of half a megabyte
    began, count = time.monotonic(), 0
    while not any("too slow" in line for line in said):
        assert time.monotonic() < began + 20
        tick = count * 3600
        publisher.publish(replace(coded, pts=tick, dts=tick))
        count += 1
        time.sleep(0.04)
    assert publisher._waiting < 2**20 and len(wished) > 1, "it went on with the newest"
    ended.set()
    publisher.close()
    server.close()
    account = publisher.account
    assert not any("no progress" in line for line in said) and account.reconnects == 0
    assert account.written + account.dropped == count and account.dropped > 10
    assert re.search(r": too slow, \d+ s behind: it goes on with the next key frame$", said[1])


def test_parts_of_the_same_run_stay(tmp_path: Path) -> None:
    """A worker that replaces another goes on behind it."""
    encoder = LiveEncoder((64, 48), Fraction(25), key_interval=1.0)
    address = sink_address(f"{tmp_path}/part-%02d.mkv", overwrite=True)
    for _ in range(2):
        open_sink(address, encoder.description(None), transport="tcp", segment=1.0).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part-00.mkv", "part-01.mkv"]


def test_numbers_of_parts_never_go_back(tmp_path: Path) -> None:
    """Somebody takes older parts away: a worker that began at the first free number again would reach the others."""
    encoder = LiveEncoder((64, 48), Fraction(25), key_interval=1.0)
    address = sink_address(f"{tmp_path}/part-%02d.mkv", overwrite=True)
    (tmp_path / "part-07.mkv").write_bytes(b"complete")
    (tmp_path / "part-08.mkv.part").write_bytes(b"of a worker that was killed")
    for number in (8, 9):
        sink = open_sink(address, encoder.description(None), transport="tcp", segment=1.0)
        assert (tmp_path / f"part-{number:02d}.mkv.part").exists()
        sink.close()
    assert (tmp_path / "part-07.mkv").read_bytes() == b"complete"
    assert (tmp_path / "part-08.1.mkv").read_bytes() == b"of a worker that was killed"


def test_what_a_killed_run_left_unfinished_is_set_apart_from_the_next(tmp_path: Path) -> None:
    picture = LiveEncoder((64, 48), Fraction(25), key_interval=1.0).encode(grey(64, 48), arrived=0.0)
    (tmp_path / "part-31.mkv.part").write_bytes(b"unfinished")
    assert publishing(f"{tmp_path}/part-%02d.mkv", *picture).endswith("may be raw: 1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part-00.mkv", "part-31.mkv.part.old"]
    (tmp_path / "hls").mkdir()
    (tmp_path / "hls" / "index9.ts.tmp").write_bytes(bytes(50) + b"fluidvid")
    (tmp_path / "hls" / "index8.ts.tmp").write_bytes(b"of somebody else")
    publishing(f"{tmp_path}/hls/", *picture)
    assert {path.name for path in (tmp_path / "hls").iterdir()} == {"index.m3u8", "index0.ts", "index8.ts.tmp"}


@pytest.mark.parametrize("name", ["out.mkv", "part-%02d.mkv"])
def test_what_another_run_is_writing_is_left_to_it(name: str, tmp_path: Path) -> None:
    """Started twice, the second one took the first one's file away, and each gave the other's the final name."""
    encoder = LiveEncoder((64, 48), Fraction(25), key_interval=1.0)
    address = sink_address(f"{tmp_path}/{name}", overwrite=True)
    first = open_sink(address, encoder.description(None), transport="tcp", segment=1.0)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises((OSError, OutputError), match=r"another run is writing .*\.mkv\.part: stop it"):
        if address.pattern is None:
            open_sink(address, encoder.description(None), transport="tcp", segment=1.0)
        else:
            set_aside(address.pattern)
    assert {path.name for path in tmp_path.iterdir()} == before
    first.close()
    assert {path.name for path in tmp_path.iterdir()} == {name.replace("%02d", "00")}


def test_of_two_runs_that_begin_at_once_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one looks while the first one's container is being opened, and must not empty its file."""
    encoder = LiveEncoder((64, 48), Fraction(25), key_interval=1.0)
    address = sink_address(f"{tmp_path}/out.mkv", overwrite=False)
    opened, refused = ContainerSink, list[str]()

    def meanwhile(*args: Any) -> ContainerSink:
        with pytest.raises(OSError, match="another run is writing") as caught:
            open_sink(address, encoder.description(None), transport="tcp", segment=1.0)
        refused.append(str(caught.value))
        return opened(*args)

    monkeypatch.setattr("fluidvid.live.sinks.ContainerSink", meanwhile)
    sink = open_sink(address, encoder.description(None), transport="tcp", segment=1.0)
    publish(sink, encoder, range(3))
    sink.close()
    assert len(refused) == 1 and [path.name for path in tmp_path.iterdir()] == ["out.mkv"]


@pytest.mark.parametrize("again", [False, True])
def test_a_file_that_is_deleted_while_it_is_written_is_an_error(again: bool, tmp_path: Path) -> None:
    """All went into a file without a name, for weeks maybe, and nothing was said before the end."""
    encoder = LiveEncoder((64, 48), Fraction(25), key_interval=1.0)
    address = sink_address(f"{tmp_path}/out.mkv", overwrite=False)
    sink = open_sink(address, encoder.description(None), transport="tcp", segment=1.0)
    publish(sink, encoder, range(30))
    (tmp_path / "out.mkv.part").unlink()
    if again:
        (tmp_path / "out.mkv.part").write_bytes(b"another one")
    with pytest.raises(FileNotFoundError) as caught:
        publish(sink, encoder, range(30, 60))
    assert failure(address, caught.value).text == "out.mkv.part was deleted or moved while it was written"


def test_hevc_is_tagged_so_that_apples_players_show_it(tmp_path: Path) -> None:
    encoder = LiveEncoder((64, 48), Fraction(25), key_interval=1.0, codec="hevc")
    address = sink_address(f"{tmp_path}/out.mp4", overwrite=False)
    sink = open_sink(address, encoder.description(None), transport="tcp", segment=1.0)
    encoder.key_frame_due()
    publish(sink, encoder, range(5))
    sink.close()
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"
        assert len(list(container.decode(video=0))) == 5


@pytest.mark.parametrize(("name", "file"), [("12:30.mkv", "12:30.mkv"), ("rtp:cam/", "rtp:cam/index.m3u8")])
def test_a_colon_in_a_name_is_no_protocol(
    name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = LiveEncoder((64, 48), Fraction(25), key_interval=1.0)
    address = sink_address(name, overwrite=False)
    sink = open_sink(address, encoder.description(None), transport="tcp", segment=1.0)
    encoder.key_frame_due()
    publish(sink, encoder, range(25))
    sink.close()
    with Connection(source_address(file), transport="tcp", timeout=2) as source:
        assert isinstance(next(source.items()), av.VideoFrame)


def test_what_a_header_crops_off_stays_off(clip: Path, tmp_path: Path) -> None:
    source = build(tmp_path / "in.mkv", clip, Recipe(pts=range(0, 4004, 1001)))
    give_pixel_crop(source, b"\x54\xbb", 31)  # PixelCropTop
    with Connection(source_address(str(source)), transport="tcp", timeout=2) as connection:
        first = next(item for item in connection.items() if isinstance(item, av.VideoFrame))
    assert (first.width, first.height) == (176, 144 - 31)


def test_a_file_that_gives_no_picture_is_no_success(clip: Path, tmp_path: Path) -> None:
    """Nothing was published, and the exit code was 0."""
    source = build(tmp_path / "in.h264", clip, Recipe(pts=range(0, 8008, 1001)))
    with (
        Connection(source_address(str(source)), transport="tcp", timeout=2) as connection,
        pytest.raises(Lost, match="no times: convert it") as lost,
    ):
        list(connection.items())
    assert not lost.value.finished


def nobodys_source() -> LiveSource:
    return LiveSource(
        source_address("rtsp://127.0.0.1:9/nobody"),
        transport="tcp",
        timeout=2,
        retries=1,
        behind=1.0,
        say=lambda _: None,
        began=lambda *_: None,
        heard=lambda _: None,
    )


def test_a_break_among_pictures_that_are_dropped_stays_one() -> None:
    """Tracks of before it would go on in pictures of another scene."""
    source = nobodys_source()

    def picture(arrived: float) -> LiveFrame:
        return LiveFrame(av.VideoFrame(16, 16, "yuv420p"), VideoReformatter(), pts=round(arrived), arrived=arrived)

    source._put(picture(0.0))
    stretches = source.stretches()
    first = next(stretches)
    assert next(first).arrived == 0.0
    for item in (picture(0.1), None, picture(0.2), picture(5.0)):  # more than `behind` after the others
        source._put(item)
    source._done = True
    assert source.dropped == 2
    assert [frame.arrived for frame in first] == []
    assert [[frame.arrived for frame in stretch] for stretch in stretches] == [[5.0]]


def test_whoever_waits_for_the_time_of_a_picture_makes_no_silence(clip: Path) -> None:
    """A recording of less pictures a second than the timeout lasts would be given up."""
    with Connection(source_address(str(clip)), transport="tcp", timeout=1.5) as connection:
        items = connection.items()
        next(items)
        time.sleep(1.8)
        next(items)


def test_a_lost_connection_is_not_kept() -> None:
    source = nobodys_source()
    lost = source._connect()
    assert lost is not None and str(lost)
    assert lost.__traceback__ is None and lost.__cause__ is None and lost.__context__ is None


@pytest.mark.parametrize(
    ("text", "transport", "form", "options"),
    [
        ("/dev/null", "tcp", "v4l2", {}),  # any device will do for how it would be opened
        ("rtsp://h/a", "tcp", None, {"rtsp_transport": "tcp"}),
        ("rtsp://h/a", "udp", None, {"rtsp_transport": "udp"}),
        ("udp://h:1", "udp", "mpegts", {}),
        ("tcp://h:1", "tcp", "mpegts", {}),
        ("rtmp://h/a/b", "tcp", None, {}),
        ("http://h/a.m3u8", "tcp", None, {}),
    ],
)
def test_how_an_input_is_opened(text: str, transport: str, form: str | None, options: dict[str, str]) -> None:
    chosen, given = opening(source_address(text), transport=transport)
    assert chosen == form and (form is None or form in {name for f in av.formats_available for name in f.split(",")})
    assert given == {"flags": "low_delay", "analyzeduration": "1000000"} | options


def opened(error: Exception | None, monkeypatch: pytest.MonkeyPatch) -> Lost:
    """Why a device could not be opened."""
    if error is not None:

        def refuse(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(Lost) as caught:
        Connection(source_address("/dev/null"), transport="tcp", timeout=2)
    return caught.value


@pytest.mark.parametrize(
    ("number", "words", "permanent"),
    [
        (errno.EACCES, "no permission to read it: add your user to its group", True),
        (errno.EBUSY, "another program uses it", False),
        (errno.ENOENT, "the device is not there", False),  # it was when the run began: it may be plugged in again
        (errno.ENODEV, "the device is not there", False),
        (errno.EIO, "Input/output error", False),
    ],
)
def test_errors_of_a_video_device(number: int, words: str, permanent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    error = av.error.FFmpegError(number, os.strerror(number), "/dev/null")
    lost = opened(error, monkeypatch)
    assert words in str(lost) and lost.permanent == permanent


def test_another_device_is_no_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    """By FFmpeg's real driver."""
    lost = opened(None, monkeypatch)
    assert str(lost) == "it is no video device" and lost.permanent


def test_pictures_that_waited_longer_than_the_budget_are_dropped() -> None:
    source = nobodys_source()

    def arrive(at: float) -> None:
        picture = av.VideoFrame(64, 48, "yuv420p")
        source._put(LiveFrame(picture, VideoReformatter(), pts=round(at * 90000), arrived=at))

    for at in (0.0, 0.5, 1.0):
        arrive(at)
    source._put(None)  # the input broke off here
    arrive(1.2)
    arrive(1.9)
    waiting = [None if frame is None else frame.arrived for frame in source._queue]
    assert waiting == [1.0, None, 1.2, 1.9] and source.dropped == 2
    arrive(2.1)
    assert source._queue[0] is None and source.dropped == 3
    assert source._waiting == 3 * 64 * 48 * 3 // 2


def test_catching_up_keeps_the_newest_picture_and_the_breaks() -> None:
    source = nobodys_source()
    for at in (0.1, 0.2, 0.3):
        source._put(LiveFrame(av.VideoFrame(64, 48, "yuv420p"), VideoReformatter(), pts=0, arrived=at))
        if at == 0.2:
            source._put(None)
    source.catch_up()
    assert [None if frame is None else frame.arrived for frame in source._queue] == [None, 0.3]
    assert source.dropped == 2 and source._waiting == 64 * 48 * 3 // 2
    source.catch_up()
    assert len(source._queue) == 2 and source.dropped == 2


def keys(count: int = 2) -> list[KeyCrop]:
    crop = np.zeros((64, 64, 3), np.uint8)
    return [KeyCrop(crop, i, 1.0, 0.0) for i in range(count)]


class SlowEditor(FakeEditor):
    """Waits in `prepare` until it is let go."""

    def __init__(self, *, prepared: bool = True) -> None:
        super().__init__(Boom(), prepared=prepared)
        self.go = threading.Event()
        self.order: list[tuple[str, int]] = []

    def prepare(self, person_id: int, crops: NDArray[np.uint8], *, frames: Sequence[int] = ()) -> FakePreparation:
        assert self.go.wait(10)
        self.order.append(("prepare", person_id))
        return super().prepare(person_id, crops, frames=frames)

    def release(self, person_id: int) -> None:
        self.order.append(("release", person_id))


def test_directions_come_from_the_background() -> None:
    editor = SlowEditor()
    directions = BackgroundDirections(editor, cores=1.0)
    began = time.monotonic()
    directions.find(1, keys())
    directions.find(2, keys())
    directions.left([2])  # before its search has begun: it is not worth one
    assert time.monotonic() - began < 0.5 and not directions.ready(1) and not directions.wanted(1)
    editor.go.set()
    until(lambda: directions.ready(1))
    until(lambda: ("release", 2) in editor.order)
    assert ("prepare", 2) not in editor.order and not directions.ready(2)
    directions.left([1])
    until(lambda: ("release", 1) in editor.order)
    directions.forget([])
    assert not directions.ready(1) and directions.wanted(1)
    directions.close()


def test_a_first_direction_does_not_wait_for_searches_and_is_searched_for_after_all() -> None:
    class Beginning(SlowEditor):
        def begin(self, person_id: int, crops: NDArray[np.uint8], *, frames: Sequence[int] = ()) -> FakePreparation:
            assert self.go.wait(10)
            self.order.append(("begin", person_id))
            figures = {"first": 1.0} if person_id == 2 else {"recalled": 1.0}
            return FakePreparation(person_id > 1, "", figures)

    editor = Beginning()
    directions = BackgroundDirections(editor, cores=1.0)
    directions.find(1, keys())
    until(lambda: not directions._searches)  # under way
    directions.find(4, keys())
    for track in (1, 2, 3, 2):  # the last one asks again
        directions.begin(track, keys(2))
    directions.begin(5, keys(2))
    directions.left([5])
    editor.go.set()
    until(lambda: directions.ready(4))
    assert editor.order == [
        *(("prepare", 1), ("begin", 1), ("begin", 2), ("begin", 3), ("release", 5)),
        ("prepare", 4),
    ]
    assert directions.ready(2) and directions.wanted(2)  # a search may better it
    assert directions.ready(3) and not directions.wanted(3)  # recognised: it has its own
    assert not directions.ready(5) and directions.begun == 2
    directions.close()


def test_searches_wait_while_pictures_are_late_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "LONGEST_HOLD", 1.0)

    class Beginning(SlowEditor):
        def begin(self, person_id: int, crops: NDArray[np.uint8], *, frames: Sequence[int] = ()) -> FakePreparation:
            return FakePreparation(True, "", {"first": 1.0})

    editor = Beginning()
    editor.go.set()
    directions = BackgroundDirections(editor, cores=1.0)
    directions.busy = True
    directions.begin(1, keys())
    until(lambda: directions.ready(1))
    began = time.monotonic()
    directions.find(1, keys())
    directions.find(2, keys())  # masked so far: it does not wait
    until(lambda: directions.ready(2))
    assert editor.order == [("prepare", 2)] and time.monotonic() - began < 0.9
    until(lambda: ("prepare", 1) in editor.order)
    assert time.monotonic() - began >= 1.0
    directions.close()


class PacedEditor(SlowEditor):
    """Searches in `STEPS` steps, each when it is let go, and lets others in between them."""

    STEPS = 5

    def __init__(self) -> None:
        super().__init__()
        self.go.set()
        self.between: Callable[[], None] = lambda: None
        self.let = threading.Semaphore(0)
        self.steps = 0

    def pace(self, wait: Callable[[], None]) -> None:
        self.between = wait

    def begin(self, person_id: int, crops: NDArray[np.uint8], *, frames: Sequence[int] = ()) -> FakePreparation:
        self.order.append(("begin", person_id))
        return FakePreparation(person_id != 9, "", {"first": 1.0})

    def prepare(self, person_id: int, crops: NDArray[np.uint8], *, frames: Sequence[int] = ()) -> FakePreparation:
        for _ in range(self.STEPS):
            assert self.let.acquire(timeout=10)
            self.steps += 1
            self.between()
        return super().prepare(person_id, crops, frames=frames)


def test_first_directions_come_between_the_steps_of_a_search() -> None:
    editor = PacedEditor()
    directions = BackgroundDirections(editor, cores=1.0)
    directions.find(1, keys())
    editor.let.release()
    until(lambda: editor.steps == 1)
    directions.left([3])
    directions.begin(2, keys())
    editor.let.release()
    until(lambda: directions.ready(2))
    assert editor.steps == 2 and editor.order == [("release", 3), ("begin", 2)]
    directions.left([1])  # what comes behind this may be the same person: it waits for the search
    directions.begin(4, keys())
    editor.let.release(3)
    until(lambda: directions.ready(4))
    assert editor.order[2:] == [("prepare", 1), ("release", 1), ("begin", 4)]
    directions.close()


def held(editor: PacedEditor) -> BackgroundDirections:
    """Directions with a search for track 1 that is held after its first step: it has a first one, pictures are late."""
    directions = BackgroundDirections(editor, cores=1.0)
    directions.begin(1, keys())
    until(lambda: directions.ready(1))
    directions.find(1, keys())
    until(lambda: not directions._searches)  # under way
    directions.busy = True
    editor.let.release(editor.STEPS)
    until(lambda: editor.steps == 1)
    time.sleep(0.3)
    assert editor.steps == 1
    return directions


def test_a_search_under_way_waits_while_pictures_are_late_unless_its_track_needs_it() -> None:
    editor = PacedEditor()
    directions = held(editor)
    directions.failing({1})  # its first direction does not serve
    until(lambda: ("prepare", 1) in editor.order)
    directions.close()


def test_nobody_who_is_masked_waits_for_a_search_that_is_held() -> None:
    editor = PacedEditor()
    directions = held(editor)
    directions.begin(9, keys())  # fails
    directions.find(9, keys())
    editor.let.release(editor.STEPS)
    until(lambda: ("prepare", 9) in editor.order, 3)
    assert editor.order[-2:] == [("prepare", 1), ("prepare", 9)]
    directions.close()


def test_a_search_for_somebody_who_left_is_not_held() -> None:
    editor = PacedEditor()
    directions = held(editor)
    directions.left([1])
    until(lambda: ("release", 1) in editor.order, 3)
    directions.close()


def test_a_search_that_waited_long_goes_on_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "LONGEST_HOLD", 0.0)
    monkeypatch.setattr(background, "REST", 10.0)

    class Working(PacedEditor):
        def pace(self, wait: Callable[[], None]) -> None:
            def worked() -> None:
                time.sleep(0.02)
                wait()

            self.between = worked

    editor = Working()
    editor.let.release(editor.STEPS)
    directions = BackgroundDirections(editor, cores=1.0)
    directions.begin(1, keys())
    until(lambda: directions.ready(1))
    directions.busy = True
    began = time.monotonic()
    directions.find(1, keys())
    until(lambda: ("prepare", 1) in editor.order)
    assert time.monotonic() - began > 0.02 * editor.STEPS * (1 + background.REST)
    directions.close()


class Labouring(PacedEditor):
    """Every step takes a twentieth of a second of CPU time."""

    def pace(self, wait: Callable[[], None]) -> None:
        def worked() -> None:
            end = time.thread_time() + 0.05
            while time.thread_time() < end:
                pass
            wait()

        self.between = worked


def test_searches_keep_to_their_share_of_a_core() -> None:
    editor = Labouring()
    editor.let.release(3 * editor.STEPS)
    directions = BackgroundDirections(editor, cores=0.2)
    began = time.monotonic()
    for track in (1, 2, 3):
        directions.find(track, keys())
    until(lambda: directions.ready(3), 30)
    # The rest after the last step is still to come.
    assert time.monotonic() - began >= (3 * editor.STEPS - 1) * 0.05 / 0.2
    directions.close()


def test_who_is_new_does_not_wait_for_a_rest_and_neither_does_the_end() -> None:
    editor = Labouring()
    editor.let.release(2 * editor.STEPS)
    directions = BackgroundDirections(editor, cores=0.001)  # fifty seconds of rest after each step
    directions.find(1, keys())
    until(lambda: editor.steps == 1, 20)  # at the lowest priority, on a busy core
    directions.begin(2, keys())
    until(lambda: directions.ready(2), 20)
    assert editor.steps == 1
    directions.close()
    assert not directions._thread.is_alive()


def test_a_search_under_way_is_stopped_at_the_end() -> None:
    class Stopping(SlowEditor):
        def stop(self) -> None:
            self.go.set()

    editor = Stopping()
    directions = BackgroundDirections(editor, cores=1.0)
    directions.find(1, keys())
    directions.find(2, keys())
    until(lambda: len(directions._searches) == 1)  # the first one is under way
    directions.close()
    assert not directions._thread.is_alive() and editor.order == [("prepare", 1)]


def test_a_direction_that_failed_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "FIRST_RETRY", 0.3)
    editor = SlowEditor(prepared=False)
    editor.go.set()
    directions = BackgroundDirections(editor, cores=1.0)
    directions.find(1, keys())
    until(lambda: directions.failed == 1)
    assert not directions.ready(1) and not directions.wanted(1)
    until(lambda: directions.wanted(1))
    directions.close()


def test_an_exception_in_a_search_masks_that_track_only() -> None:
    editor = FakeEditor(Boom("prepare", 1))
    directions = BackgroundDirections(editor, cores=1.0)
    directions.find(1, keys())
    until(lambda: directions.ready(1))
    directions.find(2, keys())
    until(lambda: directions.failed == 1)
    assert not directions.ready(2) and directions.ready(1)
    directions.close()


def test_metrics_and_health() -> None:
    health = [Health(True, "ok")]
    samples = [
        ("counter", "faces", "faces", {"treatment": "edited"}, 3.0),
        ("counter", "faces", "faces", {"treatment": "raw"}, 0.0),
        ("gauge", "output_connected", "up", {"output": 'rtsp://***@h/a"b'}, 1.0),
    ]
    server = MetricsServer("127.0.0.1:0", lambda: samples, lambda: health[0])
    base = f"http://127.0.0.1:{server.port}"
    text = urlopen(f"{base}/metrics").read().decode()
    assert 'fluidvid_faces_total{treatment="edited"} 3.0' in text and 'output="rtsp://***@h/a\\"b"' in text
    assert urlopen(f"{base}/health").read() == b"ok\n"
    health[0] = Health(False, "no picture for 9 s")
    with pytest.raises(HTTPError) as caught:
        urlopen(f"{base}/health")
    assert caught.value.code == 503 and caught.value.read() == b"no picture for 9 s\n"
    server.close()


def test_a_client_that_says_nothing_holds_up_neither_metrics_nor_the_end() -> None:
    server = MetricsServer("127.0.0.1:0", lambda: [], lambda: Health(True, "ok"))
    with socket.create_connection(("127.0.0.1", server.port)):
        for method in ("GET", "HEAD"):
            asked = Request(f"http://127.0.0.1:{server.port}/health?from=docker", method=method)
            assert urlopen(asked, timeout=5).status == 200
        ending = threading.Thread(target=server.close, daemon=True)
        ending.start()
        ending.join(3)
        assert not ending.is_alive()


@pytest.mark.parametrize("path", ["/metrics", "/health", "/"])
def test_who_asks_for_the_head_gets_no_body(path: str) -> None:
    server = MetricsServer("127.0.0.1:0", lambda: [], lambda: Health(True, "ok"))
    with socket.create_connection(("127.0.0.1", server.port), timeout=3) as client:
        client.sendall(f"HEAD {path} HTTP/1.0\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.0 ") and answer.endswith(b"\r\n\r\n") and answer.count(b"\r\n\r\n") == 1
    server.close()


def test_a_client_that_says_nothing_is_let_go(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fluidvid.live.pages.PageHandler.timeout", 0.1)
    server = MetricsServer("127.0.0.1:0", lambda: [], lambda: Health(True, "ok"))
    with socket.create_connection(("127.0.0.1", server.port), timeout=3) as client:
        assert client.recv(1) == b""
    server.close()
    assert capfd.readouterr().err == ""


def test_the_account_of_ended_tracks_is_folded() -> None:
    whole, folded = Coverage(), Coverage()
    for coverage in (whole, folded):
        for frame in range(300):
            track = frame // 10
            treatment = "edited" if track % 3 else "masked"
            coverage.add(
                frame, 1, [FaceOutcome(track, frame % 7 > 0, treatment, "mode" if treatment == "masked" else None)]
            )
            if coverage is folded:
                coverage.forget(frame - 5)
    plain = [{k: v for k, v in c.summary().items() if not isinstance(v, dict)} for c in (whole, folded)]
    assert plain[0] == pytest.approx(plain[1]) and whole.tracks == folded.tracks == 30
    assert len(folded._tracks) <= 2


def test_one_text_is_no_list_of_outputs() -> None:
    with pytest.raises(ConfigError, match="give a list"):
        stream("rtsp://127.0.0.1:9/none", "out.mkv", config=load("live"))


def test_a_live_run_installs_no_log_callback() -> None:
    """PyAV's callback takes the interpreter's lock in decoder threads: the next file in the process waited for ever."""
    with pytest.raises(ConfigError):
        stream("rtsp://127.0.0.1:9/none", [], config=load("live"))
    assert av.logging.get_level() is None
