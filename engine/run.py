"""Apply directions to a run of frames: which are edited and which lie between, and which must go further."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluidvid.engine.between import Sample, choose, windows
from fluidvid.engine.cache import PersonState
from fluidvid.engine.face_networks import Recogniser
from fluidvid.engine.search import WEAK, AppliedEdit, EditorOptions
from fluidvid.engine.shares import Shares

SHRINK = 0.01
"""Per frame by which a direction that a weak frame had lengthened returns to its length."""


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
        """The guide's embeddings."""
        return self._shares(lambda part: (self.guide(part),), x)[0]

    def recognised(self, x: Tensor, edited: Tensor) -> Tensor:
        """`(N,)` bool: the guide still sees the people of `(N, 3, S, S)` crops in the edited ones, or cannot tell."""
        return ~((self._see(edited) * self._see(x)).sum(1) <= self.limit)

    def __call__(self, states: list[PersonState], x: Tensor, strength: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Edit crops of several people, each person's in the order of the frames.

        Args:
            states: N, one per crop.
            x: `(N, 3, S, S)` in [-1, 1].
            strength: `(N,)` in [0, 1].

        Returns:
            Changes `(N, 3, S, S)`, masks `(N, 1, S, S)`, and the guide's cosines `(N,)` between source and result.
        """
        between = self._between(states, x, strength)
        edited = [k for k in range(len(x)) if k not in between]
        source = self._see(x)
        change, mask, cosine = torch.zeros_like(x), torch.zeros_like(x[:, :1]), source.new_ones(len(x))
        change[edited], mask[edited], cosine[edited] = self._direct(
            [states[k] for k in edited], x[edited], strength[edited], source[edited]
        )
        for k, (earlier, later) in between.items():
            before = states[k].recent if earlier is None else Sample(x[earlier], change[earlier], mask[earlier])
            assert before is not None
            change[k] = (before.change + change[later]) / 2
            mask[k] = (before.mask + mask[later]) / 2
        if between:
            chosen = list(between)
            seen = (self._see((x[chosen] + change[chosen]).clamp(-1, 1)) * source[chosen]).sum(1)
            cosine[chosen] = seen
            # What was not good enough at a neighbour's, or is not here, is edited after all.
            poor = [k for k, c in zip(chosen, seen.tolist(), strict=True) if not c <= WEAK * self.limit]
            if poor:
                change[poor], mask[poor], cosine[poor] = self._direct(
                    [states[k] for k in poor], x[poor], strength[poor], source[poor]
                )
        return change, mask, cosine

    def _between(self, states: list[PersonState], x: Tensor, strength: Tensor) -> dict[int, tuple[int | None, int]]:
        """Positions that need no edit of their own, with their neighbours' (None: the person's `recent`)."""
        found: dict[int, tuple[int | None, int]] = {}
        if self.options.between <= 0:
            return found
        for state in {id(state): state for state in states}.values():
            run: list[int | None] = [k for k, other in enumerate(states) if other is state]
            if any(k is not None and strength[k] < 1 for k in run):
                continue
            crops = [x[k] for k in run if k is not None]
            if state.recent is not None:
                run.insert(0, None)
                crops.insert(0, state.recent.crop)
            for place in choose(crops, state.recent is not None, self.options.between, self._windows):
                here, later = run[place], run[place + 1]
                assert here is not None and later is not None
                found[here] = run[place - 1], later
        return found

    def _direct(
        self, states: list[PersonState], x: Tensor, strength: Tensor, source: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Edit crops, those further along their direction in which the guide still sees the person: see `__call__`."""
        turn = [sum(other is state for other in states[:k]) for k, state in enumerate(states)]
        values = torch.stack([s.values(self.options.transition, ahead) for s, ahead in zip(states, turn, strict=True)])
        lengths = [
            max(1.0, s.length - SHRINK * (ahead + 1)) if s.calm else s.length
            for s, ahead in zip(states, turn, strict=True)
        ]
        noise = torch.stack([state.direction.noise for state in states])
        scale = torch.tensor(lengths, device=x.device).reshape(-1, 1, 1, 1, 1)
        edited, mask = self._shares(self.apply, x, scale * values, noise, strength)
        cosine = (self._see(edited) * source).sum(1)
        for length in self.options.lengths:
            weak: list[int] = []
            for k, state in enumerate(states):
                still = strength[k] >= 1 and lengths[k] < length
                # Later frames of the same person go with the weak one: the face must not go to and fro.
                if still and (float(cosine[k]) > self.limit or any(states[j] is state for j in weak)):
                    weak.append(k)
            if weak:
                edited[weak], _ = self._shares(self.apply, x[weak], length * values[weak], noise[weak], strength[weak])
                cosine[weak] = (self._see(edited[weak]) * source[weak]).sum(1)
                for k in weak:
                    lengths[k] = length
        for k, state in enumerate(states):
            state.length, state.calm = lengths[k], float(cosine[k]) < WEAK * self.limit
            state.progress += 1
        return edited - x, mask, cosine
