"""Difference and inversion editing: nothing at strength zero, differentiable, the same alone and in a batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fluidvid.engine.backbone import Backbone
from fluidvid.engine.difference import DifferenceEditor
from fluidvid.engine.inversion import InversionEditor
from fluidvid.engine.plan import CropEditor, EditPlan, extrapolated
from tests.engine.tiny import tiny_backbone

PLANS = [
    EditPlan((500, 300), True, "linear", 6, 600),
    EditPlan((500, 300), False, "linear", 6, 600),
    EditPlan((500,), False, "geodesic", 6, 600),
]
EDITORS = (DifferenceEditor, InversionEditor)


@pytest.fixture(scope="module", params=["sample", "epsilon", "v_prediction"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_backbone(tmp_path_factory.mktemp("b"), prediction_type=request.param)


def _inputs(plan: EditPlan, n: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(n, 4, 8, 8, generator=generator)
    values = torch.randn(n, len(plan.timesteps), 16, 4, 4, generator=generator)
    return z, values, torch.randn(n, 4, 8, 8, generator=generator)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", EDITORS)
def test_strength_zero_changes_nothing_and_one_does(backbone: Backbone, plan: EditPlan, kind: type) -> None:
    editor: CropEditor = kind(backbone, plan)
    z, values, noise = _inputs(plan)
    with torch.no_grad():
        before, after = editor(z, values, noise, torch.zeros(3))
        torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
        before, after = editor(z, values, noise, torch.ones(3))
    # A random x-prediction network hardly looks at its input, so little of the edit survives its last steps.
    assert (after - before).abs().flatten(1).max(1).values.min() > 1e-7


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", EDITORS)
def test_a_batch_edits_each_face_as_if_alone(backbone: Backbone, plan: EditPlan, kind: type) -> None:
    editor: CropEditor = kind(backbone, plan)
    z, values, noise = _inputs(plan)
    strength = torch.tensor([1.0, 0.3, 0.7])
    with torch.no_grad():
        _, together = editor(z, values, noise, strength)
        for i in range(3):
            _, alone = editor(z[i : i + 1], values[i : i + 1], noise[i : i + 1], strength[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", EDITORS)
def test_directions_tried_on_the_same_latents_are_the_same_edits(
    backbone: Backbone, plan: EditPlan, kind: type
) -> None:
    editor: CropEditor = kind(backbone, plan)
    z, values, noise = _inputs(plan)
    strength = torch.tensor([1.0, 0.3, 0.7])
    with torch.no_grad():
        edits = editor.at(z, noise)
        for tried in (values, -values):
            for one, other in zip(edits(tried, strength), editor(z, tried, noise, strength), strict=True):
                torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_beyond_an_edit_is_on_the_line_from_before_it() -> None:
    before, after = torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    strength = torch.tensor([0.3, 1.0, 1.15, 2.0])
    found = extrapolated(before, after, strength)
    torch.testing.assert_close(found[:2], after[:2])  # up to 1 the edit has gone its share of the arc itself
    torch.testing.assert_close(found[2], after[2] + 0.15 * (after[2] - before[2]))
    torch.testing.assert_close(found[3], 2 * after[3] - before[3])


def test_difference_editing_passes_gradients_to_the_direction(backbone: Backbone) -> None:
    plan = PLANS[1]
    z, values, noise = _inputs(plan)
    values.requires_grad_()
    _, after = DifferenceEditor(backbone, plan)(z, values, noise, torch.ones(3))
    after.pow(2).sum().backward()
    assert values.grad is not None
    assert torch.isfinite(values.grad).all()
    assert values.grad.flatten(2).abs().max(2).values.min() > 0  # every level of every sample
    before, values.grad = values.grad, None
    with torch.no_grad():
        edits = DifferenceEditor(backbone, plan).at(z, noise)
    _, after = edits(values, torch.ones(3))
    after.pow(2).sum().backward()
    torch.testing.assert_close(values.grad, before, atol=1e-4, rtol=1e-4)


class _Exact:
    """A perfect denoiser of data at zero: x0 = 0 everywhere, so DDIM's path is known in closed form."""

    def __call__(self, backbone: Backbone) -> Backbone:
        unet = backbone.unet

        class Zero(type(unet)):  # type: ignore[misc]
            def decode(self, bottleneck: object, h: torch.Tensor | None = None) -> torch.Tensor:
                return torch.zeros_like(super().decode(bottleneck, h))

        return replace(backbone, unet=Zero(unet.unet))


def test_inversion_follows_the_closed_form_of_an_exact_model(tmp_path: Path) -> None:
    backbone = _Exact()(tiny_backbone(tmp_path))
    editor = InversionEditor(backbone, PLANS[0])
    z = torch.randn(2, 4, 8, 8)
    state = editor.invert(z)
    # With x0 = 0 the state after the first step is sqrt(1 - abar) eps; eps at t = 0 is z's own, scaled.
    levels = backbone.schedule.alphas_cumprod
    first, last = editor.timesteps()[0], editor.timesteps()[-1]
    eps = (z - 0) / (1 - levels[0]).sqrt()
    expected = (levels[first].sqrt() * z + (1 - levels[first]).sqrt() * eps) / (1 - levels[first]).sqrt()
    torch.testing.assert_close(state, expected * (1 - levels[last]).sqrt(), atol=1e-4, rtol=1e-4)


def test_inversion_has_no_randomness(backbone: Backbone) -> None:
    editor = InversionEditor(backbone, PLANS[0])
    z, _, _ = _inputs(PLANS[0])
    with torch.no_grad():
        torch.testing.assert_close(editor.invert(z), editor.invert(z), atol=0, rtol=0)
