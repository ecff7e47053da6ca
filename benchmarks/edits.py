"""Try editor options or backbones at equal budget: the same people, the same pictures, several seeds.

    python benchmarks/edits.py CLIP [CLIP ...] --variant 'shipped' --variant 'strong optimise.weights.suppress=6' ...

A variant is a label and `key=value` pairs: dotted keys of `EditorOptions`, `backbone=FOLDER`, `find=begin` for first
directions without a search, or an argument of `build_editor` such as `geometry`. Of every clip the people seen longest
are taken (`--people`); each variant prepares each of them for every seed and edits `--pictures` pictures spread over
the person's life. Prints a Markdown table and writes one contact sheet per variant (first seed; source over result).
What the first pass finds is kept in the folder `--out` between runs: it holds pictures of people, so keep it out of the
repository.
"""

from __future__ import annotations

import argparse
import itertools
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fluidvid.assembly import file_stages
from fluidvid.config import Config
from fluidvid.engine.build import GUIDES, build_editor, load_recogniser
from fluidvid.engine.crops import to_crops
from fluidvid.engine.losses import eye_distance, part_correlation, part_windows, parts
from fluidvid.engine.search import EditorOptions
from fluidvid.keyframes import merge
from fluidvid.models import ModelStore
from fluidvid.pipeline import analyse, plan
from fluidvid.trackers.align import crop as aligned_crop
from fluidvid.video import VideoReader

GUESTS = ("edgeface_xs", "mobilefacenet_ms1m")
BUILD = ("geometry", "editor", "timesteps", "strength", "guides")


@dataclass
class Subject:
    """One person of a clip: what the direction is found on, and what it is judged by."""

    name: str
    key_crops: NDArray[np.uint8]
    crops: NDArray[np.uint8]


def subjects(clip: Path, out: Path, people: int, pictures: int) -> list[Subject]:
    """The people seen longest; from `out` if they were looked for before."""
    known = out / f"{clip.stem}.{people}.{pictures}.pickle"
    if known.exists():
        loaded: list[Subject] = pickle.loads(known.read_bytes())
        return loaded
    config = Config()
    stages = file_stages(clip, out / f"unused{clip.suffix}", config, overwrite=True)
    assert stages.editor is not None
    found = analyse(stages, config, lambda _: None)
    keys: dict[int, list[Any]] = {}
    for track, crops in found.key_crops.items():
        keys.setdefault(found.people[track], []).append(crops)
    plan(stages, found, config)
    rows: dict[int, list[Any]] = {}
    for track, indices in found.table.tracks():
        part = found.table.rows(indices)
        rows.setdefault(found.people[track], []).extend(part[part["weight"] >= 1])
    longest = sorted(rows.keys() & keys.keys(), key=lambda p: -len(rows[p]))[:people]
    wanted: dict[int, list[tuple[int, Any]]] = {}
    for person in longest:
        chosen = np.linspace(0, len(rows[person]) - 1, min(pictures, len(rows[person]))).round().astype(int)
        for i in chosen:
            wanted.setdefault(int(rows[person][i]["frame"]), []).append((person, rows[person][i]))
    size = stages.editor.crop_size
    seen: dict[int, list[NDArray[np.uint8]]] = {person: [] for person in longest}
    with VideoReader(clip) as reader:
        for frame in reader:
            for person, row in wanted.get(frame.index, ()):
                matrix = row["matrix"].astype(np.float64)
                seen[person].append(aligned_crop(frame.rgb(), matrix, size))
    result = []
    for person in longest:
        if not seen[person]:
            continue
        best = merge(keys[person], config.edit.key_frames)
        key_crops = np.stack([c.crop for c in best])
        result.append(Subject(f"{clip.stem}.{person}", key_crops, np.stack(seen[person])))
    known.write_bytes(pickle.dumps(result))
    return result


def with_changes(options: EditorOptions, changes: dict[str, str]) -> EditorOptions:
    """`options` with dotted keys replaced."""
    for key, value in changes.items():
        options = _replaced(options, key.split("."), value)
    return options


def _replaced(node: Any, path: list[str], value: str) -> Any:
    if not is_dataclass(node) or path[0] not in {f.name for f in fields(node)}:
        raise SystemExit(f"no option {path[0]!r} in {type(node).__name__}")
    old = getattr(node, path[0])
    new = _replaced(old, path[1:], value) if len(path) > 1 else type(old)(value)
    return replace(node, **{path[0]: new})  # type: ignore[type-var]


