"""Find one identity direction for a person from a few key crops: Adam on the direction, the model stays frozen."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fluidvid.engine.backbone import Backbone
from fluidvid.engine.composite import composite, face_region, skin_region
from fluidvid.engine.face_networks import AttributeNetworks, Recogniser
from fluidvid.engine.losses import (
    LossWeights,
    attribute_terms,
    colour_shift,
    displace_to,
    manifold,
    part_correlation,
    part_windows,
    parts,
    skin_change,
    steady,
    suppress,
    total_variation,
    weighted_sum,
)
from fluidvid.engine.plan import CropEditor
from fluidvid.engine.subspace import DirectionSpace

log = logging.getLogger(__name__)

MANIFOLD = (120, 400)
"""Timesteps between which the manifold term looks, at one in each step."""


class SearchStopped(Exception):  # noqa: N818 - no error: somebody wanted it
    """A search that nobody waits for any more."""


@dataclass(frozen=True)
class OptimiseOptions:
    """Budget and targets of one person's direction.

    Attributes:
        steps: most Adam steps.
        least: fewest; after them the search ends as soon as every guide is under its margin.
        learning_rate: on the coordinates of the direction.
        margin: each guide's cosine to the source should fall below this share of its own 1 % FAR threshold.
        weights: of the loss terms.
    """

    steps: int = 8
    least: int = 4
    learning_rate: float = 0.25
    margin: float = 0.0
    weights: LossWeights = field(default_factory=LossWeights)


@dataclass(frozen=True, eq=False)
class Optimised:
    """A direction in the coordinates of its space, and how the search went.

    Attributes:
        coordinates: what `DirectionSpace.directions` turns into `(L, C, h, w)`.
        candidate: the one that was taken.
        steps: Adam steps made.
        seconds: wall clock.
        terms: last value of every loss term.
    """

    coordinates: Tensor
    candidate: Candidate
    steps: int
    seconds: float
    terms: dict[str, float]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A pseudonym to try: its row in the bank, unit embedding `(D,)` by guide name, coordinates to begin with (None:
    zero).
    """

    row: int | None = None
    targets: dict[str, Tensor] = field(default_factory=dict)
    start: Tensor | None = None


