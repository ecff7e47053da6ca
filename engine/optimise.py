"""Find one identity direction for a person from a few key crops: Adam on the direction, the model stays frozen."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fluidvid.engine.backbone import Backbone
from fluidvid.engine.composite import (
    between_brows,
    composite,
    edited_region,
    fitted,
    skin_region,
    softened,
)
from fluidvid.engine.face_networks import AttributeNetworks, Recogniser
from fluidvid.engine.losses import (
    LossWeights,
    apart_from,
    attribute_terms,
    change_within,
    darker_than,
    displace_to,
    manifold,
    part_correlation,
    part_windows,
    parts,
    suppress,
    total_variation,
    weighted_sum,
)
from fluidvid.engine.plan import CropEditor, extrapolated
from fluidvid.engine.shares import Shares
from fluidvid.engine.subspace import DirectionSpace

log = logging.getLogger(__name__)

MANIFOLD = (450, 700)
"""Timesteps between which the manifold term looks, at one in each step: the prior must have to guess the face, and not
only its detail, to tell a drawn one."""

BLUR = 0.012
"""Standard deviation, in shares of the crop's side, of a blur through which recognisers look half of the time: what an
edit of a small face draws finer than that is lost to who blurs the result, as the audit does (benchmarks/PRIOR.md)."""


class SearchStopped(Exception):  # noqa: N818 - no error: somebody wanted it
    """A search that nobody waits for any more."""


@dataclass(frozen=True)
class OptimiseOptions:
    """Budget and targets of one person's direction.

    Attributes:
        steps: Adam steps; each looks at one crop, in turn.
        learning_rate: on coordinates that begin at zero, in standard deviations of a component over the pseudonyms.
        refining_rate: on coordinates that begin at a direction of the bank or a known one: near it are faces.
        averaged: share of the steps, the last ones, over which the coordinates are averaged: at a constant rate, and
            with another crop at every step, they swing around what is looked for (Polyak and Juditsky, 1992).
        margin: each guide's cosine to the source should fall below this share of its own 1 % FAR threshold.
        gaze: leave what lies between the lids and the lips to the source.
        weights: of the loss terms.
    """

    steps: int = 20
    learning_rate: float = 0.25
    refining_rate: float = 0.22
    averaged: float = 0.5
    margin: float = 0.0
    gaze: bool = True
    weights: LossWeights = field(default_factory=LossWeights)


@dataclass(frozen=True, eq=False)
class Optimised:
    """A direction in the coordinates of its space, and how the search went.

    Attributes:
        coordinates: what `DirectionSpace.directions` turns into `(L, C, h, w)`.
        candidate: the one that was taken.
        others: those that were not, the best start first, with how they were `seen`.
        seconds: wall clock.
        terms: last value of every loss term.
    """

    coordinates: Tensor
    candidate: Candidate
    others: Sequence[Candidate]
    seconds: float
    terms: dict[str, float]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A pseudonym to try.

    Attributes:
        row: in the bank.
        targets: unit embedding `(D,)` by guide name.
        start: coordinates to begin with (None: zero).
        seen: what guides see of the person there, unit embedding `(D,)` by guide name; empty: nobody looked, or there
            is no start of its own.
    """

    row: int | None = None
    targets: dict[str, Tensor] = field(default_factory=dict)
    start: Tensor | None = None
    seen: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Aim:
    """Where a search leads.

    Attributes:
        candidate: whom to become.
        rivals: whom not to look like, `(M, D)` by guide name.
        begun: `(K, 3, S, S)` the crops as the search began, not to be left by far; None: it begins nowhere.
    """

    candidate: Candidate
    rivals: Mapping[str, Tensor] = field(default_factory=dict)
    begun: Tensor | None = None


@dataclass(frozen=True, eq=False)
class _Noise:
    """With what the prior is asked about a crop: noise `(c, s, s)` and the timestep to which it is added."""

    noise: Tensor
    timestep: int


@dataclass(frozen=True)
class _LookAt:
    """Which guides look at which crop, and whether through a blur."""

    guides: Sequence[Recogniser]
    crop: int
    blurred: bool = False


