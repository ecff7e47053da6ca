"""Everything that goes wrong with live streams: what the user is told, recovery or a clean end, never a raw face."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.packet import Packet
from numpy.typing import NDArray

from fluidvid.errors import ConfigError, DetectionError, ExitCode, InputError, OutputError
from fluidvid.live.addresses import source_address
from fluidvid.live.connection import Connection, Lost
from fluidvid.live.metrics import Health
from fluidvid.live.session import LiveSession
from fluidvid.stages import NearDetector
from fluidvid.trackers.types import Detection
from tests.fluidvid.live.camera import read_code
from tests.fluidvid.live.conftest import (
    SHORT,
    FrozenServer,
    Run,
    Sender,
    Server,
    children,
    free_port,
    threads,
    transport_stream,
    until,
    workers,
)
from tests.fluidvid.live.seeing import exposed, pictures
from tests.fluidvid.video.media_files import Recipe, build

SIZE = (264, 224)
Serve = Callable[..., Server]
Film = Callable[..., "subprocess.Popen[bytes]"]
Live = Callable[..., Run]


def covered(clip: Path, path: Path, run: Run, *, at_least: int) -> list[float]:
    """Assert that every face of every picture of a published file is treated, and that times rise; gives the times."""
    images, times = pictures(str(path))
    assert len(images) >= at_least and all(a < b for a, b in pairwise(times))
    seen, faces = exposed(clip, images, size=SIZE)
    assert faces >= len(images) and seen == 0, f"{seen} of {faces} faces are raw"
    account = run.session.report()
    assert account.raw == 0 and account.faces >= faces and account.pictures_out == len(images)
    return times


def test_server_absent_at_the_start(serve: Serve, film: Film, live: Live, clip: Path, tmp_path: Path) -> None:
    server = serve("cam")
    run = live(server.url("cam"), str(tmp_path / "out.mkv"))
    until(lambda: run.said("Connection refused; trying again in"))
    server.start()
    film(server.url("cam/publish"))
    until(lambda: run.published > 20)
    run.finish()
    assert run.error is None and run.session.report().reconnects >= 1
    covered(clip, tmp_path / "out.mkv", run, at_least=20)


def test_server_killed_and_restarted(serve: Serve, film: Film, live: Live, clip: Path, tmp_path: Path) -> None:
    server = serve("cam").start()
    film(server.url("cam/publish"))
    run = live(server.url("cam"), str(tmp_path / "out.mkv"))
    until(lambda: run.published > 15)
    server.kill()
    until(lambda: run.said("the stream ended; trying again") or run.said("trying again in 1 s"))
    before = run.published
    server.start()
    film(server.url("cam/publish"))
    until(lambda: run.published > before + 20)
    run.finish()
    assert run.error is None
    times = covered(clip, tmp_path / "out.mkv", run, at_least=before + 20)
    assert max(b - a for a, b in pairwise(times)) > 0.5, "the gap is a gap in the output, too"


def test_stalled_server_and_lost_publisher(serve: Serve, film: Film, live: Live, clip: Path, tmp_path: Path) -> None:
    server = serve("cam").start()
    camera = film(server.url("cam/publish"))
    run = live(server.url("cam"), str(tmp_path / "out.mkv"))
    until(lambda: run.published > 15)
    server.signal(signal.SIGSTOP)
    until(lambda: run.said("no picture for 1.5 s; trying again"))
    monitor = run.session.monitor
    until(lambda: monitor.health().text.startswith("no picture for") and not monitor.health().healthy)
    assert "(input lost)" in monitor.status()
    before = run.published
    server.signal(signal.SIGCONT)
    until(lambda: run.published > before + 15)
    lines = len(run.lines)
    camera.kill()  # the server lives on, and has nothing to send
    until(lambda: any("trying again" in line for line in run.lines[lines:]))
    before = run.published
    film(server.url("cam/publish"))
    until(lambda: run.published > before + 15)
    run.finish()
    assert run.error is None and run.session.report().reconnects >= 2
    covered(clip, tmp_path / "out.mkv", run, at_least=before + 15)


def test_frozen_output_server(serve: Serve, film: Film, live: Live, tmp_path: Path) -> None:
    """Its worker is killed and replaced; the other output does not notice."""
    cameras, frozen = serve("cam").start(), FrozenServer()
    film(cameras.url("cam/publish"), "--noise")
    target = f"rtsp://127.0.0.1:{frozen.port}/out"
    run = live(cameras.url("cam"), target, str(tmp_path / "out.mkv"), media__crf=1)
    until(lambda: run.said(f"{target}: publishing") and run.published > 10)
    first = set(workers())
    assert len(first) == 2
    until(lambda: run.said(f"{target}: no progress for 1.5 s: the server is frozen or unreachable"))
    assert run.session.monitor.health() == Health(False, f"not publishing to {target}")
    until(lambda: len(frozen.clients) > 1)
    assert len(set(workers()) & first) == 1, "the file's worker lives on, the frozen one is gone"
    run.finish()
    frozen.close()
    account = {out["address"]: out for out in run.session.report().outputs}
    assert account[str(tmp_path / "out.mkv")]["reconnects"] == account[str(tmp_path / "out.mkv")]["dropped"] == 0


@pytest.mark.slow
def test_stopped_output_server_comes_back(serve: Serve, film: Film, live: Live) -> None:
    """A real server under SIGSTOP: its socket takes megabytes before the worker is stuck."""
    cameras, viewers = serve("cam").start(), serve("out").start()
    film(cameras.url("cam/publish"), "--noise")
    run = live(cameras.url("cam"), viewers.url("out/publish"), media__crf=1)
    until(lambda: run.said("out/publish: publishing"))
    viewers.signal(signal.SIGSTOP)
    until(lambda: run.said("no progress for 1.5 s: the server is frozen or unreachable"), 120)
    viewers.signal(signal.SIGCONT)
    said = len(run.lines)
    until(lambda: any("out/publish: publishing" in line for line in run.lines[said:]))


def test_frozen_output_server_at_the_end(serve: Serve, live: Live, short: Path) -> None:
    """A server that freezes while the trailer is written does not keep the process."""
    viewers = serve("out").start()
    run = live(str(short), viewers.url("out/publish"))
    until(lambda: run.said("out/publish: publishing"))
    viewers.signal(signal.SIGSTOP)
    began = time.monotonic()
    run.finish()
    assert time.monotonic() - began < 10 and run.error is None


def test_a_file_that_is_no_video_is_not_tried_again(live: Live, tmp_path: Path) -> None:
    (tmp_path / "in.mp4").write_bytes(b"this is no video" * 1000)
    run = live(str(tmp_path / "in.mp4"), str(tmp_path / "out.mkv"))
    run.wait()
    assert isinstance(run.error, InputError) and not run.said("trying again")
    assert str(run.error).endswith(": given up; check that it is a whole video")


def test_a_device_that_is_no_camera_is_not_tried_again(live: Live, tmp_path: Path) -> None:
    run = live("/dev/null", str(tmp_path / "out.mkv"))
    run.wait()
    told = "/dev/null: it is no video device: given up; check that it is plugged in and that this is its name"
    assert isinstance(run.error, InputError) and str(run.error) == told
    assert not run.said("trying again") and list(tmp_path.iterdir()) == []


def test_missing_path(serve: Serve, live: Live, tmp_path: Path) -> None:
    server = serve("cam").start()
    run = live(server.url("nothing"), str(tmp_path / "out.mkv"), live__retries=1)
    run.wait()
    assert isinstance(run.error, InputError) and "no such path on the server (404): given up" in str(run.error)
    assert sum("trying again" in line for line in run.lines) == 1
    assert list(tmp_path.iterdir()) == []


def test_wrong_login(serve: Serve, film: Film, live: Live, tmp_path: Path) -> None:
    """Ends at once, on the input and on the output side, and says no secret; the right one works."""
    server = serve("cam", login=("viewer", "correcthorse")).start()
    run = live(server.url("cam", "viewer:batterystaple"), str(tmp_path / "out.mkv"))
    run.wait()
    assert isinstance(run.error, InputError) and str(run.error).endswith("check user and password: given up")
    film(server.url("cam/publish", "viewer:correcthorse"))
    publishing = live(
        server.url("cam", "viewer:correcthorse"), server.url("cam/publish", "viewer:batterystaple"), live__retries=0
    )
    publishing.wait()
    assert isinstance(publishing.error, OutputError) and "the login was refused" in str(publishing.error)
    told = " ".join([*run.lines, *publishing.lines, str(run.error), str(publishing.error)])
    told += run.session.report().to_json() + publishing.session.report().to_json() + publishing.session.monitor.status()
    assert "batterystaple" not in told and "correcthorse" not in told and "***@127.0.0.1" in told


def test_full_disk(live: Live, short: Path, tmp_path: Path) -> None:
    """/dev/full takes the place of the file: every write fails as on a full disk."""
    (tmp_path / "out.mkv.part").symlink_to("/dev/full")
    run = live(str(short), str(tmp_path / "out.mkv"), live__retries=1)
    run.wait()
    assert isinstance(run.error, OutputError) and "the disk is full: free some space: given up" in str(run.error)
    assert run.error.exit_code == ExitCode.OUTPUT and not (tmp_path / "out.mkv").exists()


def test_an_output_that_fails_at_the_end_of_a_file_is_an_error(live: Live, short: Path, tmp_path: Path) -> None:
    """With retries left, and nothing left to retry with."""
    (tmp_path / "out.mkv.part").symlink_to("/dev/full")
    run = live(str(short), str(tmp_path / "out.mkv"), live__retries=0)
    run.wait()
    assert isinstance(run.error, OutputError) and "the disk is full" in str(run.error)
    assert run.said("out.mkv: not finished properly: the disk is full: free some space")
    assert run.session.report().outputs[0]["gave_up"] == "the disk is full: free some space"


def test_an_output_that_lacks_its_end_when_the_run_is_stopped_is_an_error(
    live: Live, clip: Path, tmp_path: Path
) -> None:
    """It was asked to stop, and what it was to leave is not there: exit code 0 would say the contrary."""
    (tmp_path / "out.mkv.part").symlink_to("/dev/full")
    run = live(str(clip), str(tmp_path / "out.mkv"), live__retries=0)
    until(lambda: run.said("the disk is full: free some space; trying again"))
    run.finish()
    assert isinstance(run.error, OutputError) and run.error.exit_code == ExitCode.OUTPUT
    assert str(run.error) == f"{tmp_path}/out.mkv: the disk is full: free some space: not complete"
    assert run.session.report().stopped == "the test"


def test_full_disk_beside_a_working_output(live: Live, short: Path, tmp_path: Path) -> None:
    (tmp_path / "full.mkv.part").symlink_to("/dev/full")
    run = live(str(short), str(tmp_path / "full.mkv"), str(tmp_path / "out.mkv"), live__retries=1)
    run.wait()
    assert run.error is None and len(pictures(str(tmp_path / "out.mkv"))[0]) == SHORT
    assert run.session.report().outputs[0]["gave_up"] == "the disk is full: free some space"


def test_a_disk_that_is_full_for_a_while(live: Live, clip: Path, tmp_path: Path) -> None:
    """A real one: what was written before is kept and can be played, and the rest goes on when there is room again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("NOT TESTED: a small file system cannot be mounted here (needs root)")
    try:
        transport_stream(clip, tmp_path / "in.ts", SIZE, count=120)
        run = live(str(tmp_path / "in.ts"), str(disk / "out.mkv"), media__crf=1)
        until(lambda: run.said("out.mkv: the disk is full: free some space; trying again in 0.5 s"))
        subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
        run.wait()
        assert run.error is None and run.session.report().raw == 0
        assert sorted(path.name for path in disk.iterdir()) == ["out.1.mkv", "out.mkv"]
        images = [image for name in ("out.1.mkv", "out.mkv") for image in pictures(str(disk / name))[0]]
        seen, faces = exposed(clip, images, size=SIZE)
        assert seen == 0 and faces >= len(images) > 50
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other quickly."""
    monkeypatch.setattr("fluidvid.live.backoff.FIRST", 0.02)
    monkeypatch.setattr("fluidvid.live.backoff.LONGEST", 0.02)


def held() -> tuple[int, int, float]:
    """Open files, threads and resident MB of this process.

    The least of half a second for each: the reader of a lost connection may still be ending beside its successor.
    """
    seen = []
    for _ in range(20):
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
        seen.append((len(list(Path("/proc/self/fd").iterdir())), len(threads()), resident))
        time.sleep(0.025)
    files, running, megabytes = zip(*seen, strict=True)
    return min(files), min(running), min(megabytes)


@pytest.mark.usefixtures("impatient")
def test_an_input_that_is_lost_again_and_again_leaves_nothing_behind(live: Live, clip: Path, tmp_path: Path) -> None:
    part = transport_stream(clip, tmp_path / "in.ts", SIZE, count=6)
    sender = Sender(*[part] * 32, rate=len(part) * 5)  # 30 pictures/s: none piles up
    run = live(f"tcp://127.0.0.1:{sender.port}", str(tmp_path / "out.mkv"))

    def lost(times: int) -> tuple[int, int, float]:
        until(lambda: run.session.report().reconnects >= times, 60)
        return held()

    before, after = lost(12), lost(30)
    run.finish()
    assert after[0] <= before[0] + 2 and after[1] <= before[1], f"{before} became {after}"
    assert after[2] < before[2] + 10, f"MB grew from {before[2]:.0f} to {after[2]:.0f}"
    assert run.error is None
    covered(clip, tmp_path / "out.mkv", run, at_least=40)  # a busy machine drops pictures


@pytest.mark.usefixtures("impatient")
def test_workers_that_die_again_and_again_leave_nothing_behind(live: Live, clip: Path, tmp_path: Path) -> None:
    sender = Sender(transport_stream(clip, tmp_path / "in.ts", SIZE, count=120) * 20, rate=10**5)
    run = live(f"tcp://127.0.0.1:{sender.port}", str(tmp_path / "out-%03d.ts"))

    def killed(times: int) -> tuple[int, int, float]:
        for _ in range(times):
            published = opened()
            (worker,) = workers()
            os.kill(worker, signal.SIGKILL)
            until(lambda published=published: opened() > published)  # type: ignore[misc]
        return held()

    def opened() -> int:
        return sum("publishing" in line for line in run.lines)

    until(lambda: run.said("publishing"))
    before, after = killed(3), killed(6)
    run.finish()
    assert after[0] <= before[0] + 2 and after[1] <= before[1], f"{before} became {after}"
    assert run.said("the worker process died; trying again in 0.02 s")
    report = run.session.report()
    out = report.outputs[0]
    assert out["reconnects"] == 9 and run.error is None
    assert out["written"] + out["dropped"] == report.pictures_out and out["dropped"] > 0


def test_garbage_packets(live: Live, clip: Path, tmp_path: Path) -> None:
    """Damage inside a stream: pictures that cannot be decoded are left out, the others are treated."""
    sound = bytearray(transport_stream(clip, tmp_path / "in.ts", SIZE))
    dice = np.random.default_rng(4)
    for begin in dice.integers(30_000, len(sound), 5).tolist():
        sound[begin : begin + 40] = dice.integers(0, 256, 40, np.uint8).tobytes()
    sender = Sender(bytes(sound), rate=len(sound) // 2)
    run = live(f"tcp://127.0.0.1:{sender.port}", str(tmp_path / "out.mkv"), live__retries=2)
    run.wait(30)
    assert isinstance(run.error, InputError)  # the sender has gone
    report = run.session.report()
    assert report.corrupt > 0 and report.pictures_out > 20 and report.raw == 0
    covered(clip, tmp_path / "out.mkv", run, at_least=20)


def test_what_is_predicted_from_a_damaged_picture_is_left_out(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the next key frame: half a face may stand there, and half of it be smeared, so that none is found."""
    path = tmp_path / "in.ts"
    stream = transport_stream(clip, path, SIZE, count=40)  # a key frame is every tenth picture
    with av.open(str(path)) as container:
        places = [packet.pos or 0 for packet in container.demux(video=0) if packet.size]

    def lose(number: int) -> bytes:
        """One packet of a picture is lost on its way."""
        lost = places[number] + 188
        return bytes(stream[:lost] + stream[lost + 188 :])

    def received(stream: bytes) -> tuple[list[int], int]:
        path.write_bytes(stream)
        with Connection(source_address(str(path)), transport="tcp", timeout=5.0) as connection:
            seen = []
            with suppress(Lost):
                for item in connection.items():
                    assert isinstance(item, av.VideoFrame)
                    seen.append(read_code(np.asarray(item.to_ndarray(format="rgb24"), np.uint8)))
            return seen, connection.corrupt

    assert received(stream) == ([*range(40)], 0)
    assert received(lose(14)) == ([*range(13), *range(20, 40)], 7)  # and the one before: FFmpeg does not tell which
    assert received(lose(20)) == ([*range(19), *range(30, 40)], 11)  # a key frame: the decoder finds no fault in it
    monkeypatch.setattr("fluidvid.live.connection.SMEARED", 0.0)  # as if no key frame had come for so long
    seen, corrupt = received(lose(14))
    assert len(seen) == 38 and corrupt == 2


