"""Write the faces without glasses of one source as an npz: donors for `fluidvid prior train swaps --donors`.

    python tools/pick_donors.py FACES.zip donors.npz

A donor with glasses puts half a pair on everybody. Which of the first 384 faces of stylegan-ffhq.zip (see
../shared/prior-data) wear some was labelled by eye; a ridge regression on slopes around the eyes, all faces bent to one
mesh, orders all (on the labelled ones, four parts, each judged by the other three: area under the curve .999). The
`KEPT_OUT` most like those that wear some stay out; a seventh of the faces does.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fluidvid.engine.backbone import load_backbone
from fluidvid.engine.crops import to_crops
from fluidvid.engine.face_networks import AttributeNetworks
from fluidvid.engine.training.swaps import EVERY, bend
from fluidvid.models import ModelStore
from fluidvid.prior.bank import CANDIDATES
from fluidvid.prior.dataset import gather
from fluidvid.prior.training import detector

LABELLED = 384
GLASSES = (
    *(17, 19, 28, 35, 41, 54, 56, 64, 66, 67, 70, 79, 81, 87, 101, 120, 122, 126, 127, 138, 144, 150, 152, 182, 183),
    *(189, 198, 199, 205, 210, 219, 232, 236, 244, 250, 260, 263, 268, 273, 282, 284, 288, 292, 299, 305, 312, 315),
    *(325, 336, 341, 342, 350, 356, 357, 359, 368, 373),
)
"""Among the faces that are trained on, in the order of their names."""
KEPT_OUT = 400


def slopes_around_the_eyes(crops: Tensor, meshes: Tensor) -> Tensor:
    """`(N, D)` features of `(N, 3, 128, 128)` crops with `(N, 468, 2)` meshes."""
    middle = meshes.mean(0)
    parts = zip(crops.split(64), meshes.split(64), strict=True)
    bent = [bend(x, mesh[:, ::EVERY], middle[::EVERY].expand(len(x), -1, -1)) for x, mesh in parts]
    grey = torch.cat(bent).mean(1, keepdim=True)
    across, down = F.pad(grey.diff(dim=3), (0, 1)).abs(), F.pad(grey.diff(dim=2), (0, 0, 0, 1)).abs()
    slopes = torch.cat([across, down], 1)
    slopes = slopes / (slopes.mean((1, 2, 3), keepdim=True) + 0.02)
    seen = torch.cat([slopes, grey], 1)[:, :, 36:84, 20:108]
    features = F.avg_pool2d(seen, 4).flatten(1)
    return (features - features.mean(0)) / features.std(0)


def main(source: str, out: str) -> None:
    models = ModelStore()
    backbone = load_backbone(models.resolve("prior"))
    names = ("landmark68", "expression", "age_gender", "facemesh468")
    attributes = AttributeNetworks(*(models.resolve(name) for name in names), backbone.template).eval()
    faces = gather((source,), backbone.crop_size, backbone.template, detector, None)
    pictures = faces.pictures[~faces.held_out][:CANDIDATES]
    crops = to_crops(pictures)
    with torch.inference_mode():
        meshes = torch.cat([attributes.mesh(part).float() for part in crops.split(64)])
        features = slopes_around_the_eyes(crops, meshes)
    labels = torch.zeros(LABELLED)
    labels[list(GLASSES)] = 1
    seen = features[:LABELLED]
    gram = seen.T @ seen / LABELLED + 0.3 * torch.eye(seen.shape[1])
    scores = features @ torch.linalg.solve(gram, seen.T @ (labels - labels.mean()) / LABELLED)
    kept = scores.argsort(descending=True)[KEPT_OUT:].sort().values.numpy()
    np.savez(out, faces=pictures[kept])
    sys.stderr.write(f"{len(kept)} of {len(pictures)} faces in {Path(out)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
