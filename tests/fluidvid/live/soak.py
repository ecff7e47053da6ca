"""A live run for a long time, with a server that dies again and again: how its memory and its processes develop.

python -m tests.fluidvid.live.soak --minutes 4
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fluidvid.live.conftest import HERE, Server

CLIP = HERE.parents[1] / "clips" / "carphone_pristine.mp4"
SAMPLE = 5.0
OUTAGE = 60.0
"""Seconds between two deaths of the server."""


@dataclass(frozen=True)
class Soaked:
    """`(seconds, MB of the run, MB of its workers, number of workers)` over time, and the run's report."""

    curve: list[tuple[float, float, float, int]]
    report: dict[str, Any]


def soak(minutes: float, *, mode: str = "pixelate") -> Soaked:
    """Run `fluidvid stream` from an RTSP server to the same server and to a file in parts."""
    server = Server(["cam", "out"]).start()
    camera = [sys.executable, str(HERE / "camera.py"), str(CLIP), server.url("cam/publish"), "--code"]
    filming = subprocess.Popen(camera, stderr=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fluidvid", "stream", server.url("cam"), server.url("out/publish")]
        command += [
            f"{folder}/part-%05d.ts",
            "--mode",
            mode,
            "--timeout",
            "3s",
            "--segment",
            "20s",
            "--json",
            "--quiet",
        ]
        run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        began, curve, outages = time.monotonic(), [], 0
        try:
            while (now := time.monotonic() - began) < 60 * minutes:
                time.sleep(SAMPLE)
                assert run.poll() is None, f"ended by itself after {now:.0f} s"
                workers = _children(run.pid)
                curve.append((now, _memory(run.pid), sum(_memory(pid) for pid in workers), len(workers)))
                for part in sorted(Path(folder).glob("*.ts"))[:-3]:
                    part.unlink()
                if now // OUTAGE > outages:
                    outages += 1
                    server.kill()
                    filming.kill()
                    filming.wait()
                    time.sleep(2)
                    server.start()
                    filming = subprocess.Popen(camera, stderr=subprocess.DEVNULL)
            run.send_signal(signal.SIGTERM)
            report = json.loads(run.communicate(timeout=60)[0])
        finally:
            for process in (run, filming):
                process.kill()
                process.wait()
            server.kill()
    return Soaked(curve, report)


def _memory(pid: int) -> float:
    """Resident MB; 0 if the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def _children(pid: int) -> list[int]:
    return [
        int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--mode", default="pixelate")
    args = parser.parse_args()
    found = soak(args.minutes, mode=args.mode)
    for seconds, main_mb, workers_mb, count in found.curve:
        sys.stdout.write(f"{seconds:6.0f} s  run {main_mb:6.1f} MB  {count} workers {workers_mb:6.1f} MB\n")
    sys.stdout.write(json.dumps(found.report) + "\n")


if __name__ == "__main__":
    main()
