"""Loss terms on values worked out by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from fluidvid.engine import losses
from fluidvid.engine.face_networks import Attributes
from fluidvid.engine.losses import LossWeights
from tests.engine.tiny import face68, tiny_backbone


def _unit(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


def test_suppress_is_zero_below_the_margin() -> None:
    a, b = _unit((1, 0), (1, 0)), _unit((1, 0), (0, 1))
    assert losses.suppress(a, b, 0.2).item() == pytest.approx((0.8 + 0.0) / 2)


def test_displace_measures_the_distance_to_the_pseudonym() -> None:
    assert losses.displace_to(_unit((1, 0), (0, 1)), torch.tensor([1.0, 0.0])).item() == pytest.approx(0.5)


def test_apart_minds_whom_a_face_is_like_and_not_whom_it_is_unlike() -> None:
    others = _unit((0.6, 0.8), (-1, 0))
    assert losses.apart_from(_unit((1, 0)), others).item() == pytest.approx(0.3)


def test_total_variation_of_a_step_edge() -> None:
    picture = torch.zeros(1, 1, 4, 4)
    picture[..., 2:] = 3
    assert losses.total_variation(picture).item() == pytest.approx(3 * 4 / 12)


def test_colour_shift_minds_cells_not_shapes() -> None:
    checker = torch.ones(1, 3, 64, 64)
    checker[..., ::2] = -1
    mask = torch.ones(1, 1, 64, 64)
    assert losses.colour_shift(checker, mask).item() == pytest.approx(0, abs=1e-6)
    light = losses.colour_shift(torch.full((1, 3, 64, 64), 0.1), mask).item()
    red = torch.zeros(1, 3, 64, 64)
    red[:, 0] = 0.3
    assert light == pytest.approx(0.01, rel=1e-4)
    assert losses.colour_shift(red, mask).item() > 4 * light


def test_attribute_terms_are_zero_for_equal_and_positive_for_moved() -> None:
    kept = Attributes(
        torch.rand(2, 68, 2),
        torch.rand(2, 468, 2),
        torch.softmax(torch.rand(2, 7), 1),
        torch.tensor([30.0, 40]),
        torch.rand(2),
    )
    assert all(v.item() == 0 for v in losses.attribute_terms(kept, kept).values())
    older = dataclasses.replace(kept, age=kept.age + 30, landmarks=kept.landmarks + 0.1)
    terms = losses.attribute_terms(older, kept)
    assert terms["age_gender"].item() == pytest.approx(1.0)
    assert terms["landmarks"].item() == pytest.approx(0.01)


def test_openness_is_in_eye_distances_and_minds_opening_not_size_or_place() -> None:
    face = torch.from_numpy(face68()[None]).float()
    opened = face.clone()
    eyes = (face[0, 36:42].mean(0) - face[0, 42:48].mean(0)).norm()
    opened[:, 65:68, 1] += 0.3 * eyes  # the lower lip's inner edge
    before, after = losses.openness(face), losses.openness(opened)
    assert (after - before)[0].tolist() == pytest.approx([0, 0, 0.3], abs=1e-4)
    assert torch.allclose(losses.openness(0.5 * face + 0.2), before, atol=1e-5)
    shut = face.clone()
    shut[:, 65:68] = shut[:, [63, 62, 61]]
    shut.requires_grad_()
    losses.openness(shut).sum().backward()
    assert shut.grad is not None and bool(shut.grad.isfinite().all())


def test_weighted_sum_refuses_unknown_terms() -> None:
    weights = LossWeights(suppress=3.0, residual=2.0)
    total = losses.weighted_sum({"suppress": torch.tensor(2.0), "residual": torch.tensor(1.0)}, weights)
    assert total.item() == pytest.approx(8.0)
    with pytest.raises(AttributeError):
        losses.weighted_sum({"supress": torch.tensor(1.0)}, weights)


def test_skin_change_minds_the_skin_only() -> None:
    skin = torch.zeros(1, 1, 8, 8)
    skin[..., :4] = 1
    change = torch.zeros(1, 3, 8, 8)
    change[..., 4:] = 1
    assert losses.change_within(change, skin).item() == 0
    assert losses.change_within(change.flip(-1) / 2, skin).item() == pytest.approx(0.25)


def test_part_correlation_sees_a_moved_iris_and_not_the_light() -> None:
    landmarks = torch.from_numpy(face68()[None]).float()
    windows = losses.part_windows(landmarks)
    assert windows.shape == (1, 3, 4)
    picture = torch.full((1, 3, 100, 100), 0.5)
    eye = landmarks[0, 36:42].mean(0) * 100
    x, y = int(eye[0]), int(eye[1])
    picture[..., y - 2 : y + 2, x - 3 : x] = -0.8  # the iris looks to the left
    moved = torch.full((1, 3, 100, 100), 0.5)
    moved[..., y - 2 : y + 2, x : x + 3] = -0.8
    before = losses.parts(picture, windows)
    assert losses.part_correlation(losses.parts(0.7 * picture - 0.1, windows)[:, :1], before[:, :1]).item() < 1e-4
    assert losses.part_correlation(losses.parts(moved, windows)[:, :1], before[:, :1]).item() > 0.5


def test_manifold_is_zero_for_the_source_and_pulls_against_what_the_prior_would_correct(tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path)
    generator = torch.Generator().manual_seed(0)
    before, noise = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(4, 8, 8, generator=generator)
    assert losses.manifold(backbone, before, before, noise).item() == 0
    after = (before + 0.5).requires_grad_()
    losses.manifold(backbone, after, before, noise, (200,)).backward()
    ts = torch.full((2,), 200)

    def correction(z: torch.Tensor) -> torch.Tensor:
        return backbone.predict(backbone.schedule.add_noise(z, noise.expand_as(z), ts), ts)[0] - z

    assert after.grad is not None
    wanted = (correction(after.detach()) - correction(before)) * 2 / after.numel()
    torch.testing.assert_close(-after.grad, wanted, atol=1e-6, rtol=1e-4)


def test_change_since_the_beginning_counts_where_the_face_is() -> None:
    begun = torch.zeros(1, 3, 4, 4)
    edited, mask = begun + 0.5, torch.zeros(1, 1, 4, 4)
    mask[..., :2, :] = 1.0
    edited[..., 2:, :] = 9.0
    assert losses.change_within(edited - begun, mask).item() == pytest.approx(0.25)


def test_only_what_is_darker_counts_between_the_brows() -> None:
    begun, where = torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)
    where[..., :2, :] = 1.0
    assert losses.darker_than(begun - 0.5, begun, where).item() == pytest.approx(0.25)
    assert losses.darker_than(begun + 0.5, begun, where).item() == 0.0
    edited = begun.clone()
    edited[..., 2:, :] = -1.0
    assert losses.darker_than(edited, begun, where).item() == 0.0
