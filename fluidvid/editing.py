"""What the pipeline asks of an editor: the protocol the engine fills, seen from the product's side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Crops = NDArray[np.uint8]
"""`(N, S, S, 3)` uint8 RGB, aligned onto the editor's template."""


class Preparation(Protocol):
    """Outcome of finding one person's direction. `reason` says in words why `ok` is False."""

    @property
    def ok(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def figures(self) -> Mapping[str, float]: ...
    @property
    def seconds(self) -> float: ...


class EditedCrop(Protocol):
    """One edited face.

    `residual` is `(S, S, 3)` float32 in pixel units [-255, 255], already times the soft `mask` `(S, S)` float32 in
    [0, 1]; `reason` says in words why `ok` is False.
    """

    @property
    def residual(self) -> NDArray[np.float32]: ...
    @property
    def mask(self) -> NDArray[np.float32]: ...
    @property
    def ok(self) -> bool: ...
    @property
    def reason(self) -> str: ...


class FaceEditor(Protocol):
    """Turns aligned crops of known people into residuals that make another face of them."""

    @property
    def crop_size(self) -> int:
        """Side S of the aligned crops in pixels."""
        ...

    @property
    def template(self) -> NDArray[np.float64]:
        """`(5, 2)` landmarks of an aligned crop, in fractions of its side."""
        ...

    def prepare(self, person_id: int, crops: Crops, *, frames: Sequence[int] = ()) -> Preparation:
        """Find and verify one person's direction from key crops `(K, S, S, 3)`; `frames` are the crops' frames,
        for the record.
        """
        ...

    def begin(self, person_id: int, crops: Crops, *, frames: Sequence[int] = ()) -> Preparation:
        """A first verified direction at once, to be used until `prepare` has found a better one; `ok` is False where
        there is none. Its figures hold `first` where `prepare` is still worth while.
        """
        ...

    def release(self, person_id: int) -> None:
        """The person has left the picture: who is recognised as them later may have their pseudonym."""
        ...

    def edit(self, person_ids: Sequence[int], crops: Crops, strengths: NDArray[np.float32]) -> Sequence[EditedCrop]:
        """Edit `(N, S, S, 3)` crops of prepared people; `(N,)` strengths in [0, 1] scale the configured one."""
        ...

    def recognised(self, person_ids: Sequence[int], crops: Crops, edited: Crops) -> NDArray[np.bool_]:
        """`(N,)` whether the people of `(N, S, S, 3)` crops are still seen in the edited ones: the limit of `edit`."""
        ...
