"""`FluidEditor`: one direction per person, found and verified once, applied to every crop of that person."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fluidvid.engine.backbone import Backbone
from fluidvid.engine.cache import FIRST, DirectionStore, Known, MemoryStore, PersonState
from fluidvid.engine.crops import to_crops
from fluidvid.engine.difference import DifferenceEditor
from fluidvid.engine.face_networks import AttributeNetworks, Recogniser
from fluidvid.engine.glasses import Glasses
from fluidvid.engine.inversion import InversionEditor
from fluidvid.engine.memory import PersonMemory, recognisable
from fluidvid.engine.optimise import SearchStopped
from fluidvid.engine.plan import EditPlan
from fluidvid.engine.pseudonyms import PseudonymBank
from fluidvid.engine.readable import readable
from fluidvid.engine.run import RunEditor
from fluidvid.engine.search import AppliedEdit, DirectionSearch, EditorOptions, Source
from fluidvid.engine.shares import Shares
from fluidvid.engine.subspace import DirectionSpace

UNREADABLE = "the face cannot be read: dark, hidden or turned away"


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
        glasses: finds those that are worn, which stay; None: they are edited.
        store: where directions are kept by person; None: in memory, bounded.
        memory: recognises people who return; None: every person is new.
        basis: digest of everything a direction depends on, for its provenance.
        identified_by: names of the recognisers that tell who returns; None: all of them.
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
        glasses: Glasses | None = None,
        store: DirectionStore | None = None,
        memory: PersonMemory | None = None,
        basis: str = "",
        identified_by: Sequence[str] | None = None,
    ) -> None:
        self.backbone, self.plan, self.space = backbone, plan, space
        self.guides, self.verifiers, self.attributes, self.bank = list(guides), list(verifiers), attributes, bank
        self.options, self.generator = options, generator
        self.crop_size, self.template = backbone.crop_size, backbone.template
        difference = DifferenceEditor(backbone, plan)
        path = InversionEditor(backbone, plan) if options.path == "inversion" else difference
        self.apply = AppliedEdit(backbone, path, attributes, options.optimise.gaze, glasses)
        networks = self.guides, self.verifiers, attributes
        # Threads of its own: live, edits must not wait for those of a search.
        shares = Shares(backbone.device, heed=self._heed)
        self.search = DirectionSearch(self.apply, difference, space, *networks, bank, options, generator, basis, shares)
        self._shares = Shares(backbone.device)
        self._run = RunEditor(self.apply, self.guides[0], options, self.template, self.crop_size, self._shares)
        self.store: DirectionStore = MemoryStore() if store is None else store
        self.memory, self.basis = memory, basis
        names = [net.name for net in (*self.guides, *self.verifiers)]
        self._identified = names if identified_by is None else [name for name in names if name in identified_by]
        self._rows: dict[int, tuple[int, ...]] = {}
        """Pseudonyms of people in the picture, and those that a search under way chooses from."""

    def _crops(self, crops: NDArray[np.uint8]) -> Tensor:
        return to_crops(torch.from_numpy(np.ascontiguousarray(crops)).to(self.backbone.device))

    @torch.no_grad()
    def identify(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Who is seen: the recognisers' embeddings side by side, to be compared by their dot product.

        They agree better on a person than any one of them. Biometric data: for the life of the run only.

        Args:
            crops: `(N, S, S, 3)` uint8 RGB, aligned to `template`.

        Returns:
            `(N, D)` float32 of unit length; zeros where too little is seen of the face.
        """
        x = self._crops(crops)
        found: NDArray[np.float32] = self._identity(x, self.search.embeddings(x, self._identified)).cpu().numpy()
        return found

    def _identity(self, x: Tensor, embeddings: Mapping[str, Tensor]) -> Tensor:
        fused = F.normalize(torch.cat([embeddings[name] for name in self._identified], 1).float(), dim=1)
        return fused * recognisable(x)[:, None]

    def prepare(self, person_id: int, crops: NDArray[np.uint8], *, frames: Sequence[int] = ()) -> Preparation:
        """Find and verify one direction for a person; a known person's only has to be verified again.

        Crops that cannot be read (`fluidvid.engine.readable`) are left out; where most cannot, nothing is searched.

        Args:
            person_id: key under which `edit` will find it.
            crops: `(K, S, S, 3)` uint8 RGB, best first, aligned to `template`.
            frames: `(K,)` indices of the crops' frames, for the record.
        """
        return self._prepare(person_id, crops, frames, search=True)

    def begin(self, person_id: int, crops: NDArray[np.uint8], *, frames: Sequence[int] = ()) -> Preparation:
        """A first direction without a search, from the bank and verified; `prepare` betters it and keeps the pseudonym.

        Its figures hold `first`, unless the person was recognised and has the direction of before. See `prepare`.
        """
        return self._prepare(person_id, crops, frames, search=False)

    def _prepare(self, person_id: int, crops: NDArray[np.uint8], frames: Sequence[int], *, search: bool) -> Preparation:
        began = time.monotonic()
        x = self._crops(crops)
        with torch.no_grad():
            landmarks = self.attributes.landmarks(x)
        clear = readable(self.attributes, x, landmarks)
        if 2 * int(clear.sum()) < len(x):
            figures = {"readable": float(clear.float().mean())}
            return Preparation(False, UNREADABLE, figures, time.monotonic() - began)
        x, landmarks = x[clear], landmarks[clear]
        frames = [frame for frame, seen in zip(frames, clear.tolist(), strict=False) if seen]
        old = self.store.get(person_id)
        # Without a search nobody guides, and without a memory nobody asks who this is.
        named = () if self.memory is None else self._identified
        asked = None if search else {*named, *(net.name for net in self.search.judges)}
        # Glasses that were seen, or not, stay so: rims must not come and go.
        source = self.search.source(x, asked, landmarks, None if old is None else old.glasses)
        identity = None if self.memory is None else self._mean_identity(source)
        known = None
        if self.memory is not None and identity is not None and old is None:
            known = self.memory.recall(person_id, identity).known
        if known is not None and not self._fits(known):
            known = None
        if known is not None:
            figures, reason = self.search.verify(self.search.direction(known), source)
            if not reason:
                self._install(person_id, known, source, old)
                figures |= {"steps": 0.0, "recalled": 1.0} | ({FIRST: 1.0} if known.is_first else {})
                return Preparation(True, "", figures, time.monotonic() - began)
        # A person keeps its noise and its pseudonym for life: others would make the picture jump.
        life = known if known is not None else None if old is None else old.known
        noise = torch.randn(self._noise_shape, generator=self.generator) if life is None else life.noise
        if life is not None:
            candidates = self.search.renewed(life)
        else:
            known_rows = () if self.memory is None else self.memory.pseudonyms()
            present = {row for rows in list(self._rows.values()) for row in rows}  # live, others leave meanwhile
            candidates = self.search.candidates(source, known_rows, present)
        seek = self.search.find if search else self.search.first
        before = self._rows.get(person_id, ())
        # Others may be given theirs between the steps of this search.
        self._rows[person_id] = (*before, *(c.row for c in candidates if c.row is not None))
        try:
            found, figures, reason = seek(source, noise, candidates, frames)
        finally:
            if before:
                self._rows[person_id] = before
            else:
                self._rows.pop(person_id, None)
        if found is not None and not reason:
            self._install(person_id, found, source, old)
            if self.memory is not None and identity is not None:
                self.memory.remember(person_id, identity, found)
        return Preparation(not reason, reason, figures, time.monotonic() - began)

    @torch.no_grad()
    def _mean_identity(self, source: Source) -> NDArray[np.float32]:
        """The person's mean identity over the crops."""
        fused = self._identity(source.crops, source.embeddings)
        mean: NDArray[np.float32] = F.normalize(fused.sum(0), dim=0).cpu().numpy()
        return mean

    @cached_property
    def _noise_shape(self) -> torch.Size:
        """Of the latents of one crop."""
        size = self.crop_size
        with torch.no_grad():
            return self.backbone.encode(torch.zeros(1, 3, size, size, device=self.backbone.device)).shape[1:]

    def _fits(self, known: Known) -> bool:
        """False for what another editor made: it is not used, whatever it claims to be."""
        return (
            known.provenance.basis == self.basis
            and known.coordinates.shape == self.space.zero().shape
            and known.noise.shape == self._noise_shape
            and (known.pseudonym is None or (self.bank is not None and 0 <= known.pseudonym < len(self.bank.ages)))
        )

    def _install(self, person_id: int, known: Known, source: Source, old: PersonState | None) -> None:
        state = PersonState(self.search.direction(known), known, source.rims is not None)
        if old is not None:  # the way from what is applied now begins there
            state.previous, state.boost = old.values(self.options.transition), old.boost
        self.store.put(person_id, state)
        if self.bank is not None and known.pseudonym is not None:
            self.bank.take(known.pseudonym)
            self._rows[person_id] = (known.pseudonym,)

    @torch.inference_mode()
    def edit(
        self, person_ids: Sequence[int], crops: NDArray[np.uint8], strengths: NDArray[np.float32]
    ) -> list[EditedCrop]:
        """Edit the faces of one frame, or of several frames that follow each other, in one batch.

        Args:
            person_ids: N keys of prepared people; who comes several times comes in the order of the frames.
            crops: `(N, S, S, 3)` uint8 RGB.
            strengths: `(N,)` in [0, 1].

        Returns:
            N results; a person that was never prepared, a non-finite edit, a frame in which the guide still sees the
            person and one on which the new face stands beside the head come back with `ok` False.
        """
        with self._shares.alone():
            return self._edit(person_ids, crops, strengths)

    def _edit(
        self, person_ids: Sequence[int], crops: NDArray[np.uint8], strengths: NDArray[np.float32]
    ) -> list[EditedCrop]:
        size = self.crop_size
        empty = np.zeros((size, size, 3), np.float32), np.zeros((size, size), np.float32)
        results = [EditedCrop(*empty, False, "no direction") for _ in person_ids]
        found = [self.store.get(person) for person in person_ids]
        known = [i for i, state in enumerate(found) if state is not None]
        if not known:
            return results
        states = [state for state in found if state is not None]
        x = self._crops(crops[known])
        strength = torch.from_numpy(np.asarray(strengths, np.float32)[known]).to(x.device)
        change, mask, cosine, aside = self._run(states, x, strength)
        residual = (change * 127.5).permute(0, 2, 3, 1).cpu().numpy().astype(np.float32)
        for position, i in enumerate(known):
            reason = ""
            if not np.isfinite(residual[position]).all():
                reason = "the edit is not finite"
            elif strengths[i] >= 1 and not float(cosine[position]) <= self._run.limit:
                reason = "weak edit"
            elif bool(aside[position]):
                reason = "misplaced edit"
            results[i] = EditedCrop(residual[position], mask[position, 0].cpu().numpy(), not reason, reason)
        return results

    @torch.inference_mode()
    def recognised(
        self, person_ids: Sequence[int], crops: NDArray[np.uint8], edited: NDArray[np.uint8]
    ) -> NDArray[np.bool_]:
        """Whether the guide that watches every frame still sees the people of `crops` in what was made of them.

        Args:
            person_ids: N keys of the people.
            crops: `(N, S, S, 3)` uint8 RGB.
            edited: `(N, S, S, 3)` uint8 RGB, the same crops with a residual.

        Returns:
            `(N,)` bool; True also where that cannot be told.
        """
        states = [self.store.get(person) for person in person_ids]
        with self._shares.alone():
            seen: NDArray[np.bool_] = (
                self._run.recognised(states, self._crops(crops), self._crops(edited)).cpu().numpy()
            )
        return seen

    def forget(self, person_id: int) -> None:
        """Drop a person's direction."""
        self.store.forget(person_id)
        self._rows.pop(person_id, None)

    def stop(self) -> None:
        """Searches and first tries, also one under way in another thread, end by `SearchStopped` before their networks
        look the next time; what is known can be applied.
        """
        self.search.stopping.set()

    def _heed(self) -> None:
        if self.search.stopping.is_set():
            raise SearchStopped("the search was stopped")

    def pace(self, wait: Callable[[], None]) -> None:
        """Have `wait` called between the steps of every search, in its thread, where it may take its time."""
        self.search.pace = wait

    def release(self, person_id: int) -> None:
        """The person has left the picture: a new person who is recognised as them may have their direction."""
        self._rows.pop(person_id, None)
        if self.memory is not None:
            self.memory.release(person_id)
