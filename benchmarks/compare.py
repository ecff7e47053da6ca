"""One table of what tools make of the same clips, each result audited the same way. Can be interrupted and continued.

    python -m benchmarks.compare [--clips NAME ...] [--methods NAMES] [--seconds N] [--out FOLDER] [--results FILE]

Methods: fluidvid's four ways to edit (editor x geometry, everything else at its default), three masks, and `deface`
from PyPI, unmodified, by its own command line with its defaults (`--deface`: where it is installed; else it is
installed below `--out`). Clips are files, or names in `--folder`; without `--clips` all of that folder. `--seconds`
seconds are taken of every clip, from the first picture on which a face is found; clips without a face that recognisers
can judge are left out aloud. Every clip is studied once, every result audited against that study.

`--out/rows` holds one JSON file per clip and method. Pairs that were measured with the same code, prior and cut are not
measured again; with `--budget` a run stops in time, with the slowest methods last. `--jobs` clips are worked on at
once, each with one core for itself (seconds are seconds of one core).
Before it starts it says how long it will take. The table goes to stdout, and with `--results` between the two markers
of a Markdown file (`benchmarks/RESULTS.md`).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import queue
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.compare_plan import DEFACE, MIN_FACE, ROOT, Job, in_order, plan, row_file, stored
from benchmarks.compare_table import FLUID, METHODS, tables
from fluidvid.audit import Auditor
from fluidvid.audit.privacy import present
from fluidvid.errors import FluidvidError

TIMEOUT = 3600
MARKS = ("<!-- compare: begin -->", "<!-- compare: end -->")


def command_of(method: str, source: Path, target: Path, deface: Path) -> list[str]:
    """The command line that makes `target` of `source`."""
    if method == "deface":
        return [str(deface), str(source), "--output", str(target)]
    options = ["--mode", method]
    if method in FLUID:
        editor, geometry = method.split("-")
        options = ["--mode", "fluid", "--editor", editor, "--geometry", geometry]
    return [sys.executable, "-m", "fluidvid", "anonymize", str(source), str(target), "--overwrite", "--quiet", *options]


def install_deface(folder: Path) -> Path:
    """`deface` in an environment of its own; returns its command."""
    command = folder / "bin" / "deface"
    if not command.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([folder / "bin" / "pip", "install", "-q", *DEFACE], check=True)
    return command


def make(method: str, source: Path, target: Path, deface: Path, core: int) -> tuple[float, str]:
    """Run a tool on one core; returns seconds of wall clock and why it failed, or ""."""
    target.unlink(missing_ok=True)
    pinned = ["taskset", "-c", str(core)] if shutil.which("taskset") else []
    command, env = command_of(method, source, target, deface), os.environ | {"OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    began = time.monotonic()
    done = subprocess.run(
        [*pinned, *command], capture_output=True, text=True, check=False, timeout=TIMEOUT, env=env, cwd=ROOT
    )
    if done.returncode or not target.is_file():
        lines = done.stderr.strip().splitlines()
        return time.monotonic() - began, f"exit {done.returncode}: {lines[-1] if lines else 'nothing was written'}"
    return time.monotonic() - began, ""


def measure(
    job: Job, options: argparse.Namespace, auditor: Auditor, keys: dict[str, str], core: int, deadline: float
) -> None:
    """Study a clip, then make and audit every result that is missing; each is kept as soon as it is there."""
    study = auditor.study(job.source, min_face=MIN_FACE)
    for method in job.methods:
        if time.monotonic() > deadline:
            return
        target = options.out / "results" / f"{job.source.stem}-{method}{'.mp4' if method == 'deface' else '.mkv'}"
        seconds, error = make(method, job.source, target, options.deface, core)
        row: dict[str, Any] = {
            "clip": job.clip.name,
            "method": method,
            "seconds": seconds,
            "error": error,
            "audit": None,
        }
        row |= {"frames": job.frames, "cut": options.seconds, "faces": int(present(study).sum())}
        began = time.thread_time()  # of this thread: the networks run in it, one thread each
        if not error:
            try:
                row["audit"] = auditor.audit(study, target, attacks=options.attacks).to_dict()
            except FluidvidError as failure:
                row["error"] = f"audit: {failure}"
        row["audit_seconds"] = time.thread_time() - began
        path = row_file(options.out, job.clip, method)
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"key": keys[str(path)], "row": row}), encoding="utf-8")
        part.replace(path)
        said = row["error"] or row["audit"]["verdict"]["state"]
        sys.stderr.write(f"{job.clip.name} {method}: {said} ({seconds:.0f} + {row['audit_seconds']:.0f} s)\n")


def run(options: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure what is missing; all rows and the clips that were left out."""
    for name in ("rows", "cuts", "results"):
        (options.out / name).mkdir(parents=True, exist_ok=True)
    auditor = Auditor.load(options.recognisers, threads=1)
    if "deface" in options.methods and options.deface is None:
        options.deface = install_deface(options.out / "deface-venv")
    jobs, left_out, keys = plan(options, auditor)
    for text in (*left_out, *(f"recogniser {m}" for m in auditor.panel.missing)):
        sys.stderr.write(f"LEFT OUT: {text}\n")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    cores = cores[: options.jobs]
    todo = in_order(jobs)
    pairs, total = sum(len(job.methods) for job in todo), sum(job.seconds for job in todo)
    minutes = max(total / len(cores), max((job.seconds for job in todo), default=0)) / 60
    sys.stderr.write(f"{len(keys) - pairs} pairs are measured already; {pairs} pairs of {len(jobs)} clips to do, ")
    sys.stderr.write(f"about {minutes:.0f} minutes on {len(cores)} cores\n")
    if not options.dry_run:
        _work(todo, options, auditor, keys, cores)
    kept = {path: stored(Path(path)) for path in keys}
    rows = [kept[path]["row"] for path, key in keys.items() if kept[path].get("key") == key]
    missing = [Path(path).stem.replace("--", " by ") for path, key in keys.items() if kept[path].get("key") != key]
    return rows, [*left_out, *(f"{name}: not measured in the time that was given" for name in missing)]


