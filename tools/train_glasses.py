"""Train the network that finds glasses (`fluidvid.engine.glasses`): rims are drawn on synthetic faces that wear none.

    python tools/train_glasses.py FACES.zip glasses.safetensors [MINUTES]

Which of the faces wear glasses says the regression of `tools/pick_donors.py`. A step sees 16 faces with glasses drawn
on, whose rims are known, ten without any, and six that wear their own, of which only that is known; strokes elsewhere
on the face are no glasses. 22 minutes on one busy core made the 3,424 steps of what is shipped.
"""

from __future__ import annotations

import sys
import time

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from fluidvid.engine.backbone import load_backbone
from fluidvid.engine.crops import to_crops
from fluidvid.engine.face_networks import AttributeNetworks
from fluidvid.engine.glasses import COLUMNS, ROWS, SIDE, RimNetwork
from fluidvid.models import ModelStore
from fluidvid.prior.dataset import gather
from fluidvid.prior.training import detector
from tools.pick_donors import on_one_mesh, wearing

Picture = NDArray[np.uint8]
Points = NDArray[np.float64]
Grey = NDArray[np.float32]

FINER = 4
"""Times the side at which glasses are drawn."""
DRAWN, BARE, WORN = 16, 10, 6
"""Faces of a step: with glasses drawn on, without, and with their own."""
KEPT = 5000
"""Drawn faces that are kept; two are drawn anew at every step."""
SURE, NONE = 0.6, 0.25
"""Scores from which a face wears glasses, and below which it does not; those between are left out."""
COLOURS = {
    "dark": (30.0, 30.0, 30.0),
    "metal": (150.0, 150.0, 150.0),
    "gold": (190.0, 150.0, 90.0),
    "clear": (225.0, 205.0, 190.0),
    "coloured": (90.0, 70.0, 80.0),
}


def _line(layer: Grey, points: Points, width: float, value: float = 1.0, closed: bool = False) -> None:
    cv2.polylines(layer, [np.round(points).astype(np.int32)], closed, value, max(1, round(width)), cv2.LINE_AA)


