"""Find a person's direction and verify it: pseudonyms to choose from, rounds of optimisation, and the judges."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fluidvid.engine.backbone import Backbone
from fluidvid.engine.cache import FIRST, Known, Provenance
from fluidvid.engine.composite import composite, edited_region, fitted
from fluidvid.engine.face_networks import AttributeNetworks, Recogniser
from fluidvid.engine.glasses import WORN, Glasses
from fluidvid.engine.losses import eye_distance
from fluidvid.engine.optimise import Candidate, Objective, OptimiseOptions, optimise_direction
from fluidvid.engine.plan import CropEditor, Direction, extrapolated
from fluidvid.engine.pseudonyms import Person, PseudonymBank
from fluidvid.engine.shares import Shares
from fluidvid.engine.subspace import DirectionSpace

log = logging.getLogger(__name__)

STILL = 0.015
"""Mean change of the latents, in their standard deviations, below which nothing is edited (about one grey level): the
first stage alone changes a face by 3 grey levels, and must not pass for an edit where pictures are written."""
FACES, LOOKS = 600, 4
"""Timestep at which the prior says how much it takes a result for a face, and noises with which it is asked: at this
level that agrees with the eye, at those below 400 it does not (benchmarks/PRIOR.md)."""
LOOSER = 0.25
"""Share of the weights with which the next round of a search is held where it begins: who is still seen must go on."""
FIRST_TRIES = 4
"""Pseudonyms that are tried for a first direction, before a face waits for a search."""
SEEN = 0.2
"""What a verifier's cosine counts beside it."""
WEAK, LOST = 0.85, 2.0
"""A crop is weak from the first share of the limit at which a frame is masked, for others will be beyond it, to the
second: what is still that alike no direction changes (a hand, a head turned away), and its frames are masked."""


@dataclass(frozen=True)
class EditorOptions:
    """What a direction is found, judged and applied by.

    Attributes:
        path: "difference" or "inversion".
        optimise: budget and loss weights of one direction.
        key_crops: how many crops of a person are optimised on; the others verify.
        accept: a verifier's cosine must stay below this share of its own 1 % FAR threshold, mean over the crops that
            would be shown; a guide with more sees the person.
        frame_limit: an edited frame whose guide still sees more than this share of its threshold is masked.
        landmark_limit: largest landmark error accepted at verification, in share of the eye distance: the median over
            the crops, for on a dark or half hidden one the landmarker itself errs.
        candidates: pseudonyms drawn for a person, of which those that suit the face best are searched.
        searches: pseudonyms that are searched where several will do; the one that looks most like a face is taken.
        attempts: rounds of optimisation, each with another pseudonym, before a person is given up (masked). Where some
            guide still sees a person who passed, or some crop stays weak, one more round goes on where the best ended.
        further: share of a round's steps that one takes which goes on.
        strength: of what is searched, verified and applied: up to 1 so much of the direction's arc, from there on as
            many times the change of the latents that the whole arc makes; a longer arc leads no further away from the
            person (benchmarks/PRIOR.md).
        boosts: multiples of the strength, ascending: a person takes the least with which no guide sees them and no crop
            is weak, and a weak frame is edited again with those beyond, until it is weak no more.
        transition: edits over which a changed direction moves along its arc.
        between: a frame between two edited ones takes its share of their changes where its picture lies on the line
            between theirs to within this (0..255, the most of eyes, mouth and the whole face); 0 edits every frame.
    """

    path: str = "difference"
    optimise: OptimiseOptions = field(default_factory=OptimiseOptions)
    key_crops: int = 4
    accept: float = 0.5
    frame_limit: float = 0.8
    landmark_limit: float = 0.18
    candidates: int = 8
    searches: int = 1
    attempts: int = 4
    further: float = 0.5
    strength: float = 1.6
    boosts: tuple[float, ...] = (1.15, 1.3)
    transition: int = 12
    between: float = 0.0


Look = Callable[[], tuple[Tensor, ...]]
"""A job that asks a network."""
TriedEdit = Callable[[Direction], Tensor]
"""From a direction to what it makes of some crops, `(K, 3, S, S)` in [-1, 1]."""


