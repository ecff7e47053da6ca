"""One table of what tools make of the same clips, each result audited the same way.

    python benchmarks/compare.py CLIP [CLIP ...] [--methods NAMES] [--seconds N] [--out FOLDER] [--recognisers FOLDER]

Methods: fluidvid's own (difference, inversion, linear, geodesic, blur, pixelate, solid; the first four are the fluid
mode with that editor or geometry and everything else at its default) and `deface` from PyPI, unmodified, with its
defaults, in a virtual environment of its own below `--out` (made on first use; or name its command with `--deface`).
With `--seconds` every tool gets the same cut of a clip. Writes results, audits as JSON, and the table to `--out`;
the table also goes to stdout. Every clip is studied once and every result audited against that study.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from fluidvid.audit import Auditor, AuditReport
from fluidvid.config import Config, load
from fluidvid.errors import FluidvidError
from fluidvid.video import VideoReader, VideoWriter

FLUID = {
    "difference": ["--editor", "difference"],
    "inversion": ["--editor", "inversion"],
    "linear": ["--geometry", "linear"],
    "geodesic": ["--geometry", "geodesic"],
}
CLASSIC = ("blur", "pixelate", "solid")
METHODS = (*FLUID, *CLASSIC, "deface")
DEFACE = ("deface==1.5.0", "onnxruntime")
TIMEOUT = 3600 * 4


def command_of(method: str, source: Path, target: Path, deface: Path | None) -> list[str]:
    """The command line that makes `target` of `source`."""
    if method == "deface":
        assert deface is not None
        return [str(deface), str(source), "--output", str(target)]
    options = FLUID.get(method, ["--mode", method])
    return [sys.executable, "-m", "fluidvid", "anonymize", str(source), str(target), "--overwrite", "--quiet", *options]


def settings(method: str) -> Config | None:
    """The whole configuration of a method of fluidvid; None for other tools."""
    if method == "deface":
        return None
    options = FLUID.get(method, ["--mode", method])
    keys = {"--editor": "edit.editor", "--geometry": "edit.geometry", "--mode": "mode"}
    return load("default").updated({keys[options[0]]: options[1]})


def install_deface(folder: Path) -> Path:
    """`deface` in an environment of its own; returns its command."""
    command = folder / "bin" / "deface"
    if not command.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([folder / "bin" / "pip", "install", "-q", *DEFACE], check=True)
    return command


def cut(clip: Path, seconds: float | None, folder: Path) -> Path:
    """The clip, or its beginning re-encoded without sound's or picture's times touched."""
    if seconds is None:
        return clip
    target = folder / f"{clip.stem}-first-{seconds:g}s.mkv"
    end = Fraction(seconds).limit_denominator(1000)
    with (
        VideoReader(clip, end=end) as reader,
        VideoWriter(target, reader, end=end, overwrite=True, crf=10) as writer,
    ):
        for frame in reader:
            writer.write(frame)
    return target


def make(method: str, source: Path, target: Path, deface: Path | None) -> tuple[float, str]:
    """Run a tool; returns seconds of wall clock and why it failed, or ""."""
    began = time.monotonic()
    done = subprocess.run(
        command_of(method, source, target, deface), capture_output=True, text=True, check=False, timeout=TIMEOUT
    )
    if done.returncode or not target.is_file():
        lines = done.stderr.strip().splitlines()
        return time.monotonic() - began, f"exit {done.returncode}: {lines[-1] if lines else 'nothing was written'}"
    return time.monotonic() - began, ""


COLUMNS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "verdict": lambda d: d["verdict"]["state"],
    "faces": lambda d: d["coverage"]["faces"],
    "judged": lambda d: d["coverage"]["judged_by_recognisers"],
    "untouched": lambda d: d["coverage"]["untouched"],
    "found again": lambda d: percent(d["utility"]["found_again"]),
    "landmarks": lambda d: number(d["utility"]["landmarks_by_eye_distance"]),
    "expression": lambda d: number(d["utility"]["expression"]),
    "warp error": lambda d: number(d["time"]["warp_error"]),
    "motion r": lambda d: number(d["time"]["motion_correlation"]),
    "outside dB": lambda d: number(d["utility"]["outside_psnr_db"], 1),
}


def percent(figure: dict[str, Any]) -> str:
    """A share, with its interval if there is one."""
    if figure["value"] is None:
        return "-"
    text = f"{100 * figure['value']:.0f} %"
    if "interval" in figure:
        text += " [{:.0f}, {:.0f}]".format(*(100 * v for v in figure["interval"]))
    return text


def number(figure: dict[str, Any], digits: int = 3) -> str:
    """A value, with the noise floor in brackets if there is one."""
    if figure["value"] is None:
        return "-"
    floor = f" ({figure['floor']:.{digits}f})" if "floor" in figure else ""
    return f"{figure['value']:.{digits}f}{floor}"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line per clip and method; re-identified share at 1 % false accepts per recogniser."""
    reports = [r["audit"] for r in rows if r["audit"] is not None]
    names = {p["recogniser"]: p["part"] for report in reports for p in report["privacy"]}
    heads = ["clip", "method", "s", *(f"{n} ({part})" for n, part in names.items()), *COLUMNS]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        audit = row["audit"]
        cells = [row["clip"], row["method"], f"{row['seconds']:.0f}"]
        if audit is None:
            cells += [row["error"]] + [""] * (len(heads) - len(cells) - 1)
        else:
            seen = {p["recogniser"]: p["figures"]["reidentified_at_1_percent"] for p in audit["privacy"]}
            cells += [percent(seen[n]) for n in names] + [str(of(audit)) for of in COLUMNS.values()]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    lines.append(
        "Per recogniser: share of judged faces re-identified at 1 % false accepts, 95 % interval over tracks. A guide "
        "was optimised against by fluidvid (not by the other tools). In brackets: the noise floor, source against its "
        "own next frame. landmarks: mean error by eye distance; expression: total variation; both where a face is "
        "found again. warp error: 8-bit values. judged: faces large enough for recognisers."
    )
    return "\n".join(lines)


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run and audit everything; one row per clip and method."""
    options.out.mkdir(parents=True, exist_ok=True)
    deface = None
    if "deface" in options.methods:
        deface = options.deface or install_deface(options.out / "deface-venv")
    auditor = Auditor.load(options.recognisers)
    rows: list[dict[str, Any]] = []
    for clip in options.clips:
        source = cut(clip, options.seconds, options.out)
        study = auditor.study(source)
        done: dict[str, dict[str, Any]] = {}
        for method in options.methods:
            # A method whose options are the defaults, or another's: one run serves both.
            alike = [m for m in done if settings(m) is not None and settings(m) == settings(method)]
            twin = done[alike[0]] if alike else None
            if twin is not None:
                rows.append({**twin, "method": f"{method} (= {twin['method']})"})
                continue
            target = options.out / f"{source.stem}-{method}{'.mp4' if method == 'deface' else source.suffix}"
            target.unlink(missing_ok=True)
            seconds, error = make(method, source, target, deface)
            row = {"clip": clip.stem, "method": method, "seconds": seconds, "error": error, "audit": None}
            if not error:
                try:
                    report: AuditReport = auditor.audit(study, target, attacks=options.attacks)
                    row["audit"] = report.to_dict()
                except FluidvidError as failure:
                    row["error"] = f"audit: {failure}"
            done[method] = row
            rows.append(row)
            sys.stderr.write(f"{clip.stem} {method}: {row['error'] or row['audit']['verdict']['words']}\n")
            (options.out / "compare.json").write_text(json.dumps(rows, indent=1) + "\n")
            (options.out / "compare.md").write_text(table(rows) + "\n")
    return rows


def main() -> int:
    """Exit 1 if a tool or an audit fails; a verdict that does not pass is a finding, not a failure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS), help=",".join(METHODS))
    parser.add_argument("--seconds", type=float, help="only the beginning of each clip")
    parser.add_argument("--out", type=Path, default=Path("compare"))
    parser.add_argument("--recognisers", type=Path, help="folder with edgeface_xs.onnx and mobilefacenet_ms1m.onnx")
    parser.add_argument("--attacks", type=lambda text: text.split(","), default=[], help="as of fluidvid audit; slow")
    parser.add_argument("--deface", type=Path, help="an installed deface command")
    parser.add_argument("--threads", type=int, help="threads of the audit's networks")
    options = parser.parse_args()
    unknown = set(options.methods) - set(METHODS)
    if unknown:
        parser.error(f"no method {sorted(unknown)[0]}: known are {', '.join(METHODS)}")
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = compare(options)
    sys.stdout.write(table(rows) + "\n")
    return 1 if any(row["error"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
