"""Write faces of one source without glasses, fringes and moustaches as an npz: `fluidvid prior train swaps --donors`.

    python tools/pick_donors.py FACES.zip donors.npz

A donor with glasses puts half a pair on everybody, one with hair over forehead or temples its shade. Which of the first
384 faces of stylegan-ffhq.zip (see ../shared/prior-data) wear glasses was labelled by eye; a ridge regression on slopes
around the eyes, all faces bent to one mesh, orders all (on the labelled ones, four parts, each judged by the other
three: area under the curve .999). The `KEPT_OUT` most like those that wear some stay out; a seventh of the faces does.
Of the others those stay out whose forehead or temples are darker than the cheeks by more than `HAIR`: caps and deep
shadows, too; and those whose upper lip is darker by more than `LIP`: one moustache in five results looked drawn.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fluidvid.engine.backbone import load_backbone
from fluidvid.engine.composite import face_region, skin_region
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
HAIR = 0.65
LIP = 0.36
"""On the scale of crops, -1 to 1; by eye; the first leaves out a third and the second a fifth of the rest."""


def on_one_mesh(crops: Tensor, meshes: Tensor) -> Tensor:
    """`(N, 3, 128, 128)` crops with `(N, 468, 2)` meshes, all bent to the mean of these."""
    middle = meshes.mean(0)
    parts = zip(crops.split(64), meshes.split(64), strict=True)
    return torch.cat([bend(x, mesh[:, ::EVERY], middle[::EVERY].expand(len(x), -1, -1)) for x, mesh in parts])


def darker(bent: Tensor, landmarks: Tensor, blur: int, where: Tensor, share: float) -> Tensor:
    """`(N,)` how much darker than the cheeks `(N, 3, S, S)` crops on one mesh are in a place: a quantile.

    Args:
        bent: of `on_one_mesh`.
        landmarks: `(1, 68, 2)` of them all.
        blur: side of the window in which pixels are averaged.
        where: `(S, S)` bool.
        share: the quantile.
    """
    size = bent.shape[-1]
    below_eyes = _axis(size)[:, None] > landmarks[0, 36:48, 1].mean() + 0.02
    bare = skin_region(landmarks, size)[0, 0] > 0.8
    cheeks = (face_region(landmarks, size)[0, 0] > 0.9) & below_eyes & bare
    soft = F.avg_pool2d(bent, blur, 1, blur // 2)
    skin = soft[:, :, cheeks].median(2).values
    return (skin[:, :, None] - soft[:, :, where]).clamp_min(0).mean(1).quantile(share, dim=1)


def _axis(size: int) -> Tensor:
    return (torch.arange(size) + 0.5) / size


def forehead_and_temples(landmarks: Tensor, size: int) -> Tensor:
    """`(S, S)` bool, of `(1, 68, 2)` landmarks."""
    xs, ys = _axis(size), _axis(size)[:, None]
    left, right = landmarks[0, 36, 0], landmarks[0, 45, 0]
    beside = (xs < left - 0.12 * (right - left)) | (xs > right + 0.12 * (right - left))
    above = (ys < landmarks[0, 17:27, 1].min()) | ((ys < landmarks[0, 36:48, 1].max()) & beside)
    return above & (face_region(landmarks, size)[0, 0] > 0.3)


def upper_lip(landmarks: Tensor, size: int) -> Tensor:
    """`(S, S)` bool, of `(1, 68, 2)` landmarks: the skin between nose and mouth."""
    xs, ys = _axis(size), _axis(size)[:, None]
    nose, lip = landmarks[0, 31:36, 1].max(), landmarks[0, 48:55, 1].min()
    wide = (xs > landmarks[0, 48, 0] - 0.01) & (xs < landmarks[0, 54, 0] + 0.01)
    return wide & (ys > nose + 0.012) & (ys < lip - 0.012)


def slopes_around_the_eyes(bent: Tensor) -> Tensor:
    """`(N, D)` features of `(N, 3, 128, 128)` crops on one mesh."""
    grey = bent.mean(1, keepdim=True)
    across, down = F.pad(grey.diff(dim=3), (0, 1)).abs(), F.pad(grey.diff(dim=2), (0, 0, 0, 1)).abs()
    slopes = torch.cat([across, down], 1)
    slopes = slopes / (slopes.mean((1, 2, 3), keepdim=True) + 0.02)
    seen = torch.cat([slopes, grey], 1)[:, :, 36:84, 20:108]
    features = F.avg_pool2d(seen, 4).flatten(1)
    return (features - features.mean(0)) / features.std(0)


def wearing(bent: Tensor) -> Tensor:
    """`(N,)` about 1 where glasses are worn and 0 where not, of `(N, 3, 128, 128)` crops on one mesh.

    The first `LABELLED` have to be those that `GLASSES` speaks of.
    """
    features = slopes_around_the_eyes(bent)
    labels = torch.zeros(LABELLED)
    labels[list(GLASSES)] = 1
    seen = features[:LABELLED]
    gram = seen.T @ seen / LABELLED + 0.3 * torch.eye(seen.shape[1])
    scores: Tensor = features @ torch.linalg.solve(gram, seen.T @ (labels - labels.mean()) / LABELLED) + labels.mean()
    return scores


def main(source: str, out: str) -> None:
    models = ModelStore()
    backbone = load_backbone(models.resolve("prior"))
    points, expression, age, mesh = map(models.resolve, ("landmark68", "expression", "age_gender", "facemesh468"))
    attributes = AttributeNetworks(points, expression, age, mesh, backbone.template).eval()
    faces = gather((source,), backbone.crop_size, backbone.template, detector, None)
    pictures = faces.pictures[~faces.held_out][:CANDIDATES]
    crops = to_crops(pictures)
    with torch.inference_mode():
        bent = on_one_mesh(crops, torch.cat([attributes.mesh(part).float() for part in crops.split(64)]))
        scores = wearing(bent)
        middle = torch.cat([attributes.landmarks(part).float() for part in crops.split(64)]).mean(0, keepdim=True)
        size = bent.shape[-1]
        clear = darker(bent, middle, 5, forehead_and_temples(middle, size), 0.85) <= HAIR
        clear &= darker(bent, middle, 3, upper_lip(middle, size), 0.7) <= LIP
    bare = scores.argsort(descending=True)[KEPT_OUT:].sort().values
    kept = bare[clear[bare]].numpy()
    np.savez(out, faces=pictures[kept])
    sys.stderr.write(f"{len(kept)} of {len(pictures)} faces in {Path(out)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
