"""Edits each person in every k-th picture and carries the residual over in between: the first rungs of the ladder.

A residual lives in the coordinates of the aligned crop, so that composing it with the next picture's own transform
warps it along with the face. It is used again only while the crop still looks the same and the editor's recogniser does
not see the person in the result, which it is asked anew as soon as there is something new to see; a fresh one is made
otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fluidvid.editing import Crops, EditedCrop, FaceEditor, Preparation

MAX_CHANGE = 12.0
"""Mean difference of two crops in the edited region, in grey levels, from which a residual of one does not fit the
other.
"""
UNCHANGED = 2.5
"""The same, up to which the recogniser's word on one crop with a residual holds for another crop with it."""
CONTRAST = 40.0
"""Standard deviation of a well lit face, in grey levels; at less of it, less change makes another face."""


@dataclass(eq=False)
class _Last:
    edited: EditedCrop
    crop: NDArray[np.uint8]
    judged: NDArray[np.uint8]  # the crop in which the recogniser was last asked
    age: int = 0

    def change(self, before: NDArray[np.uint8], now: NDArray[np.uint8]) -> float:
        """Mean difference of two crops in the edited region: what passes by behind the face does not matter."""
        mask = self.edited.mask
        return float((mask * cv2.absdiff(before, now).mean(2)).sum() / max(1.0, float(mask.sum())))

    def holds(self, now: NDArray[np.uint8]) -> bool:
        """What was seen in the crop that was judged is seen in this one."""
        inside = self.judged.mean(2)[self.edited.mask > 0.5]
        contrast = float(inside.std()) if inside.size else 0.0
        return self.change(self.judged, now) <= UNCHANGED * min(1.0, contrast / CONTRAST)


class ReusingEditor:
    """A `FaceEditor` in front of another one.

    Attributes:
        every: edit each person in every n-th picture; 1: in every one.
        reused: residuals that were used again.
    """

    def __init__(self, editor: FaceEditor) -> None:
        self._editor = editor
        self.crop_size, self.template = editor.crop_size, editor.template
        self.every = 1
        self.reused = 0
        self._last: dict[int, _Last] = {}

    def prepare(self, person_id: int, crops: Crops, *, frames: Sequence[int] = ()) -> Preparation:
        return self._editor.prepare(person_id, crops, frames=frames)

    def begin(self, person_id: int, crops: Crops, *, frames: Sequence[int] = ()) -> Preparation:
        return self._editor.begin(person_id, crops, frames=frames)

    def release(self, person_id: int) -> None:
        self._editor.release(person_id)

    def recognised(self, person_ids: Sequence[int], crops: Crops, edited: Crops) -> NDArray[np.bool_]:
        return self._editor.recognised(person_ids, crops, edited)

    def forget(self, alive: Collection[int]) -> None:
        """Drop the residuals of everybody else."""
        self._last = {k: v for k, v in self._last.items() if k in alive}

    def edit(self, person_ids: Sequence[int], crops: Crops, strengths: NDArray[np.float32]) -> Sequence[EditedCrop]:
        again = self._unrecognised(
            {i: last for i, person in enumerate(person_ids) if (last := self._fitting(person, crops[i]))},
            person_ids,
            crops,
        )
        fresh = [i for i in range(len(person_ids)) if i not in again]
        made: Sequence[EditedCrop] = ()
        if fresh:
            made = self._editor.edit([person_ids[i] for i in fresh], crops[fresh], strengths[fresh])
        results: dict[int, EditedCrop] = {i: last.edited for i, last in again.items()}
        for i, edited in zip(fresh, made, strict=True):
            results[i] = edited
            if edited.ok and self.every > 1:
                self._last[person_ids[i]] = _Last(edited, crops[i], crops[i])
            else:
                self._last.pop(person_ids[i], None)
        for last in again.values():
            last.age += 1
        self.reused += len(again)
        return [results[i] for i in range(len(person_ids))]

    def _fitting(self, person: int, crop: NDArray[np.uint8]) -> _Last | None:
        last = self._last.get(person)
        if last is None or last.age + 1 >= self.every:
            return None
        return last if last.change(last.crop, crop) <= MAX_CHANGE else None

    def _unrecognised(self, again: dict[int, _Last], person_ids: Sequence[int], crops: Crops) -> dict[int, _Last]:
        """Those of the residuals with which nobody is recognised."""
        asked = {i: last for i, last in again.items() if not last.holds(crops[i])}
        if not asked:
            return again
        sources = crops[list(asked)]
        residuals = np.stack([last.edited.residual for last in asked.values()])
        results = np.clip(np.rint(sources + residuals), 0, 255).astype(np.uint8)
        seen = self._editor.recognised([person_ids[i] for i in asked], sources, results)
        for i, last in asked.items():
            last.judged = crops[i]
        refused = {i for i, still in zip(asked, seen, strict=True) if still}
        return {i: last for i, last in again.items() if i not in refused}
