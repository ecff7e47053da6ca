"""The face region of a crop, and the edited face in it."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

EYES_AND_MOUTH = (slice(36, 42), slice(42, 48), slice(60, 68))
"""Of 68 landmarks those around both eyes and inside the lips, in order."""
MOST_GAZE = 0.12
"""Largest share of a face that eyes and mouth may be: .035 in the median of 128 pictures of 16 people, at most .074."""
BLOCK = 8
"""Side of the cells in which light is averaged, in pixels."""
DARKER = 0.05
"""By how much skin between the brows and beside the mouth may be darker than the source's, of [-1, 1], and anything
darker than the darkest or lighter than the lightest that the source shows nearby."""
NEARBY = 0.03
"""How far that is, in fractions of the side: features may move."""
SMOOTH = 1 / 64
"""Standard deviation of the Gaussian by which bare skin is smooth, in fractions of the side."""
SHADED, LIT = 0.1, 0.15
"""By how much other bare skin may be darker or lighter than the source's, of [-1, 1]: a cheek, no drawn bar."""
ANGLES = 256
"""Directions in which the outline's radius is computed; interpolated between."""


def face_region(landmarks68: Tensor, size: int) -> Tensor:
    """Soft face region inside the outline of a face, zero beyond it, on the upper forehead and at the crop's border.

    The outline is the jaw and, above the brows, half the distance from eyes to mouth; its radius about the face's
    centre is interpolated over the angle, so that a turned head gets its own outline and no halo beside the cheek.

    Args:
        landmarks68: `(N, 68, 2)` in fractions of the crop's side.
        size: side of the crop in pixels.

    Returns:
        `(N, 1, size, size)` float32 in [0, 1]: 1 up to 0.82 of the way to the outline, falling as a raised cosine, and
        from the brows upwards falling to 0: fringes and caps belong to the picture.
    """
    points = landmarks68.float()
    eyes, mouth = points[:, 36:48].mean(1), points[:, 48:68].mean(1)
    down = mouth - eyes
    # Brows and jaw, in order around the face; the forehead's reach follows the head's tilt.
    outline = torch.cat([points[:, :17], points[:, 17:27].flip(1) - 0.5 * down[:, None]], 1)
    centre = (eyes + 0.4 * down)[:, None]
    spokes = outline - centre
    reach = spokes.norm(dim=2).clamp_min(1e-3)
    axis = (torch.arange(size, device=points.device) + 0.5) / size
    ys, xs = torch.meshgrid(axis, axis, indexing="ij")
    offset = torch.stack([xs, ys], -1).reshape(1, -1, 2) - centre
    distance = offset.norm(dim=2).clamp_min(1e-6)
    # The radius depends on the angle alone: a table of it, by a von Mises kernel of about 9 degrees over the outline.
    angles = torch.arange(ANGLES, device=points.device) * (2 * math.pi / ANGLES)
    closeness = torch.stack([angles.cos(), angles.sin()], -1) @ (spokes / reach[..., None]).transpose(1, 2)
    weight = torch.exp(40.0 * (closeness - 1)) + 1e-12
    table = (weight * reach[:, None]).sum(2) / weight.sum(2)
    place = torch.atan2(offset[..., 1], offset[..., 0]) * (ANGLES / (2 * math.pi)) % ANGLES
    low = place.long() % ANGLES  # a place just below a full turn may round to it
    radius = torch.lerp(table.gather(1, low), table.gather(1, (low + 1) % ANGLES), place.frac())
    inside = 0.5 - 0.5 * torch.cos(math.pi * ((1 - distance / radius) / 0.18).clamp(0, 1))
    border = (torch.minimum(axis, 1 - axis) / 0.05).clamp(0, 1)
    above = centre - points[:, 17:27].mean(1, keepdim=True) + offset  # from the brows
    height = -(above * down[:, None]).sum(2) / down.pow(2).sum(1, keepdim=True).clamp_min(1e-6)
    inside = inside * (0.5 + 0.5 * torch.cos(math.pi * ((height - 0.1) / 0.28).clamp(0, 1)))
    return inside.reshape(-1, 1, size, size) * border[None, None, :, None] * border


def skin_region(landmarks68: Tensor, size: int, reach: float = 0.03) -> Tensor:
    """Where a face shows bare skin: away from brows, eyes, nose and mouth.

    Args:
        landmarks68: `(N, 68, 2)` in fractions of the crop's side.
        size: side of the crop in pixels.
        reach: distance from a landmark, in fractions of the side, at which features give way to skin.

    Returns:
        `(N, 1, size, size)` float32 in [0, 1]; the face's outline is not looked at: multiply with `face_region`.
    """
    return 1 - _near(landmarks68[:, 17:], size, reach)


