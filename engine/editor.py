"""`FluidEditor`: one direction per person, found and verified once, applied to every crop of that person."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluidvid.engine.backbone import Backbone
from fluidvid.engine.composite import composite, face_region
from fluidvid.engine.difference import DifferenceEditor
from fluidvid.engine.face_networks import AttributeNetworks, Recogniser
from fluidvid.engine.geodesic import interpolate
from fluidvid.engine.inversion import InversionEditor
from fluidvid.engine.optimise import Candidate, OptimiseOptions, optimise_direction
from fluidvid.engine.plan import CropEditor, Direction, EditPlan
from fluidvid.engine.pseudonyms import Person, PseudonymBank
from fluidvid.engine.subspace import DirectionSpace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preparation:
    """Outcome of `prepare`.

    Attributes:
        ok: a direction was found and verified.
        reason: why not, in a few words; empty when ok.
        figures: cosines of guides and verifiers on the verification crops, landmark error, steps.
        seconds: wall clock.
    """

    ok: bool
    reason: str
    figures: dict[str, float]
    seconds: float


@dataclass(frozen=True, eq=False)
class EditedCrop:
    """One edited face in crop coordinates.

    Attributes:
        residual: `(S, S, 3)` float32, to be added to the crop's pixels, units of 8-bit values.
        mask: `(S, S)` float32 in [0, 1], the region the residual may touch.
        ok: False means: mask this face instead.
        reason: why not.
    """

    residual: NDArray[np.float32]
    mask: NDArray[np.float32]
    ok: bool
    reason: str


@dataclass(frozen=True)
class EditorOptions:
    """What `FluidEditor` decides by.

    Attributes:
        path: "difference" or "inversion".
        optimise: budget and loss weights of one direction.
        key_crops: how many crops of a person are optimised on; the others verify.
        accept: a verifier's cosine must stay below this share of its own 1 % FAR threshold, mean over the crops.
        frame_limit: an edited frame whose guide still sees more than this share of its threshold is masked.
        landmark_limit: largest mean landmark error accepted at verification, in share of the eye distance.
        candidates: pseudonyms drawn for a person, of which the one that suits the face best is taken.
        attempts: rounds of optimisation before a person is given up (masked).
        transition: edits over which a changed direction moves along its arc.
        strength: scales every direction.
    """

    path: str = "difference"
    optimise: OptimiseOptions = field(default_factory=OptimiseOptions)
    key_crops: int = 4
    accept: float = 1.0
    frame_limit: float = 1.0
    landmark_limit: float = 0.12
    candidates: int = 4
    attempts: int = 2
    transition: int = 12
    strength: float = 1.0


@dataclass(eq=False)
class _PersonState:
    direction: Direction
    previous: Tensor | None = None
    progress: int = 0

    def values(self, transition: int) -> Tensor:
        """The applied `(L, C, h, w)`: on the arc from the previous direction while a transition lasts."""
        if self.previous is None or self.progress >= transition:
            return self.direction.values
        return interpolate(self.previous, self.direction.values, self.progress / transition)


def eye_distance(landmarks68: Tensor) -> Tensor:
    """`(N,)` distance of the eye centres of `(N, 68, 2)` landmarks."""
    between: Tensor = landmarks68[:, 36:42].mean(1) - landmarks68[:, 42:48].mean(1)
    distance: Tensor = between.norm(dim=1).clamp_min(1e-6)
    return distance


class FluidEditor:
    """Prepares and applies identity directions; holds them, and nothing that identifies, for the life of the run.

    Args:
        backbone: frozen model.
        plan: levels, skips, geometry.
        space: coordinates of directions.
        guides: recognisers that are optimised against; the first one also watches every frame.
        verifiers: recognisers that are not; empty means nothing is verified independently, which `prepare` reports.
        attributes: networks of what stays.
        bank: pseudonyms to draw from, or None to suppress only.
        options: see `EditorOptions`.
        generator: the run's secret randomness (CPU).
    """

    def __init__(
        self,
        backbone: Backbone,
        plan: EditPlan,
        space: DirectionSpace,
        guides: Sequence[Recogniser],
        verifiers: Sequence[Recogniser],
        attributes: AttributeNetworks,
        bank: PseudonymBank | None,
        options: EditorOptions,
        generator: torch.Generator,
    ) -> None:
        self.backbone, self.plan, self.space = backbone, plan, space
        self.guides, self.verifiers, self.attributes, self.bank = list(guides), list(verifiers), attributes, bank
        self.options, self.generator = options, generator
        self.crop_size, self.template = backbone.crop_size, backbone.template
        self._search: CropEditor = DifferenceEditor(backbone, plan)
        self._apply: CropEditor = InversionEditor(backbone, plan) if options.path == "inversion" else self._search
        self._people: dict[int, _PersonState] = {}

    def _crops(self, crops: NDArray[np.uint8]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(crops)).to(self.backbone.device)
        return tensor.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)

    def prepare(self, person_id: int, crops: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> Preparation:
        """Find and verify one direction for a person.

        Args:
            person_id: key under which `edit` will find it.
            crops: `(K, S, S, 3)` uint8 RGB, best first, aligned to `template`.
            landmarks: `(K, 5, 2)` crop pixels.
        """
        began = time.monotonic()
        x = self._crops(crops)
        keys = min(self.options.key_crops, len(x))
        shape = self.backbone.encode(x[:1]).shape[1:]
        old = self._people.get(person_id)
        # A person keeps its noise for life: another one would make the picture jump when the direction changes.
        noise = torch.randn(shape, generator=self.generator) if old is None else old.direction.noise
        candidates = self._pseudonyms(x[:keys])
        options = self.options.optimise
        figures: dict[str, float] = {}
        reason = ""
        total = 0
        for attempt in range(self.options.attempts):
            if attempt:  # more steps from where the last attempt ended, and more weight on leaving the source
                weights = replace(options.weights, suppress=2 * options.weights.suppress)
                options = replace(options, weights=weights)
            found = optimise_direction(
                self.backbone,
                self._search,
                self.space,
                self.guides,
                self.attributes,
                x[:keys],
                noise,
                candidates=candidates,
                options=options,
                generator=self.generator,
            )
            candidates = [replace(found.candidate, start=found.coordinates)]
            total += found.steps
            values = self.space.directions(found.coordinates.to(self.backbone.device)).detach()
            direction = Direction(values * self.options.strength, noise)
            figures, reason = self._verify(direction, x)
            if not reason:
                break
        if self.bank is not None and found.candidate.row is not None:
            self.bank.take(found.candidate.row)
        figures["steps"] = float(total)
        if not reason:
            previous = None if old is None else old.values(self.options.transition)
            self._people[person_id] = _PersonState(direction, previous)
        return Preparation(not reason, reason, figures, time.monotonic() - began)

    @torch.no_grad()
    def _pseudonyms(self, x: Tensor) -> list[Candidate]:
        """Pseudonyms to choose from, each with the bank's first guess of the direction to it."""
        if self.bank is None:
            return []
        kept = self.attributes(x, mesh=False)
        source = {g.name: torch.nn.functional.normalize(g(x).mean(0), dim=0).cpu() for g in self.guides}
        person = Person(float(kept.age.mean()), float(kept.male.mean()))
        candidates = []
        for row in self.bank.draw(person, source, self.generator, self.options.candidates):
            start = self.bank.start(row)
            if start is not None and start.shape != self.space.zero().shape:
                start = None  # made for another kind of direction space: another backbone, other levels
            candidates.append(Candidate(row, self.bank.target(row), start))
        return candidates

    @torch.no_grad()
    def _verify(self, direction: Direction, x: Tensor) -> tuple[dict[str, float], str]:
        """Judge a direction on all crops by the path that will be applied; returns figures and why it fails, or ""."""
        edited, _ = self._edited(
            x, direction.values.expand(len(x), *direction.values.shape), direction.noise, 1.0
        )
        figures = {}
        for role, nets in (("guide", self.guides), ("verifier", self.verifiers)):
            for net in nets:
                cosine = (net(edited) * net(x)).sum(1)
                figures[f"{role}.{net.name}"] = float(cosine.mean())
                figures[f"{role}.{net.name}.worst"] = float(cosine.max())
        a, b = self.attributes(x, mesh=False), self.attributes(edited, mesh=False)
        error = (a.landmarks - b.landmarks).norm(dim=2).mean(1) / eye_distance(a.landmarks)
        figures["landmark_error"] = float(error.mean())
        if not all(np.isfinite(v) for v in figures.values()):
            return figures, "the edit is not finite"
        judges = self.verifiers or self.guides
        if any(
            figures[f"{'verifier' if self.verifiers else 'guide'}.{j.name}"] > self.options.accept * j.threshold
            for j in judges
        ):
            return figures, "verification failed: still recognisable"
        if figures["landmark_error"] > self.options.landmark_limit:
            return figures, "verification failed: expression not kept"
        return figures, ""

    def _edited(
        self, x: Tensor, values: Tensor, noise: Tensor, strength: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Composited crops `(N, 3, S, S)` and masks `(N, 1, S, S)`."""
        z = self.backbone.encode(x)
        s = torch.as_tensor(strength, dtype=torch.float32, device=x.device).expand(len(x))
        fixed = noise.to(x.device, z.dtype).expand_as(z)
        before, after = self._apply(z, values.to(x.device, z.dtype), fixed, s)
        decoded = self.backbone.decode(torch.cat([before, after]))
        mask = face_region(self.attributes.landmarks(x), x.shape[-1])
        n = len(x)
        return composite(x, decoded[:n], decoded[n:], mask, self.options.optimise.detail), mask

    @torch.inference_mode()
    def edit(
        self,
        person_ids: Sequence[int],
        crops: NDArray[np.uint8],
        landmarks: NDArray[np.float32],
        strengths: NDArray[np.float32],
    ) -> list[EditedCrop]:
        """Edit one frame's faces in one batch.

        Args:
            person_ids: N keys of prepared people.
            crops: `(N, S, S, 3)` uint8 RGB.
            landmarks: `(N, 5, 2)` crop pixels.
            strengths: `(N,)` in [0, 1].

        Returns:
            N results; a person that was never prepared, a non-finite edit and a frame in which the guide still sees the
            person come back with `ok` False.
        """
        size = self.crop_size
        empty = np.zeros((size, size, 3), np.float32), np.zeros((size, size), np.float32)
        results = [EditedCrop(*empty, False, "no direction") for _ in person_ids]
        known = [i for i, person in enumerate(person_ids) if person in self._people]
        if not known:
            return results
        states = [self._people[person_ids[i]] for i in known]
        x = self._crops(crops[known])
        values = torch.stack([state.values(self.options.transition) for state in states])
        noise = torch.stack([state.direction.noise for state in states])
        edited, mask = self._edited(
            x, values, noise, torch.from_numpy(np.asarray(strengths, np.float32)[known])
        )
        watch = self.guides[0]
        both = watch(torch.cat([edited, x]))
        cosine = (both[: len(x)] * both[len(x) :]).sum(1)
        residual = ((edited - x) * 127.5).permute(0, 2, 3, 1).cpu().numpy().astype(np.float32)
        for position, i in enumerate(known):
            states[position].progress += 1
            reason = ""
            if not np.isfinite(residual[position]).all():
                reason = "the edit is not finite"
            elif strengths[i] >= 1 and float(cosine[position]) > self.options.frame_limit * watch.threshold:
                reason = "weak edit"
            results[i] = EditedCrop(residual[position], mask[position, 0].cpu().numpy(), not reason, reason)
        return results

    def forget(self, person_id: int) -> None:
        """Drop a person's direction."""
        self._people.pop(person_id, None)
