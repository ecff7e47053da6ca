"""`FluidEditor`: finds, verifies and applies directions; everything doubtful comes back as not ok."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fluidvid.engine import composite, losses, optimise
from fluidvid.engine import search as search_module
from fluidvid.engine.between import Sample
from fluidvid.engine.cache import Known, PersonState, Provenance
from fluidvid.engine.composite import softened
from fluidvid.engine.crops import to_crops
from fluidvid.engine.editor import FluidEditor
from fluidvid.engine.losses import LossWeights
from fluidvid.engine.memory import RunMemory
from fluidvid.engine.optimise import (
    BLUR,
    Candidate,
    Objective,
    Optimised,
    OptimiseOptions,
    SearchStopped,
    _Aim,
    _look,
    _LookAt,
    optimise_direction,
)
from fluidvid.engine.plan import Direction
from fluidvid.engine.pseudonyms import Person, PseudonymBank
from fluidvid.engine.search import EditorOptions
from fluidvid.engine.shares import Shares
from fluidvid.engine.subspace import ComponentSpace
from tests.engine.tiny import easy_options, editor_parts, faces, tiny_recogniser

EASY = easy_options(25)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return editor_parts(tmp_path_factory.mktemp("editor"))


def _editor(parts: dict[str, Any], options: EditorOptions = EASY, **changes: Any) -> FluidEditor:
    return FluidEditor(**(parts | changes), options=options, generator=torch.Generator().manual_seed(0))


def test_optimisation_lowers_the_guides_cosine(parts: dict[str, Any]) -> None:
    editor = _editor(parts)
    crops = faces(4)
    result = editor.prepare(7, crops)
    assert result.ok, result.reason
    assert result.figures["guide.guide"] < 0.99
    assert result.figures["steps"] >= 1
    edited = editor.edit([7, 7], crops[:2], np.ones(2, np.float32))
    assert all(e.ok for e in edited)
    assert edited[0].residual.shape == (64, 64, 3)
    assert np.abs(edited[0].residual).max() > 1
    assert np.abs(edited[0].residual[edited[0].mask == 0]).max() == 0


def _banked(parts: dict[str, Any], start: float) -> PseudonymBank:
    people = torch.nn.functional.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(3)), dim=1)
    starts = start * torch.randn(3, *parts["space"].zero().shape, generator=torch.Generator().manual_seed(4))
    return PseudonymBank({"guide": people}, torch.full((3,), 30.0), torch.full((3,), 0.5), starts)


def test_a_first_direction_comes_from_the_bank_and_a_search_keeps_its_pseudonym(parts: dict[str, Any]) -> None:
    memory = RunMemory()
    editor = _editor(parts | {"bank": _banked(parts, 1.0), "memory": memory})
    crops = faces(4)
    first = editor.begin(7, crops[:2])
    assert first.ok and first.figures["first"] == 1 and first.figures["steps"] == 0
    assert editor.edit([7], crops[:1], np.ones(1, np.float32))[0].ok
    begun = editor.store.get(7)
    assert begun is not None and begun.known.is_first
    after = editor.prepare(7, crops)
    assert after.ok and after.figures["steps"] >= 1 and "first" not in after.figures
    found = editor.store.get(7)
    assert found is not None and not found.known.is_first
    assert found.known.pseudonym == begun.known.pseudonym and torch.equal(found.known.noise, begun.known.noise)
    assert found.previous is not None  # it goes over along the arc
    assert [person.known for person in memory._people] == [found.known]


def test_people_may_leave_while_a_direction_is_searched(parts: dict[str, Any]) -> None:
    """Live, the search has a thread of its own: pseudonyms of the picture are read while people are released."""
    editor = _editor(parts | {"bank": _banked(parts, 1.0)})

    class Leaving(tuple[int, ...]):
        def __iter__(self) -> Iterator[int]:
            editor.forget(2)
            return super().__iter__()

    editor._rows.update({1: Leaving((0,)), 2: (1,)})
    first = editor.begin(7, faces(2))
    assert first.ok, first.reason
    assert editor._rows.keys() == {1, 7}


def test_first_directions_are_tried_in_the_order_of_how_little_the_verifier_finds_of_the_person(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = _banked(parts, 1.0)
    person = parts["verifiers"][0](to_crops(faces(2))).mean(0)
    person = person / person.norm()
    bank.embeddings["verifier"] = torch.stack([person, -person, torch.roll(person, 1)])
    editor = _editor(parts | {"bank": bank}, replace(EASY, accept=-1.0))  # nobody passes: all are tried
    tried: list[int | None] = []
    judge = editor.search._judge

    def judged(known: Known, *rest: Any, **options: Any) -> Any:
        if known.boost == 1:
            tried.append(known.pseudonym)
        return judge(known, *rest, **options)

    monkeypatch.setattr(editor.search, "_judge", judged)
    for number in range(5):  # they are drawn in another order each time
        assert not editor.begin(number, faces(2)).ok
    assert tried == 5 * [1, 2, 0]


def test_without_a_passing_row_there_is_no_first_direction(parts: dict[str, Any]) -> None:
    crops = faces(2)
    assert "no ready direction" in _editor(parts).begin(0, crops).reason
    strict = _editor(parts | {"bank": _banked(parts, 1.0)}, replace(EASY, accept=-1.0))
    assert "still recognisable" in strict.begin(0, crops).reason
    assert strict.store.get(0) is None


def test_a_guide_of_a_low_threshold_counts_more(parts: dict[str, Any], tmp_path: Path) -> None:
    def suppressed(*thresholds: float) -> float:
        """The term where two guides of these thresholds see the same."""
        guides = [tiny_recogniser(tmp_path, f"guide{i}", 1, threshold) for i, threshold in enumerate(thresholds)]
        editor = _editor(parts | {"guides": guides})
        crops, space = editor._crops(faces(2)), parts["space"]
        options = OptimiseOptions(steps=1, weights=EASY.optimise.weights)
        networks = (parts["backbone"], editor.search.path, space, guides, parts["attributes"])
        source = {guide.name: guide(crops) for guide in guides}
        objective = Objective(*networks, crops, source, torch.zeros(4, 8, 8), options)
        return optimise_direction(objective).terms["suppress"]

    # The last counts twice; inverse squares of .5 and .25 are 4 and 16, so .4 and 1.6 of their mean.
    even, last, first = suppressed(0.5, 0.5), suppressed(0.5, 0.25), suppressed(0.25, 0.5)
    assert even > 0.1
    assert last / even == pytest.approx((0.4 + 2 * 1.6) / 3, rel=1e-3)
    assert first / even == pytest.approx((1.6 + 2 * 0.4) / 3, rel=1e-3)


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is drawn counts, on bare skin, too: there is little else in faces of noise."""
    monkeypatch.setattr(composite, "skin_region", lambda points, size: torch.zeros(len(points), 1, size, size))
    monkeypatch.setattr(composite, "DARKER", 9.0)
    monkeypatch.setattr(composite, "_as_nearby", lambda drawn, *_: drawn)


