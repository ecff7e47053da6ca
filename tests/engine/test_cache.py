"""The store of directions: bounded in bytes, the least recently used goes first."""

from __future__ import annotations

import torch

from fluidvid.engine.cache import Known, MemoryStore, PersonState, Provenance
from fluidvid.engine.plan import Direction


def _state(floats: int = 250) -> PersonState:
    direction = Direction(torch.zeros(floats - 2), torch.zeros(1))
    return PersonState(direction, Known(torch.zeros(1), direction.noise, None, Provenance()))


def test_least_recently_used_goes_when_bytes_run_out() -> None:
    store = MemoryStore(max_bytes=3000)
    for person in (1, 2, 3):
        store.put(person, _state())
    assert (len(store), store.nbytes) == (3, 3000)
    assert store.get(1) is not None
    store.put(4, _state())
    assert len(store) == 3 and store.get(2) is None
    assert all(store.get(person) is not None for person in (1, 3, 4))


def test_replacing_a_person_takes_no_more_room() -> None:
    store = MemoryStore(max_bytes=2000)
    for _ in range(5):
        store.put(1, _state())
    assert (len(store), store.nbytes) == (1, 1000)


def test_the_newest_stays_however_large() -> None:
    store = MemoryStore(max_bytes=100)
    store.put(1, _state(10))
    store.put(2, _state(1000))
    assert store.get(1) is None and store.get(2) is not None


def test_forget_and_unknown() -> None:
    store = MemoryStore()
    store.put(1, _state())
    store.forget(1)
    store.forget(7)
    assert store.get(1) is None and store.get(7) is None


def test_previous_direction_counts() -> None:
    state = _state()
    state.previous = torch.zeros(100)
    assert state.nbytes == 1400