Terms = dict[str, Tensor]
"""Loss terms by the name of their weight, each of shape `()`."""


class _Computed(torch.autograd.Function):
    """A loss of `x` that was computed elsewhere, with its gradient: `_Computed.apply(x, value, gradient)`."""

    @staticmethod
    def forward(ctx: Any, _: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return above[0] * gradient, None, None


class Objective:
    """The loss of a direction on one of a person's key crops; what does not depend on it is computed once for all.

    Args:
        backbone: frozen model.
        editor: the path that is differentiated (difference editing).
        space: coordinates of directions.
        guides: recognisers whose cosine is suppressed.
        attributes: networks of what stays.
        crops: `(K, 3, S, S)` in [-1, 1], aligned to the backbone's template.
        source: their unit embeddings `(K, D)` by guide name.
        noise: `(c, s, s)` the person's own.
        options: budget and weights; `under` changes them.
        shares: lets networks look at once; None: one after another.
        rims: `(K, 1, S, S)` in [0, 1], of glasses, which stay; None: there are none.
        strength: at which directions are tried, see `EditorOptions.strength`.
    """

    def __init__(
        self,
        backbone: Backbone,
        editor: CropEditor,
        space: DirectionSpace,
        guides: Sequence[Recogniser],
        attributes: AttributeNetworks,
        crops: Tensor,
        source: Mapping[str, Tensor],
        noise: Tensor,
        options: OptimiseOptions,
        shares: Shares | None = None,
        rims: Tensor | None = None,
        strength: float = 1.0,
    ) -> None:
        self.backbone, self.space, self.options, self.strength = backbone, space, options, strength
        self.shares = shares or Shares(backbone.device, 1)
        self.guides, self.attributes, self.source, self.noise = guides, attributes, source, noise
        self.crops = crops.to(backbone.device)
        # A cosine means the more, the lower the threshold it is compared with; on average 1.
        strict = torch.tensor([g.threshold for g in guides]).pow(-2)
        self.stress = dict(zip((g.name for g in guides), (strict / strict.mean()).tolist(), strict=True))
        with torch.no_grad():
            self.z = backbone.encode(self.crops)
            self.edits = [editor.at(z, noise.to(z)[None]) for z in self.z.split(1)]
            self.before = backbone.decode(self.z)
            self.kept = attributes(self.crops, mesh=options.weights.mesh > 0)
            self.mask, self.shown = edited_region(self.kept.landmarks, crops.shape[-1], rims, gaze=options.gaze)
            self.windows = part_windows(self.kept.landmarks)
            self.parts = parts(self.crops, self.windows)
            self.between = self.mask * between_brows(self.kept.landmarks, crops.shape[-1])
            self.skin = self.mask * skin_region(self.kept.landmarks, crops.shape[-1])

    def under(self, options: OptimiseOptions) -> Objective:
        """The same with another budget and other weights; `gaze`, and whether `mesh` counts, stay as they were."""
        other = copy(self)
        other.options = options
        return other

    def edited(self, coordinates: Tensor, crop: int) -> tuple[Tensor, Tensor, Tensor]:
        """A direction applied to one crop: latents `(1, c, s, s)`, decoded and composited `(1, 3, S, S)`."""
        this = slice(crop, crop + 1)
        z, mask = self.z[this], self.mask[this]
        directions = self.space.directions(coordinates).to(z.dtype)
        strength = z.new_full((1,), self.strength)
        before, after = self.edits[crop](directions[None], strength.clamp_max(1))
        after = extrapolated(before, after, strength)
        landmarks, shown = self.kept.landmarks[this], None if self.shown is None else self.shown[this]
        decoded = fitted(self.crops[this], self.backbone.decode(after), landmarks, mask, shown)
        return after, decoded, composite(self.crops[this], decoded, mask)

    @torch.no_grad()
    def pictures(self, coordinates: Tensor) -> Tensor:
        """All crops with a direction applied, `(K, 3, S, S)`."""
        return torch.cat([self.edited(coordinates, crop)[2] for crop in range(len(self.crops))])

    def start(self, candidate: Candidate) -> Tensor:
        """A fresh copy of the coordinates with which the search for a candidate begins."""
        begun = self.space.zero() if candidate.start is None else candidate.start
        return begun.clone().to(self.backbone.device)

    def draw(self, generator: torch.Generator | None) -> _Noise | None:
        """With what the prior is asked next; None: it is not asked."""
        if not self.options.weights.manifold:
            return None
        noise = torch.randn(self.z.shape[1:], generator=generator).to(self.z)
        timestep = int(torch.randint(*MANIFOLD, (1,), generator=generator))
        return _Noise(noise, min(timestep, len(self.backbone.schedule.alphas_cumprod) - 1))

    def __call__(
        self, coordinates: Tensor, aim: _Aim, look: _LookAt, drawn: _Noise | None
    ) -> tuple[Tensor, Terms, dict[str, Tensor]]:
        """Loss of a direction at one look, its terms, and what the guides see."""
        weights, this = self.options.weights, slice(look.crop, look.crop + 1)
        after, decoded, edited = self.edited(coordinates, look.crop)
        change = self.mask[this] * (decoded - self.before[this])
        terms: Terms = {"residual": change.abs().mean(), "variation": total_variation(change)}
        if weights.skin:
            terms["skin"] = change_within(change, self.skin[this])
        if aim.begun is not None:
            terms["begun"] = change_within(edited - aim.begun[this], self.mask[this])
            terms["brows"] = darker_than(edited, aim.begun[this], self.between[this])
        start = aim.candidate.start
        terms["prior"] = self.space.prior(coordinates if start is None else coordinates - start.to(coordinates))
        loss = weighted_sum(terms, weights)
        viewed = edited
        if look.blurred:
            viewed = softened(edited, torch.ones_like(edited[:, :1]), BLUR * edited.shape[-1])
        # The networks do not wait for each other; the dearest begin.
        seen: dict[str, Tensor] = {}
        regular = often(self.guides)
        jobs = [
            partial(self._seen_by, guide, aim, this, seen)
            for guide in sorted(look.guides, key=lambda guide: guide in regular)
        ]
        apart = [self._apart(partial(self._kept, this), edited), *(self._apart(job, viewed) for job in jobs)]
        if drawn is not None:
            apart.insert(1, self._apart(partial(self._likely, this, drawn), after))
        for part, found in self.shares.each(apart):
            loss = loss + part
            for name, value in found.items():
                terms[name] = terms[name] + value if name in terms else value
        return loss, terms, seen

    def _apart(self, job: Callable[[Tensor], Terms], x: Tensor) -> Callable[[], tuple[Tensor, Terms]]:
        """What computes a job's loss of `x`, and any gradient of it, apart from the graph behind `x`."""
        wanted = x.requires_grad and torch.is_grad_enabled()

        def work() -> tuple[Tensor, Terms]:
            leaf = x.detach().requires_grad_(wanted)
            with torch.set_grad_enabled(wanted):
                terms = job(leaf)
                loss = weighted_sum(terms, self.options.weights)
                if not wanted:
                    return loss, terms
                (gradient,) = torch.autograd.grad(loss, leaf)
                computed: Tensor = _Computed.apply(x, loss.detach(), gradient)  # type: ignore[no-untyped-call]
            return computed, {name: value.detach() for name, value in terms.items()}

        return work

    def _seen_by(self, guide: Recogniser, aim: _Aim, this: slice, seen: dict[str, Tensor], edited: Tensor) -> Terms:
        """What one guide says of the person, the pseudonym and its rivals; adds what it sees, `(D,)`, to `seen`."""
        regular = often(self.guides)
        # Who looks at every second step counts twice.
        share = (1 if guide in regular else 2) / (2 * len(self.guides) - len(regular))
        with self.backbone.unet.autocast():  # gradients need no more; what verifies looks in full precision
            embedding = guide(edited)
        margin = self.options.margin * guide.threshold
        source = self.source[guide.name][this]
        terms = {"suppress": share * self.stress[guide.name] * suppress(embedding, source, margin)}
        if guide.name in aim.candidate.targets:
            terms["displace"] = share * displace_to(embedding, aim.candidate.targets[guide.name].to(embedding))
        if guide.name in aim.rivals:
            terms["apart"] = share * apart_from(embedding, aim.rivals[guide.name].to(embedding))
        seen[guide.name] = embedding.detach()[0]
        return terms

    def _kept(self, this: slice, edited: Tensor) -> Terms:
        """How far attributes, eyes and mouth are from the source's."""
        terms = attribute_terms(self.attributes(edited, mesh=self.options.weights.mesh > 0), self.kept[this])
        terms["parts"] = part_correlation(parts(edited, self.windows[this]), self.parts[this])
        return terms

    def _likely(self, this: slice, drawn: _Noise, after: Tensor) -> Terms:
        """How little the prior takes edited latents for a face."""
        return {"manifold": manifold(self.backbone, after, self.z[this], drawn.noise, (drawn.timestep,))}


def often(guides: Sequence[Recogniser]) -> Sequence[Recogniser]:
    """Guides that look at every step: all but the last two, which are the dearest and take turns."""
    return guides[: max(1, len(guides) - 2)]


def optimise_direction(
    objective: Objective,
    *,
    candidates: Sequence[Candidate] = (),
    rivals: Sequence[Candidate] = (),
    generator: torch.Generator | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Optimised:
    """Optimise one direction over a person's key crops.

    Args:
        objective: the crops, what looks at them, budget and weights.
        candidates: pseudonyms to choose from: the one whose start has the least loss is taken; none suppresses only.
        rivals: further pseudonyms that were `seen` and must not be looked like, as must not be the others of these.
        generator: source of the manifold term's noise.
        stopping: asked at every step.

    Raises:
        SearchStopped: `stopping` said so.
    """
    options, guides, crops = objective.options, objective.guides, len(objective.crops)
    began = time.monotonic()
    ordered = list(candidates) or [Candidate()]
    if len(ordered) > 1:  # one crop tells them apart
        drawn = objective.draw(generator)

        @torch.no_grad()
        def judged(candidate: Candidate) -> tuple[float, Candidate]:
            loss, _, seen = objective(objective.start(candidate), _Aim(candidate), _LookAt(guides, 0), drawn)
            return float(loss), candidate if candidate.start is None else replace(candidate, seen=seen)

        looked = objective.shares.each([partial(judged, candidate) for candidate in ordered])
        ordered = [candidate for _, candidate in sorted(looked, key=lambda each: each[0])]
    chosen, *others = ordered
    seen = [rival.seen for rival in (*rivals, *others) if rival.seen]
    apart = {guide.name: torch.stack([each[guide.name] for each in seen]) for guide in guides} if seen else {}
    coordinates = objective.start(chosen).requires_grad_()
    held = options.weights.begun or options.weights.brows
    begun = objective.pictures(coordinates) if held and chosen.start is not None else None
    aim = _Aim(chosen, apart, begun)
    rate = options.learning_rate if chosen.start is None else options.refining_rate
    optimiser = torch.optim.Adam([coordinates], lr=rate, betas=(0.9, 0.99))
    values: dict[str, float] = {}
    found = coordinates.detach().clone()
    first = options.steps - max(1, round(options.averaged * options.steps))
    for step in range(options.steps):
        if stopping():
            raise SearchStopped("the search was stopped")
        loss, terms, _ = objective(coordinates, aim, _look(step, guides, crops), objective.draw(generator))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        found.lerp_(coordinates.detach(), 1 / max(1, step - first + 1))
        values = {name: value.item() for name, value in terms.items()}
    log.debug("direction after %d steps: %s", options.steps, values)
    return Optimised(found.cpu(), chosen, others, time.monotonic() - began, values)


def _look(step: int, guides: Sequence[Recogniser], crops: int) -> _LookAt:
    """Who looks at which crop in a step: in 2 K steps everybody looks at each of K crops, most of them once more."""
    pair, odd = divmod(step, 2)
    regular = often(guides)
    asked = [*regular, *guides[len(regular) :][odd::2]]
    # Everybody looks at every crop with the blur and without it: an even number of crops would tie it to the crop.
    turns = pair + (pair // crops if crops % 2 == 0 else 0)
    return _LookAt(asked, (pair + odd * (crops // 2)) % crops, blurred=turns % 2 == 1)
