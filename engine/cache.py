"""The directions of a run by person: a small store in memory, bounded in bytes, least recently used out first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from fluidvid.engine.between import Sample
from fluidvid.engine.geodesic import interpolate
from fluidvid.engine.plan import Direction

FIRST = "first"
"""Key of the figures of a direction as the bank has it."""
MAX_BYTES = 512 << 20
"""The embedded prior takes about 150 kB a person."""


@dataclass(frozen=True)
class Provenance:
    """Where a direction comes from and what was asked of it.

    Attributes:
        basis: hex SHA-256 over the model, the networks and the parameters that a direction depends on; a direction
            means nothing under another one.
        steps: optimisation steps it took.
        frames: indices of the source's frames it was found and verified on; empty where they are not known.
        figures: what verification measured: cosines of guides and verifiers, landmark error.
    """

    basis: str = ""
    steps: int = 0
    frames: tuple[int, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Known:
    """Everything that makes a person's pseudonym again.

    Attributes:
        coordinates: float32, what `DirectionSpace.directions` turns into `(L, C, h, w)`.
        noise: `(c, s, s)` float32 fixed noise.
        pseudonym: row in the bank, or None.
        provenance: of the coordinates.
        boost: multiple of the strength that this person takes, see `EditorOptions.boosts`.
    """

    coordinates: Tensor
    noise: Tensor
    pseudonym: int | None
    provenance: Provenance
    boost: float = 1.0

    @property
    def is_first(self) -> bool:
        """The bank's own direction, verified but not searched: `prepare` may still better it."""
        return bool(self.provenance.figures.get(FIRST))


@dataclass(eq=False)
class PersonState:
    """A person's direction as it is applied.

    Attributes:
        direction: found and verified.
        known: what it was made from.
        glasses: the person wears some.
        previous: `(L, C, h, w)` that was applied before `direction` replaced it, or None.
        progress: edits since then.
        boost: multiple of the strength that is applied; above the direction's own after a frame in which that was too
            weak.
        calm: the last frame was well below the limit: the boost may subside.
        recent: the last edited frame.
    """

    direction: Direction
    known: Known
    glasses: bool = False
    previous: Tensor | None = None
    progress: int = 0
    boost: float = 1.0
    calm: bool = True
    recent: Sample | None = None

    def values(self, transition: int, ahead: int = 0) -> Tensor:
        """The applied `(L, C, h, w)`, `ahead` edits from now: on the arc from the previous direction while a transition
        lasts.
        """
        if self.previous is None or self.progress + ahead >= transition:
            return self.direction.values
        return interpolate(self.previous, self.direction.values, (self.progress + ahead) / transition)

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        tensors = [self.direction.values, self.direction.noise, self.known.coordinates]
        if self.previous is not None:
            tensors.append(self.previous)
        if self.recent is not None:
            tensors += vars(self.recent).values()
        return sum(t.numel() * t.element_size() for t in tensors)


class DirectionStore(Protocol):
    """What `FluidEditor` keeps directions in."""

    def get(self, person_id: int) -> PersonState | None:
        """The person's state, now the most recently used; None if there is none."""

    def put(self, person_id: int, state: PersonState) -> None:
        """Keep a state; others may have to go."""

    def forget(self, person_id: int) -> None:
        """Drop a person; nothing happens if there is none."""


class MemoryStore:
    """A `DirectionStore` of at most `max_bytes`. A person who had to go is masked until prepared again.

    The newest state stays, however large it is.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._states: OrderedDict[int, PersonState] = OrderedDict()
        self.max_bytes = max_bytes

    def __len__(self) -> int:
        return len(self._states)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(state.nbytes for state in self._states.values())

    def get(self, person_id: int) -> PersonState | None:
        state = self._states.get(person_id)
        if state is not None:
            self._states.move_to_end(person_id)
        return state

    def put(self, person_id: int, state: PersonState) -> None:
        self._states.pop(person_id, None)
        self._states[person_id] = state
        while len(self._states) > 1 and self.nbytes > self.max_bytes:
            self._states.popitem(last=False)

    def forget(self, person_id: int) -> None:
        self._states.pop(person_id, None)