def _near(points: Tensor, size: int, reach: float | Tensor) -> Tensor:
    """`(N, 1, size, size)` float32: 1 at `(N, P, 2)` points, falling as a Gaussian of the distance to the nearest one.

    `reach` is its standard deviation in fractions of the side, one for all or `(N,)`.
    """
    points = points.float()
    axis = (torch.arange(size, device=points.device) + 0.5) / size
    dx = (points[:, :, 0, None] - axis).pow(2)
    dy = (points[:, :, 1, None] - axis).pow(2)
    nearest = (dx[:, :, None, :] + dy[:, :, :, None]).amin(1, keepdim=True)
    deviation = torch.as_tensor(reach, device=points.device).reshape(-1, 1, 1, 1)
    return torch.exp(-nearest / (2 * deviation.pow(2)))


def between_brows(landmarks68: Tensor, size: int) -> Tensor:
    """The skin between the brows, above the root of the nose.

    Args:
        landmarks68: `(N, 68, 2)` in fractions of the crop's side.
        size: side of the crop in pixels.

    Returns:
        `(N, 1, size, size)` float32 in [0, 1].
    """
    left, right, root = landmarks68[:, 21].float(), landmarks68[:, 22].float(), landmarks68[:, 27].float()
    middle, width = (left + right + root) / 3, (left - right).norm(dim=1).clamp_min(0.04)
    return _near(middle[:, None], size, 0.35 * width)


def beside_mouth(landmarks68: Tensor, size: int) -> Tensor:
    """The skin above the upper lip, below the lower one and at the corners: where a beard would grow.

    Args:
        landmarks68: `(N, 68, 2)` in fractions of the crop's side.
        size: side of the crop in pixels.

    Returns:
        `(N, 1, size, size)` float32 in [0, 1].
    """
    points = landmarks68.float()
    left, right = points[:, 48:49], points[:, 54:55]
    above = torch.lerp(points[:, 49:54], points[:, 31:36].mean(1, keepdim=True), 1 / 3)
    below = torch.lerp(points[:, 55:60], points[:, 7:10].mean(1, keepdim=True), 1 / 3)
    corners = left + 0.25 * (left - right), right + 0.25 * (right - left)
    height = (points[:, 51] - points[:, 33]).norm(dim=1).clamp_min(0.02)
    return _near(torch.cat([above, below, *corners], 1), size, 0.4 * height)


def eyes_and_mouth(landmarks68: Tensor, size: int) -> Tensor:
    """What lies between the lids and between the lips: gaze, blinks and speech, which an edit has to leave.

    Args:
        landmarks68: `(N, 68, 2)` in fractions of the crop's side.
        size: side of the crop in pixels.

    Returns:
        `(N, 1, size, size)` float32 in [0, 1].
    """
    found = []
    for points in landmarks68.detach().float().cpu().numpy() * size - 0.5:
        shown = np.zeros((size, size), np.uint8)
        for ring in EYES_AND_MOUTH:
            cv2.fillPoly(shown, [np.round(16 * points[ring]).astype(np.int32)], 255, cv2.LINE_AA, 4)
        found.append(cv2.GaussianBlur(shown, (0, 0), size / 160))
    return torch.from_numpy(np.stack(found)).to(landmarks68.device)[:, None].float() / 255


def gaze_region(landmarks68: Tensor, mask: Tensor) -> Tensor:
    """`eyes_and_mouth` of faces with `(N, 1, S, S)` masks; nothing of a face of which it is more than `MOST_GAZE`.

    Landmarks that were placed wrongly (a head on its side, a hand before it) span anything: then all of it is edited.
    """
    shown = eyes_and_mouth(landmarks68, mask.shape[-1])
    share = (mask * shown).sum((1, 2, 3), keepdim=True) / mask.sum((1, 2, 3), keepdim=True)
    return shown * (share <= MOST_GAZE)


def edited_region(landmarks68: Tensor, size: int, rims: Tensor | None, *, gaze: bool) -> tuple[Tensor, Tensor | None]:
    """Where faces are edited, and what of eyes and mouth stays there.

    Args:
        landmarks68: `(N, 68, 2)` in fractions of the crop's side.
        size: side of the crop in pixels.
        rims: `(N, 1, size, size)` in [0, 1], of glasses, which stay; None: there are none.
        gaze: leave what lies between the lids and the lips to the source.

    Returns:
        `(N, 1, size, size)` float32 in [0, 1] of `face_region` without the rims, and of `gaze_region` or None.
    """
    face = face_region(landmarks68, size)
    return face if rims is None else face * (1 - rims), gaze_region(landmarks68, face) if gaze else None


