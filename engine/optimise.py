"""Find one identity direction for a person from a few key crops: Adam on the direction, the model stays frozen."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fluidvid.engine.backbone import Backbone
from fluidvid.engine.composite import composite, soft_mask
from fluidvid.engine.face_networks import AttributeNetworks, Recogniser
from fluidvid.engine.losses import (
    LossWeights,
    attribute_terms,
    colour_shift,
    displace_to,
    manifold,
    steady,
    suppress,
    total_variation,
    weighted_sum,
)
from fluidvid.engine.plan import CropEditor
from fluidvid.engine.subspace import DirectionSpace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OptimiseOptions:
    """Budget and targets of one person's direction.

    Attributes:
        steps: most Adam steps.
        learning_rate: on the coordinates of the direction.
        margin: each guide's cosine to the source should fall below this share of its own 1 % FAR threshold.
        detail: see `fluidvid.engine.composite.composite`.
        patience: stop after this many steps with every guide under its margin.
        weights: of the loss terms.
    """

    steps: int = 30
    learning_rate: float = 0.3
    margin: float = 0.4
    detail: float = 1.0
    patience: int = 4
    weights: LossWeights = field(default_factory=LossWeights)


@dataclass(frozen=True, eq=False)
class Optimised:
    """A direction in the coordinates of its space, and how the search went.

    Attributes:
        coordinates: what `DirectionSpace.directions` turns into `(L, C, h, w)`.
        steps: Adam steps made.
        seconds: wall clock.
        terms: last value of every loss term.
    """

    coordinates: Tensor
    steps: int
    seconds: float
    terms: dict[str, float]


def optimise_direction(
    backbone: Backbone,
    editor: CropEditor,
    space: DirectionSpace,
    guides: Sequence[Recogniser],
    attributes: AttributeNetworks,
    crops: Tensor,
    landmarks: Tensor,
    noise: Tensor,
    *,
    targets: dict[str, Tensor] | None = None,
    start: Tensor | None = None,
    options: OptimiseOptions | None = None,
    generator: torch.Generator | None = None,
) -> Optimised:
    """Optimise one direction over a person's key crops.

    Args:
        backbone: frozen model.
        editor: the path that is differentiated (difference editing).
        space: coordinates of directions.
        guides: recognisers whose cosine is suppressed.
        attributes: networks of what stays.
        crops: `(K, 3, S, S)` in [-1, 1], aligned to the backbone's template.
        landmarks: `(K, 5, 2)` crop pixels.
        noise: `(c, s, s)` the track's fixed noise.
        targets: pseudonym's unit embedding `(D,)` by guide name.
        start: coordinates to begin with; zero if None.
        options: budget and weights.
        generator: source of the manifold term's noise.
    """
    options = options or OptimiseOptions()
    weights = options.weights
    began = time.monotonic()
    device = backbone.device
    crops, landmarks = crops.to(device), landmarks.to(device)
    with torch.no_grad():
        z = backbone.encode(crops)
        before = backbone.decode(z)
        source = {g.name: g(crops) for g in guides}
        kept = attributes(crops, mesh=weights.mesh > 0)
    mask = soft_mask(landmarks, crops.shape[-1])
    fixed = noise.to(device, z.dtype).expand_as(z)
    strength = torch.ones(len(z), device=device)
    coordinates = (space.zero() if start is None else start.clone()).to(device).requires_grad_()
    optimiser = torch.optim.Adam([coordinates], lr=options.learning_rate, betas=(0.9, 0.99))
    quiet, values, best = 0, {}, coordinates.detach().clone()
    steps = 0
    for _ in range(options.steps):
        steps += 1
        directions = space.directions(coordinates).to(z.dtype)
        _, after = editor(z, directions[None].expand(len(z), *directions.shape), fixed, strength)
        decoded = backbone.decode(after)
        edited = composite(crops, before, decoded, mask, options.detail)
        change = mask * (decoded - before)
        terms = {name: edited.new_zeros(()) for name in ("suppress", "displace", "steady")}
        under = True
        for guide in guides:
            embedding = guide(edited)
            margin = options.margin * guide.threshold
            under &= bool(((embedding * source[guide.name]).sum(1) < margin).all())
            terms["suppress"] = terms["suppress"] + suppress(embedding, source[guide.name], margin) / len(guides)
            terms["steady"] = terms["steady"] + steady(embedding, source[guide.name]) / len(guides)
            if targets is not None and guide.name in targets:
                terms["displace"] = terms["displace"] + displace_to(embedding, targets[guide.name]) / len(guides)
        terms |= attribute_terms(attributes(edited, mesh=weights.mesh > 0), kept)
        terms["residual"], terms["variation"] = change.abs().mean(), total_variation(change)
        if weights.colour:
            terms["colour"] = colour_shift(change, mask)
        if weights.manifold:
            level_noise = torch.randn(z.shape[1:], generator=generator).to(device, z.dtype)
            terms["manifold"] = manifold(backbone, after, z, level_noise)
        terms["prior"] = space.prior(coordinates)
        loss = weighted_sum(terms, weights)
        values = {name: value.item() for name, value in terms.items()}
        best = coordinates.detach().clone()
        quiet = quiet + 1 if under else 0
        if quiet > options.patience:
            break
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    log.debug("direction after %d steps: %s", steps, values)
    return Optimised(best.cpu(), steps, time.monotonic() - began, values)