class _Objective:
    """The loss of a direction over a person's key crops; everything that does not depend on it is computed once."""

    def __init__(
        self,
        backbone: Backbone,
        editor: CropEditor,
        space: DirectionSpace,
        guides: Sequence[Recogniser],
        attributes: AttributeNetworks,
        crops: Tensor,
        noise: Tensor,
        options: OptimiseOptions,
        generator: torch.Generator | None,
    ) -> None:
        self.backbone, self.editor, self.space, self.options = backbone, editor, space, options
        self.guides, self.attributes, self.generator = guides, attributes, generator
        self.crops = crops.to(backbone.device)
        # A cosine means the more, the lower the threshold it is compared with; on average 1.
        strict = torch.tensor([g.threshold for g in guides]).pow(-2)
        self.stress = dict(zip((g.name for g in guides), (strict / strict.mean()).tolist(), strict=True))
        with torch.no_grad():
            self.z = backbone.encode(self.crops)
            self.source = {g.name: g(self.crops) for g in guides}
            self.kept = attributes(self.crops, mesh=options.weights.mesh > 0)
            self.mask = face_region(self.kept.landmarks, crops.shape[-1])
            self.windows = part_windows(self.kept.landmarks)
            self.parts = parts(self.crops, self.windows)
            self.skin = self.mask * skin_region(self.kept.landmarks, crops.shape[-1])
            self.noise = noise.to(backbone.device, self.z.dtype).expand_as(self.z)
            zero = space.directions(space.zero().to(backbone.device)).to(self.z.dtype)
            self.before = backbone.decode(self._edit(zero)[0])

    def _edit(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        values = directions[None].expand(len(self.z), *directions.shape)
        return self.editor(self.z, values, self.noise, torch.ones(len(self.z), device=self.z.device))

    def __call__(
        self, coordinates: Tensor, candidate: Candidate, guides: Sequence[Recogniser]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a direction on its way to a candidate as some guides see it, and its terms."""
        options, weights = self.options, self.options.weights
        _, after = self._edit(self.space.directions(coordinates).to(self.z.dtype))
        decoded = self.backbone.decode(after)
        edited = composite(self.crops, decoded, self.mask)
        change = self.mask * (decoded - self.before)
        terms = {name: edited.new_zeros(()) for name in ("suppress", "displace", "steady")}
        regular = often(self.guides)
        for guide in guides:
            # Who looks at every second step counts twice.
            share = (1 if guide in regular else 2) / (2 * len(self.guides) - len(regular))
            with self.backbone.unet.autocast():  # gradients need no more; what verifies looks in full precision
                embedding = guide(edited)
            source = self.source[guide.name]
            margin = options.margin * guide.threshold
            stress = share * self.stress[guide.name]
            terms["suppress"] = terms["suppress"] + stress * suppress(embedding, source, margin)
            terms["steady"] = terms["steady"] + share * steady(embedding, source)
            if guide.name in candidate.targets:
                goal = candidate.targets[guide.name].to(embedding)
                terms["displace"] = terms["displace"] + share * displace_to(embedding, goal)
        terms |= attribute_terms(self.attributes(edited, mesh=weights.mesh > 0), self.kept)
        terms["parts"] = part_correlation(parts(edited, self.windows), self.parts)
        terms["residual"], terms["variation"] = change.abs().mean(), total_variation(change)
        if weights.colour:
            terms["colour"] = colour_shift(change, self.mask)
        if weights.skin:
            terms["skin"] = skin_change(change, self.skin)
        if weights.manifold:
            level_noise = torch.randn(self.z.shape[1:], generator=self.generator).to(self.z)
            level = int(torch.randint(*MANIFOLD, (1,), generator=self.generator))
            terms["manifold"] = manifold(self.backbone, after, self.z, level_noise, (level,))
        start = candidate.start
        terms["prior"] = self.space.prior(coordinates if start is None else coordinates - start.to(coordinates))
        return weighted_sum(terms, weights), terms


def often(guides: Sequence[Recogniser]) -> Sequence[Recogniser]:
    """Guides that look at every step: all but the last, which is the dearest and looks at every second."""
    return guides[: max(1, len(guides) - 1)]


def optimise_direction(
    backbone: Backbone,
    editor: CropEditor,
    space: DirectionSpace,
    guides: Sequence[Recogniser],
    attributes: AttributeNetworks,
    crops: Tensor,
    noise: Tensor,
    *,
    candidates: Sequence[Candidate] = (),
    options: OptimiseOptions | None = None,
    generator: torch.Generator | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Optimised:
    """Optimise one direction over a person's key crops.

    Args:
        backbone: frozen model.
        editor: the path that is differentiated (difference editing).
        space: coordinates of directions.
        guides: recognisers whose cosine is suppressed.
        attributes: networks of what stays.
        crops: `(K, 3, S, S)` in [-1, 1], aligned to the backbone's template.
        noise: `(c, s, s)` the track's fixed noise.
        candidates: pseudonyms to choose from: the one whose start has the least loss is taken; none suppresses only.
        options: budget and weights.
        generator: source of the manifold term's noise.
        stopping: asked at every step.

    Raises:
        SearchStopped: `stopping` said so.
    """
    options = options or OptimiseOptions()
    began = time.monotonic()
    parts = (backbone, editor, space, guides, attributes)
    chosen = candidates[0] if candidates else Candidate()
    if len(candidates) > 1:  # one crop tells them apart
        glance = _Objective(*parts, crops[:1], noise, options, generator)
        with torch.no_grad():
            losses = [float(glance(_start(c, space, backbone), c, guides)[0]) for c in candidates]
        chosen = candidates[min(range(len(losses)), key=losses.__getitem__)]
    objective = _Objective(*parts, crops, noise, options, generator)
    coordinates = _start(chosen, space, backbone).requires_grad_()
    optimiser = torch.optim.Adam([coordinates], lr=options.learning_rate, betas=(0.9, 0.99))
    values, last, steps = {}, coordinates.detach().clone(), 0
    for step in range(options.steps + 1):
        if stopping():
            raise SearchStopped("the search was stopped")
        everybody = step % 2 == 0
        loss, terms = objective(coordinates, chosen, guides if everybody else often(guides))
        values = {name: value.item() for name, value in terms.items()}
        last, steps = coordinates.detach().clone(), step
        if step == options.steps or (step >= options.least and everybody and values["suppress"] <= 0):
            break
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    log.debug("direction after %d steps: %s", steps, values)
    return Optimised(last.cpu(), chosen, steps, time.monotonic() - began, values)


def _start(candidate: Candidate, space: DirectionSpace, backbone: Backbone) -> Tensor:
    """A fresh copy of the coordinates with which the search for a candidate begins."""
    return (space.zero() if candidate.start is None else candidate.start).clone().to(backbone.device)
