"""Run `fluidvid anonymize` over clips and measure each result against its source: who is recognised, what stayed.

    python benchmarks/likeness.py CLIP [CLIP ...] [--out FOLDER] [--recognisers FOLDER] [-- anonymize's options]

Writes `results.json` and a Markdown table to FOLDER, and beside each result a contact sheet: eight pictures of the
source over the same of the result. Everything is measured by `fluidvid.audit`, on faces of at least `--min-face`
pixels; cosines are medians over them. `--recognisers` names a folder with recognisers that fluidvid does not ship
(`edgeface_xs.onnx`, `mobilefacenet_ms1m.onnx`); without it they are left out, aloud.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fluidvid.audit import Auditor
from fluidvid.video import VideoReader

FIGURES = ("landmarks_by_eye_distance", "expression")


def measured(auditor: Auditor, clip: Path, result: Path, min_face: float, end: Fraction | None) -> dict[str, Any]:
    """What `fluidvid audit` says, as one flat row."""
    study = auditor.study(clip, end=end, min_face=min_face)
    audit = auditor.audit(study, result).to_dict()
    row = {"verdict": audit["verdict"]["state"], "same times": audit["timeline"]["same"]}
    row |= {"looked at": audit["coverage"]["faces"], "judged": audit["coverage"]["judged_by_recognisers"]}
    again = audit["utility"]["found_again"]
    row["found again"] = None if again["value"] is None else round(again["value"] * again["faces"])
    row |= {f"part.{p['recogniser']}": p["part"] for p in audit["privacy"]}
    for judge in audit["privacy"]:
        for name in ("median_cosine_to_same_frame", "reidentified_at_1_percent"):
            row[f"{name}.{judge['recogniser']}"] = judge["figures"].get(name, {}).get("value")
        row[f"next.{judge['recogniser']}"] = audit["time"][f"next_frame_cosine_{judge['recogniser']}"]["value"]
    return row | {name: audit["utility"][name]["value"] for name in FIGURES}


def contact_sheet(source: Path, result: Path, target: Path, count: int = 8, width: int = 320) -> None:
    """`count` pictures of the source over the same of the result, as PNG."""
    with VideoReader(result) as reader:  # it may be the source's beginning only
        total = sum(1 for _ in reader)
    wanted = {int((k + 0.5) * total / count) for k in range(count)}
    rows = []
    for path in (source, result):
        with VideoReader(path) as reader:
            pictures = [frame.rgb() for frame in reader if frame.index in wanted]
        high = round(pictures[0].shape[0] * width / pictures[0].shape[1])
        rows.append(np.hstack([cv2.resize(p, (width, high), interpolation=cv2.INTER_AREA) for p in pictures]))
    cv2.imwrite(str(target), np.vstack(rows)[:, :, ::-1])


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one clip per row; per recogniser the median cosine to the same frame of the source."""
    parts = {k.removeprefix("part."): v for r in rows for k, v in r.items() if k.startswith("part.")}
    heads = ["clip", "frames", "faces", "edited", "held", "masked", "found again", "s"]
    heads += [f"{n} ({part})" for n, part in parts.items()] + ["next frame", "landmarks %", "verdict"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        following = [v for n in parts if (v := row.get(f"next.{n}")) is not None]
        cells = [row["clip"], row["frames"], row["faces"], row["edited"], row["held"], row["masked"]]
        cells += [f"{row['found again']}/{row['looked at']}", round(row["seconds"])]
        cells += [_short(row.get(f"median_cosine_to_same_frame.{n}")) for n in parts]
        cells += [f"{min(following):.2f}-{max(following):.2f}" if following else None]
        landmarks = row["landmarks_by_eye_distance"]
        cells += [None if landmarks is None else f"{100 * landmarks:.1f}", row["verdict"]]
        lines.append("| " + " | ".join("-" if c is None else str(c) for c in cells) + " |")
    return "\n".join(lines)


def _short(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def main() -> int:
    """Exit 1 if a clip fails."""
    arguments = sys.argv[1:]
    own, passed = arguments, []
    if "--" in arguments:
        own, passed = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("likeness"))
    parser.add_argument("--recognisers", type=Path)
    parser.add_argument("--min-face", type=float, default=40)
    parser.add_argument("--end", type=Fraction, help="measure the first seconds only")
    options = parser.parse_args(own)
    options.out.mkdir(parents=True, exist_ok=True)
    auditor = Auditor.load(options.recognisers)
    for text in auditor.panel.missing:
        sys.stderr.write(f"NOT MEASURED: {text}\n")
    rows: list[dict[str, Any]] = []
    for clip in options.clips:
        result = options.out / clip.name
        command = [sys.executable, "-m", "fluidvid.cli", "anonymize", str(clip), str(result), "--json", "--overwrite"]
        done = subprocess.run([*command, "--quiet", *passed], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.stderr.write(f"{clip}: exit {done.returncode}: {done.stderr}\n")
            continue
        report = json.loads(done.stdout)
        began = time.monotonic()
        kept = ("frames", "faces", "tracks", "edited", "held", "masked", "raw", "seconds", "masked_reasons", "warnings")
        row = {"clip": clip.stem} | {k: report[k] for k in kept}
        row |= measured(auditor, clip, result, options.min_face, options.end)
        rows.append(row)
        contact_sheet(clip, result, result.with_suffix(".png"))
        sys.stderr.write(f"{json.dumps(row)} measured in {time.monotonic() - began:.0f} s\n")
        (options.out / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
        (options.out / "table.md").write_text(table(rows) + "\n")
    sys.stdout.write(table(rows) + "\n")
    return 0 if len(rows) == len(options.clips) else 1


if __name__ == "__main__":
    sys.exit(main())
