"""The command `fluidvid stream` as users meet it: wrong use, exit codes, signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import typer

from fluidvid.cli import app, run
from fluidvid.config import Config
from fluidvid.errors import ConfigError
from fluidvid.live.command import stream
from tests.fluidvid.live.camera import write_code
from tests.fluidvid.live.conftest import FrozenServer, Sender, children, free_port, transport_stream, until
from tests.fluidvid.live.seeing import exposed, filmed, pictures
from tests.fluidvid.test_cli import ENVIRONMENT, fluidvid

SECRET = "rtsp://viewer:correcthorse@127.0.0.1:1/cam"


def test_help_names_the_live_flags() -> None:
    done = fluidvid("stream", "--help")
    assert done.returncode == 0
    for flag in ("--latency", "--retries", "--timeout", "--transport", "--metrics", "--segment", "--mode", "--config"):
        assert flag in done.stdout, flag
    assert "SIGHUP" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["stream", "ftp://h/a", "rtsp://h/a"], 2, ["rtsp, rtsps, rtmp"]),
        (["stream", SECRET, "preview:http"], 4, ["preview:http", "file name ending"]),
        (["stream", SECRET, "preview", "preview"], 2, ["named twice"]),
        (["stream", SECRET, "rtsp://h/a", "--latency", "soon"], 2, ["live.latency", "soon", "500ms"]),
        (["stream", SECRET, "rtsp://h/a", "--strict"], 2, ["--strict", "live stream"]),
        (["stream", SECRET, "rtsp://h/a", "--start", "3"], 2, ["--start", "Ctrl-C"]),
        (["stream", SECRET, "rtsp://h/a", "--codec", "vp9"], 2, ["h264 or hevc, not vp9", "--codec"]),
        (["stream", SECRET, "rtsp://h/a", "--codec", "nonsense"], 2, ["h264 or hevc, not nonsense", "--codec"]),
        (["stream", SECRET, "rtsp://h/a", "--crf", "60"], 2, ["crf 60 is out of range", "0 to 51"]),
        (["stream", SECRET, "rtsp://h/a", "--codec", "hevc", "--preset", "no"], 2, ["libx265", "'no'", "--preset"]),
        (["stream", SECRET, "preview", "--metrics", "127.0.0.1:70000"], 2, ["--metrics 127.0.0.1:70000", "choose"]),
        (["stream", "@nothing.txt", "rtsp://h/a"], 2, ["nothing.txt"]),
        (["stream", "@marked.txt", SECRET], 2, ["source itself"]),
        (["anonymize", "rtsp:/viewer:correcthorse@h/a", "b.mp4"], 3, ["rtsp:/***@h/a"]),
        (["anonymize", "there.mp4", "rtsp:/viewer:correcthorse@h/a"], 4, ["rtsp:/***@h/a"]),
        (["stream", "no.mp4", "rtsp://h/a"], 3, ["no.mp4"]),
        (["stream", "/dev/video97", "rtsp://h/a"], 3, ["no such file or device: /dev/video97"]),
        (["stream", SECRET, "there.mp4"], 4, ["there.mp4", "--overwrite"]),
        (["stream", SECRET], 2, ["OUT"]),
        (["stream", SECRET, SECRET], 2, ["source itself"]),
        (["stream", SECRET, "rtsp://h/a", "rtsp://h/a"], 2, ["named twice"]),
        (["stream", "there.mp4", "./there.mp4", "--overwrite"], 2, ["source itself"]),
        (["stream", "part-3.mp4", "part-%02d.mp4", "--overwrite"], 2, ["source itself"]),
        (["stream", "index0.ts", "./", "--overwrite"], 2, ["source itself"]),
        (["stream", SECRET, "./"], 4, ["index0.ts", "--overwrite", "aside"]),
        (["stream", SECRET, "a-%02d.mp4", "a-7.mp4"], 2, ["named twice"]),
        (["stream", SECRET, "a-%d.mp4", "a-%05d.mp4"], 2, ["named twice"]),
        (["stream", SECRET, "index7.ts", "./", "--overwrite"], 2, ["named twice"]),
        (["stream", SECRET, "a.mp4", "--cache", "./a.mp4"], 2, ["cache.path = ./a.mp4", "a video of this run"]),
        (["stream", SECRET, "a-%d.mp4", "--cache", "a-7.mp4"], 2, ["cache.path = a-7.mp4", "a video of this run"]),
        (["stream", SECRET, "list.m3u8", "--key-file", "list7.ts"], 2, ["cache.key_file = list7.ts"]),
        (["stream", "there.mp4", "rtsp://h/a", "--cache", "there.mp4"], 2, ["cache.path = there.mp4"]),
        (["stream", SECRET, "part-%02d.mp4"], 4, ["part-3.mp4", "--overwrite", "aside"]),
        (["anonymize", "a.mp4", "b.mp4", "--latency", "1s"], 2, ["--latency is for live streams"]),
    ],
)
def test_wrong_use_in_one_line(
    arguments: list[str],
    code: int,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("there.mp4", "part-3.mp4", "index0.ts"):
        Path(name).write_bytes(b"mine")
    Path("marked.txt").write_text(SECRET, encoding="utf-8-sig")
    command = typer.main.get_command(app)
    assert run(lambda: command(arguments, standalone_mode=False)) == code
    told = capsys.readouterr()
    assert told.out == "" and len(told.err.strip().splitlines()) == 1 and told.err.startswith("fluidvid: ")
    assert all(word in told.err for word in words) and "correcthorse" not in told.err


@pytest.mark.parametrize("host", ["127.0.0.1", "", "0.0.0.0"])
def test_metrics_and_preview_on_one_port(host: str) -> None:
    """The preview would be tried again for ever."""
    port = free_port()
    config = Config().updated({"live.metrics": f"{host}:{port}"})
    words = f"--metrics {host}:{port} and preview:{port} ask for the same port: choose another"
    with pytest.raises(ConfigError, match=words):
        stream(SECRET, [f"preview:{port}"], config=config)


def test_a_port_that_another_program_has() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot serve preview:{port} \(.*in use\): choose another"):
            stream(SECRET, ["preview", f"preview:{port}"], config=Config())


def test_anonymize_hands_addresses_over(tmp_path: Path) -> None:
    """The login stands in a file, and nowhere else; the account is printed although the input was given up."""
    (tmp_path / "camera.txt").write_text(SECRET + "\n")
    done = fluidvid("anonymize", "@camera.txt", "out.mp4", "--mode", "solid", "--retries", "1", "--json", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "rtsp://***@127.0.0.1:1/cam: Connection refused: given up" in done.stderr
    report = json.loads(done.stdout)
    assert report["pictures_out"] == report["raw"] == 0 and report["input"] == "rtsp://***@127.0.0.1:1/cam"
    assert "correcthorse" not in done.stderr + done.stdout


def started(source: str, *targets: str, timeout: str = "1m", **variables: str) -> subprocess.Popen[str]:
    """A run that has begun to publish, and would wait for a minute for whatever hangs."""
    command = [sys.executable, "-m", "fluidvid", "stream", source, *targets, "--mode", "solid", "--json"]
    command += ["--timeout", timeout]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT | variables,
        preexec_fn=partial(signal.signal, signal.SIGHUP, signal.SIG_DFL),  # tests under nohup ignore it otherwise
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "publishing" in line:
            break
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_finish_the_output(clip: Path, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out.mp4"
    process = started(str(clip), str(out))
    time.sleep(1)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 0, stderr
    assert f"{number.name}: finishing" in stderr and "0 raw" in stderr and f'"stopped": "{number.name}"' in stdout
    assert 0 < len(pictures(str(out))[0]) < 120 and not out.with_name("out.mp4.part").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_every_process_finishes_the_output(clip: Path, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out.mp4"
    process = started(str(clip), str(out))
    time.sleep(1)
    for pid in (*children(process.pid), process.pid):
        os.kill(pid, number)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 0 and "not complete" not in stderr, stderr
    assert 0 < len(pictures(str(out))[0]) < 120


def test_a_terminal_that_closes_hangs_up_again_and_again(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    process = started(str(clip), str(out))
    time.sleep(1)
    for _ in range(2000):  # until it has ended: also while the report is written
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGHUP)
        time.sleep(0.01)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 0, stderr
    assert '"stopped": "SIGHUP"' in stdout and 0 < len(pictures(str(out))[0]) < 120


# In the process itself, so that no clock decides: the signal comes while the run is summed up.
SUMMED_UP = """
import os, runpy, signal
from fluidvid.live.report import LiveReport

