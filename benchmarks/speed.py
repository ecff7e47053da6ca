"""How long every stage takes, and the whole run, on your machine.

    python benchmarks/speed.py CLIP [CLIP ...] [--seconds S] [--repeats N] [--config PRESET] [--set KEY=VALUE ...]
                               [--deface PATH] [--no-stages] [--classic]

The beginning of each clip is first copied into a file of its own, so that everything works on the same frames. Then

- stages apart: one run in one thread with a clock around every part, in milliseconds per frame and as shares;
- end to end: `fluidvid anonymize` in a process of its own, models loaded included, median of `--repeats`, with the peak
  of its memory; and the first pass against one that looks at the whole picture of every frame (`detect.every=1`);
- `--deface` names the command of another installation (`pip install deface onnx onnxruntime` in its own environment):
  it blurs the same file with its onnxruntime backend; the runs alternate, so that a busy machine is unfair to both.

Times of one machine at one hour compare with each other only: read the ratios. Where others use the machine, CPU time
(of all threads) says more than the clock on the wall.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from fluidvid.assembly import file_stages, make_detector
from fluidvid.config import Config, load, parse_value
from fluidvid.models import ModelStore
from fluidvid.pipeline import analyse, run
from fluidvid.progress import silent
from fluidvid.stages import Stages
from fluidvid.video import VideoReader, VideoWriter

HEAD = "| clip | what | frames | faces | s | frames/s | CPU ms per frame | peak MB |\n" + "|---" * 8 + "|\n"
P = ParamSpec("P")
T = TypeVar("T")


class Clock:
    """Seconds and calls by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def timed(self, name: str, work: Callable[P, T]) -> Callable[P, T]:
        """`work` with its time added to `name`."""

        def measured(*arguments: P.args, **options: P.kwargs) -> T:
            began = time.perf_counter()
            try:
                return work(*arguments, **options)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
                self.calls[name] = self.calls.get(name, 0) + 1

        return measured


class Proxy:
    """Another object with some of its methods replaced."""

    def __init__(self, other: Any, **methods: Any) -> None:
        self._other = other
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._other, name)


def clocked(stages: Stages, clock: Clock) -> Stages:
    """The same stages in one thread, with a clock around each."""

    class Reader(Proxy):
        def __iter__(self) -> Iterator[Any]:
            frames = iter(self._other)
            following = clock.timed("decode", lambda: next(frames, None))
            while (frame := following()) is not None:
                clock.timed("to RGB", frame.rgb)()
                yield frame

    @contextmanager
    def open_reader() -> Iterator[Any]:
        with stages.open_reader() as reader:
            yield Reader(reader)

    @contextmanager
    def open_writer(reader: Any) -> Iterator[Any]:
        with stages.open_writer(reader._other) as writer:
            yield Proxy(writer, write=clock.timed("from RGB, encode", writer.write))

    parts: dict[str, Any] = {
        "detector": Proxy(stages.detector, detect=clock.timed("look at whole pictures", stages.detector.detect)),
        "tracker": Proxy(stages.tracker, update=clock.timed("track", stages.tracker.update)),
        "complete": clock.timed("complete tracks", stages.complete),
        "smooth": clock.timed("smooth", stages.smooth),
        "pose": clock.timed("pose", stages.pose),
    }
    if stages.near is not None:
        parts["near"] = Proxy(
            stages.near,
            detect=clock.timed("look near known faces", stages.near.detect),
            whole=clock.timed("look at whole pictures", stages.near.whole),
        )
    if stages.cuts is not None:
        parts["cuts"] = Proxy(stages.cuts, update=clock.timed("scene cuts", stages.cuts.update))
    if stages.embedder is not None:
        parts["embedder"] = clock.timed("embed", stages.embedder)
    if stages.editor is not None:
        editor = stages.editor
        parts["editor"] = Proxy(
            editor,
            prepare=clock.timed("optimise directions", editor.prepare),
            edit=clock.timed("edit", editor.edit),
        )
    return dataclasses.replace(stages, open_reader=open_reader, open_writer=open_writer, workers=1, **parts)


