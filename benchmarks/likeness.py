"""Run `fluidvid anonymize` over clips and measure each result against its source: who is recognised, what stayed.

    python benchmarks/likeness.py CLIP [CLIP ...] [--out FOLDER] [--recognisers FOLDER] [-- anonymize's options]

Writes `results.json` and a Markdown table to FOLDER, and beside each result a contact sheet: eight pictures of the
source over the same of the result. Cosines are medians over faces of at least `--min-face` pixels whose place in the
result holds a face again. `--recognisers` names a folder with `edgeface_xs.onnx` and `mobilefacenet_ms1m.onnx`, which
fluidvid does not ship and never optimises against; without it they are left out, aloud.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fluidvid.assembly import make_detector
from fluidvid.config import Config
from fluidvid.engine.build import RECOGNISERS, load_recogniser
from fluidvid.engine.editor import eye_distance
from fluidvid.engine.face_networks import AttributeNetworks, Recogniser
from fluidvid.geometry import FFHQ_112, similarity
from fluidvid.models import ModelStore
from fluidvid.trackers.align import crop
from fluidvid.trackers.detectors.base import iou_matrix
from fluidvid.video import VideoReader

SHIPPED = ("identity_student", "faceres", "dlib_resnet")
OPTIMISED = ("identity_student", "faceres")
GUESTS = ("edgeface_xs", "mobilefacenet_ms1m")
SIZE = 128
"""Side of the crops that are compared."""


@dataclass
class Measured:
    """Lists over faces, by figure."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, numbers: NDArray[np.float32] | list[float]) -> None:
        self.values.setdefault(name, []).extend(float(n) for n in numbers)

    def median(self, name: str) -> float | None:
        numbers = self.values.get(name)
        return round(float(np.median(numbers)), 3) if numbers else None


class Judges:
    """The networks that look at source and result."""

    def __init__(self, guests: Path | None) -> None:
        store = ModelStore()

        def resolve(name: str) -> Path:
            return guests / f"{name}.onnx" if guests is not None and name in GUESTS else store.resolve(name)

        names = [n for n in (*SHIPPED, *GUESTS) if n not in GUESTS or guests is not None]
        if guests is None:
            sys.stderr.write(f"NOT MEASURED: {', '.join(GUESTS)} (no --recognisers folder)\n")
        self.recognisers: list[Recogniser] = [load_recogniser(n, resolve, FFHQ_112) for n in names if n in RECOGNISERS]
        self.attributes = AttributeNetworks(
            resolve("landmark68"), resolve("expression"), resolve("age_gender"), None, FFHQ_112
        )
        self.detector = make_detector(Config(), store)

    def compare(self, source: Path, result: Path, min_face: float, stride: int) -> Measured:
        """Walk both files together; every `stride`-th picture and its successor are looked at."""
        measured = Measured()
        before: list[tuple[NDArray[np.float32], dict[str, torch.Tensor]]] = []
        with VideoReader(source) as a, VideoReader(result) as b:
            for x, y in zip(a, b, strict=True):
                if x.pts * a.info.time_base - a.info.start != y.pts * b.info.time_base - b.info.start:
                    measured.add("moved", [1.0])
                if x.index % stride > 1:
                    before = []
                    continue
                before = self._pair(x.rgb(), y.rgb(), min_face, before if x.index % stride == 1 else [], measured)
        return measured

    @torch.inference_mode()
    def _pair(
        self,
        source: NDArray[np.uint8],
        result: NDArray[np.uint8],
        min_face: float,
        before: list[tuple[NDArray[np.float32], dict[str, torch.Tensor]]],
        measured: Measured,
    ) -> list[tuple[NDArray[np.float32], dict[str, torch.Tensor]]]:
        faces = [f for f in self.detector.detect(source) if min(f.box[2:] - f.box[:2]) >= min_face and f.score >= 0.5]
        again = self.detector.detect(result)
        found = [f for f in faces if any(_overlap(f.box, g.box) > 0.4 and g.score >= 0.5 for g in again)]
        measured.add("faces", [1.0] * len(faces))
        measured.add("found again", [1.0] * len(found))
        if not found:
            return []
        x, y = (_crops(picture, [f.landmarks for f in found]) for picture in (source, result))
        seen: list[dict[str, torch.Tensor]] = [{} for _ in found]
        for net in self.recognisers:
            old, new = net(x), net(y)
            measured.add(f"source.{net.name}", (old * new).sum(1).numpy())
            for i, embedding in enumerate(new):
                seen[i][net.name] = embedding
        was, now = self.attributes(x, mesh=False), self.attributes(y, mesh=False)
        error = (was.landmarks - now.landmarks).norm(dim=2).mean(1) / eye_distance(was.landmarks)
        measured.add("landmarks", (100 * error).numpy())
        measured.add("expression", (was.expression - now.expression).abs().sum(1).div(2).numpy())
        here = [(f.box, s) for f, s in zip(found, seen, strict=True)]
        for box, embeddings in here:
            near = max(before, key=lambda other: _overlap(box, other[0]), default=None)
            if near is not None and _overlap(box, near[0]) > 0.4:
                for name, embedding in embeddings.items():
                    measured.add(f"next.{name}", [float(embedding @ near[1][name])])
        return here