def _search_on(parts: dict[str, Any], count: int) -> tuple[Callable[..., Optimised], dict[str, torch.Tensor]]:
    """`optimise_direction` on so many faces, and how the guides see them."""
    editor = _editor(parts)
    crops = editor._crops(faces(count))
    source = {guide.name: guide(crops) for guide in editor.guides}
    networks = (parts["backbone"], editor.search.path, parts["space"], editor.guides, parts["attributes"])
    objective = Objective(*networks, crops, source, torch.zeros(4, 8, 8), OptimiseOptions())

    def search(*, options: OptimiseOptions, **given: Any) -> Optimised:
        return optimise_direction(objective.under(options), **given)

    return search, source


def test_a_search_ends_at_the_mean_of_its_last_steps(parts: dict[str, Any]) -> None:
    search, _ = _search_on(parts, 2)

    def found(steps: int, averaged: float) -> torch.Tensor:
        options = OptimiseOptions(steps=steps, averaged=averaged, weights=EASY.optimise.weights)
        generator = torch.Generator().manual_seed(0)
        return search(options=options, generator=generator).coordinates

    two, three, four = (found(steps, 0.0) for steps in (2, 3, 4))
    assert (four - three).abs().max() > 0.01
    torch.testing.assert_close(found(4, 0.5), (three + four) / 2)
    torch.testing.assert_close(found(4, 0.75), (two + three + four) / 3)
    torch.testing.assert_close(found(0, 0.5), parts["space"].zero())


def test_candidates_are_ordered_by_what_their_start_costs(parts: dict[str, Any]) -> None:
    search, source = _search_on(parts, 1)
    weights = dict.fromkeys(vars(losses.LossWeights()), 0.0) | {"displace": 1.0}
    options = OptimiseOptions(steps=0, weights=losses.LossWeights(**weights))
    goals = [source["guide"][0] * sign for sign in (-1.0, 0.0, 1.0)]
    given = [Candidate(row, {"guide": goals[row]}) for row in (1, 2, 0)]
    found = search(candidates=given, options=options)
    assert [c.row for c in (found.candidate, *found.others)] == [2, 1, 0]
    assert not any(c.seen for c in found.others)  # the person as they are is nobody's pseudonym


def test_candidates_with_a_start_are_seen_there(parts: dict[str, Any]) -> None:
    search, _ = _search_on(parts, 1)
    given = [Candidate(row, start=torch.full_like(parts["space"].zero(), float(row))) for row in (1, 2, 3)]
    options = OptimiseOptions(steps=0, weights=EASY.optimise.weights)
    found = search(candidates=given, options=options)
    seen = [c.seen["guide"] for c in found.others]
    assert [float(s.norm()) for s in seen] == pytest.approx([1, 1], abs=1e-5)
    assert not torch.allclose(seen[0], seen[1])


def test_a_search_leads_away_from_rivals(parts: dict[str, Any], anywhere: None) -> None:
    search, source = _search_on(parts, 1)
    weights = dict.fromkeys(vars(losses.LossWeights()), 0.0) | {"apart": 10.0}

    def alike(steps: int) -> float:
        """The likeness to somebody who looks as the source does, after so many steps."""
        options = OptimiseOptions(steps=steps, averaged=0.0, weights=losses.LossWeights(**weights))
        rivals = [Candidate(0, seen={"guide": source["guide"][0]})]
        return search(candidates=[Candidate(1)], rivals=rivals, options=options).terms["apart"]

    assert alike(25) < alike(1) - 0.01  # both without the blur


def test_a_search_stays_near_where_its_pseudonym_begins(parts: dict[str, Any], anywhere: None) -> None:
    search, _ = _search_on(parts, 1)
    start = torch.full_like(parts["space"].zero(), 0.5)

    def moved(begun: float, start: torch.Tensor | None) -> float:
        """How far a search that suppresses leads from its start."""
        weights = dict.fromkeys(vars(losses.LossWeights()), 0.0) | {"suppress": 10.0, "begun": begun}
        options = OptimiseOptions(steps=12, refining_rate=0.14, weights=losses.LossWeights(**weights))
        found = search(candidates=[Candidate(1, start=start)], options=options)
        return float((found.coordinates - (0 if start is None else start)).norm())

    assert moved(2e5, start) < 0.8 * moved(0.0, start)
    assert moved(2e5, None) == moved(0.0, None)  # who begins nowhere may go anywhere