def stage_table(clip: Path, target: Path, config: Config) -> str:
    """Markdown: milliseconds per frame of each stage, in one thread."""
    clock = Clock()
    stages = clocked(file_stages(clip, target, config, overwrite=True), clock)
    outcome = clock.timed("all", lambda: run(stages, config, silent))()
    whole, frames = clock.seconds.pop("all"), outcome.analysis.frames
    clock.calls.pop("all")
    clock.seconds["the rest: crop, composite, mask, account"] = whole - sum(clock.seconds.values())
    lines = ["| stage | ms per frame | share | calls |", "|---|---|---|---|"]
    for name, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1]):
        calls = clock.calls.get(name, "")
        lines.append(f"| {name} | {1e3 * seconds / frames:.2f} | {seconds / whole:.1%} | {calls} |")
    lines.append(f"| all, {frames} frames, {outcome.coverage.faces} faces | {1e3 * whole / frames:.2f} | 100 % | |")
    return "\n".join(lines)


def detector_table(clip: Path, config: Config, repeats: int) -> str:
    """Markdown: one whole look taken apart, in one thread, median over the frames of the clip's first second."""
    frames = [frame.rgb() for frame, _ in zip(VideoReader(clip), range(3 * repeats), strict=False)][:: max(1, repeats)]
    models, times = ModelStore(), {}
    kinds: dict[str, dict[str, Any]] = {
        "first detector": {"detect.second": None},
        "second detector": {"detect.detector": config.detect.second or "tiny_face", "detect.second": None},
        "both": {},
    }
    for name, changes in kinds.items():
        detector = make_detector(config.updated(changes), models, threads=1)
        rough = detector._detector.detect if name != "both" else detector.detect
        times[name] = statistics.median(_seconds(rough, frame) for frame in frames for _ in range(repeats))
    mesh = times["both"] - times["first detector"] - times["second detector"]
    return (
        f"One whole look in one thread: first detector {1e3 * times['first detector']:.0f} ms, second "
        f"{1e3 * times['second detector']:.0f} ms, merging and face mesh {1e3 * max(0.0, mesh):.0f} ms."
    )


def _seconds(work: Callable[[Any], object], argument: Any) -> float:
    began = time.perf_counter()
    work(argument)
    return time.perf_counter() - began


@dataclasses.dataclass(frozen=True)
class Run:
    """One process: seconds by the wall clock and of all cores, peak of resident memory in MB, what it printed."""

    seconds: float
    cpu: float
    peak: float
    printed: str