@dataclass(frozen=True, eq=False)
class AppliedEdit:
    """A path of editing with everything around it: from crops to composited crops.

    Attributes:
        backbone: frozen model.
        path: difference or inversion editing.
        attributes: its landmarks say where the face is.
        gaze: leave what lies between the lids and the lips to the source.
        glasses: finds rims, which are left to the source, too; None: they are edited.
    """

    backbone: Backbone
    path: CropEditor
    attributes: AttributeNetworks
    gaze: bool = True
    glasses: Glasses | None = None

    def __call__(
        self, x: Tensor, values: Tensor, noise: Tensor, strength: Tensor | float, worn: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Composited crops `(N, 3, S, S)` in [-1, 1], masks `(N, 1, S, S)` and landmarks `(N, 68, 2)` of crops `x`.

        Args:
            x: `(N, 3, S, S)` in [-1, 1].
            values: `(N, L, C, h, w)` directions.
            noise: `(c, s, s)` or `(N, c, s, s)`.
            strength: from 0, one or `(N,)`: see `EditorOptions`.
            worn: `(N,)` bool, who wears glasses; None: nobody.
        """
        z = self.backbone.encode(x)
        s = torch.as_tensor(strength, dtype=torch.float32, device=x.device).expand(len(x))
        latents = self.path(z, values.to(x.device, z.dtype), noise.to(x.device, z.dtype).expand_as(z), s.clamp_max(1))
        landmarks = self.attributes.landmarks(x)
        mask, shown = edited_region(landmarks, x.shape[-1], self._rims(x, worn), gaze=self.gaze)
        return self._put(x, z, *latents, s, landmarks, mask, shown), mask, landmarks

    def rims_of(self, x: Tensor, worn: bool | None) -> Tensor | None:
        """`(N, 1, S, S)` in [0, 1], the rims in a person's crops `x`; None: they wear none.

        Whether they do is found, unless it is known.
        """
        if self.glasses is None or worn is False:
            return None
        rims, probability = self.glasses(x)
        return rims if worn or float(probability.mean()) >= WORN else None

    def _rims(self, x: Tensor, worn: Tensor | None) -> Tensor | None:
        """The same of crops of `(N,)` people who may wear glasses."""
        if self.glasses is None or worn is None or not bool(worn.any()):
            return None
        rims = torch.zeros_like(x[:, :1], dtype=torch.float32)
        rims[worn], _ = self.glasses(x[worn])
        return rims

    def at(self, x: Tensor, landmarks: Tensor, rims: Tensor | None, noise: Tensor, strength: float) -> TriedEdit:
        """The same for several directions tried on crops with known landmarks `(N, 68, 2)` and `rims_of` them.

        Their noise is `noise`.
        """
        z = self.backbone.encode(x)
        edits = self.path.at(z, noise.to(x.device, z.dtype).expand_as(z))
        mask, shown = edited_region(landmarks, x.shape[-1], rims, gaze=self.gaze)

        last: tuple[Tensor, Tensor, tuple[Tensor, Tensor]] | None = None

        def tried(direction: Direction) -> Tensor:
            nonlocal last
            s, values = z.new_full((len(x),), direction.boost * strength), direction.values.to(x.device, z.dtype)
            arc = s.clamp_max(1)
            # A boost beyond the whole arc is extrapolated from the same latents.
            if last is None or not (torch.equal(last[0], values) and torch.equal(last[1], arc)):
                last = values, arc, edits(values.expand(len(x), *values.shape), arc)
            return self._put(x, z, *last[2], s, landmarks, mask, shown)

        return tried

    def _put(
        self,
        x: Tensor,
        z: Tensor,
        before: Tensor,
        after: Tensor,
        strength: Tensor,
        landmarks: Tensor,
        mask: Tensor,
        shown: Tensor | None,
    ) -> Tensor:
        # What inversion does not bring back is left out: only the edit's own change is added.
        change = extrapolated(before, after, strength) - before
        moved = change.abs().flatten(1).mean(1) >= STILL * z.flatten(1).std(1)
        decoded = fitted(x, self.backbone.decode(z + change), landmarks, mask, shown)
        return composite(x, decoded, mask * moved.reshape(-1, 1, 1, 1))


@dataclass(frozen=True, eq=False)
class Source:
    """What is compared with.

    Attributes:
        crops: `(K, 3, S, S)`.
        embeddings: their unit embeddings `(K, D)` by recogniser.
        landmarks: `(K, 68, 2)`.
        ages: `(K,)` years.
        males: `(K,)` probabilities.
        rims: `(K, 1, S, S)` in [0, 1], of glasses; None: the person wears none.
        surprise: `DirectionSearch.surprise` of those that are searched on; None: nobody asks how a result looks.
    """

    crops: Tensor
    embeddings: dict[str, Tensor]
    landmarks: Tensor
    ages: Tensor
    males: Tensor
    rims: Tensor | None
    surprise: float | None = None

    def means(self, nets: Sequence[Recogniser], count: int | None = None) -> dict[str, Tensor]:
        """Unit mean embedding `(D,)` over the first `count` crops, or all, by those recognisers that looked."""
        names = [net.name for net in nets if net.name in self.embeddings]
        return {name: F.normalize(self.embeddings[name][:count].mean(0), dim=0).cpu() for name in names}


@dataclass(frozen=True, eq=False)
class _Judged:
    """A direction, what `verify` measured and why it fails, or ""."""

    known: Known
    figures: dict[str, float]
    reason: str

    @property
    def rank(self) -> tuple[bool, float, float]:
        """The less, the better: failed or not, weak crops and guides that see the person, then looks and verifiers."""
        seen = [v for k, v in self.figures.items() if k.startswith("verifier.") and not k.endswith(".worst")]
        unlikely = self.figures.get("unlikely", 1.0)
        weak = self.figures.get("weak", 1.0) + self.figures.get("seeing", 0.0)
        return bool(self.reason), weak, unlikely + SEEN * max(seen, default=0.0)

    @property
    def faultless(self) -> bool:
        return self.rank[:2] == (False, 0.0)

    def or_better(self, before: _Judged | None) -> _Judged:
        """This one, unless the best before it is as good."""
        return self if before is None or self.rank < before.rank else before


class DirectionSearch:
    """Finds directions and judges them on the path that is applied.

    Args:
        apply: what is applied to frames.
        path: what is differentiated.
        space: coordinates of directions.
        guides: recognisers that are optimised against.
        verifiers: recognisers that are not; empty: the guides judge themselves.
        attributes: networks of what stays.
        bank: pseudonyms to draw from, or None to suppress only.
        options: budgets and limits.
        generator: the run's secret randomness.
        basis: digest of everything a direction depends on, for its provenance.
        shares: lets networks look at once.
    """

    def __init__(
        self,
        apply: AppliedEdit,
        path: CropEditor,
        space: DirectionSpace,
        guides: Sequence[Recogniser],
        verifiers: Sequence[Recogniser],
        attributes: AttributeNetworks,
        bank: PseudonymBank | None,
        options: EditorOptions,
        generator: torch.Generator,
        basis: str,
        shares: Shares,
    ) -> None:
        self.apply, self.path, self.space = apply, path, space
        self.guides, self.verifiers, self.attributes, self.bank = guides, verifiers, attributes, bank
        self.options, self.generator, self.basis, self.shares = options, generator, basis, shares
        self.stopping = threading.Event()
        """Once set, searches end by `SearchStopped` at their next step."""
        self.pace: Callable[[], None] = lambda: None
        """Called between the steps of a search, in its thread; may take its time."""

    def direction(self, known: Known) -> Direction:
        """The direction as it is applied."""
        values = self.space.directions(known.coordinates.to(self.apply.backbone.device)).detach()
        return Direction(values, known.noise, known.boost)

    def renewed(self, known: Known) -> list[Candidate]:
        """A known person's own pseudonym, from where its direction was."""
        row = known.pseudonym
        targets = {} if self.bank is None or row is None else self.bank.target(row)
        return [Candidate(row, targets, known.coordinates)]

    @torch.no_grad()
    def candidates(self, source: Source, known: Collection[int] = (), present: Collection[int] = ()) -> list[Candidate]:
        """Pseudonyms to choose from, each with the bank's first guess of the direction to it.

        Args:
            source: the person's crops, best first; as many as are searched on say what a pseudonym must be like.
            known: see `PseudonymBank.draw`.
            present: the same.
        """
        if self.bank is None:
            return []
        keys = slice(self.options.key_crops)
        person = Person(float(source.ages[keys].mean()), float(source.males[keys].mean()))
        seen = source.means(self.guides, self.options.key_crops)
        found = []
        count = self.options.candidates
        for row in self.bank.draw(person, seen, self.generator, count, known=known, present=present):
            start = self.bank.start(row)
            if start is not None and start.shape != self.space.zero().shape:
                start = None  # made for another kind of direction space: another backbone, other levels
            found.append(Candidate(row, self.bank.target(row), start))
        return found

    def find(
        self, source: Source, noise: Tensor, candidates: list[Candidate], frames: Sequence[int]
    ) -> tuple[Known, dict[str, float], str]:
        """Optimise and verify, several times if need be.

        Args:
            source: the person's crops and what the networks see in them.
            noise: `(c, s, s)` float32, the person's own for life.
            candidates: pseudonyms to choose from; none: identity is only suppressed.
            frames: indices of the crops' frames, for the record.

        Returns:
            What makes the direction again, figures of its verification, and why it fails, or "".

        Raises:
            SearchStopped: `stopping` was set.
        """
        options = self.options.optimise
        if self.options.searches > 1:  # one that is searched has nobody to be compared with
            source = replace(source, surprise=self.surprise(source.crops[: self.options.key_crops]))
        edit, objective = self._edits(source, noise), self.objective(source, noise)
        best: _Judged | None = None
        others: Sequence[Candidate] = ()
        drawn: Sequence[Candidate] = ()
        total = good = 0
        went_on = False
        for attempt in range(max(self.options.attempts, self.options.searches)):
            found = optimise_direction(
                objective.under(options),
                candidates=candidates,
                rivals=[c for c in drawn if c.row != candidates[0].row],
                generator=self.generator,
                stopping=self._stopping,
            )
            total += options.steps
            known = Known(found.coordinates, noise, found.candidate.row, Provenance(self.basis))
            judged = self._led_on(self._judge(known, source, edit, thorough=True), source, edit, thorough=True)
            good += judged.faultless
            best = judged.or_better(best)
            if best is judged:
                ahead = replace(found.candidate, start=found.coordinates)
            others = found.others or others
            drawn = drawn or [found.candidate, *found.others]
            if good >= (self.options.searches if others else 1):
                break
            if not best.reason and (went_on or (good and attempt >= self.options.searches)):
                break  # it will do: a crop that stays weak twice (a hand, a head turned away) stays so a third time
            steps, weights = self.options.optimise.steps, self.options.optimise.weights
            held = {name: LOOSER ** (attempt + 1) * getattr(weights, name) for name in ("begun", "brows")}
            weights = replace(weights, **held)
            if others and (good or best.reason or attempt + 1 < self.options.searches):
                # Another pseudonym may lead to a better face; who fails is no nearer after more steps.
                candidates, others = [others[0]], others[1:]
            else:  # more steps from where the best ended, and more weight on leaving the source alone
                candidates = [ahead]
                weights = replace(weights, suppress=1.5 * weights.suppress, apart=0.0)
                went_on = not best.reason
                steps = max(1, round(self.options.further * steps)) if went_on else steps
            options = replace(options, steps=steps, weights=weights)
        assert best is not None
        known, figures, reason = best.known, best.figures, best.reason
        if self.bank is not None and known.pseudonym is not None:
            self.bank.take(known.pseudonym)
        provenance = Provenance(self.basis, total, tuple(frames), dict(figures))
        figures["steps"] = float(total)
        return replace(known, provenance=provenance), figures, reason

    def objective(self, source: Source, noise: Tensor) -> Objective:
        """What is optimised, on the crops that are searched on."""
        return Objective(
            self.apply.backbone,
            self.path,
            self.space,
            self.guides,
            self.attributes,
            source.crops[: self.options.key_crops],
            source.embeddings,
            noise,
            self.options.optimise,
            self.shares,
            None if source.rims is None else source.rims[: self.options.key_crops],
            self.options.strength,
        )

    def _stopping(self) -> bool:
        self.pace()
        return self.stopping.is_set()

    def first(
        self, source: Source, noise: Tensor, candidates: list[Candidate], frames: Sequence[int]
    ) -> tuple[Known | None, dict[str, float], str]:
        """The bank's own direction to the first candidate that passes, without a search: see `find`.

        Tried in the order of how little those who verify find the person in the pseudonym: that tells how likely they
        pass it (benchmarks/PRIOR.md).
        """
        edit = self._edits(source, noise)
        seen = source.means(self.verifiers)

        def alike(candidate: Candidate) -> float:
            return sum(float(seen[name] @ candidate.targets[name]) for name in seen if name in candidate.targets)

        best: _Judged | None = None
        for candidate in sorted((c for c in candidates if c.start is not None), key=alike)[:FIRST_TRIES]:
            assert candidate.start is not None
            known = Known(candidate.start, noise, candidate.row, Provenance(self.basis))
            best = self._judge(known, source, edit, thorough=False).or_better(best)
            if not best.reason:
                break
        if best is None:
            return None, {}, "the bank has no ready direction"
        best = self._led_on(best, source, edit, thorough=False)
        known, figures, reason = best.known, best.figures, best.reason
        if not reason and self.bank is not None and known.pseudonym is not None:
            self.bank.take(known.pseudonym)
        figures |= {"steps": 0.0, FIRST: 1.0}
        return replace(known, provenance=Provenance(self.basis, 0, tuple(frames), dict(figures))), figures, reason

    @torch.no_grad()
    def _edits(self, source: Source, noise: Tensor) -> TriedEdit:
        return self.apply.at(source.crops, source.landmarks, source.rims, noise, self.options.strength)

    def _judge(self, known: Known, source: Source, edit: TriedEdit, *, thorough: bool) -> _Judged:
        return _Judged(known, *self.verify(self.direction(known), source, thorough=thorough, edit=edit))

    def _led_on(self, judged: _Judged, source: Source, edit: TriedEdit, *, thorough: bool) -> _Judged:
        """The same with the least boost that hides the person from all who look, or with the one that hides them best.

        It costs a look, where another round costs a search.
        """
        if judged.faultless or not self.options.boosts:
            return judged
        *less, most = self.options.boosts

        def boosted(boost: float) -> _Judged:
            return self._judge(replace(judged.known, boost=boost), source, edit, thorough=thorough)

        strongest = boosted(most)
        if not strongest.reason and not strongest.faultless:  # a lesser one would hide them less
            return strongest.or_better(judged)
        best = judged
        for boost in less:
            best = boosted(boost).or_better(best)
            if best.faultless:
                return best
        return strongest.or_better(best)

    @torch.no_grad()
    def surprise(self, x: Tensor) -> float:
        """Mean squared error of the prior's denoising of crops `(K, 3, S, S)`: a drawn face surprises it."""
        backbone = self.apply.backbone
        z = backbone.encode(x)
        generator = torch.Generator().manual_seed(0)  # always the same noises, so that results compare
        level = min(FACES, len(backbone.schedule.alphas_cumprod) - 1)
        ts = torch.full((LOOKS * len(z),), level, device=z.device)
        noise = torch.randn((LOOKS, *z.shape[1:]), generator=generator).to(z).repeat_interleave(len(z), 0)
        z = z.repeat(LOOKS, 1, 1, 1)
        found, _ = backbone.predict(backbone.schedule.add_noise(z, noise, ts), ts)
        return float((found - z).float().pow(2).mean())

    @property
    def judges(self) -> Sequence[Recogniser]:
        """Who looks at a result: the guide that watches every frame, then the verifiers, or without any all guides."""
        return [self.guides[0], *(self.verifiers or self.guides[1:])]

    @torch.no_grad()
    def source(
        self,
        x: Tensor,
        names: Collection[str] | None = None,
        landmarks: Tensor | None = None,
        glasses: bool | None = None,
    ) -> Source:
        """The crops `(K, 3, S, S)` as the networks see them, these at once: recognisers that are named, or all.

        Landmarks and whether glasses are worn are found, unless they are given.
        """
        looks = self._looks(x, names)
        jobs: list[Look] = [*looks.values(), partial(self.attributes.ages, x)]
        *seen, (ages, males) = self.shares.each(jobs)
        embeddings = {name: embedding for name, (embedding,) in zip(looks, seen, strict=True)}
        placed = self.attributes.landmarks(x) if landmarks is None else landmarks
        return Source(x, embeddings, placed, ages, males, self.apply.rims_of(x, glasses))

    def embeddings(self, x: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """`(K, D)` unit embeddings of crops by recogniser name: of those that are named, or of all."""
        looks = self._looks(x, names)
        seen = self.shares.each(list(looks.values()))
        return {name: embedding for name, (embedding,) in zip(looks, seen, strict=True)}

    def _looks(self, x: Tensor, names: Collection[str] | None) -> dict[str, Look]:
        """What gives the crops' embeddings, by recogniser name."""

        def look(net: Recogniser) -> tuple[Tensor, ...]:
            return (net(x),)

        nets = [net for net in (*self.guides, *self.verifiers) if names is None or net.name in names]
        return {net.name: partial(look, net) for net in nets}

    @torch.no_grad()
    def verify(
        self, direction: Direction, source: Source, *, thorough: bool = False, edit: TriedEdit | None = None
    ) -> tuple[dict[str, float], str]:
        """Judge a direction on all crops by the path that will be applied; returns figures and why it fails, or "".

        The verifiers' means are over the crops that the watching guide would let pass, if these are half of them and at
        least two: the others (a head turned away, a hand before the face) are led further or masked, see `RunEditor`.
        The guides' are over all. `thorough` asks the other guides, too: the share of them that still sees the person in
        those crops ("seeing"). `edit` makes the edits with the direction's noise, if several directions are judged.
        """
        edited = (edit or self._edits(source, direction.noise))(direction)
        others = [net for net in self.guides if thorough and net not in self.judges]
        found = self.embeddings(edited, {net.name for net in (*self.judges, *others)})
        cosines = {name: (embedding * source.embeddings[name]).sum(1) for name, embedding in found.items()}
        figures = {"boost": direction.boost}
        limit = self.options.frame_limit * self.guides[0].threshold
        watched = cosines[self.guides[0].name]  # by the one that watches every frame
        figures["weak"] = float(((watched > WEAK * limit) & (watched <= LOST * limit)).float().mean())
        shown = watched <= limit
        if int(shown.sum()) < max(2, len(shown) / 2):
            shown = torch.ones_like(shown)
        for net in self.judges:
            cosine = cosines[net.name]
            role = "verifier" if net in self.verifiers else "guide"
            figures[f"{role}.{net.name}"] = float((cosine[shown] if role == "verifier" else cosine).mean())
            figures[f"{role}.{net.name}.worst"] = float(cosine.max())
        if thorough:
            seeing = [float(cosines[g.name][shown].mean()) > self.options.accept * g.threshold for g in others]
            figures["seeing"] = sum(seeing) / max(1, len(others))
        if source.surprise is not None:
            figures["unlikely"] = self.surprise(edited[: self.options.key_crops]) / max(source.surprise, 1e-9)
        moved = self.attributes.landmarks(edited) - source.landmarks
        error = moved.norm(dim=2).mean(1) / eye_distance(source.landmarks)
        figures["landmark_error"] = float(error.median())
        if not all(np.isfinite(v) for v in figures.values()):
            return figures, "the edit is not finite"
        role, accused = ("verifier", self.verifiers) if self.verifiers else ("guide", self.guides)
        if any(figures[f"{role}.{net.name}"] > self.options.accept * net.threshold for net in accused):
            return figures, "verification failed: still recognisable"
        if figures["landmark_error"] > self.options.landmark_limit:
            return figures, "verification failed: expression not kept"
        return figures, ""
