from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fluidvid.engine.between import choose, deviation, windows
from fluidvid.engine.cache import Known, PersonState, Provenance
from fluidvid.engine.plan import Direction
from fluidvid.engine.run import RunEditor
from fluidvid.engine.search import EditorOptions
from fluidvid.engine.shares import Shares

TEMPLATE = np.array([(0.36, 0.42), (0.64, 0.42), (0.5, 0.58), (0.38, 0.71), (0.62, 0.71)])
SIZE = 64
WHERE = windows(TEMPLATE, SIZE)


def _picture(value: float) -> Tensor:
    return torch.full((3, SIZE, SIZE), value)


def test_the_mean_of_two_pictures_deviates_by_nothing() -> None:
    assert deviation(_picture(0.2), _picture(0.3), _picture(0.4), WHERE) == pytest.approx(0, abs=1e-4)


def test_a_blink_counts_as_much_as_a_change_of_everything() -> None:
    blink = _picture(0.0)
    blink[:, 25:29, 20:27] = -0.5  # one eye
    face = deviation(_picture(0.0), _picture(0.1), _picture(0.0), WHERE)
    assert deviation(_picture(0.0), blink, _picture(0.0), WHERE) > face == pytest.approx(12.75, rel=1e-3)


def test_noise_is_not_motion() -> None:
    noise = 0.05 * torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    assert deviation(_picture(0.0), noise, _picture(0.0), WHERE) < 2.0


def test_no_two_neighbours_and_never_the_last_are_between() -> None:
    still = [_picture(0.0)] * 6
    assert choose(still, True, 1.0, WHERE) == [1, 3]
    assert choose(still[:5], True, 1.0, WHERE) == [1, 3]
    assert choose(still, False, 1.0, WHERE) == [2, 4]
    assert choose(still[:2], True, 1.0, WHERE) == []


def test_a_frame_unlike_its_neighbours_is_edited_itself() -> None:
    assert choose([_picture(v) for v in (0.0, 0.5, 0.0, 0.0, 0.0)], True, 1.0, WHERE) == [3]


class Brighter:
    """An edit that adds 0.2 times the direction, and remembers how many crops it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[float], list[float]]] = []

    def __call__(self, x: Tensor, values: Tensor, noise: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        amount = values.flatten(1)[:, 0]
        self.calls.append(([round(v, 3) for v in x[:, 0, 0, 0].tolist()], [round(v, 3) for v in amount.tolist()]))
        return x + 0.2 * (strength * amount)[:, None, None, None], torch.ones_like(x[:, :1])


class Dim:
    """A guide that recognises crops whose result lies below a brightness."""

    threshold = 1.0

    def __init__(self, below: float = -9.0) -> None:
        self.below = below

    def __call__(self, x: Tensor) -> Tensor:
        level = x[:, 0, 0, 0]
        return torch.where(level < self.below, 1.0, 0.0)[:, None]


def _run(guide: Dim, between: float = 4.0) -> tuple[RunEditor, Brighter, PersonState]:
    apply = Brighter()
    options = EditorOptions(between=between, frame_limit=0.8)
    run = RunEditor(apply, guide, options, TEMPLATE, SIZE, Shares(torch.device("cpu"), 1))  # type: ignore[arg-type]
    noise = torch.zeros(1)
    known = Known(torch.zeros(1), noise, None, Provenance())
    return run, apply, PersonState(Direction(torch.ones(1, 1, 1, 1), noise), known)


def _crops(*values: float) -> Tensor:
    return torch.stack([_picture(v) for v in values])


def test_a_frame_between_takes_the_mean_change_and_costs_no_edit() -> None:
    run, apply, state = _run(Dim())
    change, mask, cosine = run([state] * 4, _crops(0.0, 0.01, 0.02, 0.03), torch.ones(4))
    # The first one has no predecessor, the last one no successor.
    assert [seen for seen, _ in apply.calls] == [[0.0, 0.01, 0.03]]
    torch.testing.assert_close(change, torch.full_like(change, 0.2))
    assert bool((mask == 1).all()) and bool((cosine < 0.5).all())


def test_a_frame_between_that_is_recognised_is_edited_after_all() -> None:
    class Once(Dim):
        """Recognises every result but the three that were edited in one batch."""

        def __call__(self, x: Tensor) -> Tensor:
            return torch.zeros(3, 1) if len(x) == 3 else torch.ones(len(x), 1)

    run, apply, state = _run(Once())
    run([state] * 4, _crops(0.0, 0.01, 0.02, 0.03), torch.ones(4))
    assert apply.calls[1][0] == [0.02]


def test_two_people_do_not_share_a_run() -> None:
    run, apply, one = _run(Dim())
    other = _run(Dim())[2]
    run([one, other, one, other], _crops(0.0, 0.0, 0.01, 0.01), torch.ones(4))
    assert len(apply.calls) == 1 and len(apply.calls[0][0]) == 4


def test_fading_frames_are_edited_themselves() -> None:
    run, apply, state = _run(Dim())
    run([state] * 5, _crops(*[0.0] * 5), torch.tensor([0.2, 0.5, 0.8, 1.0, 1.0]))
    assert len(apply.calls[0][0]) == 5


def test_frames_behind_a_weak_one_go_as_far() -> None:
    # The second frame is so dark that only a longer direction lifts it over the guide's limit.
    run, apply, state = _run(Dim(below=0.22), between=0.0)
    run([state] * 3, _crops(0.5, 0.0, 0.5), torch.ones(3))
    assert apply.calls[0] == ([0.5, 0.0, 0.5], [1.0, 1.0, 1.0])
    assert apply.calls[1] == ([0.0, 0.5], [1.2, 1.2])
    assert state.length == 1.2
    run([state] * 2, _crops(0.5, 0.5), torch.ones(2))  # and comes back slowly
    assert apply.calls[2][1] == [1.19, 1.18]
