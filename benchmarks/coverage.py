"""Does a quicker first pass lose faces? Every face that the full pass sees, and how many of them the quick one covers.

    python benchmarks/coverage.py CLIP [CLIP ...] [--start S] [--seconds S] [--references FOLDER] [--set KEY=VALUE ...]

The reference looks at the whole picture of every frame, in floating point (`detect.every=1`, `detect.quantised=false`);
the candidate is the default configuration with `--set` on top. Prints a Markdown table. Of each face the reference
observed (a detection supports it) in a frame:

- covered: its middle lies in a box, with the mask's margin, that the candidate treats in that frame, or one of them
  overlaps it by IoU 0.4;
- late: of the reference's tracks those whose first observed face is not covered.

`held` is the same for boxes the reference only predicted (look-ahead, gaps): it also counts places where no face is.
References may be kept in a folder between runs: they hold boxes only, no pictures. Exit code 1 if less than `--least`
of all observed faces are covered.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fluidvid.assembly import file_stages
from fluidvid.config import Config, load, parse_value
from fluidvid.pipeline import analyse
from fluidvid.progress import silent
from fluidvid.trackers.detectors.base import iou_matrix

ALIKE = 0.4


@dataclass(frozen=True, eq=False)
class Pass:
    """What one first pass said: rows `(N,)` with frame, track, box, observed; seconds it took; frames."""

    rows: NDArray[np.void]
    frames: int
    seconds: float


def first_pass(clip: Path, config: Config) -> Pass:
    """Run the first pass over a clip; the time is without loading the models."""
    stages = file_stages(clip, clip.with_name("never-written.mkv"), config, overwrite=True)
    began = time.perf_counter()
    found = analyse(stages, config, silent)
    seconds = time.perf_counter() - began
    kept = [found.table.at(frame)[["frame", "track", "box", "observed"]] for frame in range(found.frames)]
    return Pass(np.concatenate(kept), found.frames, seconds)


def referred(clip: Path, config: Config, folder: Path | None) -> Pass:
    """The reference's pass, from the folder if it is there."""
    if folder is None:
        return first_pass(clip, config)
    name = json.dumps([clip.name, config.media.start, config.media.end, config.detect.model_dump()], sort_keys=True)
    path = folder / f"{clip.stem}-{abs(hash_of(name)):016x}.npz"
    if path.is_file():
        kept = np.load(path)
        return Pass(kept["rows"], int(kept["frames"]), float(kept["seconds"]))
    done = first_pass(clip, config)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(path, rows=done.rows, frames=done.frames, seconds=done.seconds)
    return done


def hash_of(text: str) -> int:
    """Of a text, the same in every process."""
    import hashlib

    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def covered(reference: NDArray[np.void], candidate: NDArray[np.void], margin: float) -> NDArray[np.bool_]:
    """Which rows of the reference have a box of the candidate upon them, `(N,)`."""
    result = np.zeros(len(reference), dtype=bool)
    for frame in np.unique(reference["frame"]):
        mine = np.flatnonzero(reference["frame"] == frame)
        boxes = candidate["box"][candidate["frame"] == frame]
        if not len(boxes):
            continue
        grow = margin * (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True)
        own = reference["box"][mine]
        middle = ((own[:, :2] + own[:, 2:]) / 2)[:, None]
        inside = ((middle >= boxes[:, :2] - grow) & (middle <= boxes[:, 2:] + grow)).all(2)
        result[mine] = inside.any(1) | (iou_matrix(own, boxes) >= ALIKE).any(1)
    return result


def main() -> int:
    """Run the comparison; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--start", default=None)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--references", type=Path, default=None)
    parser.add_argument("--config", default="default")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    parser.add_argument("--least", type=float, default=0.995)
    arguments = parser.parse_args()
    changes = {key: parse_value(key, value) for key, _, value in (c.partition("=") for c in arguments.changes)}
    end = str(float(arguments.start or 0) + arguments.seconds)
    part = {"mode": "solid", "media.start": arguments.start, "media.end": end}
    reference = Config().updated({**part, "detect.every": 1, "detect.quantised": False})
    candidate = load(arguments.config).updated({**part, **changes})
    out = sys.stdout
    out.write("| clip | frames | faces | covered | late | held | boxes | s | times as fast |\n" + "|---" * 9 + "|\n")
    faces = missed = late = 0
    for clip in arguments.clips:
        full, quick = referred(clip, reference, arguments.references), first_pass(clip, candidate)
        if full.frames != quick.frames:
            raise SystemExit(f"{clip}: {full.frames} frames in the reference, {quick.frames} now: delete the reference")
        seen = full.rows[full.rows["observed"]]
        upon = covered(seen, quick.rows, candidate.mask.margin)
        held = covered(full.rows[~full.rows["observed"]], quick.rows, candidate.mask.margin)
        first = {int(track): int(np.flatnonzero(seen["track"] == track)[0]) for track in np.unique(seen["track"])}
        tardy = [track for track, index in first.items() if not upon[index]]
        faces, missed, late = faces + len(seen), missed + int((~upon).sum()), late + len(tardy)
        out.write(
            f"| {clip.name} | {full.frames} | {len(seen)} | {_share(upon)} | {len(tardy)} of {len(first)} "
            f"| {_share(held)} | {len(quick.rows)} / {len(full.rows)} "
            f"| {quick.seconds:.1f} | {full.seconds / quick.seconds:.2f} |\n"
        )
        for row in seen[~upon]:
            sys.stderr.write(f"{clip.name}: frame {row['frame']}, track {row['track']}, box {np.rint(row['box'])}\n")
        out.flush()
    share = 1 - missed / faces if faces else 1.0
    out.write(f"\n{faces} faces, {share:.4f} covered, {late} tracks later\n")
    return 0 if share >= arguments.least else 1


def _share(of: NDArray[np.bool_]) -> str:
    return f"{of.mean():.4f}" if len(of) else "-"


if __name__ == "__main__":
    sys.exit(main())