LiveReport.print_summary = lambda report, console: os.kill(os.getpid(), signal.SIGTERM)
runpy.run_module("fluidvid", run_name="__main__")
"""


def test_a_signal_does_not_deny_outputs_that_are_complete(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    command = [sys.executable, "-c", SUMMED_UP, "stream", str(clip), str(out), "--mode", "solid", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False)
    assert done.returncode == 130 and done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert "the run was over: what it wrote stands" in last and len(pictures(str(out))[0]) > 10


def test_a_signal_does_not_wait_for_a_silent_input(clip: Path, tmp_path: Path) -> None:
    sender = Sender(transport_stream(clip, tmp_path / "in.ts", (264, 224)), rate=10**6, stall=True)
    out = tmp_path / "out.mp4"
    process = started(f"tcp://127.0.0.1:{sender.port}", str(out))
    time.sleep(3)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=8)
    assert process.returncode == 0, stderr
    report = json.loads(stdout)
    assert report["stopped"] == "SIGTERM" and report["pictures_out"] == len(pictures(str(out))[0]) > 10
    sender.close()


def test_a_signal_does_not_wait_for_an_output_that_never_opened(clip: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/out"
        process = started(str(clip), target, str(tmp_path / "out.ts"))
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=8)
    assert json.loads(stdout)["outputs"][0]["gave_up"] == "it did not open before the end"
    assert process.returncode == 0 and f"{target}: not finished properly: it did not open before the end" in stderr
    assert len(pictures(str(tmp_path / "out.ts"))[0]) > 0


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """The first one waits for the trailer of an output that hangs. Its worker goes, too."""
    noise, out, frozen = tmp_path / "noise.mkv", tmp_path / "out.ts", FrozenServer()
    dice = np.random.default_rng(0)
    with av.open(str(noise), "w") as film:  # many bytes fill the hanging server's socket soon
        stream = film.add_stream("libx264", 25, options={"preset": "ultrafast"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for _ in range(200):
            picture = dice.integers(0, 256, (240, 320, 3), np.uint8)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(stream.encode(None))
    process = started(str(noise), f"rtsp://127.0.0.1:{frozen.port}/out", str(out), "--crf", "1", "--latency", "20s")
    time.sleep(5)
    muxing = children(process.pid)
    assert len(muxing) == 2
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(3)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=5)
    assert process.returncode == 130 and "second signal" in stderr.strip().splitlines()[-1]
    assert json.loads(stdout)["raw"] == 0
    assert len(pictures(str(out))[0]) > 10, "the output that does not hang is complete"
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in muxing), 10)
    frozen.close()


def test_a_video_device(clip: Path, tmp_path: Path) -> None:
    """FFmpeg's own v4l2 code on a fake driver: pictures come, it falls silent, is opened anew, and none is raw."""
    driver, source = tmp_path / "fake_camera.so", Path(__file__).parent / "fake_camera.c"
    compile_ = ["gcc", "-shared", "-fPIC", "-o", str(driver), str(source), "-ldl"]
    if shutil.which("gcc") is None or subprocess.run(compile_, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("NOT TESTED: a fake video device cannot be compiled here: apt-get install -y gcc linux-libc-dev")
    size, coded = (264, 224), []
    for number, image in enumerate(filmed(clip, *size)[:60]):
        image = image.copy()
        write_code(image, number)
        coded.append(bytes(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuyv422").planes[0]))
    (tmp_path / "frames.yuyv").write_bytes(b"".join(coded))
    out = tmp_path / "out.mkv"
    process = started(
        "/dev/full",
        str(out),
        "--latency",
        "20s",
        timeout="1s",
        LD_PRELOAD=str(driver),
        FAKE_CAMERA="/dev/full",
        FAKE_FRAMES=str(tmp_path / "frames.yuyv"),
        FAKE_WIDTH=str(size[0]),
        FAKE_HEIGHT=str(size[1]),
        FAKE_COUNT="50",
    )
    assert process.stderr is not None
    told = next(line for line in process.stderr if "trying again" in line)
    assert "/dev/full: no picture for 1 s; trying again in 0.5 s" in told
    next(line for line in process.stderr if "/dev/full: receiving 264x224" in line)
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=10)
    assert process.returncode == 0, stderr
    report = json.loads(stdout)
    images, times = pictures(str(out))
    assert report["reconnects"] >= 1 and report["pictures_out"] == len(images) > 60
    assert all(a < b for a, b in pairwise(times)) and np.median(np.diff(times)) == pytest.approx(0.04, abs=0.003)
    seen, faces = exposed(clip, images, size=size)
    assert seen == 0 and report["faces"] >= faces >= len(images)