def test_a_second_search_keeps_away_from_everybody_else_who_was_drawn(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = _editor(parts | {"bank": _banked(parts, 1.0)}, replace(EASY, searches=2, attempts=3, accept=-1.0))
    told: list[tuple[int | None, set[int | None]]] = []

    def recorded(*args: Any, candidates: Any, rivals: Any, **options: Any) -> Any:
        found = optimise_direction(*args, candidates=candidates, rivals=rivals, **options)
        others = [candidate.row for candidate in (*rivals, *found.others)]
        assert len(others) == len(set(others))
        told.append((found.candidate.row, set(others)))
        return found

    monkeypatch.setattr(search_module, "optimise_direction", recorded)
    assert not editor.prepare(0, faces(3)).ok
    drawn = {told[0][0], *told[0][1]}
    assert len(drawn) > 2
    assert len({row for row, _ in told}) > 1
    assert all(others == drawn - {row} for row, others in told)


def test_every_further_round_is_held_less_where_it_begins(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = replace(EASY.optimise.weights, begun=16.0, brows=32.0)
    options = replace(EASY, attempts=3, accept=-1.0, optimise=replace(EASY.optimise, weights=weights))
    editor = _editor(parts | {"bank": _banked(parts, 1.0)}, options)
    held: list[tuple[int, float, float, float]] = []

    def recorded(objective: Objective, **others: Any) -> Any:
        steps, weights = objective.options.steps, objective.options.weights
        held.append((steps, weights.begun, weights.brows, weights.suppress))
        return optimise_direction(objective, **others)

    monkeypatch.setattr(search_module, "optimise_direction", recorded)
    assert not editor.prepare(0, faces(3)).ok
    suppress = weights.suppress
    assert held == [(25, 16.0, 32.0, suppress), (25, 4.0, 8.0, suppress), (25, 1.0, 2.0, suppress)]


@pytest.mark.parametrize("crops", [1, 2, 3, 4])
def test_every_guide_looks_at_every_crop(crops: int) -> None:
    for dear in (["dear"], ["dear", "dearer"]):
        guides: Any = ["cheap", *dear]
        looks = [_look(step, guides, crops) for step in range(2 * crops)]
        counts = Counter((str(guide), look.crop) for look in looks for guide in look.guides)
        assert all(counts["cheap", crop] == 2 for crop in range(crops)), looks
        assert all(counts[name, crop] == 1 for crop in range(crops) for name in dear), looks
        assert max(len(look.guides) for look in looks) == 2  # the dear ones take turns


def test_every_crop_is_looked_at_through_the_blur_as_often_as_without() -> None:
    guides: Any = ["cheap", "dear", "dearer"]
    for crops in (1, 2, 3, 4):
        looks = [_look(step, guides, crops) for step in range(4 * crops)]
        seen = {(str(guide), look.crop, look.blurred) for look in looks for guide in look.guides}
        assert seen == set(product(guides, range(crops), (False, True)))
        assert sum(look.blurred for look in looks) == 2 * crops


def test_what_the_blur_takes_away_hides_nobody(parts: dict[str, Any]) -> None:
    """Guides see the blurred result; what is kept is compared without the blur."""
    editor = _editor(parts)
    search, x = editor.search, editor._crops(faces(1))
    source = search.source(x).embeddings
    networks = search.apply.backbone, search.path, search.space, search.guides, search.attributes
    noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    options = replace(search.options.optimise, weights=LossWeights(manifold=0))
    objective = Objective(*networks, x, source, noise, options, Shares(torch.device("cpu")))
    coordinates = torch.randn(search.space.zero().shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        _, _, edited = objective.edited(coordinates, 0)
        (_, sharp, seen), (_, soft, blurred) = (
            objective(coordinates, _Aim(Candidate()), _LookAt(search.guides, 0, look), None) for look in (False, True)
        )
        through = softened(edited, torch.ones_like(edited[:, :1]), BLUR * edited.shape[-1])
        torch.testing.assert_close(seen["guide"], search.guides[0](edited)[0])
        torch.testing.assert_close(blurred["guide"], search.guides[0](through)[0])
    assert not torch.allclose(seen["guide"], blurred["guide"], atol=1e-4)
    assert sharp["parts"] == soft["parts"] and sharp["suppress"] != soft["suppress"]


def test_a_search_looks_at_every_crop(parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a guide sees in each step of a search on three crops is one of them, each as often as the others."""
    editor = _editor(parts, replace(EASY, optimise=replace(EASY.optimise, steps=6), key_crops=3))
    seen: list[int] = []
    suppress = losses.suppress

    def counted(edited: torch.Tensor, source: torch.Tensor, margin: float) -> torch.Tensor:
        seen.append(next(i for i, known in enumerate(sources) if torch.equal(known, source[0])))
        return suppress(edited, source, margin)

    monkeypatch.setattr(optimise, "suppress", counted)
    crops = faces(5)
    sources = editor.search.source(editor._crops(crops)).embeddings["guide"]
    assert editor.prepare(0, crops).ok
    assert sorted(seen) == [0, 0, 1, 1, 2, 2]


def test_strength_zero_is_no_change(parts: dict[str, Any]) -> None:
    editor = _editor(parts)
    crops = faces(2)
    assert editor.prepare(0, crops).ok
    assert np.abs(editor.edit([0], crops[:1], np.zeros(1, np.float32))[0].residual).max() < 0.5


def test_what_is_verified_is_as_strong_as_what_is_applied_and_the_search_is_at_one(parts: dict[str, Any]) -> None:
    strength = 2.0
    editor = _editor(parts, replace(EASY, strength=strength))
    search = editor.search
    x = editor._crops(faces(2))
    source = search.source(x)
    noise = torch.zeros(4, 8, 8)
    coordinates = torch.randn(search.space.zero().shape, generator=torch.Generator().manual_seed(3))
    known = Known(coordinates, noise, None, Provenance(editor.basis))
    direction = search.direction(known)
    networks = editor.backbone, search.path, search.space, search.guides, editor.attributes
    objective = Objective(*networks, x, source.embeddings, noise, EASY.optimise, Shares(torch.device("cpu"), 1))
    editor.store.put(0, PersonState(direction, known))
    applied = np.stack([e.residual for e in editor.edit([0, 0], faces(2), np.ones(2, np.float32))]) / 127.5
    with torch.no_grad():
        verified = search._edits(source, noise)(direction)
        plain, *_ = editor.apply(x, direction.values.expand(2, *direction.values.shape), noise, 1.0)
    shown = x + torch.from_numpy(applied).permute(0, 3, 1, 2)
    torch.testing.assert_close(shown, verified, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(objective.pictures(coordinates), plain, atol=1e-4, rtol=1e-3)
    assert float((verified - plain).abs().max()) > 0.01


@pytest.mark.parametrize("threads", [1, 2])
def test_networks_that_look_apart_give_the_gradient_of_the_whole(
    parts: dict[str, Any], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = replace(EASY.optimise.weights, manifold=1.0, begun=1.0)
    editor = _editor(parts, replace(EASY, optimise=replace(EASY.optimise, weights=weights)))
    search, x, noise = editor.search, editor._crops(faces(2)), torch.zeros(4, 8, 8)
    networks = editor.backbone, search.path, search.space, search.guides, editor.attributes
    source = search.source(x)
    start = torch.randn(search.space.zero().shape, generator=torch.Generator().manual_seed(3))
    goal = source.embeddings["guide"][1]
    aim = _Aim(Candidate(0, {"guide": goal}, start), {"guide": goal[None]}, x)

    def within(job: Callable[[torch.Tensor], Any], seen: torch.Tensor) -> Callable[[], Any]:
        def work() -> Any:
            terms = job(seen)
            return losses.weighted_sum(terms, weights), terms

        return work

    def gradient(*, whole: bool) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        shares = Shares(torch.device("cpu"))
        objective = Objective(*networks, x, source.embeddings, noise, search.options.optimise, shares)
        if whole:
            monkeypatch.setattr(objective, "_apart", within)
        drawn = objective.draw(torch.Generator().manual_seed(1))
        coordinates = start.clone().requires_grad_()
        loss, terms, seen = objective(coordinates, aim, _LookAt(search.guides, 0), drawn)
        assert seen.keys() == {"guide"}
        (found,) = torch.autograd.grad(loss, coordinates)
        return loss.detach(), found, {name: value.detach() for name, value in terms.items()}

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        loss, found, terms = gradient(whole=False)
        expected = gradient(whole=True)
    finally:
        torch.set_num_threads(before)
    assert terms.keys() >= {"suppress", "displace", "apart", "landmarks", "parts", "manifold", "begun", "prior"}
    assert float(found.norm()) > 0
    torch.testing.assert_close((loss, found, terms), expected, rtol=1e-3, atol=1e-6)


def test_verifier_that_still_recognises_refuses_the_person(parts: dict[str, Any]) -> None:
    editor = _editor(parts, replace(EASY, accept=-1.0))
    crops = faces(3)
    result = editor.prepare(0, crops)
    assert not result.ok
    assert "still recognisable" in result.reason
    assert [e.ok for e in editor.edit([0], crops[:1], np.ones(1, np.float32))] == [False]


def test_crops_that_will_be_masked_do_not_count(parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    editor = _editor(parts, replace(EASY, frame_limit=0.8))
    search = editor.search
    direction = search.direction(Known(search.space.zero(), torch.zeros(4, 8, 8), None, Provenance("")))

    def seen(guide: list[float], verifier: list[float]) -> tuple[float, float]:
        """Mean and worst of the verifier's figures when these are the crops' cosines to their source."""
        for net, cosines in ((search.guides[0], guide), (search.verifiers[0], verifier)):
            monkeypatch.setattr(net, "forward", lambda _, c=cosines: torch.tensor(c)[:, None])
        one = torch.ones(len(guide), 1)
        source = replace(search.source(editor._crops(faces(len(guide)))), embeddings={"guide": one, "verifier": one})
        figures, _ = search.verify(direction, source)
        assert figures["guide.guide"] == pytest.approx(np.mean(guide))
        return figures["verifier.verifier"], figures["verifier.verifier.worst"]

    # The watching guide masks a frame from .8 of its threshold of .5 on.
    assert seen([0.39, 0.1, 0.41, 0.9], [0.0, 0.2, 0.9, 0.8]) == pytest.approx((0.1, 0.9))
    assert seen([0.39, 0.41, 0.41, 0.9], [0.0, 0.2, 0.9, 0.8]) == pytest.approx((0.475, 0.9))  # too few: all count
    assert seen([0.39, 0.9], [0.0, 0.2]) == pytest.approx((0.1, 0.2))  # one alone proves nothing


def test_lost_expression_refuses_the_person(parts: dict[str, Any]) -> None:
    result = _editor(parts, replace(EASY, landmark_limit=-1.0)).prepare(0, faces(3))
    assert "expression" in result.reason


def test_unknown_person_and_weak_frame_are_not_ok(parts: dict[str, Any]) -> None:
    editor = _editor(parts, replace(EASY, frame_limit=-5.0))
    crops = faces(2)
    assert editor.prepare(0, crops).ok
    unknown, weak = editor.edit([5, 0], crops, np.ones(2, np.float32))
    assert (unknown.ok, unknown.reason) == (False, "no direction")
    assert (weak.ok, weak.reason) == (False, "weak edit")


def test_the_watching_guide_sees_who_stayed_and_who_went(parts: dict[str, Any]) -> None:
    editor = _editor(parts)
    crops = faces(3)
    embedding = editor.guides[0](editor._crops(crops))
    editor._run.limit = (1 + float((embedding[0] * embedding[2]).sum())) / 2
    assert editor.recognised([0, 1, 2], crops, crops).tolist() == [True, True, True]
    assert editor.recognised([0, 1, 2], crops, crops[::-1]).tolist() == [False, True, False]
    assert editor.prepare(0, crops).ok
    state = editor.store.get(0)
    assert state is not None
    # Who was edited just before is known already.
    state.recent = Sample(torch.zeros(1), torch.zeros(1), torch.zeros(1), embedding[2])
    assert editor.recognised([0, 1, 2], crops, crops).tolist() == [False, True, True]
    assert editor.recognised([0, 1, 2], crops, crops[::-1]).tolist() == [True, True, False]
    editor._run.limit = float("nan")  # cannot be told
    assert editor.recognised([0, 1, 2], crops, crops).all()


def test_weak_frame_is_edited_more_strongly_and_the_boost_subsides(
    parts: dict[str, Any], anywhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = _editor(parts)
    crops = faces(2)
    one = np.ones(1, np.float32)
    assert editor.prepare(0, crops).ok
    state = editor.store.get(0)
    assert state is not None
    plain = editor.edit([0], crops[:1], one)[0].residual
    assert state.boost == 1
    x, guide = editor._crops(crops[:1]), editor.guides[0]

    def cosine(residual: np.ndarray) -> float:
        with torch.no_grad():
            y = (x + torch.from_numpy(residual).permute(2, 0, 1)[None] / 127.5).clamp(-1, 1)
            return float((guide(y) * guide(x)).sum())

    editor._run.limit = cosine(plain) - 1e-4
    (further,) = editor.edit([0], crops[:1], one)
    assert state.boost > 1
    assert further.ok
    assert cosine(further.residual) < cosine(plain)
    editor._run.limit = 3.0 * guide.threshold
    most = state.boost
    for _ in range(2):  # the first one shows that the danger is over
        editor.edit([0], crops[:1], one)
    assert 1 <= state.boost < most


def test_non_finite_edit_is_not_ok(parts: dict[str, Any]) -> None:
    editor = _editor(parts)
    crops = faces(2)
    assert editor.prepare(0, crops).ok
    state = editor.store.get(0)
    assert state is not None
    state.direction.values[...] = torch.nan
    (result,) = editor.edit([0], crops[:1], np.ones(1, np.float32))
    assert (result.ok, result.reason) == (False, "the edit is not finite")


def test_changed_direction_moves_without_a_jump(parts: dict[str, Any], anywhere: None) -> None:
    editor = _editor(parts, replace(EASY, transition=10))
    crops = faces(2)
    assert editor.prepare(0, crops).ok
    one = np.ones(1, np.float32)
    first = editor.edit([0], crops[:1], one)[0].residual
    assert editor.prepare(0, faces(2, seed=9)).ok
    path = [editor.edit([0], crops[:1], one)[0].residual for _ in range(12)]
    whole = np.abs(path[-1] - first).mean()
    assert whole > 0.5
    assert np.abs(path[0] - first).mean() < 0.01 * whole
    steps = [np.abs(b - a).mean() for a, b in pairwise(path)]
    assert max(steps) < 0.35 * whole
    assert steps[-1] < 1e-3


def test_a_boosted_edit_is_replaced_without_a_step(parts: dict[str, Any]) -> None:
    editor = _editor(parts, replace(EASY, transition=10))
    assert editor.prepare(0, faces(2)).ok
    state = editor.store.get(0)
    assert state is not None
    state.boost = 1.3
    assert editor.prepare(0, faces(2, seed=9)).ok
    state = editor.store.get(0)
    assert state is not None and state.boost == 1.3


def test_a_face_beside_its_head_is_not_shown(parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    editor = _editor(parts)
    assert editor.prepare(0, faces(2)).ok
    landmarks, looks = editor.attributes.landmarks, [0.0, 0.0, 0.0, 0.1]  # of source and edit, twice

    def turned(x: torch.Tensor) -> torch.Tensor:
        points = landmarks(x).clone()
        points[:, 30, 0] += 0.2  # the nose
        return points + looks.pop(0)

    monkeypatch.setattr(editor.attributes, "landmarks", turned)
    (edited,) = editor.edit([0], faces(1), np.ones(1, np.float32))
    assert edited.ok
    (edited,) = editor.edit([0], faces(1), np.ones(1, np.float32))
    assert (edited.ok, edited.reason) == (False, "misplaced edit") and not looks


def test_a_guide_that_cannot_tell_shows_nobody(parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    editor = _editor(parts)
    assert editor.prepare(0, faces(2)).ok
    monkeypatch.setattr(editor.guides[0], "forward", lambda x: torch.full((len(x), 8), torch.nan))
    (edited,) = editor.edit([0], faces(1), np.ones(1, np.float32))
    assert (edited.ok, edited.reason) == (False, "weak edit")


def test_a_prior_of_few_levels_is_searched(parts: dict[str, Any]) -> None:
    weights = replace(EASY.optimise.weights, manifold=1.0)
    editor = _editor(parts, replace(EASY, optimise=replace(EASY.optimise, steps=2, weights=weights)))
    levels = editor.backbone.schedule.alphas_cumprod[:501]
    few = replace(editor.backbone, schedule=replace(editor.backbone.schedule, alphas_cumprod=levels))
    search = editor.search
    x = editor._crops(faces(2))
    networks = few, search.path, search.space, search.guides, editor.attributes
    for _ in range(4):
        options = replace(EASY.optimise, steps=2, weights=weights)
        objective = Objective(*networks, x, search.source(x).embeddings, torch.zeros(4, 8, 8), options)
        found = optimise_direction(objective, generator=torch.Generator().manual_seed(0))
        assert torch.isfinite(found.coordinates).all()


def test_same_seed_same_pseudonym_and_another_seed_another(parts: dict[str, Any]) -> None:
    crops = faces(2)
    residuals = []
    for seed in (1, 1, 2):
        editor = FluidEditor(**parts, options=EASY, generator=torch.Generator().manual_seed(seed))
        assert editor.prepare(0, crops).ok
        residuals.append(editor.edit([0], crops[:1], np.ones(1, np.float32))[0].residual)
    np.testing.assert_allclose(residuals[0], residuals[1], atol=1e-3)
    assert np.abs(residuals[0] - residuals[2]).max() > 0.5


def _bank() -> PseudonymBank:
    generator = torch.Generator().manual_seed(0)
    table = torch.nn.functional.normalize(torch.randn(40, 8, generator=generator), dim=1)
    return PseudonymBank({"guide": table}, torch.linspace(20, 60, 40), torch.full((40,), 0.5), torch.randn(40, 1, 5))


def test_a_search_lets_others_in_between_its_steps(parts: dict[str, Any]) -> None:
    """And they cannot be given the pseudonym that it may end on."""
    space = ComponentSpace((500,), torch.randn(1, 5, 256), (16, 4, 4))
    table = _bank().embeddings["guide"][:6]
    few = PseudonymBank({"guide": table}, torch.full((6,), 40.0), torch.full((6,), 0.5), torch.randn(6, 1, 5))
    editor = _editor(parts, replace(EASY, candidates=4), bank=few, space=space)
    begun: list[bool] = []

    def other() -> None:
        if not begun:
            begun.append(False)
            begun[0] = editor.begin(2, faces(2, seed=1)).ok

    for seed in range(6):
        editor.generator.manual_seed(seed)
        assert editor.bank is not None
        editor.bank.used.clear()
        editor.pace(other)
        begun.clear()
        assert editor.prepare(1, faces(2)).ok and begun == [True]
        one, two = (editor.store.get(person) for person in (1, 2))
        assert one is not None and two is not None and one.known.pseudonym != two.known.pseudonym
        for person in (1, 2):
            editor.release(person)
            editor.forget(person)


@pytest.mark.parametrize(
    ("looks", "chosen", "searched"),
    [
        (["0.9", "0.8"], 1, 2),  # both will do: the one that looks more like a face
        (["0.8", "0.9"], 0, 2),
        (["bad", "0.9", "0.8"], 2, 3),  # one more, for there must be two to choose from
        (["bad", "0.9", "bad"], 1, 3),
        (["bad", "bad", "bad"], 0, 3),
        (["seen", "0.9", "0.8"], 2, 3),  # also of two whom guides still see another is searched
    ],
)
def test_of_several_searches_the_best_looking_is_taken(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch, looks: list[str], chosen: int, searched: int
) -> None:
    editor = _editor(parts | {"bank": _banked(parts, 1.0)}, replace(EASY, searches=2, attempts=3))
    rows: list[int | None] = []
    search = optimise_direction

    def counted(*arguments: Any, **options: Any) -> Any:
        found = search(*arguments, **options)
        rows.append(found.candidate.row)
        return found

    def verify(*_: Any, thorough: bool, **__: Any) -> tuple[dict[str, float], str]:
        assert thorough
        look = looks[len(rows) - 1]
        figures = {"weak": float(look == "seen"), "guide.guide": 0.1, "verifier.verifier": 0.1}
        if look in ("bad", "seen"):
            return figures | {"unlikely": 1.0}, "no" if look == "bad" else ""
        return figures | {"unlikely": float(look)}, ""

    monkeypatch.setattr(search_module, "optimise_direction", counted)
    monkeypatch.setattr(editor.search, "verify", verify)
    result = editor.prepare(1, faces(3))
    assert len(rows) == searched and len(set(rows[:2])) == 2, rows
    assert result.ok == (looks[chosen] != "bad")
    assert result.figures["steps"] == searched * EASY.optimise.steps
    if result.ok:
        state = editor.store.get(1)
        assert state is not None and state.known.pseudonym == rows[chosen]


@pytest.mark.parametrize(
    ("weak", "seeing", "reasons", "steps"),
    [
        (0.3, 0.0, [""], [25, 12]),
        (0.0, 0.5, [""], [25, 12]),
        (0.0, 0.0, [""], [25]),
        (0.3, 0.0, ["no", "no", "no"], [25, 25, 25]),
        (0.3, 0.0, ["no", ""], [25, 25, 12]),
    ],
)
def test_who_is_still_seen_or_weak_is_led_on_once_and_who_fails_becomes_somebody_else(
    parts: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    weak: float,
    seeing: float,
    reasons: list[str],
    steps: list[int],
) -> None:
    editor = _editor(parts | {"bank": _banked(parts, 1.0)}, replace(EASY, attempts=3))
    figures = {"weak": weak, "seeing": seeing, "guide.guide": 0.1, "verifier.verifier": 0.1}
    rounds: list[tuple[Any, OptimiseOptions, Optimised]] = []

    def recorded(objective: Objective, candidates: Any, **others: Any) -> Any:
        found = optimise_direction(objective, candidates=candidates, **others)
        rounds.append((candidates, objective.options, found))
        return found

    def verify(*_: Any, **__: Any) -> tuple[dict[str, float], str]:
        return dict(figures), reasons[min(len(rounds), len(reasons)) - 1]

    monkeypatch.setattr(search_module, "optimise_direction", recorded)
    monkeypatch.setattr(editor.search, "verify", verify)
    result = editor.prepare(1, faces(3))
    assert result.ok == (not reasons[-1])
    assert [options.steps for _, options, _ in rounds] == steps and result.figures["steps"] == sum(steps)
    rows = [found.candidate.row for *_, found in rounds]
    assert len(set(rows)) == len(reasons)
    if steps[-1] == 12:  # on where the round before ended
        (*_, before), (candidates, options, _) = rounds[-2:]
        assert torch.equal(candidates[0].start, before.coordinates)
        weights = rounds[0][1].weights
        assert options.weights.suppress == 1.5 * weights.suppress > 0 == options.weights.apart


def test_a_lesser_boost_hides_where_the_strongest_breaks_the_expression(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = _editor(parts | {"bank": _banked(parts, 1.0)}, EASY)

    def verify(direction: Direction, *_: Any, **__: Any) -> tuple[dict[str, float], str]:
        figures = {"weak": 0.0, "seeing": float(direction.boost < 1.1), "verifier.verifier": 0.1}
        return figures, "expression not kept" if direction.boost > 1.2 else ""

    monkeypatch.setattr(editor.search, "verify", verify)
    assert editor.prepare(1, faces(3)).ok
    state = editor.store.get(1)
    assert state is not None and state.known.boost == 1.15


@pytest.mark.parametrize(("hides", "boost", "searched"), [(1.0, 1.0, 1), (1.15, 1.15, 1), (1.3, 1.3, 1), (9.0, 1.0, 2)])
def test_a_person_takes_the_least_boost_that_hides_them(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch, hides: float, boost: float, searched: int
) -> None:
    editor = _editor(parts | {"bank": _banked(parts, 1.0)}, replace(EASY, attempts=3))

    def verify(direction: Direction, *_: Any, **__: Any) -> tuple[dict[str, float], str]:
        seeing = float(direction.boost < hides)
        return {"weak": 0.0, "seeing": seeing, "boost": direction.boost, "verifier.verifier": 0.1}, ""

    monkeypatch.setattr(editor.search, "verify", verify)
    result = editor.prepare(1, faces(3))
    assert result.figures["boost"] == boost and result.figures["steps"] == 25 + (searched - 1) * 12
    state = editor.store.get(1)
    assert state is not None and state.known.boost == state.direction.boost == boost


def test_a_first_direction_takes_it_too(parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    editor = _editor(parts | {"bank": _banked(parts, 1.0)})

    def verify(direction: Direction, *_: Any, **__: Any) -> tuple[dict[str, float], str]:
        return {"weak": 0.0, "verifier.verifier": 0.1}, "" if direction.boost >= 1.3 else "no"

    monkeypatch.setattr(editor.search, "verify", verify)
    assert editor.begin(1, faces(3)).ok
    state = editor.store.get(1)
    assert state is not None and state.known.is_first and state.known.boost == 1.3


def test_every_frame_of_a_person_has_their_boost(parts: dict[str, Any]) -> None:
    editor = _editor(parts, replace(EASY, strength=0.5))
    crops, ones = faces(2), np.ones(2, np.float32)
    assert editor.prepare(0, crops).ok
    state = editor.store.get(0)
    assert state is not None
    results = []
    for boost in (1.0, 2.0):
        editor.store.put(0, PersonState(replace(state.direction, boost=boost), state.known))
        editor.edit([0, 0], crops, ones)  # a boost subsides to it, no further
        results.append([e.residual for e in editor.edit([0, 0], crops, ones)])
    editor._run.options = replace(EASY, strength=1.0)
    editor.store.put(0, PersonState(replace(state.direction, boost=1.0), state.known))
    whole = [e.residual for e in editor.edit([0, 0], crops, ones)]
    np.testing.assert_allclose(results[1], whole, atol=0.05)
    assert np.abs(results[0][0] - whole[0]).max() > 0.5


def test_guides_that_still_see_the_person_are_counted_where_asked(parts: dict[str, Any], tmp_path: Path) -> None:
    others = [tiny_recogniser(tmp_path, name, seed) for name, seed in (("second", 5), ("third", 6))]
    search = _editor(parts | {"guides": [*parts["guides"], *others]}, replace(EASY, accept=0.8)).search
    source = search.source(_editor(parts)._crops(faces(3)))
    still = search.direction(Known(search.space.zero(), torch.zeros(4, 8, 8), None, Provenance("")))
    blind = {net.name: -source.embeddings[net.name] for net in others[1:]}
    seen = replace(source, embeddings=source.embeddings | blind)
    assert "seeing" not in search.verify(still, seen)[0]
    assert search.verify(still, source, thorough=True)[0]["seeing"] == 1  # nothing was moved
    assert search.verify(still, seen, thorough=True)[0]["seeing"] == 0.5


def test_directions_tried_on_the_same_crops_are_applied_as_to_any(parts: dict[str, Any]) -> None:
    editor = _editor(parts)
    search = editor.search
    source = search.source(editor._crops(faces(3)))
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(4, 8, 8, generator=generator)
    tried = search.apply.at(source.crops, source.landmarks, source.rims, noise, 1.0)
    for _ in range(2):
        values = search.space.directions(torch.randn(search.space.zero().shape, generator=generator)).detach()
        for boost in (1.0, 1.5, 0.5):
            applied, *_ = search.apply(source.crops, values.expand(3, *values.shape), noise, boost)
            torch.testing.assert_close(tried(Direction(values, noise, boost)), applied, atol=1e-4, rtol=1e-4)
            assert (applied - source.crops).abs().max() > 1e-3


@pytest.mark.parametrize("strength", [0.5, 1.0, 1.7])
def test_a_search_sees_what_will_be_applied(parts: dict[str, Any], strength: float) -> None:
    editor = _editor(parts, replace(EASY, strength=strength))
    search = editor.search
    source = search.source(editor._crops(faces(2)))
    noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(2))
    coordinates = search.space.zero() + 0.1
    tried = search.objective(source, noise).pictures(coordinates)
    direction = search.direction(Known(coordinates, noise, None, Provenance("")))
    applied, *_ = search.apply(source.crops, direction.values.expand(2, *direction.values.shape), noise, strength)
    torch.testing.assert_close(tried, applied, atol=1e-4, rtol=1e-4)
    assert (tried - source.crops).abs().max() > 1e-3


def test_a_boost_of_the_same_direction_asks_no_network_again(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = _editor(parts)
    search = editor.search
    source = search.source(editor._crops(faces(2)))
    known = Known(search.space.zero() + 0.1, torch.zeros(4, 8, 8), None, Provenance(""))
    tried = search.apply.at(source.crops, source.landmarks, source.rims, known.noise, 1.0)
    first = tried(search.direction(known))
    with monkeypatch.context() as asleep:
        asleep.setattr(editor.backbone.unet, "decode", lambda *_: pytest.fail("the U-Net was asked"))
        boosted = tried(search.direction(replace(known, boost=1.5)))
    assert (boosted - first).abs().max() > 1e-3


def test_a_crop_that_no_direction_changes_is_not_weak(parts: dict[str, Any]) -> None:
    search = _editor(parts, replace(EASY, frame_limit=0.4 / parts["guides"][0].threshold)).search
    source = search.source(_editor(parts)._crops(faces(4)))
    direction = search.direction(Known(search.space.zero(), torch.zeros(4, 8, 8), None, Provenance("")))
    edited, *_ = search.apply(source.crops, direction.values.expand(4, *direction.values.shape), direction.noise, 1.0)
    new = search.guides[0](edited)
    wanted = 0.4 * torch.tensor([0.5, 0.9, 1.5, 2.2])  # well, weak, weak, lost
    beside = F.normalize(torch.roll(new, 1, 1) - (torch.roll(new, 1, 1) * new).sum(1, keepdim=True) * new, dim=1)
    was = wanted[:, None] * new + (1 - wanted[:, None] ** 2).sqrt() * beside
    changed = replace(source, embeddings=source.embeddings | {search.guides[0].name: was})
    assert search.verify(direction, changed)[0]["weak"] == pytest.approx(0.5)


@pytest.mark.parametrize(("searches", "asked"), [(1, False), (2, True)])
def test_how_a_result_looks_is_asked_where_there_is_a_choice(parts: dict[str, Any], searches: int, asked: bool) -> None:
    editor = _editor(parts, replace(EASY, searches=searches))
    assert ("unlikely" in editor.prepare(1, faces(2)).figures) == asked


@pytest.mark.parametrize(
    ("memory", "asked"), [(None, {"guide", "verifier"}), (RunMemory(), {"guide", "other", "verifier"})]
)
def test_a_first_direction_asks_who_this_is_only_where_somebody_remembers(
    parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: RunMemory | None, asked: set[str]
) -> None:
    guides = [*parts["guides"], tiny_recogniser(tmp_path, "other", 5, 0.5)]
    editor = _editor(parts | {"guides": guides, "memory": memory, "bank": _banked(parts, 1.0)})
    seen: list[set[str]] = []
    first = editor.search.first

    def noted(source: search_module.Source, *others: Any) -> Any:
        seen.append(set(source.embeddings))
        return first(source, *others)

    monkeypatch.setattr(editor.search, "first", noted)
    assert editor.begin(1, faces(2)).ok
    assert seen == [asked]


def test_how_a_result_looks_is_compared_with_its_source(parts: dict[str, Any]) -> None:
    editor = _editor(parts)
    x = editor._crops(faces(2))
    assert editor.search.surprise(x) == pytest.approx(editor.search.surprise(x.clone()))  # the same noises
    source = replace(editor.search.source(x), surprise=2 * editor.search.surprise(x))
    still = editor.search.direction(Known(editor.search.space.zero(), torch.zeros(4, 8, 8), None, Provenance("")))
    figures, _ = editor.search.verify(still, source)
    assert figures["unlikely"] == pytest.approx(0.5, rel=0.2)
    assert "unlikely" not in editor.search.verify(still, replace(source, surprise=None))[0]


def test_only_those_of_a_bank_who_may_be_are_drawn(tmp_path: Path) -> None:
    bank = replace(_bank(), drawn=torch.arange(40) % 4 == 0)
    bank.save(tmp_path / "bank.safetensors")
    loaded = PseudonymBank.load(tmp_path / "bank.safetensors")
    generator = torch.Generator().manual_seed(0)
    seen: set[int] = set()
    for _ in range(30):  # three times as often as there are people to draw
        (row,) = loaded.draw(Person(40.0, 0.5), {}, generator)
        loaded.take(row)
        seen.add(row)
    assert seen == set(range(0, 40, 4))
    assert len(loaded.draw(Person(40.0, 0.5), {}, generator, 20)) < 10
    assert len(loaded.ages) == 40


def _many() -> PseudonymBank:
    """Men and women of all ages."""
    generator = torch.Generator().manual_seed(0)
    table = torch.nn.functional.normalize(torch.randn(200, 16, generator=generator), dim=1)
    ages = 20 + 50 * torch.rand(200, generator=generator)
    return PseudonymBank({"guide": table}, ages, (torch.rand(200, generator=generator) < 0.5).float())


def test_pseudonyms_come_back_when_most_of_the_bank_was_given_to_others() -> None:
    bank = _many()
    generator = torch.Generator().manual_seed(0)
    given: list[int] = []
    for visitor in range(600):
        (row,) = bank.draw(Person(30.0, 1.0), {}, generator, present=[7])
        assert row not in given[-150:] and row != 7
        bank.take(row)
        given.append(row)
        if visitor % 50 == 0:
            bank.take(given[0])  # somebody of before is here again
            given.append(given[0])
    assert len(set(given)) > 150


def test_the_last_free_pseudonyms_are_still_chosen_by_age_and_gender() -> None:
    bank = _many()
    generator = torch.Generator().manual_seed(0)
    for row in range(150):
        bank.take(row)
    free = torch.arange(150, 200)
    men = [bank.draw(Person(30.0, 1.0), {}, generator)[0] for _ in range(40)]
    assert min(men) >= 150
    assert float(bank.males[men].mean()) > 0.95 > 0.8 > float(bank.males[free].mean())


def test_people_in_the_picture_keep_their_pseudonym_to_themselves_whoever_is_known() -> None:
    bank = _many()
    generator = torch.Generator().manual_seed(0)
    known = set(range(190))  # more than may be kept from others
    given: list[int] = []
    for _ in range(60):
        (row,) = bank.draw(Person(30.0, 1.0), {}, generator, known=known, present=given[-30:])
        assert row not in given[-30:]
        bank.take(row)
        given.append(row)
    everybody = list(range(200))
    assert len(bank.draw(Person(30.0, 1.0), {}, generator, present=everybody)) == 1, "somebody has to share"


def test_nobody_gets_another_gender_for_being_like_many() -> None:
    males = (torch.arange(80) % 2).float()
    tables = {name: F.one_hot(males.long()).float() for name in ("a", "b", "c")}
    bank = PseudonymBank(tables, torch.full((80,), 30.0), males)
    like_men = {name: torch.tensor([0.2, 0.98]) for name in tables}
    rows = bank.draw(Person(30.0, 1.0), like_men, torch.Generator().manual_seed(0), 8)
    assert all(males[row] == 1 for row in rows)


def test_directions_leave_what_people_of_one_kind_have_in_common() -> None:
    generator = torch.Generator().manual_seed(0)
    males = (torch.arange(400) % 2).float()
    common = torch.randn(2, 1, 9, generator=generator)[males.long()]
    coordinates = common + 0.5 * torch.randn(400, 1, 9, generator=generator)
    table = torch.eye(400)
    drawn = torch.arange(400) % 4 > 1
    bank = PseudonymBank({"guide": table}, torch.full((400,), 30.0), males, coordinates, drawn)
    men = [row for row in range(400) if males[row] == 1 and drawn[row]]
    starts = torch.stack([start for row in men if (start := bank.start(row)) is not None])

    def alike(values: torch.Tensor) -> float:
        unit = F.normalize(values.flatten(1), dim=1)
        return float((unit @ unit.T).mean())

    assert alike(starts) < alike(coordinates[men]) - 0.2
    torch.testing.assert_close(starts.norm(dim=2), coordinates[men].norm(dim=2))
    assert all(float(F.cosine_similarity(s, c)) > 0.5 for s, c in zip(starts, coordinates[men], strict=True))
    alone = PseudonymBank({}, torch.full((1,), 30.0), torch.ones(1), coordinates[:1])
    torch.testing.assert_close(alone.start(0), coordinates[0])


def test_bank_is_drawn_from_once_each_and_the_search_starts_there(parts: dict[str, Any], tmp_path: Path) -> None:
    bank = _bank()
    bank.save(tmp_path / "bank.safetensors")
    loaded = PseudonymBank.load(tmp_path / "bank.safetensors")
    torch.testing.assert_close(loaded.embeddings["guide"], bank.embeddings["guide"], atol=2e-3, rtol=0)
    space = ComponentSpace((500,), torch.randn(1, 5, 256), (16, 4, 4))
    still = replace(EASY, optimise=replace(EASY.optimise, steps=0))
    editor = _editor(parts, still, bank=loaded, space=space)
    for person in range(5):
        assert editor.prepare(person, faces(2, seed=person)).ok
    assert len(loaded.used) == 5
    starts = [space.directions(start) for row in loaded.used if (start := bank.start(row)) is not None]
    for person in range(5):
        state = editor.store.get(person)
        assert state is not None
        applied = state.direction.values
        assert min(float((applied - start).norm() / start.norm()) for start in starts) < 0.01


def test_bank_offers_nobody_who_is_taken() -> None:
    bank = _bank()
    person, generator = Person(40.0, 0.5), torch.Generator().manual_seed(0)
    taken = bank.draw(person, {}, generator, 3)
    assert len(set(taken)) == 3
    for row in taken:
        bank.take(row)
    for _ in range(20):
        assert not set(bank.draw(person, {}, generator, 4)) & set(taken)


def test_component_space_inverts_and_survives_saving(tmp_path: Path) -> None:
    space = ComponentSpace(
        (500, 300), torch.linalg.qr(torch.randn(2, 256, 6)).Q.transpose(1, 2).contiguous(), (16, 4, 4)
    )
    coordinates = torch.randn(2, 6)
    h = space.directions(coordinates)
    torch.testing.assert_close(space.coordinates_of(h.reshape(1, 2, -1))[0], coordinates, atol=1e-4, rtol=1e-4)
    space.save(tmp_path / "h.safetensors")
    loaded = ComponentSpace.load(tmp_path / "h.safetensors", (16, 4, 4)).select((300,))
    torch.testing.assert_close(loaded.directions(coordinates[1:]), h[1:], atol=2e-2, rtol=0)


def test_a_search_that_nobody_waits_for_ends_and_known_people_are_still_edited(parts: dict[str, Any]) -> None:
    editor = _editor(parts)
    crops = faces(2)
    assert editor.prepare(0, crops).ok
    editor.stop()
    with pytest.raises(SearchStopped):
        editor.prepare(1, crops)
    assert editor.edit([0], crops[:1], np.ones(1, np.float32))[0].ok


def test_first_tries_that_nobody_waits_for_end_too(parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is an edit of all crops, with boosts up to six of them."""
    editor = _editor(parts | {"bank": _banked(parts, 1.0)}, replace(EASY, accept=-1.0))  # nobody passes
    verify, judged = editor.search.verify, list[str]()

    def stopped_meanwhile(*arguments: Any, **named: Any) -> tuple[dict[str, float], str]:
        figures, reason = verify(*arguments, **named)
        judged.append(reason)
        editor.stop()
        return figures, reason

    monkeypatch.setattr(editor.search, "verify", stopped_meanwhile)
    for person in (0, 1):
        with pytest.raises(SearchStopped):
            editor.begin(person, faces(2))
        assert len(judged) == 1 and editor._rows == {}


def test_a_frame_that_no_boost_helps_is_a_weak_edit(parts: dict[str, Any]) -> None:
    editor = _editor(parts)
    crops = faces(1)
    assert editor.prepare(0, crops).ok
    state = editor.store.get(0)
    assert state is not None
    editor._run.limit = -2.0
    made: list[int] = []
    apply = editor._run.apply
    editor._run.apply = lambda *arguments: made.append(1) or apply(*arguments)  # type: ignore[assignment, func-returns-value]
    editor._run.apply.backbone, editor._run.apply.attributes = apply.backbone, apply.attributes  # type: ignore[misc]
    assert editor.edit([0], crops, np.ones(1, np.float32))[0].reason == "weak edit"
    assert len(made) == 1 + len(EASY.boosts)
