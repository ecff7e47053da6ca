"""Second phase of the embedded prior: the decoding half learns to draw whole faces in few steps, also displaced ones.

The mean over all faces a noisy latent may come from is a blurred face. An adversarial term on the predicted x0 (latent
adversarial diffusion distillation, arXiv 2403.12015: a copy of the U-Net's encoding half sees re-noised latents, small
heads judge them) makes the prediction one face instead. The same term on predictions from a displaced h teaches the
decoder that whatever h says, the answer is a face; a share of the first phase's prediction keeps what the displacement
means. Only the decoding half moves, so h-space, its components and the pseudonyms stay valid.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from fluidvid.engine.hspace import Bottleneck, SplitUNet
from fluidvid.engine.schedule import NoiseSchedule
from fluidvid.engine.subspace import ComponentSpace
from fluidvid.engine.training.diffusion import denoising_errors, drop_skips, new_scheduler
from fluidvid.engine.training.latents import LatentCache
from fluidvid.engine.training.runs import append_row, load_state, save_state

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SharpenTraining:
    """Options of one run.

    Attributes:
        hours: length of the run.
        batch: latents per step; half of them are displaced.
        learning_rate: of the decoding half.
        critic_rate: of the heads.
        adversarial: length of the adversarial gradient as a share of the reconstruction's.
        skip_dropout: share of the samples decoded from h alone.
        highest: largest timestep that is trained.
        critic_highest: largest timestep to which the critic's input is noised.
        displacement: coordinates of a displacement in standard deviations, largest.
        ema: decay of the average that is kept.
        checkpoint_seconds: time between checkpoints.
        seed: of everything random.
    """

    hours: float = 1.0
    batch: int = 16
    learning_rate: float = 5e-5
    critic_rate: float = 1e-4
    adversarial: float = 0.5
    skip_dropout: float = 0.6
    highest: int = 700
    critic_highest: int = 350
    displacement: float = 0.7
    ema: float = 0.998
    checkpoint_seconds: float = 300.0
    seed: int = 0


class Critic(nn.Module):
    """Small heads on the features of a frozen U-Net's encoding half; larger means more like a real latent."""

    def __init__(self, channels: list[int], width: int = 64) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(8, c),
                nn.Conv2d(c, width, 1),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(width, 1, 1),
            )
            for c in channels
        )

    def forward(self, bottleneck: Bottleneck) -> Tensor:
        features = (*bottleneck.skips, bottleneck.h)
        scores = [head(f).flatten(1) for head, f in zip(self.heads, features, strict=True)]
        return torch.cat(scores, 1)


def decoding_half(unet: UNet2DModel) -> list[nn.Module]:
    """What runs after h."""
    return [unet.up_blocks, unet.conv_norm_out, unet.conv_out]