def leave_gaze(crops: Tensor, decoded: Tensor, shown: Tensor) -> Tensor:
    """Decoded edited latents with the source's eyes and open mouth, no finer than two pixels of the crop.

    Args:
        crops: `(N, 3, S, S)` source in [-1, 1].
        decoded: `(N, 3, S, S)`.
        shown: `(N, 1, S, S)` of `gaze_region`.
    """
    soft = F.interpolate(F.avg_pool2d(crops, 2), scale_factor=2.0, mode="bilinear", align_corners=False)
    return torch.lerp(decoded, soft.to(decoded.dtype), shown.to(decoded.dtype))


def softened(pictures: Tensor, region: Tensor, sigma: float) -> Tensor:
    """Gaussian mean of `(N, C, S, S)` pictures over what `(N, 1, S, S)` shows of them; `sigma` in pixels."""
    reach = max(1, int(2 * sigma))
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=pictures.device) / sigma) ** 2)
    line = line / line.sum()

    def mean(x: Tensor) -> Tensor:
        c = x.shape[1]
        x = F.conv2d(x, line.reshape(1, 1, 1, -1).expand(c, 1, 1, -1), padding=(0, reach), groups=c)
        return F.conv2d(x, line.reshape(1, 1, -1, 1).expand(c, 1, -1, 1), padding=(reach, 0), groups=c)

    return mean(pictures * region) / mean(region).clamp_min(1e-3)


def light(pictures: Tensor, region: Tensor) -> Tensor:
    """`(N, 3, S, S)` the light on a face: its colours over a tenth of the side, averaged over what `region` shows."""
    return _blurred(pictures, region, 0.1, BLOCK)


def _blurred(pictures: Tensor, region: Tensor, sigma: float, cell: int = 2) -> Tensor:
    """`softened` of `(N, C, S, S)` pictures by way of cells of so many pixels; `sigma` in fractions of the side."""
    cells = F.avg_pool2d(pictures * region, cell), F.avg_pool2d(region, cell)
    soft = softened(cells[0] / cells[1].clamp_min(1e-3), cells[1], sigma * pictures.shape[-1] / cell)
    return F.interpolate(soft, size=pictures.shape[-2:], mode="bilinear", align_corners=False)


def no_stronger(drawn: Tensor, own: Tensor, mask: Tensor) -> Tensor:
    """What is drawn, with no more contrast and no more colour over a face than the face itself has.

    A soft face in fog gets no drawn brows, and a face in black and white none in colour.

    Args:
        drawn: `(N, 3, S, S)` differences from the light on a face.
        own: `(N, 3, S, S)` the same of the source.
        mask: `(N, 1, S, S)` in [0, 1], where they are compared: by the root of the mean square over it.
    """

    def limited(drawn: Tensor, own: Tensor) -> Tensor:
        there, here = (((x.pow(2) * mask).sum((1, 2, 3), keepdim=True) + 1e-12).sqrt() for x in (own, drawn))
        return drawn * (there / here).clamp_max(1)

    grey, own_grey = drawn.mean(1, keepdim=True), own.mean(1, keepdim=True)
    return limited(grey, own_grey) + limited(drawn - grey, own - own_grey)


def relight(crops: Tensor, decoded: Tensor, mask: Tensor) -> Tensor:
    """Decoded edited latents in the source's own light: shadows and colours stay, also when they change in time.

    Args:
        crops: `(N, 3, S, S)` source in [-1, 1].
        decoded: `(N, 3, S, S)`.
        mask: `(N, 1, S, S)` in [0, 1], where light, contrast and colour are compared.
    """
    crops, mask = crops.to(decoded.dtype), mask.to(decoded.dtype)
    lit = light(crops, mask)
    return lit + no_stronger(decoded - light(decoded, mask), crops - lit, mask)