def lens(rng: np.random.Generator) -> Points:
    """`(64, 2)` outline of one lens about its centre, in halves of its width and height."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    power = rng.uniform(2, 5)
    x, y = np.cos(angle), np.sin(angle)
    x, y = np.stack([x, y]) * (np.abs(x) ** power + np.abs(y) ** power) ** (-1 / power)
    x = x * (1 + rng.normal(0, 0.12) * y)
    return np.stack([x, y + rng.normal(0, 0.1) * x], 1)


def rims(points: Points, rng: np.random.Generator) -> tuple[Grey, list[Points]]:
    """Rims, bridge and temples `(H, H)` in [0, 1], and both lenses' outlines, H = FINER * SIDE.

    Args:
        points: `(68, 2)` landmarks in fractions of the side.
        rng: draws the kind of glasses.
    """
    points = points * SIDE * FINER
    layer = np.zeros((SIDE * FINER,) * 2, np.float32)
    eyes = points[36:42].mean(0), points[42:48].mean(0)
    apart = float(np.linalg.norm(eyes[1] - eyes[0]))
    right = (eyes[1] - eyes[0]) / apart
    down = np.array([-right[1], right[0]])
    reach = np.array([np.linalg.norm(eye - points[27]) for eye in eyes])
    wide = np.clip(2 * reach / reach.sum(), 0.45, 1.4)  # the lens that is turned away is narrower
    outline, width = lens(rng), rng.uniform(0.30, 0.44) * apart
    height, lower = width * rng.uniform(0.5, 0.95), rng.uniform(-0.02, 0.14) * apart
    beside = rng.uniform(-0.02, 0.06) * apart
    thick = float(np.exp(rng.uniform(np.log(0.7), np.log(4.5)))) * FINER
    kind = rng.choice(["full", "full", "full", "half", "rimless"])
    faint = max(2, FINER // 2)
    lenses = []
    for eye, side, share in zip(eyes, (-1, 1), wide, strict=True):
        x, y = outline[:, 0] * side * width * share, outline[:, 1] * height
        around = eye + down * lower + right * side * beside * share + np.outer(x, right) + np.outer(y, down)
        lenses.append(around)
        if kind == "full":
            _line(layer, around, thick, closed=True)
            continue
        edge = np.zeros_like(layer)
        _line(edge, around, faint, rng.uniform(0.1, 0.5) if kind == "half" else rng.uniform(0.25, 0.8), closed=True)
        np.maximum(layer, edge, out=layer)
        if kind == "half":
            upper = around[outline[:, 1] < 0.15]
            _line(layer, upper[((upper - eye) @ right).argsort()], thick)
    level = [eye + down * (lower - 0.3 * height) for eye in eyes]
    off = [np.abs((around - at) @ down) for around, at in zip(lenses, level, strict=True)]
    a = lenses[0][np.argmax(lenses[0] @ right - 0.4 * off[0])]
    b = lenses[1][np.argmin(lenses[1] @ right + 0.4 * off[1])]
    middle, t = (a + b) / 2 - down * rng.uniform(0, 0.08) * apart, np.linspace(0, 1, 16)[:, None]
    _line(layer, (1 - t) ** 2 * a + 2 * t * (1 - t) * middle + t**2 * b, thick * rng.uniform(0.7, 1.3))
    if rng.random() < 0.25:
        _line(layer, np.stack([a, b]) - down * 0.1 * apart, 0.7 * thick)
    for around, side, far in zip(lenses, (-1, 1), (points[0], points[16]), strict=True):
        tip = around[np.argmax(side * (around @ right) - 0.5 * off[(side + 1) // 2])]
        end = far + down * rng.uniform(-0.25, 0.05) * apart
        _line(layer, np.stack([tip, tip + (end - tip) * rng.uniform(0.3, 1.1)]), thick * rng.uniform(0.7, 1.6))
    if rng.random() < 0.3:  # pads on the nose
        for at, side in ((a, 1), (b, -1)):
            pad = tuple(int(v) for v in at + down * 0.12 * apart + right * side * 0.02 * apart)
            axes = max(1, int(0.02 * apart)), max(1, int(0.05 * apart))
            cv2.ellipse(layer, pad, axes, side * 20, 0, 360, 0.6, max(1, FINER // 2), cv2.LINE_AA)
    return layer, lenses


def with_glasses(picture: Picture, points: Points, rng: np.random.Generator) -> tuple[Picture, Grey]:
    """A face `(128, 128, 3)` with glasses drawn on, and how much of each pixel is rim `(128, 128)`."""
    layer, lenses = rims(points, rng)
    side, apart = len(layer), float(np.linalg.norm(lenses[0].mean(0) - lenses[1].mean(0)))
    name = str(rng.choice(["dark", *COLOURS]))
    colour = np.array(COLOURS[name]) * rng.uniform(0.6, 1.3, 3 if name == "coloured" else 1)
    ripple = cv2.resize(rng.normal(0, 1, (12, 12)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    glint = {"dark": 12, "metal": 55, "gold": 45, "clear": 25, "coloured": 20}[name]
    out = cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    shadow = np.roll(layer, int(rng.uniform(0.01, 0.06) * apart), 0)
    out *= 1 - cv2.GaussianBlur(shadow, (0, 0), FINER * rng.uniform(0.8, 2))[..., None] * rng.uniform(0, 0.35)
    glass = np.zeros_like(layer)
    cv2.fillPoly(glass, [np.round(around).astype(np.int32) for around in lenses], 1.0)
    if rng.random() < 0.5:
        tint = glass * (rng.uniform(0, 0.18) if rng.random() < 0.85 else rng.uniform(0.3, 0.8))
        out += tint[..., None] * (rng.uniform(20, 200, 3) - out)
    if rng.random() < 0.5:
        light = np.zeros_like(layer)
        for around in lenses:
            at = tuple(int(v) for v in around.mean(0) + rng.normal(0, 0.15 * apart, 2))
            axes = int(rng.uniform(0.03, 0.2) * apart), int(rng.uniform(0.02, 0.1) * apart)
            cv2.ellipse(light, at, axes, rng.uniform(0, 180), 0, 360, 1.0, -1)
        light = cv2.GaussianBlur(light, (0, 0), FINER * rng.uniform(0.5, 3)) * glass * rng.uniform(0.1, 0.7)
        out += light[..., None] * (np.array([rng.uniform(150, 255), rng.uniform(170, 255), 255.0]) - out)
    solid = layer[..., None] * (rng.uniform(0.4, 0.8) if name == "clear" else rng.uniform(0.75, 1))
    out += solid * (colour + ripple[..., None] * glint - out)
    small = cv2.resize(out.clip(0, 255), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    share = cv2.resize(layer, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return small.astype(np.uint8), share.astype(np.float32)


def with_strokes(picture: Picture, rng: np.random.Generator) -> Picture:
    """A face with strands, edges and blots that are no glasses."""
    out = picture.copy()
    for _ in range(int(rng.integers(1, 5))):
        colour = tuple(int(v) for v in rng.uniform(0, 255, 3))
        at = rng.uniform(10, 118, 2)
        line = at + np.cumsum(rng.normal(0, 1, 2) * 3 + rng.normal(0, 1.5, (12, 2)), 0)
        if rng.random() < 0.7:
            cv2.polylines(out, [line.astype(np.int32)], False, colour, int(rng.integers(1, 5)), cv2.LINE_AA)
        else:
            cv2.ellipse(
                out, tuple(int(v) for v in at), (int(rng.integers(4, 40)), 12), rng.uniform(0, 180), 0, 360, colour, -1
            )
    return (0.8 * out + 0.2 * picture).astype(np.uint8)


def altered(x: Tensor, known: Tensor, rng: np.random.Generator, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Faces `(N, 3, S, S)` and rims `(N, 1, S, S)`, moved alike; the faces in other light, coarser, noisier."""

    def some(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    n = len(x)
    angle, scale, shift = 0.2 * some(n) - 0.1, 0.9 + 0.2 * some(n), 0.08 * some(n, 2) - 0.04
    across = torch.where(some(n) < 0.5, -1.0, 1.0)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    theta = torch.stack(
        [torch.stack([across * cos, -across * sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1
    )
    grid = F.affine_grid(theta, [n, 4, SIDE, SIDE], align_corners=False)
    moved = F.grid_sample(torch.cat([x, known], 1), grid, padding_mode="reflection", align_corners=False)
    x, known = moved[:, :3], moved[:, 3:]
    gain = torch.exp(0.3 * some(n, 3, 1, 1) - 0.15 + some(n, 1, 1, 1) - 0.5)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (mean + (x - mean) * torch.exp(0.8 * some(n, 1, 1, 1) - 0.48) + 1) * gain - 1 + 0.3 * some(n, 1, 1, 1) - 0.15
    x = torch.where(some(n, 1, 1, 1) < 0.15, x.mean(1, keepdim=True), x)
    coarse = []
    for face in x.split(1):
        if rng.random() < 0.6:
            small = F.interpolate(face, size=(int(rng.integers(24, 120)),) * 2, mode="area")
            face = F.interpolate(small, size=(SIDE, SIDE), mode=str(rng.choice(["bicubic", "bilinear"])))
        coarse.append(face)
    x = torch.cat(coarse) + torch.randn(x.shape, generator=generator) * some(n, 1, 1, 1) ** 3 * 0.12
    pixels = (127.5 * (x.clamp(-1, 1) + 1)).permute(0, 2, 3, 1).byte().numpy()
    for i in np.flatnonzero(rng.random(n) < 0.4):
        jpeg = cv2.imencode(".jpg", pixels[i], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 90))])[1]
        pixels[i] = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    return to_crops(pixels), known


def objective(net: RimNetwork, x: Tensor, known: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Loss of a step's faces, drawn, bare and worn in this order, and its terms."""
    rim, worn = net(x)
    seen, true = rim[: DRAWN + BARE], known[: DRAWN + BARE, :, ROWS, COLUMNS]
    each = F.binary_cross_entropy_with_logits(seen, true, weight=1 + 4 * true)
    found, drawn = seen[:DRAWN].sigmoid(), true[:DRAWN]
    overlap = 2 * (found * drawn).sum((1, 2, 3)) + 1
    dice = (1 - overlap / (found.sum((1, 2, 3)) + drawn.sum((1, 2, 3)) + 1)).mean()
    wears = torch.tensor([1.0] * DRAWN + [0.0] * BARE + [1.0] * WORN)
    any_ = F.binary_cross_entropy_with_logits(worn, wears)
    return 3 * each + 0.3 * dice + 0.2 * any_, {"each": each.item(), "dice": dice.item(), "any": any_.item()}


def main(source: str, out: str, minutes: str = "22") -> None:
    torch.manual_seed(0)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    models = ModelStore()
    backbone = load_backbone(models.resolve("prior"))
    landmarks, expression, age, mesh = map(models.resolve, ("landmark68", "expression", "age_gender", "facemesh468"))
    attributes = AttributeNetworks(landmarks, expression, age, mesh, backbone.template).eval()
    faces = gather((source,), backbone.crop_size, backbone.template, detector, None)
    pictures = faces.pictures[~faces.held_out]
    with torch.inference_mode():
        parts = to_crops(pictures).split(64)
        points = torch.cat([attributes.landmarks(part).float() for part in parts]).numpy()
        bent = on_one_mesh(torch.cat(parts), torch.cat([attributes.mesh(part).float() for part in parts]))
        scores = wearing(bent).numpy()
    bare, wearers = np.flatnonzero(scores < NONE), np.flatnonzero(scores > SURE)
    held = np.arange(len(pictures)) % 10 == 9

    def drawn() -> tuple[Picture, Grey]:
        i = int(rng.choice(bare[~held[bare]]))
        return with_glasses(with_strokes(pictures[i], rng) if rng.random() < 0.3 else pictures[i], points[i], rng)

    net = RimNetwork()
    kept = [drawn() for _ in range(600)]
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-4)
    mean = {name: weight.clone() for name, weight in net.state_dict().items()}
    begun, step = time.monotonic(), 0
    while (progress := (time.monotonic() - begun) / 60 / float(minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 100, (1 - progress) / 0.6)
        for _ in range(2):
            if len(kept) < KEPT:
                kept.append(drawn())
            else:
                kept[int(rng.integers(KEPT))] = drawn()
        some = [kept[i] for i in rng.choice(len(kept), DRAWN, replace=False)]
        others = [pictures[i] for i in rng.choice(bare[~held[bare]], BARE, replace=False)]
        others = [with_strokes(face, rng) if rng.random() < 0.4 else face for face in others]
        own = list(pictures[rng.choice(wearers[~held[wearers]], WORN, replace=False)])
        x = to_crops(np.stack([face for face, _ in some] + others + own))
        known = F.pad(torch.from_numpy(np.stack([rim for _, rim in some]))[:, None], (0,) * 6 + (0, BARE + WORN))
        loss, terms = objective(net, *altered(x, known, rng, generator))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        step += 1
        for name, weight in net.state_dict().items():
            mean[name].lerp_(weight, 1 - min(0.998, step / (step + 10)))
        if step % 200 == 0:
            sys.stderr.write(f"{step} {terms}\n")
    save_file({name: weight.half().contiguous() for name, weight in mean.items()}, out)
    net.load_state_dict(mean)
    with torch.inference_mode():
        yes, no = (net(to_crops(pictures[rows[held[rows]]]))[1] for rows in (wearers, bare))
    area = float((yes[:, None] > no[None]).float().mean())
    sys.stderr.write(f"{step} steps; {len(yes)} held-out faces with glasses, {len(no)} without: area {area:.5f}\n")


if __name__ == "__main__":
    main(*sys.argv[1:4])