def _overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(iou_matrix(a[None], b[None])[0, 0])


def _crops(picture: NDArray[np.uint8], landmarks: list[NDArray[np.float32]]) -> torch.Tensor:
    crops = np.stack([crop(picture, similarity(points, FFHQ_112 * SIZE), SIZE) for points in landmarks])
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def contact_sheet(source: Path, result: Path, target: Path, count: int = 8, width: int = 320) -> None:
    """`count` pictures of the source over the same of the result, as PNG."""
    with VideoReader(source) as reader:
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
    """Markdown: one clip per row."""
    names = [n for n in (*SHIPPED, *GUESTS) if any(r.get(f"source.{n}") is not None for r in rows)]
    heads = ["clip", "frames", "faces", "edited", "held", "masked", "found again", "s"]
    heads += [f"{n}{' (optimised)' if n in OPTIMISED else ''}" for n in names] + ["next frame", "landmarks %"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        following = [row[f"next.{n}"] for n in names if row.get(f"next.{n}") is not None]
        cells = [row["clip"], row["frames"], row["faces"], row["edited"], row["held"], row["masked"]]
        cells += [f"{row['found again']}/{row['looked at']}", round(row["seconds"])]
        cells += [row.get(f"source.{n}") for n in names]
        cells += [f"{min(following):.2f}-{max(following):.2f}" if following else None, row.get("landmarks")]
        lines.append("| " + " | ".join("-" if c is None else str(c) for c in cells) + " |")
    return "\n".join(lines)


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
    parser.add_argument("--stride", type=int, default=10)
    options = parser.parse_args(own)
    options.out.mkdir(parents=True, exist_ok=True)
    judges = Judges(options.recognisers)
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
        measured = judges.compare(clip, result, options.min_face, options.stride)
        kept = ("frames", "faces", "tracks", "edited", "held", "masked", "raw", "seconds", "masked_reasons", "warnings")
        row = {"clip": clip.stem} | {k: report[k] for k in kept}
        row |= {"looked at": len(measured.values.get("faces", [])), "moved": len(measured.values.get("moved", []))}
        row["found again"] = len(measured.values.get("found again", []))
        row |= {k: measured.median(k) for k in measured.values if "." in k or k in ("landmarks", "expression")}
        rows.append(row)
        contact_sheet(clip, result, result.with_suffix(".png"))
        sys.stderr.write(f"{json.dumps(row)} measured in {time.monotonic() - began:.0f} s\n")
        (options.out / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
        (options.out / "table.md").write_text(table(rows) + "\n")
    sys.stdout.write(table(rows) + "\n")
    return 0 if len(rows) == len(options.clips) else 1


if __name__ == "__main__":
    sys.exit(main())
