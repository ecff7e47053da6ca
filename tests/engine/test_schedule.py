"""Scheduler conversions against float64 references and diffusers' own DDIM step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from numpy.typing import NDArray

from fluidvid.engine.schedule import PREDICTION_TYPES, NoiseSchedule
from fluidvid.errors import ModelError


def _case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    z0, noise = torch.randn(2, 4, 5, 4, 4, generator=generator).unbind(0)
    return z0, noise, torch.tensor([1, 150, 600, 990])


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_every_prediction_type_gives_back_x0_and_eps(prediction_type: str) -> None:
    z0, noise, timesteps = _case()
    schedule = NoiseSchedule.from_scheduler(DDPMScheduler(prediction_type=prediction_type))
    abar = DDPMScheduler().alphas_cumprod.double().numpy()[timesteps.numpy()].reshape(-1, 1, 1, 1)
    x, e = z0.double().numpy(), noise.double().numpy()
    z_t = np.sqrt(abar) * x + np.sqrt(1 - abar) * e
    output = {"epsilon": e, "sample": x, "v_prediction": np.sqrt(abar) * e - np.sqrt(1 - abar) * x}[prediction_type]

    def as_float(a: NDArray[np.float64]) -> torch.Tensor:
        return torch.from_numpy(a).float()

    np.testing.assert_allclose(schedule.add_noise(z0, noise, timesteps).numpy(), z_t, atol=2e-6)
    x0, eps = schedule.x0_and_eps(as_float(output), as_float(z_t), timesteps)
    # At t = 990 x0 is divided by sqrt(abar) = 0.007 and at t = 1 eps by 0.014: float32 leaves four digits there.
    np.testing.assert_allclose(x0.numpy(), x, atol=1e-3)
    np.testing.assert_allclose(eps.numpy(), e, atol=1e-3)


def test_ddim_state_equals_diffusers_step() -> None:
    z0, noise, _ = _case()
    scheduler = DDIMScheduler(prediction_type="epsilon", clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(10)
    schedule = NoiseSchedule.from_scheduler(scheduler)
    now = int(scheduler.timesteps[4])
    after = now - 1000 // 10
    ours = schedule.ddim(*schedule.x0_and_eps(noise, z0, torch.full((4,), now)), torch.full((4,), after))
    theirs = scheduler.step(noise, now, z0, eta=0.0).prev_sample
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_clean_level_is_x0() -> None:
    z0, noise, _ = _case()
    schedule = NoiseSchedule.from_scheduler(DDPMScheduler())
    torch.testing.assert_close(schedule.ddim(z0, noise, torch.full((4,), -1)), z0)


def test_unknown_prediction_type_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="epsilon, v_prediction, sample"):
        NoiseSchedule(torch.linspace(0.99, 0.01, 10), "flow")