def train_sharp(
    unet: UNet2DModel,
    cache: LatentCache,
    spaces: ComponentSpace,
    validation: dict[str, Tensor],
    out: Path,
    options: SharpenTraining,
) -> None:
    """Train for `options.hours`, checkpointing the EMA into `out/unet`; resumes from `out/state.pt`.

    Args:
        unet: of the first phase; its decoding half is trained in place.
        cache: training latents.
        spaces: components of h from which displacements are drawn; those of the level nearest to the sample's.
        validation: named latents `(M, C, h, w)` to report denoising errors on.
        out: folder for checkpoints and `log.csv`.
        options: see `SharpenTraining`.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    schedule = NoiseSchedule.from_scheduler(new_scheduler())
    teacher = SplitUNet(copy.deepcopy(unet))
    student = SplitUNet(unet)
    parameters: list[Tensor] = []
    for part in decoding_half(unet):
        part.train().requires_grad_(True)
        parameters += part.parameters()
    average = copy.deepcopy(unet).eval().requires_grad_(False)
    averaged: list[Tensor] = [p for part in decoding_half(average) for p in part.parameters()]
    judge = SplitUNet(copy.deepcopy(unet))
    encoding = [judge.unet.conv_in, judge.unet.time_embedding, judge.unet.down_blocks, judge.unet.mid_block]
    trunk: list[Tensor] = []
    for part in encoding:
        part.requires_grad_(True)
        trunk += part.parameters()
    probe = teacher.encode(torch.zeros(1, *next(iter(validation.values())).shape[1:]), torch.zeros(1).long())
    critic = Critic([f.shape[1] for f in (*probe.skips, probe.h)])
    optimiser = torch.optim.AdamW(parameters, lr=options.learning_rate, betas=(0.5, 0.99), weight_decay=0.0)
    groups: list[dict[str, Any]] = [
        {"params": trunk},
        {"params": list(critic.parameters()), "lr": 5 * options.critic_rate},
    ]
    critic_optimiser = torch.optim.AdamW(
        groups,
        lr=options.critic_rate,
        betas=(0.5, 0.99),
    )
    share = 0.0
    step, spent = 0, 0.0
    if (state := load_state(out)) is not None:
        unet.load_state_dict(state["unet"])
        average.load_state_dict(state["ema"])
        critic.load_state_dict(state["critic"])
        judge.unet.load_state_dict(state["judge"])
        share = state["share"]
        optimiser.load_state_dict(state["optimiser"])
        critic_optimiser.load_state_dict(state["critic_optimiser"])
        step, spent = state["step"], state["spent"]
    levels = torch.tensor(spaces.timesteps)
    clock = last_save = time.monotonic()
    running: list[tuple[float, ...]] = []
    while True:
        elapsed = spent + time.monotonic() - clock
        progress = min(elapsed / (options.hours * 3600), 1.0)
        rate = (
            options.learning_rate
            * min(1.0, (step + 1) / 500)
            * (1.0 if progress < 0.6 else (1 - progress) / 0.4 + 0.02)
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        z = cache.draw(options.batch)
        n, half = len(z), len(z) // 2
        ts = torch.randint(60, options.highest + 1, (n,), generator=generator)
        z_t = schedule.add_noise(z, torch.randn(z.shape, generator=generator), ts)
        keep = (torch.rand(n, generator=generator) >= options.skip_dropout).float()
        keep[:half] = 0
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            bottleneck = drop_skips(student.encode(z_t, ts), keep)
            moved = bottleneck.h.float()
            row = (ts[:half, None] - levels[None]).abs().argmin(1)
            size = torch.rand(half, 1, generator=generator) * options.displacement
            coordinates = torch.randn(half, spaces.basis.shape[1], generator=generator) * size
            shift = torch.einsum("nk,nkd->nd", coordinates, spaces.basis[row])
            moved[:half] += shift.reshape(half, *spaces.shape)
            goal = z.clone()
            goal[:half] = teacher.decode(
                Bottleneck(
                    moved[:half], tuple(s[:half] for s in bottleneck.skips), bottleneck.embedding[:half], ts[:half]
                )
            ).float()
        with torch.autocast("cpu", torch.bfloat16):
            x0 = student.decode(bottleneck, moved).float()
        # The critic first, on this step's faces; the same noise level for real and drawn.
        seen = torch.randint(0, options.critic_highest + 1, (n,), generator=generator)
        noise = torch.randn(z.shape, generator=generator)
        real = cache.draw(n)
        with torch.autocast("cpu", torch.bfloat16):
            both = torch.cat([schedule.add_noise(real, noise, seen), schedule.add_noise(x0.detach(), noise, seen)])
            features = judge.encode(both, seen.repeat(2))
        scores = critic(_float(features))
        critic_loss = F.relu(1 - scores[:n]).mean() + F.relu(1 + scores[n:]).mean()
        critic_optimiser.zero_grad(set_to_none=True)
        critic_loss.backward()
        critic_optimiser.step()

        leaf = x0.detach().requires_grad_()
        _, sigma = schedule.levels(ts, z)
        weight = (1 / sigma.reshape(-1).pow(2)).clamp_max(8.0)
        weight[:half] *= 0.5
        picture = (weight * (leaf - goal).pow(2).mean((1, 2, 3))).mean()
        (pull,) = torch.autograd.grad(picture, leaf)
        with torch.autocast("cpu", torch.bfloat16):
            features = judge.encode(schedule.add_noise(leaf, noise, seen), seen)
        drawn = -critic(_float(features)).mean()
        (push,) = torch.autograd.grad(drawn, leaf)
        if step <= 300:  # calibrated while only the critic learns, then fixed: a critic that cannot tell pushes little
            ratio = options.adversarial * float(pull.norm() / push.norm().clamp_min(1e-12))
            share = ratio if step == 0 else share + 0.02 * (ratio - share)
        optimiser.zero_grad(set_to_none=True)
        x0.backward(pull + share * min(1.0, max(0, step - 300) / 500) * push)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if not math.isfinite(picture.item() + critic_loss.item()):
            raise FloatingPointError(f"a loss is not finite at step {step}: lower the learning rate")
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(averaged, parameters, 1 - min(options.ema, (1 + step) / (10 + step)))
        running.append((picture.item(), critic_loss.item(), drawn.item(), share * float(push.norm() / pull.norm())))
        done = progress >= 1.0
        if done or time.monotonic() - last_save > options.checkpoint_seconds:
            values: dict[str, float] = {"step": step, "hours": elapsed / 3600, "lr": rate}
            means = torch.tensor(running).mean(0).tolist()
            values |= dict(zip(("loss", "critic", "drawn", "push"), means, strict=True))
            for name, latents in validation.items():
                values |= {f"{name}_{k}": v for k, v in denoising_errors(SplitUNet(average), schedule, latents).items()}
            log.info("%s", {k: round(v, 4) for k, v in values.items()})
            append_row(out, values)
            state = {
                "unet": unet.state_dict(),
                "ema": average.state_dict(),
                "critic": critic.state_dict(),
                "judge": judge.unet.state_dict(),
                "share": share,
            }
            state |= {"optimiser": optimiser.state_dict(), "critic_optimiser": critic_optimiser.state_dict()}
            save_state(out, state | {"step": step, "spent": elapsed})
            average.save_pretrained(out / "unet")
            last_save, running = time.monotonic(), []
        if done:
            return


def _float(b: Bottleneck) -> Bottleneck:
    """In float32 and contiguous: the backward of GroupNorm crashes on channels-last input (torch 2.13, CPU)."""
    return Bottleneck(
        b.h.float().contiguous(), tuple(s.float().contiguous() for s in b.skips), b.embedding, b.timesteps
    )
