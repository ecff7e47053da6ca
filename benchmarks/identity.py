"""Recognisers on real people they never saw: who is who in the labelled clips.

    python -m benchmarks.identity --work FOLDER [--clips FOLDER] NAME=FILE.onnx [NAME=FILE.onnx ...]

The people and pictures of `benchmarks/cache.py` (labels by eye): genuine pairs are two pictures of one person, unless
both come from the same place in time, impostor pairs are two people of the same or of different clips. FILES are
ArcFace-aligned; the first is the teacher to which the others' cosines are given. What the first pass finds is kept in
`--work`: pictures of people, delete them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.cache import labelled_faces, verdict
from fluidvid.engine.crops import to_crops
from fluidvid.engine.face_networks import Recogniser, RecogniserSpec
from fluidvid.geometry import FFHQ_112


@torch.inference_mode()
def embeddings(path: Path, crops: Tensor) -> NDArray[np.float64]:
    """`(N, D)` unit vectors of `(N, 3, 128, 128)` crops."""
    net = Recogniser(RecogniserSpec(path.stem, path, 0.0), FFHQ_112).eval()
    return torch.cat([net(part) for part in crops.split(64)]).double().numpy()


def main() -> int:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("files", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--clips", type=Path, default=root.parent / "shared" / "clips")
    parser.add_argument("--work", type=Path, required=True)
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    pictures, names = labelled_faces(chosen.clips, chosen.work)
    crops = to_crops(np.stack(pictures))
    people = np.array(names)
    first, second = np.triu_indices(len(people), 1)
    # Of one picture and its degraded copy nobody learns who is recognised again.
    grey = np.stack([p.mean(2)[::8, ::8].ravel() for p in pictures])
    grey = (grey - grey.mean(1, keepdims=True)) / grey.std(1, keepdims=True)
    copies = (grey[first] * grey[second]).mean(1) > 0.97
    same = people[first] == people[second]
    genuine, impostor = same & ~copies, ~same
    lines = [
        f"{len(people)} pictures, {len(set(names))} people; pairs: {genuine.sum()} genuine, {impostor.sum()} not\n",
        "| network | AUC | TAR at 1 % FAR | threshold | equal error rate | cosine to the first |",
        "|---|---|---|---|---|---|",
    ]
    teacher: NDArray[np.float64] | None = None
    for text in chosen.files:
        name, _, file = text.partition("=")
        found = embeddings(Path(file), crops)
        teacher = found if teacher is None else teacher
        cosines = (found[first] * found[second]).sum(1)
        tar, auc, error = verdict(cosines[genuine], cosines[impostor])
        threshold = float(np.quantile(cosines[impostor], 0.99))
        like = f"{(found * teacher).sum(1).mean():.3f}" if found.shape == teacher.shape else "-"
        lines.append(f"| {name} | {auc:.3f} | {tar:.3f} | {threshold:.3f} | {error:.3f} | {like} |")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