@dataclass
class Damaged:
    """A packet of which a part was lost, or that the decoder refuses."""

    packet: Packet[Any]
    is_corrupt: bool

    def __getattr__(self, name: str) -> Any:
        return getattr(self.packet, name)

    def decode(self) -> Sequence[Any]:
        if not self.is_corrupt:
            raise av.InvalidDataError(errno.EINVAL, "refused")
        return self.packet.decode()


@pytest.mark.parametrize("torn", [True, False])
def test_damage_is_met_before_what_is_shown_earlier_has_come(clip: Path, tmp_path: Path, torn: bool) -> None:
    """Of a key frame (12) and what follows in the order of decoding (15, 13, 14), 15 is damaged and comes last."""
    options = {"preset": "ultrafast", "threads": "1", "x264-params": "bframes=2:b-adapt=0:keyint=12:scenecut=0"}
    path = build(tmp_path / "in.ts", clip, Recipe(pts=range(0, 40 * 1001, 1001), options=options))
    with Connection(source_address(str(path)), transport="tcp", timeout=5.0) as connection:
        packets = list(connection._packets([connection._video]))
    times = sorted(packet.pts for packet in packets if packet.pts is not None)
    with Connection(source_address(str(path)), transport="tcp", timeout=5.0) as connection:
        given = connection._packets
        connection._packets = lambda wanted: (  # type: ignore[method-assign]
            Damaged(packet, torn) if packet.pts == times[15] else packet  # type: ignore[misc]
            for packet in given(wanted)
        )
        seen = set()
        with suppress(Lost):
            for item in connection.items():
                assert item.pts is not None
                seen.add(times.index(item.pts))
    assert packets[13].pts == times[15] and packets[24].is_keyframe, "as said above"
    assert seen.isdisjoint(range(13, 24)) and seen >= {*range(11), *range(24, 40)}


