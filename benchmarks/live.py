"""How long a picture takes from glass to glass through `fluidvid stream`, on your machine.

    python benchmarks/live.py CLIP [--seconds S] [--rate N] [--size WxH] [--modes pixelate,fluid] [--latency 500ms]
                              [--warm-up S] [--set KEY=VALUE ...]

A camera process loops the clip and draws its clock into every picture, publishes to GStreamer's RTSP server
(`apt-get install gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-{base,good,bad,ugly}`), fluidvid reads it
there and publishes to another path of it, and a reader in this process compares the clock in the picture with the
present one. All clocks are the machine's monotonic one. The first row is the same without fluidvid: camera, server and
reader alone. Encoding, decoding and both ways through the server are inside all figures. CPU time per published picture
is that of fluidvid and its worker, start included: where others use the machine, it says more than the clock.

In mode fluid the count begins after `--warm-up` seconds, time for a direction to be found in the background; the
numbers of edited and masked faces say whether that was enough.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.fluidvid.live.camera import milliseconds, read_code  # noqa: E402

HERE = ROOT / "tests" / "fluidvid" / "live"
COLUMNS = [
    *("way", "pictures read", "median ms", "95 % ms", "published", "dropped", "CPU ms each"),
    *("edited", "held", "masked", "ladder"),
]
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"


@contextmanager
def running(*command: str, ready: str = "", **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process, killed at the end; waits for `ready` on its output if given."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **options)
    try:
        if ready:
            assert process.stdout is not None
            while ready not in process.stdout.readline():
                pass
        yield process
    finally:
        process.kill()
        process.wait()


def read(url: str, seconds: float, warm_up: float) -> list[float]:
    """Milliseconds from the camera's clock to this process, of every picture of `seconds`, after `warm_up`."""
    delays: list[float] = []
    began = time.monotonic()
    options = {"rtsp_transport": "tcp", "analyzeduration": "500000"}
    while True:  # the publisher may not be there yet
        try:
            container = av.open(url, options=options, timeout=(10, 10))
            break
        except av.FFmpegError:
            if time.monotonic() - began > 60:
                raise
    with container:
        container.streams.video[0].thread_type = "SLICE"
        for frame in container.decode(video=0):
            now = time.monotonic() - began
            if now > warm_up:
                image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                delays.append((milliseconds() - read_code(image)) & 0xFFFFFFFF)
            if now > warm_up + seconds:
                return delays
    return delays


def cpu_of_children() -> float:
    """CPU seconds of all processes that were waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def row(name: str, delays: list[float], report: dict[str, Any] | None, cpu: float = 0.0) -> str:
    median, high = statistics.median(delays), float(np.percentile(delays, 95))
    cells = [name, len(delays), f"{median:.0f}", f"{high:.0f}"]
    if report is None:
        cells += ["-"] * 7
    else:
        ladder = ", ".join(f"{n} {rung}" for rung, n in report["ladder"].items())
        each = f"{1000 * cpu / max(1, report['pictures_out']):.0f}"
        cells += [report["pictures_out"], report["dropped"], each]
        cells += [report["edited"], report["held"], report["masked"], ladder]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rate", type=int, default=25)
    parser.add_argument("--size", default="352x288")
    parser.add_argument("--modes", default="pixelate,fluid")
    parser.add_argument("--latency", default="500ms")
    parser.add_argument("--warm-up", type=float, default=5)
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args()
    av.logging.set_libav_level(av.logging.PANIC)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    base = f"rtsp://127.0.0.1:{port}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    server = ["/usr/bin/python3", str(HERE / "rtsp_server.py"), "--port", port]
    for name in ("cam", "out"):
        server += ["--silent", name]
    camera = [sys.executable, str(HERE / "camera.py"), args.clip, f"{base}/cam/publish", "--clock", "--code"]
    camera += ["--rate", str(args.rate), "--size", args.size]
    sys.stdout.write(f"{args.size} at {args.rate} pictures/s, latency budget {args.latency}\n\n{HEAD}")
    with running(*server, ready="ready"), running(*camera, env=environment):
        sys.stdout.write(row("camera, server, reader", read(f"{base}/cam", args.seconds, 2), None) + "\n")
        for mode in args.modes.split(","):
            command = [sys.executable, "-m", "fluidvid", "stream", f"{base}/cam", f"{base}/out/publish", "--json"]
            command += ["--mode", mode, "--latency", args.latency]
            for assignment in args.set:
                command += ["--set", assignment]
            before = cpu_of_children()
            with running(*command, env=environment) as run:
                delays = read(f"{base}/out", args.seconds, args.warm_up)
                run.send_signal(signal.SIGINT)
                report = json.loads(run.communicate(timeout=60)[0])
            cpu = cpu_of_children() - before
            sys.stdout.write(row(f"and `fluidvid stream --mode {mode}`", delays, report, cpu) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