def unmarked(crops: Tensor, decoded: Tensor, landmarks68: Tensor, mask: Tensor, shown: Tensor | None = None) -> Tensor:
    """Decoded edited latents without marks on bare skin: there they are smooth, and about as light as the source's.

    What is drawn there are folds, bars on foreheads, streaks at temples and blots on cheeks; between the brows and
    beside the mouth, where nothing may get darker, it joins brows and gives women moustaches; noses get black wings and
    white tips, and sockets rings, and all of it blots in orange and slate: nothing is darker, lighter or of more colour
    than all that the source shows nearby. Where landmarks were placed wrongly nobody knows what is skin: there anything
    may be drawn, see `gaze_region`.

    Args:
        crops: `(N, 3, S, S)` source in [-1, 1].
        decoded: `(N, 3, S, S)`.
        landmarks68: `(N, 68, 2)` in fractions of the crop's side.
        mask: `(N, 1, S, S)` in [0, 1] of `edited_region`: what lies beyond it, and rims, are no skin.
        shown: `(N, 1, S, S)` of `gaze_region`: nothing, where landmarks are wrong; None: they are believed.
    """
    size, mask = crops.shape[-1], mask.to(decoded.dtype)
    joined = torch.maximum(1.6 * between_brows(landmarks68, size), 1.4 * beside_mouth(landmarks68, size)).clamp_max(1)
    bare = F.interpolate(skin_region(landmarks68, size // 4), size=(size, size), mode="bilinear", align_corners=False)
    known = torch.ones_like(mask[:, :, :1, :1]) if shown is None else (shown.amax((2, 3), keepdim=True) > 0).to(mask)
    joined, bare = known * joined.to(decoded.dtype), known * bare.to(decoded.dtype)
    grey, colour = _grey_and_colour(crops.to(decoded.dtype))
    own = _blurred(grey, mask, 1 / 42)
    smooth = _blurred(decoded, bare * mask + 1e-3, SMOOTH)
    drawn = torch.lerp(decoded, smooth, bare * mask)
    drawn = drawn + joined * _off(drawn, own, DARKER, math.inf)
    drawn = drawn + bare * _off(drawn, own, SHADED, LIT)
    drawn_grey, drawn_colour = _grey_and_colour(drawn)
    held = _as_nearby(drawn_grey, grey, DARKER, 2) + _as_nearby(drawn_colour, colour, 0.0, 4)
    return torch.lerp(drawn, held, known)


def _grey_and_colour(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """`(N, 1, S, S)` means over the channels of `(N, 3, S, S)` pictures, and `(N, 3, S, S)` the rest."""
    grey = pictures.mean(1, keepdim=True)
    return grey, pictures - grey


def _off(drawn: Tensor, own: Tensor, darker: float, lighter: float) -> Tensor:
    """`(N, 1, S, S)` what pictures `(N, 3, S, S)` lack to be as dark and as light as they may be.

    By at most so much darker or lighter than `own` `(N, 1, S, S)`; the nearer they come to it, the more is held back:
    where a limit cut them off, its outline would be seen.
    """
    change = drawn.mean(1, keepdim=True) - own
    share = (change / torch.where(change < 0, darker, lighter)).abs()
    return change / (1 + share.pow(3)).pow(1 / 3) - change


def _as_nearby(drawn: Tensor, source: Tensor, beyond: float, cell: int) -> Tensor:
    """Drawn `(N, C, S, S)` values within what the source's are within `NEARBY`, and so much beyond.

    They are looked up in cells of `cell` pixels.
    """
    size = source.shape[-1]
    reach = round(NEARBY * size / cell)
    cells = F.avg_pool2d(source, cell)
    ends = F.max_pool2d(torch.cat([-cells, cells], 1), 2 * reach + 1, 1, reach)
    ends = F.avg_pool2d(ends, 3, 1, 1, count_include_pad=False)
    least, most = F.interpolate(ends, size=(size, size), mode="bilinear", align_corners=False).chunk(2, 1)
    return drawn.clamp(-least - beyond, most + beyond)


def fitted(crops: Tensor, decoded: Tensor, landmarks68: Tensor, mask: Tensor, shown: Tensor | None) -> Tensor:
    """Decoded edited latents as they are put into the source: in its light, on its skin, with its gaze and speech.

    Args:
        crops: `(N, 3, S, S)` source in [-1, 1].
        decoded: `(N, 3, S, S)`.
        landmarks68: `(N, 68, 2)` in fractions of the crop's side.
        mask: `(N, 1, S, S)` of `edited_region`.
        shown: `(N, 1, S, S)` of `gaze_region`; None: eyes and mouth are edited, too.
    """
    decoded = unmarked(crops, relight(crops, decoded, mask), landmarks68, mask, shown)
    return decoded if shown is None else leave_gaze(crops, decoded, shown)


def composite(crops: Tensor, edited: Tensor, mask: Tensor) -> Tensor:
    """Put decoded edited latents into the source: inside the mask stays of the source what `fitted` left, no more.

    Args:
        crops: `(N, 3, S, S)` source in [-1, 1].
        edited: `(N, 3, S, S)` decoded.
        mask: `(N, 1, S, S)` in [0, 1].

    Returns:
        `(N, 3, S, S)` in [-1, 1].
    """
    return torch.lerp(crops, edited.to(crops.dtype), mask).clamp(-1, 1)