def _work(
    todo: Sequence[Job], options: argparse.Namespace, auditor: Auditor, keys: dict[str, str], cores: Sequence[int]
) -> None:
    """As many jobs at once as there are cores; none begins another pair when the budget is spent."""
    deadline = math.inf if options.budget is None else time.monotonic() + 60 * options.budget
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for core in cores:
        free.put(core)

    def one(job: Job) -> None:
        core = free.get()
        try:
            if time.monotonic() < deadline:
                measure(job, options, auditor, keys, core, deadline)
        finally:
            free.put(core)

    with ThreadPoolExecutor(len(cores)) as pool:
        for done in [pool.submit(one, job) for job in todo]:
            done.result()


def write_between_marks(path: Path, text: str) -> None:
    """Replace what stands between the two markers of a Markdown file."""
    whole = path.read_text(encoding="utf-8")
    before, found, rest = whole.partition(MARKS[0])
    _, ended, after = rest.partition(MARKS[1])
    if not found or not ended:
        raise SystemExit(f"{path} lacks the lines {MARKS[0]} and {MARKS[1]}: add them where the table belongs")
    path.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}", encoding="utf-8")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Parsed and checked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clips", nargs="+", help="files, or names in --folder; default: all of it")
    parser.add_argument("--folder", type=Path, default=ROOT.parent / "shared" / "clips")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS), help=",".join(METHODS))
    parser.add_argument("--seconds", type=float, default=1.0, help="of every clip, from its first face on")
    parser.add_argument("--out", type=Path, default=Path("compare"), help="scratch folder, also of a run to continue")
    parser.add_argument("--recognisers", type=Path, help="folder with edgeface_xs.onnx and mobilefacenet_ms1m.onnx")
    parser.add_argument("--attacks", type=lambda text: text.split(","), default=[], help="as of fluidvid audit; slow")
    parser.add_argument("--deface", type=Path, help="an installed deface command")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="clips at once; at most the usable cores")
    parser.add_argument("--results", type=Path, help="Markdown file whose marked part becomes the table")
    parser.add_argument("--budget", type=float, help="minutes after which no further pair is begun; go on another time")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="only say what there is to do and how long it will take, and show what is measured",
    )
    options = parser.parse_args(given)
    unknown = set(options.methods) - set(METHODS)
    if unknown:
        parser.error(f"no method {sorted(unknown)[0]}: known are {', '.join(METHODS)}")
    named = options.clips or sorted(p.name for p in options.folder.iterdir() if p.suffix not in (".md", ".txt"))
    options.clips = [path if (path := Path(name)).is_file() else options.folder / name for name in named]
    missing = [path for path in options.clips if not path.is_file()]
    if missing:
        parser.error(f"no clip {missing[0]}")
    return options


def main() -> int:
    """Exit 1 if a tool or an audit fails; a verdict that does not pass is a finding, not a failure."""
    options = arguments()
    torch.set_num_threads(1)
    rows, left_out = run(options)
    text = tables(rows, left_out)
    sys.stdout.write(text + "\n")
    if options.results is not None and not options.dry_run:
        write_between_marks(options.results, text)
    return 1 if any(row["error"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