def try_variant(
    changes: dict[str, str],
    people: Sequence[Subject],
    seeds: int,
    judges: Sequence[Any],
    resolve: Callable[[str], Path],
) -> tuple[dict[str, list[float]], list[NDArray[np.uint8]], list[str]]:
    """Figures over all people, seeds and pictures; the pictures of the first seed; a line per person and seed."""
    changes = dict(changes)
    became: dict[tuple[str, str], list[torch.Tensor]] = {}
    backbone = changes.pop("backbone", None) or resolve("prior")
    find = changes.pop("find", "prepare")
    build = {k: changes.pop(k) for k in BUILD if k in changes}
    figures: dict[str, list[float]] = {}
    sheet, lines = [], []
    for seed in range(seeds):
        editor = build_editor(
            backbone=backbone,
            resolve=resolve,
            seed=seed,
            options=with_changes(EditorOptions(), changes),
            geometry=build.get("geometry", "geodesic"),  # type: ignore[arg-type]
            editor=build.get("editor", "difference"),  # type: ignore[arg-type]
            timesteps=[int(t) for t in build["timesteps"].split("/")] if "timesteps" in build else None,
            strength=float(build["strength"]) if "strength" in build else None,
            guides=build["guides"].split("/") if "guides" in build else GUIDES,
        )
        for number, subject in enumerate(people):
            began = time.monotonic()
            prepared = getattr(editor, find)(number, subject.key_crops)
            figures.setdefault("prepared", []).append(float(prepared.ok))
            figures.setdefault("seconds", []).append(time.monotonic() - began)
            result = subject.crops.copy()
            if prepared.ok:
                ones = np.ones(len(result), np.float32)
                done = editor.edit([number] * len(result), subject.crops, ones)
                figures.setdefault("accepted", []).extend(float(e.ok) for e in done)
                result = np.clip(result + np.stack([e.residual for e in done]), 0, 255).astype(np.uint8)
                line = _judge(editor, judges, subject.crops, result, figures)
                for net in judges:
                    with torch.inference_mode():
                        mean = torch.nn.functional.normalize(net(to_crops(result)).mean(0), dim=0)
                    became.setdefault((net.name, subject.name), []).append(mean)
            else:
                figures.setdefault("accepted", []).extend([0.0] * len(result))
                result, line = result // 4 + 96, ""
            lines.append(f"{subject.name} seed {seed}: {prepared.reason or 'ok'} {_short(prepared.figures)} {line}")
            if seed == 0:
                shown = np.linspace(0, len(result) - 1, 8).round().astype(int)
                sheet.append(np.vstack([np.hstack(list(p[shown])) for p in (subject.crops, result)]))
    for (name, _), means in became.items():  # one person's pseudonyms by different seeds
        pairs = [float(one @ other) for one, other in itertools.combinations(means, 2)]
        figures.setdefault(f"{name} pair", []).extend(pairs)
    return figures, sheet, lines


@torch.inference_mode()
def _judge(
    editor: Any,
    judges: Sequence[Any],
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    figures: dict[str, list[float]],
) -> str:
    x, y = map(to_crops, (before, after))
    words = []
    for net in judges:
        old, new = net(x), net(y)
        cosine = (old * new).sum(1)
        figures.setdefault(net.name, []).extend(cosine.tolist())
        figures.setdefault(f"{net.name} over", []).extend((cosine > net.threshold).float().tolist())
        words.append(f"{net.name} {float(cosine.median()):.2f}")
    new = judges[-1](y)
    figures.setdefault("one person", []).append(float((new @ new.T).mean()))
    a, b = editor.attributes(x, mesh=False), editor.attributes(y, mesh=False)
    error = (a.landmarks - b.landmarks).norm(dim=2).mean(1) / eye_distance(a.landmarks)
    figures.setdefault("landmarks %", []).extend((100 * error).tolist())
    figures.setdefault("expression", []).extend((a.expression - b.expression).abs().sum(1).div(2).tolist())
    figures.setdefault("age", []).extend((a.age - b.age).abs().tolist())
    figures.setdefault("gender", []).extend((a.male - b.male).abs().tolist())
    figures.setdefault("denoising", []).append(editor.search.surprise(y) / editor.search.surprise(x))
    windows = part_windows(a.landmarks)
    seen = zip(parts(x, windows).split(1), parts(y, windows).split(1), strict=True)
    figures.setdefault("parts", []).extend(float(part_correlation(new, old)) for old, new in seen)
    return " ".join(words)


def _short(figures: dict[str, float]) -> str:
    return " ".join(f"{k.split('.', 1)[-1]}={v:.2f}" for k, v in figures.items() if "worst" not in k)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--variant", action="append", required=True)
    parser.add_argument("--out", type=Path, default=Path("edits"))
    parser.add_argument("--recognisers", type=Path, help="folder of recognisers fluidvid does not ship")
    parser.add_argument("--people", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    store = ModelStore()
    people = [s for clip in options.clips for s in subjects(clip, options.out, options.people, options.pictures)]
    guests = GUESTS if options.recognisers else ()

    def resolve(name: str) -> Path:
        guest = None if options.recognisers is None else options.recognisers / f"{name}.onnx"
        return guest if guest is not None and guest.exists() else store.resolve(name)

    template = build_editor(backbone=store.resolve("prior"), resolve=store.resolve, seed=0).template
    judges = [load_recogniser(n, resolve, template) for n in ("faceplugin", "faceres", "dlib_resnet", *guests)]
    heads = [
        "prepared",
        "accepted",
        *(j.name for j in judges),
        *(f"{j.name} {what}" for what in ("over", "pair") for j in judges),
    ]
    heads += ["denoising", "one person", "landmarks %", "expression", "age", "gender", "parts", "seconds"]
    print("| variant | " + " | ".join(heads) + " |\n|" + "---|" * (len(heads) + 1), flush=True)  # noqa: T201
    for words in options.variant:
        label, *pairs = words.split()
        changes = dict(pair.split("=", 1) for pair in pairs)
        figures, sheet, lines = try_variant(changes, people, options.seeds, judges, resolve)
        share = ("prepared", "accepted", "expression", "gender", "parts")
        cells = []
        for head in heads:
            numbers = figures.get(head, [np.nan])
            mean = head in share or head.endswith(("over", "pair"))
            cells.append(f"{np.mean(numbers) if mean else np.median(numbers):.2f}")
        print(f"| {label} | " + " | ".join(cells) + " |", flush=True)  # noqa: T201
        sys.stderr.write("\n".join(lines) + "\n")
        cv2.imwrite(str(options.out / f"{label}.png"), np.vstack(sheet)[:, :, ::-1])


if __name__ == "__main__":
    main()
