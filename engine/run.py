"""Apply directions to a run of frames: which are edited and which lie between, and which must go further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fluidvid.engine.between import Between, Sample, choose, windows
from fluidvid.engine.cache import PersonState
from fluidvid.engine.face_networks import Recogniser
from fluidvid.engine.readable import beside
from fluidvid.engine.search import WEAK, AppliedEdit, EditorOptions
from fluidvid.engine.shares import Shares

SUBSIDE = 0.01
"""Per frame by which the boost that a weak frame had needed returns to the direction's own."""


class RunEditor:
    """Edits crops of people whose directions are known.

    Args:
        apply: the path.
        guide: watches every frame.
        options: see `EditorOptions`.
        template: `(5, 2)` landmarks of an aligned crop in fractions of its side.
        size: side of the crops in pixels.
        shares: how batches are shared out.
    """

    def __init__(
        self,
        apply: AppliedEdit,
        guide: Recogniser,
        options: EditorOptions,
        template: NDArray[np.float64],
        size: int,
        shares: Shares,
    ) -> None:
        self.apply, self.guide, self.options = apply, guide, options
        self.limit = options.frame_limit * guide.threshold
        self._windows = windows(template, size)
        self._shares = shares

    def _see(self, x: Tensor) -> Tensor:
        """The guide's embeddings, in the backbone's precision: cosines are within .01 of the full one's."""

        def look(part: Tensor) -> tuple[Tensor]:
            with self.apply.backbone.unet.autocast():
                return (self.guide(part),)

        return self._shares(look, x)[0]

    def recognised(self, states: Sequence[PersonState | None], x: Tensor, edited: Tensor) -> Tensor:
        """`(N,)` bool: the guide still sees the people of `(N, 3, S, S)` crops in the edited ones, or cannot tell.

        Who was edited just before is compared with how the guide saw them then.
        """
        recent = [None if state is None else state.recent for state in states]
        unseen = [k for k, sample in enumerate(recent) if sample is None]
        seen = self._see(torch.cat([edited, x[unseen]]))
        results, fresh = seen[: len(edited)], iter(seen[len(edited) :])
        sources = torch.stack([next(fresh) if sample is None else sample.source for sample in recent])
        return ~((results * sources).sum(1) <= self.limit)

    def __call__(self, states: list[PersonState], x: Tensor, strength: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Edit crops of several people, each person's in the order of the frames; keeps each one's `recent`.

        Args:
            states: N, one per crop.
            x: `(N, 3, S, S)` in [-1, 1].
            strength: `(N,)` in [0, 1], share of the options'.

        Returns:
            Changes `(N, 3, S, S)`, masks `(N, 1, S, S)`, the guide's cosines `(N,)` between source and result, and
            `(N,)` bool where the new face stands beside the head.
        """
        between = self._between(states, x, strength)
        own = [k for k in range(len(x)) if k not in between]
        # How an edited frame looks to its neighbours, by position; negative ones are edits of earlier calls.
        done = {~k: state.recent for k, state in enumerate(states) if state.recent is not None}
        change, mask, cosine = torch.zeros_like(x), torch.zeros_like(x[:, :1]), x.new_ones(len(x))
        aside = torch.zeros(len(x), dtype=torch.bool, device=x.device)

        def edit(chosen: list[int]) -> None:
            source = self._see(x[chosen])
            change[chosen], mask[chosen], cosine[chosen], aside[chosen] = self._direct(
                [states[k] for k in chosen], x[chosen], strength[chosen], source
            )
            done.update({k: Sample(x[k], change[k], mask[k], seen) for k, seen in zip(chosen, source, strict=True)})

        edit(own)
        if between:
            sources = []
            for k, place in between.items():
                earlier, later = done[place.earlier], done[place.later]
                change[k] = torch.lerp(earlier.change, later.change, place.share)
                mask[k] = torch.lerp(earlier.mask, later.mask, place.share)
                sources.append(torch.lerp(earlier.source, later.source, place.share))
            chosen = list(between)
            # Where the picture lies on the line, so does who is seen in it: only the result is looked at.
            seen = self._see((x[chosen] + change[chosen]).clamp(-1, 1))
            cosine[chosen] = (seen * F.normalize(torch.stack(sources), dim=1)).sum(1)
            # What was not good enough at a neighbour's, or is not here, is edited after all.
            poor = [
                k
                for k, place in between.items()
                if not float(cosine[k]) <= WEAK * self.limit
                or any(n >= 0 and bool(aside[n]) for n in (place.earlier, place.later))
            ]
            if poor:
                edit(poor)
        self._keep(states, done, strength, (cosine <= self.limit) & ~aside)
        return change, mask, cosine, aside

    def _between(self, states: list[PersonState], x: Tensor, strength: Tensor) -> dict[int, Between]:
        """Positions that need no edit of their own; `~k` stands for the `recent` edit of the person of position k."""
        found: dict[int, Between] = {}
        if self.options.between <= 0:
            return found
        for state in {id(state): state for state in states}.values():
            run = [k for k, other in enumerate(states) if other is state]
            if any(strength[k] < 1 for k in run):
                continue
            crops = [x[k] for k in run]
            if state.recent is not None:
                crops.insert(0, state.recent.crop)
                run.insert(0, ~run[0])
            for place, between in choose(crops, self.options.between, self._windows).items():
                found[run[place]] = replace(between, earlier=run[between.earlier], later=run[between.later])
        return found

    def _keep(self, states: list[PersonState], done: dict[int, Sample], strength: Tensor, passed: Tensor) -> None:
        """Remember each person's last edit for the frames that follow it, unless it was partial or did not pass."""
        for k, state in enumerate(states):  # the last of a person is always edited
            good = k in done and float(strength[k]) >= 1 and bool(passed[k])
            # Copies: a view would keep the whole batch alive.
            state.recent = Sample(*(t.clone() for t in vars(done[k]).values())) if good else None

    def _direct(
        self, states: list[PersonState], x: Tensor, strength: Tensor, source: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Edit crops, those more strongly in which the guide still sees the person: see `__call__`."""
        turn = [sum(other is state for other in states[:k]) for k, state in enumerate(states)]
        values = torch.stack([s.values(self.options.transition, ahead) for s, ahead in zip(states, turn, strict=True)])
        boosts = [
            max(s.direction.boost, s.boost - SUBSIDE * (ahead + 1) if s.calm else s.boost)
            for s, ahead in zip(states, turn, strict=True)
        ]
        noise = torch.stack([state.direction.noise for state in states])
        full = self.options.strength * strength
        boosted = full * torch.tensor(boosts, device=x.device)
        worn = torch.tensor([state.glasses for state in states], device=x.device)
        edited, mask, landmarks = self._shares(self.apply, x, values, noise, boosted, worn)
        cosine = (self._see(edited) * source).sum(1)
        for boost in self.options.boosts:
            weak: list[int] = []
            for k, state in enumerate(states):
                still = strength[k] >= 1 and boosts[k] < boost
                # Later frames of the same person go with the weak one: the face must not go to and fro.
                if still and (not float(cosine[k]) <= self.limit or any(states[j] is state for j in weak)):
                    weak.append(k)
            if weak:
                again = x[weak], values[weak], noise[weak], boost * full[weak], worn[weak]
                edited[weak], *_ = self._shares(self.apply, *again)
                cosine[weak] = (self._see(edited[weak]) * source[weak]).sum(1)
                for k in weak:
                    boosts[k] = boost
        for k, state in enumerate(states):
            state.boost, state.calm = boosts[k], float(cosine[k]) < WEAK * self.limit
            state.progress += 1
        return edited - x, mask, cosine, beside(self.apply.attributes, landmarks, edited)