def process(command: list[str]) -> Run:
    """Run a command to its end.

    Raises:
        SystemExit: it failed.
    """
    began = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as log:
        child = subprocess.Popen(command, stdout=out, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        out.seek(0)
        log.seek(0)
        if child.returncode != 0:
            raise SystemExit(f"{command[0]} failed: {log.read().decode(errors='replace')[-2000:]}")
        return Run(
            seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, out.read().decode(errors="replace")
        )


def beginning(clip: Path, target: Path, seconds: float) -> tuple[int, tuple[int, int]]:
    """Copy the beginning of a clip, encoded again; returns its frames and (width, height)."""
    count = 0
    with VideoReader(clip, end=Fraction(seconds).limit_denominator(1000)) as reader:
        with VideoWriter(target, reader, overwrite=True, codec="h264", preset="veryfast") as writer:
            for frame in reader:
                writer.write(frame)
                count += 1
        return count, (reader.info.width, reader.info.height)


def compare(clip: Path, folder: Path, arguments: argparse.Namespace, options: list[str]) -> list[str]:
    """Lines of the end-to-end table for one clip."""
    part, target = folder / "part.mp4", folder / "result.mp4"
    frames, size = beginning(clip, part, arguments.seconds)
    anonymize = [sys.executable, "-m", "fluidvid", "anonymize", str(part), str(target), "--overwrite", "--json"]
    commands = {
        "fluidvid, pixelate": [*anonymize, "--config", arguments.config, *options, "--mode", "pixelate"],
    }
    if not arguments.classic:
        commands[f"fluidvid, {arguments.config}"] = [*anonymize, "--config", arguments.config, *options]
    if arguments.deface:
        command = [arguments.deface, str(part), "--output", str(folder / "deface.mp4"), "--backend", "onnxrt"]
        commands["deface (CenterFace, blur)"] = [*command, "--execution-provider", "CPUExecutionProvider"]
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(arguments.repeats):
        for name, command in commands.items():
            runs[name].append(process(command))
            sys.stderr.write(
                f"{clip.name}: {name}: {runs[name][-1].seconds:.1f} s, {runs[name][-1].cpu:.1f} s of CPU\n"
            )
    lines = []
    for name, done in runs.items():
        seconds = statistics.median(r.seconds for r in done)
        cpu, peak = statistics.median(r.cpu for r in done), max(r.peak for r in done)
        faces, inside = "", ""
        if name.startswith("fluidvid"):
            report = json.loads(done[-1].printed)
            faces = str(report["faces"])
            searching = sum(p["seconds"] or 0.0 for p in report["preparation"])
            if searching:
                inside = f", {frames / max(1e-9, seconds - searching):.1f} without the search for directions"
        lines.append(
            f"| {clip.name} {size[0]}x{size[1]} | {name} | {frames} | {faces} | {seconds:.1f} | "
            f"{frames / seconds:.1f}{inside} | {1e3 * cpu / frames:.0f} | {peak:.0f} |"
        )
    return lines


def first_passes(part: Path, target: Path, config: Config, repeats: int) -> str:
    """The first pass as configured against one that looks at everything, alternating; wall clock and CPU time."""
    times: dict[int, list[tuple[float, float]]] = {config.detect.every: [], 1: []}
    frames = 0
    for _ in range(repeats):
        for every, spent in times.items():
            chosen = config.updated({"detect.every": every, "mode": "solid"})
            stages = file_stages(part, target, chosen, overwrite=True)
            wall, cpu = time.perf_counter(), time.process_time()
            frames = analyse(stages, chosen, silent).frames
            spent.append((time.perf_counter() - wall, time.process_time() - cpu))
    quick, full = ([statistics.median(both) for both in zip(*times[n], strict=True)] for n in (config.detect.every, 1))
    return (
        f"First pass: {frames / quick[0]:.1f} frames/s, {1e3 * quick[1] / frames:.0f} ms of CPU time per frame; with "
        f"every picture looked at as a whole {frames / full[0]:.1f} and {1e3 * full[1] / frames:.0f}: "
        f"{full[0] / quick[0]:.2f} times as fast, {full[1] / quick[1]:.2f} times less CPU time."
    )


def main() -> int:
    """Run the bench; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--config", default="default")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    parser.add_argument("--deface", default=None, metavar="PATH")
    parser.add_argument("--no-stages", action="store_true")
    parser.add_argument("--classic", action="store_true", help="without the search for directions and the edit")
    arguments = parser.parse_args()
    changes = {key: parse_value(key, value) for key, _, value in (c.partition("=") for c in arguments.changes)}
    config = load(arguments.config).updated(changes)
    if arguments.classic:
        config = config.updated({"mode": "pixelate"})
    options = [word for change in arguments.changes for word in ("--set", change)]
    out = sys.stdout
    table: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for clip in arguments.clips:
            table += compare(clip, folder, arguments, options)
            sys.stderr.write(f"{clip.name}: done\n")
            if not arguments.no_stages:
                part, target = folder / "part.mp4", folder / "result.mp4"
                out.write(f"### {clip.name}\n\n{stage_table(part, target, config)}\n\n")
                out.write(f"{detector_table(part, config, arguments.repeats)}\n\n")
                out.write(f"{first_passes(part, target, config, arguments.repeats)}\n\n")
                out.flush()
    out.write(HEAD + "\n".join(table) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
