from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from fluidvid.engine.between import Between, cells, choose, deviation, windows
from fluidvid.engine.cache import Known, PersonState, Provenance
from fluidvid.engine.plan import Direction
from fluidvid.engine.run import RunEditor
from fluidvid.engine.search import EditorOptions
from fluidvid.engine.shares import Shares
from tests.engine.tiny import face68

TEMPLATE = np.array([(0.36, 0.42), (0.64, 0.42), (0.5, 0.58), (0.38, 0.71), (0.62, 0.71)])
SIZE = 64
WHERE = windows(TEMPLATE, SIZE)


def _picture(value: float) -> Tensor:
    return torch.full((3, SIZE, SIZE), value)


def _deviation(before: Tensor, here: Tensor, after: Tensor, share: float = 0.5) -> float:
    first, middle, last = cells([before, here, after])
    return deviation(first, middle, last, share, WHERE)


def test_what_lies_on_the_line_between_two_pictures_deviates_by_nothing() -> None:
    assert _deviation(_picture(0.2), _picture(0.3), _picture(0.4)) == pytest.approx(0, abs=1e-4)
    assert _deviation(_picture(0.0), _picture(0.3), _picture(0.4), 0.75) == pytest.approx(0, abs=1e-4)


def test_a_blink_counts_as_much_as_a_change_of_everything() -> None:
    blink = _picture(0.0)
    blink[:, 25:29, 20:27] = -0.5  # one eye
    face = _deviation(_picture(0.0), _picture(0.1), _picture(0.0))
    assert _deviation(_picture(0.0), blink, _picture(0.0)) > face == pytest.approx(12.75, rel=1e-3)


def test_noise_is_not_motion() -> None:
    noise = 0.05 * torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    assert _deviation(_picture(0.0), noise, _picture(0.0)) < 2.0


