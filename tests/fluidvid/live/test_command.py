"""The command `fluidvid stream` as users meet it: wrong use, exit codes, signals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from fluidvid.cli import app, run
from tests.fluidvid.live.seeing import pictures
from tests.fluidvid.test_cli import ENVIRONMENT, fluidvid

SECRET = "rtsp://viewer:correcthorse@127.0.0.1:1/cam"


def test_help_names_the_live_flags() -> None:
    done = fluidvid("stream", "--help")
    assert done.returncode == 0
    for flag in ("--latency", "--retries", "--timeout", "--transport", "--metrics", "--segment", "--mode", "--config"):
        assert flag in done.stdout, flag


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["stream", "ftp://h/a", "rtsp://h/a"], 2, ["rtsp, rtsps, rtmp"]),
        (["stream", SECRET, "preview"], 2, ["display library"]),
        (["stream", SECRET, "rtsp://h/a", "--latency", "soon"], 2, ["live.latency", "soon", "500ms"]),
        (["stream", SECRET, "rtsp://h/a", "--strict"], 2, ["--strict", "live stream"]),
        (["stream", SECRET, "rtsp://h/a", "--start", "3"], 2, ["--start", "Ctrl-C"]),
        (["stream", "@nothing.txt", "rtsp://h/a"], 2, ["nothing.txt"]),
        (["stream", "no.mp4", "rtsp://h/a"], 3, ["no.mp4"]),
        (["stream", SECRET, "there.mp4"], 4, ["there.mp4", "--overwrite"]),
        (["stream", SECRET], 2, ["OUT"]),
        (["stream", SECRET, SECRET], 2, ["source itself"]),
        (["stream", SECRET, "rtsp://h/a", "rtsp://h/a"], 2, ["named twice"]),
        (["stream", "there.mp4", "./there.mp4", "--overwrite"], 2, ["source itself"]),
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
    Path("there.mp4").write_bytes(b"mine")
    command = typer.main.get_command(app)
    assert run(lambda: command(arguments, standalone_mode=False)) == code
    told = capsys.readouterr()
    assert told.out == "" and len(told.err.strip().splitlines()) == 1 and told.err.startswith("fluidvid: ")
    assert all(word in told.err for word in words) and "correcthorse" not in told.err


def test_anonymize_hands_addresses_over(tmp_path: Path) -> None:
    """The login stands in a file, and nowhere else; the account is printed although the input was given up."""
    (tmp_path / "camera.txt").write_text(SECRET + "\n")
    done = fluidvid("anonymize", "@camera.txt", "out.mp4", "--mode", "solid", "--retries", "1", "--json", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "rtsp://***@127.0.0.1:1/cam: Connection refused: given up" in done.stderr
    report = json.loads(done.stdout)
    assert report["pictures_out"] == report["raw"] == 0 and report["input"] == "rtsp://***@127.0.0.1:1/cam"
    assert "correcthorse" not in done.stderr + done.stdout


def started(clip: Path, out: Path) -> subprocess.Popen[str]:
    """A run that has begun to publish."""
    command = [sys.executable, "-m", "fluidvid", "stream", str(clip), str(out), "--mode", "solid", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert process.stderr is not None
    for line in process.stderr:
        if "publishing" in line:
            break
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_finish_the_output(clip: Path, tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out.mp4"
    process = started(clip, out)
    time.sleep(1)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 0, stderr
    assert f"{number.name}: finishing" in stderr and "0 raw" in stderr and f'"stopped": "{number.name}"' in stdout
    assert 0 < len(pictures(str(out))[0]) < 120 and not out.with_name("out.mp4.part").exists()
