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
from fluidvid.engine.cache import DirectionStore, Known, MemoryStore, PersonState, Provenance
from fluidvid.engine.composite import composite, face_region
from fluidvid.engine.difference import DifferenceEditor
from fluidvid.engine.face_networks import AttributeNetworks, Recogniser
from fluidvid.engine.inversion import InversionEditor
from fluidvid.engine.memory import PersonMemory, Recall, recognisable
from fluidvid.engine.optimise import Candidate, OptimiseOptions, optimise_direction
from fluidvid.engine.plan import CropEditor, Direction, EditPlan
from fluidvid.engine.pseudonyms import Person, PseudonymBank
from fluidvid.engine.subspace import DirectionSpace

log = logging.getLogger(__name__)

WEAK = 0.85
"""A key crop is weak from this share of the limit at which a frame is masked: other frames will be beyond it."""
SHRINK = 0.01
"""Per frame by which a direction that a weak frame had lengthened returns to its length."""


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
        lengths: a direction is tried at these multiples of its length, in order, until no crop is weak any more; the
            same is done with a weak frame.
        transition: edits over which a changed direction moves along its arc.
        strength: scales every direction.
    """

    path: str = "difference"
    optimise: OptimiseOptions = field(default_factory=OptimiseOptions)
    key_crops: int = 4
    accept: float = 0.8
    frame_limit: float = 0.8
    landmark_limit: float = 0.12
    candidates: int = 4
    attempts: int = 2
    lengths: tuple[float, ...] = (1.0, 1.2, 1.45, 1.75)
    transition: int = 12
    strength: float = 1.0


def eye_distance(landmarks68: Tensor) -> Tensor:
    """`(N,)` distance of the eye centres of `(N, 68, 2)` landmarks."""
    between: Tensor = landmarks68[:, 36:42].mean(1) - landmarks68[:, 42:48].mean(1)
    distance: Tensor = between.norm(dim=1).clamp_min(1e-6)
    return distance


class FluidEditor:
    """Prepares and applies identity directions; keeps them for the life of the run.

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
        store: where directions are kept by person; None: in memory, bounded.
        memory: recognises people who return; None: every person is new.
        basis: digest of everything a direction depends on, for its provenance.
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
        *,
        store: DirectionStore | None = None,
        memory: PersonMemory | None = None,
        basis: str = "",
    ) -> None:
        self.backbone, self.plan, self.space = backbone, plan, space
        self.guides, self.verifiers, self.attributes, self.bank = list(guides), list(verifiers), attributes, bank
        self.options, self.generator = options, generator
        self.crop_size, self.template = backbone.crop_size, backbone.template
        self._search: CropEditor = DifferenceEditor(backbone, plan)
        self._apply: CropEditor = InversionEditor(backbone, plan) if options.path == "inversion" else self._search
        self.store: DirectionStore = MemoryStore() if store is None else store
        self.memory, self.basis = memory, basis

    def _crops(self, crops: NDArray[np.uint8]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(crops)).to(self.backbone.device)
        return tensor.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)

    @torch.no_grad()
    def identify(self, crops: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
        """Who is seen: the recognisers' embeddings side by side, to be compared by their dot product.

        They agree better on a person than any one of them. Biometric data: for the life of the run only.

        Args:
            crops: `(N, S, S, 3)` uint8 RGB, aligned to `template`.
            landmarks: `(N, 5, 2)` crop pixels; not used, the crops are aligned.

        Returns:
            `(N, D)` float32 of unit length; zeros where too little is seen of the face.
        """
        found: NDArray[np.float32] = self._identity(self._crops(crops)).cpu().numpy()
        return found

    def _identity(self, x: Tensor) -> Tensor:
        nets = [*self.guides, *self.verifiers]
        fused = torch.nn.functional.normalize(torch.cat([net(x) for net in nets], 1).float(), dim=1)
        return fused * recognisable(x)[:, None]

    def prepare(
        self,
        person_id: int,
        crops: NDArray[np.uint8],
        landmarks: NDArray[np.float32],
        *,
        frames: Sequence[int] = (),
    ) -> Preparation:
        """Find and verify one direction for a person; a known person's only has to be verified again.

        Args:
            person_id: key under which `edit` will find it.
            crops: `(K, S, S, 3)` uint8 RGB, best first, aligned to `template`.
            landmarks: `(K, 5, 2)` crop pixels.
            frames: `(K,)` indices of the crops' frames, for the record.
        """
        began = time.monotonic()
        x = self._crops(crops)
        old = self.store.get(person_id)
        with torch.no_grad():
            noise_shape = self.backbone.encode(x[:1]).shape[1:]
        identity, recall = self._recall(person_id, x) if old is None else (None, Recall())
        known = recall.known
        if known is not None and not self._fits(known, noise_shape):
            known = None
        if known is not None:
            figures, reason = self._verify(self._direction(known), x)
            if not reason:
                self._install(person_id, known, old)
                figures |= {"steps": 0.0, "recalled": 1.0}
                return Preparation(True, "", figures, time.monotonic() - began)
        # A person keeps its noise for life: another one would make the picture jump when the direction changes.
        life = known if known is not None else None if old is None else old.known
        noise = torch.randn(noise_shape, generator=self.generator) if life is None else life.noise
        candidates = self._renewed(known) if known is not None else self._pseudonyms(x[: self.options.key_crops])
        known, figures, reason = self._search_direction(x, noise, candidates, frames)
        if not reason:
            self._install(person_id, known, old)
            if self.memory is not None and identity is not None:
                self.memory.remember(person_id, identity, known)
        return Preparation(not reason, reason, figures, time.monotonic() - began)

    def _recall(self, person_id: int, x: Tensor) -> tuple[NDArray[np.float32] | None, Recall]:
        """The person's mean identity over the crops, and who that is."""
        if self.memory is None:
            return None, Recall()
        with torch.no_grad():
            mean = torch.nn.functional.normalize(self._identity(x).sum(0), dim=0).cpu().numpy()
        return mean, self.memory.recall(person_id, mean)

    def _fits(self, known: Known, noise_shape: Sequence[int]) -> bool:
        """False for what another editor made: it is not used, whatever it claims to be."""
        return (
            known.provenance.basis == self.basis
            and known.coordinates.shape == self.space.zero().shape
            and tuple(known.noise.shape) == tuple(noise_shape)
            and (known.pseudonym is None or (self.bank is not None and 0 <= known.pseudonym < len(self.bank.ages)))
        )

    def _direction(self, known: Known) -> Direction:
        values = self.space.directions(known.coordinates.to(self.backbone.device)).detach()
        return Direction(values * self.options.strength, known.noise)

    def _install(self, person_id: int, known: Known, old: PersonState | None) -> None:
        previous = None if old is None else old.values(self.options.transition)
        self.store.put(person_id, PersonState(self._direction(known), known, previous))
        if self.bank is not None and known.pseudonym is not None:
            self.bank.take(known.pseudonym)

    def _renewed(self, known: Known) -> list[Candidate]:
        """A known person's own pseudonym, from where its direction was."""
        row = known.pseudonym
        targets = {} if self.bank is None or row is None else self.bank.target(row)
        return [Candidate(row, targets, known.coordinates)]

    def _search_direction(
        self, x: Tensor, noise: Tensor, candidates: list[Candidate], frames: Sequence[int]
    ) -> tuple[Known, dict[str, float], str]:
        """Optimise and verify, several times if need be: the direction, figures, and why it fails, or ""."""
        keys = min(self.options.key_crops, len(x))
        options = self.options.optimise
        best: tuple[tuple[bool, float], Known, dict[str, float], str] | None = None
        total = 0
        for attempt in range(self.options.attempts):
            if attempt:  # more steps from where the last attempt ended, and more weight on leaving the source
                weights = replace(options.weights, suppress=1.5 * options.weights.suppress)
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
            for length in self.options.lengths:
                known = Known(found.coordinates * length, noise, found.candidate.row, Provenance(self.basis))
                figures, reason = self._verify(self._direction(known), x)
                rank = (bool(reason), figures.get("weak", 1.0))
                if best is None or rank < best[0]:
                    best = rank, known, figures, reason
                if rank == (False, 0.0):
                    break
            if best is not None and best[0] == (False, 0.0):
                break
        assert best is not None
        _, known, figures, reason = best
        if self.bank is not None and found.candidate.row is not None:
            self.bank.take(found.candidate.row)
        provenance = Provenance(self.basis, total, tuple(frames), dict(figures))
        figures["steps"] = float(total)
        return replace(known, provenance=provenance), figures, reason

    @torch.no_grad()
    def _pseudonyms(self, x: Tensor) -> list[Candidate]:
        """Pseudonyms to choose from, each with the bank's first guess of the direction to it."""
        if self.bank is None:
            return []
        if self.memory is not None:
            for row in self.memory.pseudonyms():  # those of known people are not given to anybody else
                if row < len(self.bank.ages):
                    self.bank.take(row)
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
        edited, _ = self._edited(x, direction.values.expand(len(x), *direction.values.shape), direction.noise, 1.0)
        figures = {}
        limit = self.options.frame_limit * self.guides[0].threshold
        for role, nets in (("guide", self.guides), ("verifier", self.verifiers)):
            for net in nets:
                cosine = (net(edited) * net(x)).sum(1)
                if net is self.guides[0]:  # the one that watches every frame
                    figures["weak"] = float((cosine > WEAK * limit).float().mean())
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

    def _edited(self, x: Tensor, values: Tensor, noise: Tensor, strength: Tensor | float) -> tuple[Tensor, Tensor]:
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
        found = [self.store.get(person) for person in person_ids]
        known = [i for i, state in enumerate(found) if state is not None]
        if not known:
            return results
        states = [state for state in found if state is not None]
        x = self._crops(crops[known])
        values = torch.stack([state.length * state.values(self.options.transition) for state in states])
        noise = torch.stack([state.direction.noise for state in states])
        strength = torch.from_numpy(np.asarray(strengths, np.float32)[known]).to(x.device)
        edited, mask = self._edited(x, values, noise, strength)
        source = self.guides[0](x)
        cosine = (self.guides[0](edited) * source).sum(1)
        limit = self.options.frame_limit * self.guides[0].threshold
        self._shrink(states, cosine, limit)
        for length in self.options.lengths:  # a frame that is still recognised goes further along the direction
            weak = [
                k
                for k, state in enumerate(states)
                if strengths[known[k]] >= 1 and float(cosine[k]) > limit and state.length < length
            ]
            if not weak:
                continue
            longer = torch.stack([length * states[k].values(self.options.transition) for k in weak])
            again, _ = self._edited(x[weak], longer, noise[weak], strength[weak])
            edited[weak], cosine[weak] = again, (self.guides[0](again) * source[weak]).sum(1)
            for k in weak:
                states[k].length = length
        residual = ((edited - x) * 127.5).permute(0, 2, 3, 1).cpu().numpy().astype(np.float32)
        for position, i in enumerate(known):
            states[position].progress += 1
            reason = ""
            if not np.isfinite(residual[position]).all():
                reason = "the edit is not finite"
            elif strengths[i] >= 1 and float(cosine[position]) > limit:
                reason = "weak edit"
            results[i] = EditedCrop(residual[position], mask[position, 0].cpu().numpy(), not reason, reason)
        return results

    @staticmethod
    def _shrink(states: Sequence[PersonState], cosine: Tensor, limit: float) -> None:
        """Let lengthened directions shrink back, a little per frame, where a frame is well below the limit."""
        for state, seen in zip(states, cosine.tolist(), strict=True):
            if seen < WEAK * limit:
                state.length = max(1.0, state.length - SHRINK)

    def forget(self, person_id: int) -> None:
        """Drop a person's direction."""
        self.store.forget(person_id)

    def release(self, person_id: int) -> None:
        """The person has left the picture: a new person who is recognised as them may have their direction."""
        if self.memory is not None:
            self.memory.release(person_id)