def test_still_faces_take_the_widest_span_and_the_ends_are_edited() -> None:
    still = [_picture(0.0)] * 9
    assert choose(still, 1.0, WHERE) == {
        k: Between(4 * (k // 4), 4 * (k // 4) + 4, k % 4 / 4) for k in (1, 2, 3, 5, 6, 7)
    }
    assert choose(still[:6], 1.0, WHERE) == {1: Between(0, 4, 0.25), 2: Between(0, 4, 0.5), 3: Between(0, 4, 0.75)}
    assert choose(still[:4], 1.0, WHERE) == {1: Between(0, 3, 1 / 3), 2: Between(0, 3, 2 / 3)}
    assert choose(still[:2], 1.0, WHERE) == {}


def test_a_frame_beside_the_line_is_edited_itself() -> None:
    found = choose([_picture(v) for v in (0.0, 0.0, 0.5, 0.0, 0.0, 0.0)], 1.0, WHERE)
    assert found == {4: Between(3, 5, 0.5)}
    nod = choose([_picture(v) for v in (0.0, 0.1, 0.2, 0.1, 0.0)], 1.0, WHERE)  # there and back within the widest span
    assert nod == {1: Between(0, 2, 0.5), 3: Between(2, 4, 0.5)}


class Brighter:
    """An edit that adds 0.2 times the direction, and remembers how many crops it was given."""

    backbone = SimpleNamespace(unet=SimpleNamespace(autocast=nullcontext))
    ahead = torch.from_numpy(face68()).float()

    def __init__(self) -> None:
        self.calls: list[tuple[list[float], list[float]]] = []  # crops, and how strongly each was edited

    def landmarks(self, x: Tensor) -> Tensor:
        """Of a crop's face."""
        return self.ahead.expand(len(x), 68, 2)

    @property
    def attributes(self) -> SimpleNamespace:
        """The landmarker, which asks `landmarks`."""
        return SimpleNamespace(landmarks=self.landmarks)

    def __call__(
        self, x: Tensor, values: Tensor, noise: Tensor, strength: Tensor, worn: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        amount = strength * values.flatten(1)[:, 0]
        self.calls.append(([round(v, 3) for v in x[:, 0, 0, 0].tolist()], [round(v, 3) for v in amount.tolist()]))
        return x + 0.2 * amount[:, None, None, None], torch.ones_like(x[:, :1]), self.landmarks(x)


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
    options = EditorOptions(strength=1.0, between=between, frame_limit=0.8)
    run = RunEditor(apply, guide, options, TEMPLATE, SIZE, Shares(torch.device("cpu"), 1))  # type: ignore[arg-type]
    noise = torch.zeros(1)
    known = Known(torch.zeros(1), noise, None, Provenance())
    return run, apply, PersonState(Direction(torch.ones(1, 1, 1, 1), noise), known)


def _crops(*values: float) -> Tensor:
    return torch.stack([_picture(v) for v in values])


def test_frames_between_take_their_share_of_the_changes_and_cost_no_edit() -> None:
    class Darker(Brighter):
        """Adds the less the brighter the picture is."""

        def __call__(
            self, x: Tensor, values: Tensor, noise: Tensor, strength: Tensor, worn: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            super().__call__(x, values, noise, strength, worn)
            return 0.5 * x + 0.2, torch.ones_like(x[:, :1]), self.landmarks(x)

    run, _, state = _run(Dim())
    run.apply = apply = Darker()  # type: ignore[assignment]
    change, mask, cosine, _ = run([state] * 4, _crops(0.0, 0.02, 0.04, 0.06), torch.ones(4))
    assert [seen for seen, _ in apply.calls] == [[0.0, 0.06]]
    torch.testing.assert_close(change[:, 0, 0, 0], torch.tensor([0.2, 0.19, 0.18, 0.17]))
    assert bool((mask == 1).all()) and bool((cosine < 0.5).all())
    # The next call goes on from the last edited frame.
    change, *_ = run([state] * 2, _crops(0.08, 0.10), torch.ones(2))
    assert [seen for seen, _ in apply.calls[1:]] == [[0.1]]
    torch.testing.assert_close(change[:, 0, 0, 0], torch.tensor([0.16, 0.15]))


def test_a_frame_between_that_is_recognised_is_edited_after_all() -> None:
    class Once(Dim):
        """Recognises the results that were not edited themselves: the two between the two that were."""

        def __init__(self) -> None:
            self.looks = 0

        def __call__(self, x: Tensor) -> Tensor:
            self.looks += 1
            return torch.eye(2)[[0 if self.looks in (1, 3, 4, 5) else 1] * len(x)]

    run, apply, state = _run(Once())
    run([state] * 4, _crops(0.0, 0.01, 0.02, 0.03), torch.ones(4))
    assert apply.calls[0][0] == [0.0, 0.03] and apply.calls[1][0] == [0.01, 0.02]


def test_nothing_is_taken_from_a_weak_or_partial_edit() -> None:
    run, _, state = _run(Dim(below=9.0))  # sees everybody everywhere
    run([state], _crops(0.0), torch.ones(1))
    assert state.recent is None
    run, _, state = _run(Dim())
    run([state], _crops(0.0), torch.tensor([0.5]))
    assert state.recent is None
    run([state], _crops(0.0), torch.ones(1))
    assert state.recent is not None and float(state.recent.change[0, 0, 0]) == pytest.approx(0.2)


class Aside(Brighter):
    """Heads turned far; the face of a darker one comes to stand beside it."""

    def landmarks(self, x: Tensor) -> Tensor:
        points = super().landmarks(x).clone()
        points[:, 30, 0] += 0.15  # the nose
        edited_of_dark = (x[:, 0, 0, 0] > 0.15) & (x[:, 0, 0, 0] < 0.3)
        return points + 0.1 * edited_of_dark[:, None, None]


def test_a_face_beside_a_turned_head_is_told_and_nothing_is_taken_from_it() -> None:
    run, _, state = _run(Dim())
    run.apply = apply = Aside()  # type: ignore[assignment]
    *_, aside = run([state], _crops(0.4), torch.ones(1))
    assert aside.tolist() == [False] and state.recent is not None
    *_, aside = run([state], _crops(0.0), torch.ones(1))
    assert aside.tolist() == [True] and state.recent is None
    before = len(apply.calls)
    *_, aside = run([state] * 3, _crops(0.0, 0.0, 0.0), torch.ones(3))
    assert [len(crops) for crops, _ in apply.calls[before:]] == [2, 1], "the one between is edited itself"
    assert aside.tolist() == [True, True, True]
    run.apply = Brighter()  # ahead: nobody asks where the face is now
    assert run([state], _crops(0.0), torch.ones(1))[3].tolist() == [False]


def test_two_people_do_not_share_a_run() -> None:
    run, apply, one = _run(Dim())
    other = _run(Dim())[2]
    run([one, other, one, other], _crops(0.0, 0.0, 0.01, 0.01), torch.ones(4))
    assert len(apply.calls) == 1 and len(apply.calls[0][0]) == 4


def test_fading_frames_are_edited_themselves() -> None:
    run, apply, state = _run(Dim())
    run([state] * 5, _crops(*[0.0] * 5), torch.tensor([0.2, 0.5, 0.8, 1.0, 1.0]))
    assert len(apply.calls[0][0]) == 5


def test_frames_behind_a_weak_one_are_edited_as_strongly() -> None:
    # The second frame is so dark that only a stronger edit lifts it over the guide's limit.
    run, apply, state = _run(Dim(below=0.22), between=0.0)
    run([state] * 3, _crops(0.5, 0.0, 0.5), torch.ones(3))
    assert apply.calls[0] == ([0.5, 0.0, 0.5], [1.0, 1.0, 1.0])
    assert apply.calls[1] == ([0.0, 0.5], [1.15, 1.15])
    assert state.boost == 1.15
    run([state] * 2, _crops(0.5, 0.5), torch.ones(2))  # and comes back slowly
    assert apply.calls[2][1] == [1.14, 1.13]