def test_nothing_but_garbage(live: Live, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, 400_000, np.uint8).tobytes()
    sender = Sender(noise, noise, noise, rate=10**6)
    run = live(f"tcp://127.0.0.1:{sender.port}", str(tmp_path / "out.mkv"), live__retries=1)
    run.wait()
    assert isinstance(run.error, InputError) and "given up" in str(run.error)
    assert list(tmp_path.iterdir()) == []


def test_change_of_resolution(live: Live, clip: Path, tmp_path: Path) -> None:
    """In the middle of a stream, times starting again as well: readers see one size and rising times."""
    large = transport_stream(clip, tmp_path / "large.ts", SIZE)
    small = transport_stream(clip, tmp_path / "small.ts", (256, 160))
    sender = Sender(large + small, rate=len(large + small) // 3)
    run = live(f"tcp://127.0.0.1:{sender.port}", str(tmp_path / "out.mkv"), live__retries=1)
    run.wait(40)
    assert run.said("now 256x160, fitted into (264, 224)")
    images, times = pictures(str(tmp_path / "out.mkv"))
    assert len(images) > 80 and {image.shape for image in images} == {(224, 264, 3)}
    assert all(a < b for a, b in pairwise(times))
    seen, faces = exposed(clip, images[:55], size=SIZE)
    assert seen == 0 and faces >= 55
    smaller = [np.asarray(cv2.resize(image[30:-30], (256, 160)), np.uint8) for image in images[65:]]
    seen, faces = exposed(clip, smaller, size=(256, 160))
    assert seen == 0 and faces >= len(smaller)
    # What came smaller stands between black bars.
    bars = images[-10][:26].mean(), images[-10][-26:].mean()
    assert max(bars) < 20 < images[-10][60:-60].mean()
    assert run.session.report().faces >= len(images)
    assert run.session.report().moved >= 1


@pytest.mark.parametrize("looks", [0, 11])  # one to warm up
def test_an_exception_in_the_detector_stops_the_run(live: Live, short: Path, tmp_path: Path, looks: int) -> None:
    def alter(session: LiveSession) -> None:
        near = session._stages.near
        assert near is not None
        session._stages = replace(session._stages, near=Broken(near))

    class Broken:
        def __init__(self, near: NearDetector) -> None:
            self._near, self._calls = near, 0

        def whole(self, image: NDArray[np.uint8]) -> tuple[list[Detection], NDArray[np.float32]]:
            self._calls += 1
            if self._calls > looks:
                raise RuntimeError("boom")
            return self._near.whole(image)

        def detect(
            self, images: Sequence[NDArray[np.uint8]], places: Sequence[NDArray[np.float32]]
        ) -> list[list[Detection]]:
            return self._near.detect(images, places)

    run = live(str(short), str(tmp_path / "out.mkv"), alter=alter)
    run.wait()
    assert isinstance(run.error, DetectionError) and "boom" in str(run.error)
    if looks:
        assert len(pictures(str(tmp_path / "out.mkv"))[0]) <= 30  # with its trailer, under its name
    else:
        assert not (tmp_path / "out.mkv").exists()


def test_an_exception_ends_the_run_at_once_although_the_input_is_silent(live: Live, clip: Path, tmp_path: Path) -> None:
    """Nobody waits for the end of a read that lasts as long as the timeout."""
    sender = Sender(transport_stream(clip, tmp_path / "in.ts", SIZE), rate=10**6, stall=True)

    def alter(session: LiveSession) -> None:
        tracker = session._stages.tracker
        update = tracker.update

        def broken(index: int, *arguments: Any, **named: Any) -> Any:
            if index == 50:
                time.sleep(1.0)  # all there is to read has been read
                raise RuntimeError("boom")
            return update(index, *arguments, **named)

        tracker.update = broken  # type: ignore[assignment, method-assign]

    run = live(f"tcp://127.0.0.1:{sender.port}", str(tmp_path / "out.mkv"), alter=alter, live__timeout=60.0)
    until(lambda: run.published >= 40)
    began = time.monotonic()
    run.wait(15)
    assert time.monotonic() - began < 8
    assert isinstance(run.error, DetectionError) and "boom" in str(run.error)
    covered(clip, tmp_path / "out.mkv", run, at_least=40)
    sender.close()


def test_all_outputs_given_up_ends_the_run_although_the_input_is_silent(live: Live, clip: Path, tmp_path: Path) -> None:
    sender = Sender(transport_stream(clip, tmp_path / "in.ts", SIZE), rate=10**6, stall=True)
    target = f"rtsp://127.0.0.1:{free_port()}/nobody"
    run = live(f"tcp://127.0.0.1:{sender.port}", target, live__timeout=60.0, live__retries=3)  # 3.5 s
    run.wait(20)
    assert isinstance(run.error, OutputError) and run.said(str(run.error))
    assert str(run.error) == (
        f"{target}: Connection refused: given up; check that the server is on and takes this address "
        "(--retries 0 tries for ever)"
    )
    assert run.session.report().pictures_in > 30 and run.session.report().reconnects == 0
    sender.close()


def test_a_worker_does_not_outlive_its_parent(serve: Serve, clip: Path) -> None:
    """Not even one that hangs in a frozen server."""
    viewers = serve("out").start()
    command = [sys.executable, "-m", "fluidvid", "stream", str(clip), viewers.url("out/publish"), "--mode", "solid"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "publishing" in line:
            break
    mine = children(process.pid)
    assert mine
    viewers.signal(signal.SIGSTOP)
    process.kill()
    process.communicate()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in mine))


def test_port_of_metrics_taken(live: Live, short: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="cannot serve metrics"):
        live(str(short), str(tmp_path / "out.mkv"), live__metrics=f"127.0.0.1:{taken.getsockname()[1]}")
    assert free_port()
