"""`FluidEditor` with a memory: a known person costs no search, is verified again, and is renewed when that fails."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fluidvid.engine import search as search_module
from fluidvid.engine.cache import Known, Provenance
from fluidvid.engine.editor import FluidEditor
from fluidvid.engine.memory import RunMemory
from fluidvid.engine.optimise import optimise_direction
from fluidvid.engine.pseudonyms import PseudonymBank
from fluidvid.engine.search import EditorOptions
from tests.engine.tiny import easy_options, editor_parts, faces

OPTIONS = easy_options(6)
ONE = np.ones(1, np.float32)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    table = torch.nn.functional.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    bank = PseudonymBank({"guide": table}, torch.linspace(20, 60, 40), torch.full((40,), 0.5))
    return editor_parts(tmp_path_factory.mktemp("memory")) | {"bank": bank}


def _editor(parts: dict[str, Any], memory: RunMemory, options: EditorOptions = OPTIONS, **changes: Any) -> FluidEditor:
    made = parts | {"bank": replace(parts["bank"], used={})} | {"basis": "b"} | changes
    return FluidEditor(**made, options=options, generator=torch.Generator().manual_seed(0), memory=memory)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every search for a direction: the candidates and the noise it began with."""
    seen: list[Any] = []
    search = optimise_direction

    def counted(*arguments: Any, **options: Any) -> Any:
        seen.append((options["candidates"], arguments[0].noise))
        return search(*arguments, **options)

    monkeypatch.setattr(search_module, "optimise_direction", counted)
    return seen


def _remembered(parts: dict[str, Any]) -> tuple[RunMemory, Known, Any]:
    memory = RunMemory()
    first = _editor(parts, memory)
    crops = faces(2)
    assert first.prepare(1, crops, frames=[3, 9]).ok
    memory.release(1)
    state = first.store.get(1)
    assert state is not None
    return memory, state.known, first.edit([1], crops[:1], ONE)[0].residual


def test_known_person_costs_no_search_and_looks_the_same(parts: dict[str, Any], searches: list[Any]) -> None:
    memory, known, residual = _remembered(parts)
    assert len(searches) == 1
    assert known.provenance.frames == (3, 9) and known.provenance.steps == 6
    assert "verifier.verifier" in known.provenance.figures
    crops = faces(2)
    second = _editor(parts, memory)
    result = second.prepare(8, crops)
    assert result.ok and result.figures["steps"] == 0 and result.figures["recalled"] == 1
    assert "verifier.verifier" in result.figures, "verified again before use"
    assert len(searches) == 1
    np.testing.assert_allclose(second.edit([8], crops[:1], ONE)[0].residual, residual, atol=1e-3)
    assert second.bank is not None and known.pseudonym in second.bank.used


def test_failed_verification_searches_again_for_the_same_pseudonym(parts: dict[str, Any], searches: list[Any]) -> None:
    memory, known, _ = _remembered(parts)
    broken = replace(known, coordinates=known.coordinates * torch.nan)
    memory._people[0].known = broken
    result = _editor(parts, memory).prepare(8, faces(2))
    candidates, noise = searches[-1]
    assert len(searches) == 2 and "recalled" not in result.figures
    assert [c.row for c in candidates] == [known.pseudonym]
    torch.testing.assert_close(noise, known.noise)


def test_renewed_direction_replaces_the_remembered_one(parts: dict[str, Any]) -> None:
    memory, known, _ = _remembered(parts)
    memory._people[0].known = replace(known, coordinates=known.coordinates * 0)  # an edit that changes nothing
    options = replace(OPTIONS, accept=1.99, optimise=replace(OPTIONS.optimise, steps=20))  # cosines below .995
    result = _editor(parts, memory, options).prepare(8, faces(2))
    assert result.ok and result.figures["steps"] > 0, result
    assert memory._people[0].known.coordinates.abs().max() > 0


def test_who_fails_is_searched_for_as_every_pseudonym_drawn_then_goes_on(
    parts: dict[str, Any], searches: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = _editor(parts, RunMemory(), replace(OPTIONS, accept=-1.0, attempts=OPTIONS.candidates + 1))
    judged: list[Any] = []
    led_on = editor.search._led_on

    def recorded(*arguments: Any, **options: Any) -> Any:
        judged.append(led_on(*arguments, **options))
        return judged[-1]

    monkeypatch.setattr(editor.search, "_led_on", recorded)
    assert not editor.prepare(1, faces(2)).ok
    first, *others = ([c.row for c in candidates] for candidates, _ in searches)
    *tried, last = others
    assert len(set(first)) == OPTIONS.candidates
    assert len(tried) == OPTIONS.candidates - 1 == len({row for (row,) in tried}), "nothing was ordered twice"
    assert {row for (row,) in tried} < set(first)
    best = min(judged[:-1], key=lambda each: each.rank).known
    assert last == [best.pseudonym], "nobody is left to become"
    assert all(candidates[0].start is None for candidates, _ in searches[:-1])
    assert torch.equal(searches[-1][0][0].start, best.coordinates)


def test_nothing_verifies_then_the_face_is_not_ok(parts: dict[str, Any]) -> None:
    memory, known, _ = _remembered(parts)
    editor = _editor(parts, memory, replace(OPTIONS, accept=-1.0))
    crops = faces(2)
    assert not editor.prepare(8, crops).ok
    assert [e.ok for e in editor.edit([8], crops[:1], ONE)] == [False]
    assert memory._people[0].known is known, "a failure changes nothing that is remembered"


@pytest.mark.parametrize(
    "change",
    [
        {"provenance": Provenance("another basis")},
        {"coordinates": torch.zeros(2, 16, 4, 4)},
        {"noise": torch.zeros(4, 9, 9)},
        {"pseudonym": 40},
    ],
    ids=["basis", "coordinates", "noise", "row"],
)
def test_direction_of_another_editor_is_not_used(
    parts: dict[str, Any], searches: list[Any], change: dict[str, Any]
) -> None:
    memory, known, _ = _remembered(parts)
    memory._people[0].known = replace(known, **change)
    result = _editor(parts, memory).prepare(8, faces(2))
    assert len(searches) == 2 and "recalled" not in result.figures


def test_two_people_at_once_never_share(parts: dict[str, Any], searches: list[Any]) -> None:
    memory = RunMemory()
    editor = _editor(parts, memory)
    crops = faces(2)
    assert editor.prepare(1, crops).ok
    assert editor.prepare(2, crops).ok
    assert len(searches) == 2 and memory.counts["ambiguous"] == 1
    assert editor.bank is not None and len(editor.bank.used) == 2


def test_pseudonyms_of_known_people_are_given_to_nobody_else(parts: dict[str, Any]) -> None:
    class Reserved(RunMemory):
        def pseudonyms(self) -> set[int]:
            return set(range(30))  # as many as may be kept from others

    editor = _editor(parts, Reserved())
    assert editor.prepare(1, faces(2)).ok
    state = editor.store.get(1)
    assert state is not None and state.known.pseudonym in range(30, 40)


def test_identities_are_unit_vectors_of_both_kinds_of_recognisers(parts: dict[str, Any]) -> None:
    crops = faces(3)
    crops[2] = 40
    found = _editor(parts, RunMemory()).identify(crops)
    assert found.shape == (3, 16) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 1, 0], atol=1e-5)
