"""Measure the direction cache: who returns, what the file gives away, what a warm cache saves.

    python benchmarks/cache.py returns     [--clips FOLDER] [--work FOLDER]
    python benchmarks/cache.py protection  [--clips FOLDER] [--work FOLDER]
    python benchmarks/cache.py warm [--clip FILE] [--recognisers FOLDER] [--work FOLDER] [-- anonymize's options]

Truth is in `cache_labels.json`, labelled by eye. `returns` shows the labelled clips twice, 60 grey pictures apart;
the second showing is degraded (0.7 of the size, JPEG 45, brighter): nobody returns as the same pixels.
What the first pass finds, key crops among it, is kept in `--work`: pictures of people, delete them. Embeddings are
never written.
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fluidvid import assembly, pipeline
from fluidvid.cache import lasting
from fluidvid.cache.keys import Secret
from fluidvid.cache.lasting import CacheMemory
from fluidvid.cache.sqlite import SqliteStore
from fluidvid.cache.templates import Projection
from fluidvid.config import Config
from fluidvid.engine.build import load_recogniser
from fluidvid.engine.cache import Known, Provenance
from fluidvid.engine.crops import to_crops
from fluidvid.engine.memory import IDENTIFIED_BY, MARGIN, THRESHOLD, recognisable
from fluidvid.geometry import FFHQ_112, similarity
from fluidvid.models import ModelStore
from fluidvid.trackers import link_tracks
from fluidvid.trackers.align import crop
from fluidvid.video import VideoReader

LABELS = json.loads(Path(__file__).with_name("cache_labels.json").read_text())
GAP = 60
SIZE = 128
Picture = NDArray[np.uint8]


def degraded(picture: Picture) -> Picture:
    """The picture at 0.7 of its size and back, through JPEG 45, brighter."""
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (int(width * 0.7) // 2 * 2, int(height * 0.7) // 2 * 2), interpolation=cv2.INTER_AREA)
    coded = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 45])[1]
    decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR_RGB))
    large = np.asarray(cv2.resize(decoded, (width, height), interpolation=cv2.INTER_LINEAR))
    return np.asarray(np.clip(255 * (large / 255.0) ** 0.85, 0, 255), np.uint8)


@dataclass
class _Frame:
    index: int
    image: Picture

    @property
    def pts(self) -> int:
        return self.index

    @property
    def time(self) -> Fraction:
        return Fraction(self.index, 25)

    def rgb(self) -> Picture:
        return self.image


def _frames(clip: Path, looped: bool) -> Iterator[_Frame]:
    """The clip, a gap and the degraded clip; or every sixth picture of the clip, at most 60."""
    index = 0
    with VideoReader(clip) as reader:
        for number, frame in enumerate(reader):
            if looped or (number % 6 == 0 and index < 60):
                image = frame.rgb()
                yield _Frame(index, image)
                index += 1
    if not looped:
        return
    for _ in range(GAP):
        yield _Frame(index, np.full_like(image, 60))
        index += 1
    with VideoReader(clip) as reader:
        for frame in reader:
            yield _Frame(index, degraded(frame.rgb()))
            index += 1


class _Geometry:
    """As much of an editor as the first pass needs."""

    crop_size, template = SIZE, FFHQ_112


def first_pass(clip: Path, work: Path, *, looped: bool) -> dict[str, Any]:
    """`frames`, and `tracks`: frame, box, observed, key crops of each; from `work` if it is there."""
    kept = work / f"{clip.stem}.pkl"
    if not kept.exists():
        began = time.monotonic()
        config = Config().updated({"mode": "solid"})

        @contextmanager
        def open_reader() -> Iterator[Any]:
            yield _frames(clip, looped)

        editor: Any = _Geometry()
        stages = replace(assembly.frame_stages(config), open_reader=open_reader, link=None, editor=editor)
        found = pipeline.analyse(stages, Config(), lambda event: None)
        tracks = {}
        for track, rows in found.table.tracks():
            row = found.table.rows(rows)
            keys = found.key_crops[track].best() if track in found.key_crops else []
            tracks[track] = {
                "frame": row["frame"].astype(int),
                "box": row["box"].copy(),
                "observed": row["observed"].copy(),
                "keys": [(k.frame, k.crop, k.quality, k.yaw) for k in keys],
            }
        kept.write_bytes(pickle.dumps({"frames": found.frames, "tracks": tracks}))
        sys.stderr.write(
            f"{clip.name}: {found.frames} frames, {len(tracks)} tracks, {time.monotonic() - began:.0f} s\n"
        )
    result: dict[str, Any] = pickle.loads(kept.read_bytes())
    return result


class Identities:
    """The recognisers, and what `FluidEditor.identify` makes of them."""

    def __init__(self) -> None:
        store = ModelStore()
        self.nets = [load_recogniser(name, store.resolve, FFHQ_112) for name in IDENTIFIED_BY]

    @torch.inference_mode()
    def __call__(self, crops: Sequence[Picture], only: str | None = None) -> NDArray[np.float32]:
        """`(N, D)` unit vectors, zeros where too little is seen (fused only)."""
        x = to_crops(np.stack(crops))
        parts = [net(x) for net in self.nets if only in (None, net.name)]
        fused = torch.nn.functional.normalize(torch.cat(parts, 1), dim=1)
        found: NDArray[np.float32] = (fused if only else fused * recognisable(x)[:, None]).numpy()
        return found


def truth(found: dict[str, Any], people: Mapping[str, Sequence[Sequence[int]]]) -> dict[int, str]:
    """Person by track, in both showings.

    The track whose box is at a labelled place within ten pictures of its time, nearest in time, then to the box's
    centre; in the second showing of about the same size as in the first.
    """
    second = (found["frames"] - GAP) // 2 + GAP
    labels: dict[int, str] = {}
    for name, places in people.items():
        for frame, x, y in places:
            side = 0.0
            for due in (frame, frame + second):
                near = []
                for track, one in found["tracks"].items():
                    at = int(np.abs(one["frame"] - due).argmin())
                    box, late = one["box"][at], abs(int(one["frame"][at]) - due)
                    width = float(box[2] - box[0])
                    inside = box[0] <= x <= box[2] and box[1] <= y <= box[3]
                    if one["keys"] and late <= 10 and inside and (not side or 0.6 < width / side < 1.6):
                        off = float(np.hypot((box[0] + box[2]) / 2 - x, (box[1] + box[3]) / 2 - y))
                        near.append((late, off, track, width))
                if near:
                    best = min(near)
                    side = side or best[3]
                    labels.setdefault(best[2], name)
    return labels


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    total = vectors.sum(0)
    return np.asarray(total / max(1e-12, float(np.linalg.norm(total))), np.float32)


def _score(labels: dict[int, str], person_of: Mapping[int, Any], first: dict[int, int], counted: set[int]) -> list[int]:
    """Returns, of them the same pseudonym, pairs of tracks of two people under one pseudonym."""
    returns = same = 0
    order = sorted(labels, key=first.__getitem__)
    for i, track in enumerate(order):
        earlier = [t for t in order[:i] if labels[t] == labels[track] and t in counted]
        if track in counted and earlier:
            returns += 1
            same += any(person_of[t] == person_of[track] for t in earlier)
    merged = sum(
        labels[a] != labels[b] and person_of[a] == person_of[b] for i, a in enumerate(order) for b in order[i + 1 :]
    )
    return [returns, same, merged]


def returns(clips: Path, work: Path) -> str:
    """Tables: linking inside a run, and two runs with a cache between them."""
    identify = Identities()
    lines = [
        "| clip | tracks | people | too dark to tell | counted | returns | same pseudonym | merged pairs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    runs = [
        "| clip | people enrolled | return | known | right | new | ambiguous | taken for another |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with TemporaryDirectory() as folder:
        cache = Path(folder) / "people.cache"
        enrolled: dict[str, str] = {}
        for name, people in LABELS["looped"].items():
            found = first_pass(clips / name, work, looped=True)
            labels = truth(found, people)
            crops = {t: [k[1] for k in one["keys"]] for t, one in found["tracks"].items() if one["keys"]}
            fused = {t: identify(c) for t, c in crops.items()}
            seen = {t: e[np.abs(e).max(1) > 0] for t, e in fused.items()}
            clear = {t for t in labels if len(seen[t])}
            frames = {t: one["frame"][one["observed"]].astype(np.int64) for t, one in found["tracks"].items()}
            first = {t: int(one["frame"].min()) for t, one in found["tracks"].items()}
            person_of = link_tracks(seen, frames, threshold=THRESHOLD)
            for kind, counted in (("recognisable", clear), ("all", set(labels))):
                scored = _score(labels, person_of, first, counted)
                lines.append(
                    f"| {name} | {len(labels)} | {len(set(labels.values()))} | {len(labels) - len(clear)} | {kind} | "
                    f"{scored[0]} | {scored[1]} | {scored[2]} |"
                )
            half = (found["frames"] - GAP) // 2
            met = [(first[t] >= half, person_of[t], labels.get(t), e) for t, e in seen.items()]
            runs.append(_two_runs(cache, name, met, enrolled))
        for name in LABELS["single"]:
            tracks = first_pass(clips / name, work, looped=False)["tracks"]
            keys = [k[1] for k in max(tracks.values(), key=lambda one: len(one["frame"]))["keys"]]
            met = [(False, 1, "the one", identify(keys)), (True, 1, "the one", identify([degraded(k) for k in keys]))]
            runs.append(_two_runs(cache, name, met, enrolled))
    return "\n".join([*lines, "", *runs])


def _two_runs(
    cache: Path,
    name: str,
    met: Sequence[tuple[bool, int, str | None, NDArray[np.float32]]],
    enrolled: dict[str, str],
) -> str:
    """The first showing fills the cache (one for all clips), the second is another run.

    `met`: whether in the second showing, person, label, identities `(K, D)` of each track.
    """
    secret, basis = Secret(b"benchmark".ljust(32)), "00" * 32
    members: dict[tuple[bool, int], list[NDArray[np.float32]]] = {}
    labels: dict[tuple[bool, int], set[str]] = {}
    for later, person, label, identities in met:
        members.setdefault((later, person), []).append(identities)
        labels.setdefault((later, person), set()).update({label} if label else ())
    counts = dict.fromkeys(("enrolled", "return", "known", "right", "new", "ambiguous", "wrong"), 0)
    for later in (False, True):
        memory = CacheMemory(SqliteStore(cache, create=True), secret, basis)
        with closing(memory):
            for (when, person), parts in sorted(members.items(), key=lambda item: item[0]):
                identity = _unit(np.concatenate(parts))
                named = sorted(labels[when, person])
                if when != later or not identity.any():
                    continue
                answer = memory.recall(person, identity)
                known = f"{name}: {named[0]}" if named else f"{name}: no label"
                recognised = enrolled.get(memory.entries.get(person, ""))
                if named and later:
                    counts["return"] += known in enrolled.values()
                    counts["known"] += recognised is not None
                    counts["right"] += recognised == known
                    counts["new"] += recognised is None and not answer.ambiguous
                    counts["ambiguous"] += answer.ambiguous
                counts["wrong"] += recognised is not None and recognised != known
                if answer.known is None and not answer.ambiguous:
                    memory.remember(person, identity, Known(torch.zeros(1), torch.zeros(1), None, Provenance(basis)))
                    enrolled[memory.entries[person]] = known
                    counts["enrolled"] += bool(named) and not later
    c = counts
    return (
        f"| {name} | {c['enrolled']} | {c['return']} | {c['known']} | {c['right']} | {c['new']} | {c['ambiguous']} | "
        f"{c['wrong']} |"
    )


def labelled_faces(clips: Path, work: Path) -> tuple[list[Picture], list[str]]:
    """Key crops of everybody who is labelled and recognisable, and who it is."""
    pictures: list[Picture] = []
    names: list[str] = []
    for name, people in LABELS["looped"].items():
        found = first_pass(clips / name, work, looped=True)
        for track, person in truth(found, people).items():
            for key in found["tracks"][track]["keys"]:
                pictures.append(key[1])
                names.append(f"{name}: {person}")
    for name in LABELS["single"]:
        tracks = first_pass(clips / name, work, looped=False)["tracks"]
        longest = max(tracks.values(), key=lambda one: len(one["frame"]))
        for key in longest["keys"]:
            pictures += [key[1], degraded(key[1])]
            names += [name, name]
    x = to_crops(np.stack(pictures))
    clear = recognisable(x).numpy()
    return [p for p, c in zip(pictures, clear, strict=True) if c], [n for n, c in zip(names, clear, strict=True) if c]


def verdict(genuine: NDArray[np.float64], impostor: NDArray[np.float64]) -> tuple[float, float, float]:
    """TAR at 1 % FAR, AUC, equal error rate."""
    threshold = np.quantile(impostor, 0.99)
    both = np.concatenate([genuine, impostor])
    ranks = both.argsort().argsort() + 1.0
    n, m = len(genuine), len(impostor)
    auc = (ranks[:n].sum() - n * (n + 1) / 2) / (n * m)
    levels = np.quantile(both, np.linspace(0, 1, 500))
    errors = [max(float((genuine < t).mean()), float((impostor >= t).mean())) for t in levels]
    return float((genuine > threshold).mean()), float(auc), min(errors)


def protection(clips: Path, work: Path) -> str:
    """Table: how well a face is matched by raw identities, by templates with the key, and without it."""
    pictures, names = labelled_faces(clips, work)
    table = Identities()(pictures)
    labels = np.array(names)
    upper = np.triu(np.ones((len(table), len(table)), bool), 1)
    alike = labels[:, None] == labels[None]
    same, other = alike & upper, ~alike & upper
    raw = (table @ table.T).astype(np.float64)
    rng = np.random.default_rng(0)
    lines = [
        f"{len(table)} faces of {len(set(names))} people, {int(same.sum())} pairs of one person, "
        f"{int(other.sum())} of two.",
        "",
        "| matched by | TAR at 1 % FAR | AUC | EER |",
        "|---|---|---|---|",
    ]

    def row(what: str, scores: NDArray[np.float64], same: NDArray[np.bool_], other: NDArray[np.bool_]) -> None:
        tar, auc, error = verdict(scores[same], scores[other])
        lines.append(f"| {what} | {tar:.3f} | {auc:.3f} | {error:.3f} |")

    row("raw fused identities", raw, same, other)
    for only in IDENTIFIED_BY:
        single = Identities()(pictures, only)
        row(f"raw {only}", (single @ single.T).astype(np.float64), same, other)
    for bits in (512, 1024, 2048, 4096):
        keyed = []
        for _ in range(5):
            projection = Projection(rng.bytes(32), table.shape[1], bits)
            templates = [projection.protect(e) for e in table]
            keyed.append(np.stack([projection.cosines(t, templates) for t in templates]))
        figures = np.array([verdict(k[same], k[other]) for k in keyed]).mean(0)
        lines.append(
            f"| templates of {bits} bits with the key, mean of 5 keys | "
            + " | ".join(f"{f:.3f}" for f in figures)
            + " |"
        )
    # Without the key: the attacker has the file and pictures of the very people, and all pairs count, also the same
    # picture with itself. `same` and `other` are therefore taken over the full square.
    square_same, square_other = alike, ~alike
    strange, cipher = [], []
    from fluidvid.cache.sealing import seal

    for _ in range(5):
        secret, guess = Secret(rng.bytes(32)), Secret(rng.bytes(32))
        mine = Projection(secret.derive("projection"), table.shape[1])
        theirs = Projection(guess.derive("projection"), table.shape[1])
        stored = [mine.protect(e) for e in table]
        sealed = [seal(secret.derive("seal"), t, "x")[12:-16] for t in stored]
        strange.append(np.stack([theirs.cosines(theirs.protect(e), stored) for e in table]))
        cipher.append(np.stack([theirs.cosines(theirs.protect(e), sealed) for e in table]))
    for what, scores in (
        ("the cache file without the key: sealed templates", cipher),
        ("templates decrypted, projection key unknown (or after rekey)", strange),
    ):
        figures = np.array([verdict(s[square_same], s[square_other]) for s in scores])
        lines.append(
            f"| {what}, mean of 5 keys | "
            + " | ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(figures.mean(0), figures.std(0), strict=True))
            + " |"
        )
    return "\n".join(lines)


def warm(clip: Path, work: Path, guests: Path | None, options: list[str]) -> str:
    """Three runs over one clip: an empty cache, the same cache again, and no cache."""
    cache = work / "warm.cache"
    for stale in work.glob("warm.cache*"):
        stale.unlink()
    rows = [("cold, --cache", ["--cache", str(cache)]), ("warm, --cache", ["--cache", str(cache)]), ("no cache", [])]
    lines = ["| run | wall s | finding directions s | steps | edited of faces |", "|---|---|---|---|---|"]
    results = []
    for i, (name, flags) in enumerate(rows):
        target = work / f"warm{i}.mp4"
        command = [
            sys.executable,
            "-m",
            "fluidvid",
            "anonymize",
            str(clip),
            str(target),
            "--overwrite",
            "--json",
            *flags,
        ]
        began = time.monotonic()
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
        report = json.loads(done.stdout)
        steps = sum(p["figures"].get("steps", 0) for p in report["preparation"])
        seconds = sum(p["seconds"] or 0 for p in report["preparation"])
        lines.append(
            f"| {name} | {time.monotonic() - began:.0f} | {seconds:.1f} | {steps:.0f} | "
            f"{report['edited']} of {report['faces']} |"
        )
        results.append(target)
        sys.stderr.write(f"{lines[-1]} {report['memory']}\n")
    lines += ["", *likeness([clip, *results], ["source", *(name for name, _ in rows)], guests)]
    return "\n".join(lines)


def likeness(videos: Sequence[Path], names: Sequence[str], guests: Path | None) -> list[str]:
    """Mean cosines between the faces of several versions of one video, at the places of the source's faces."""
    store = ModelStore()
    wanted = [*IDENTIFIED_BY, *(("edgeface_xs", "mobilefacenet_ms1m") if guests is not None else ())]

    def resolve(name: str) -> Path:
        return guests / f"{name}.onnx" if guests is not None and name in wanted[3:] else store.resolve(name)

    nets = [load_recogniser(name, resolve, FFHQ_112) for name in wanted]
    detector = assembly.make_detector(Config(), store)
    with VideoReader(videos[0]) as reader:
        looks = ((f.index, detector.detect(f.rgb())) for f in reader if f.index % 5 == 0)
        places = {i: [d for d in found if np.isfinite(d.landmarks).all()] for i, found in looks}
    faces: list[list[Picture]] = []
    for video in videos:
        with VideoReader(video) as reader:
            pictures = {f.index: f.rgb() for f in reader if f.index in places}
        faces.append(
            [
                crop(p, similarity(d.landmarks, FFHQ_112 * SIZE), SIZE)
                for i, p in pictures.items()
                for d in places[i][:1]
            ]
        )
    count = min(map(len, faces))
    with torch.inference_mode():
        x = [to_crops(np.stack(f[:count])) for f in faces]
        seen = {net.name: [net(one) for one in x] for net in nets}
    lines = [
        "| cosine, mean of " + f"{count} pictures | " + " | ".join(wanted) + " |",
        "|---" * (len(wanted) + 1) + "|",
    ]
    lines.append("| threshold at 1 % FAR | " + " | ".join(f"{net.threshold:.2f}" for net in nets) + " |")
    for a in range(len(videos)):
        for b in range(a + 1, len(videos)):
            values = [float((seen[n][a] * seen[n][b]).sum(1).mean()) for n in wanted]
            lines.append(f"| {names[a]} : {names[b]} | " + " | ".join(f"{v:.2f}" for v in values) + " |")
    return lines


def main() -> int:
    """Measure one thing and print a Markdown table."""
    arguments, options = sys.argv[1:], []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, options = arguments[:cut], arguments[cut + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("what", choices=("returns", "protection", "warm"))
    parser.add_argument("--clips", type=Path, default=root.parent / "shared" / "clips")
    parser.add_argument("--clip", type=Path, default=root / "tests" / "clips" / "carphone_pristine.mp4")
    parser.add_argument("--recognisers", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="for what is found in between: pictures of people")
    chosen = parser.parse_args(arguments)
    chosen.work.mkdir(parents=True, exist_ok=True)
    if chosen.what == "returns":
        text = returns(chosen.clips, chosen.work)
    elif chosen.what == "protection":
        text = protection(chosen.clips, chosen.work)
    else:
        text = warm(chosen.clip, chosen.work, chosen.recognisers, options)
    sys.stdout.write(
        f"threshold {THRESHOLD:g} inside a run, {lasting.THRESHOLD:g} across runs; margin {MARGIN:g}\n\n{text}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
