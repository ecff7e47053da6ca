"""Second phase of the embedded prior: the decoding half learns to draw whole faces in few steps, also displaced ones.

The mean over all faces a noisy latent may come from is a blurred face. An adversarial term on the predicted x0 (latent
adversarial diffusion distillation, arXiv 2403.12015: a copy of the U-Net's encoding half sees re-noised latents, small
heads judge them) makes the prediction one face instead. The same term on predictions from a displaced h teaches the
decoder that whatever h says, the answer is a face; a share of the first phase's prediction keeps what the displacement
means. Only the decoding half moves, so h-space, its components and the pseudonyms stay valid.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from fluidvid.engine.hspace import Bottleneck, SplitUNet
from fluidvid.engine.precision import autocast
from fluidvid.engine.schedule import NoiseSchedule
from fluidvid.engine.subspace import ComponentSpace
from fluidvid.engine.training.critic import hinge
from fluidvid.engine.training.diffusion import denoising_errors, drop_skips, new_scheduler
from fluidvid.engine.training.latents import LatentCache
from fluidvid.engine.training.runs import TrainingOptions, TrainingRun, follow, held, set_rate, warmed


@dataclass(frozen=True)
class SharpenTraining(TrainingOptions):
    """Options of one run; half of a step's latents are displaced.

    Attributes:
        learning_rate: of the decoding half.
        critic_rate: of the heads.
        adversarial: length of the adversarial gradient as a share of the reconstruction's.
        skip_dropout: share of the samples decoded from h alone.
        highest: largest timestep that is trained.
        critic_highest: largest timestep to which the critic's input is noised.
        displacement: coordinates of a displacement in standard deviations, largest.
        ema: decay of the average that is kept.
    """

    learning_rate: float = 5e-5
    critic_rate: float = 1e-4
    adversarial: float = 0.5
    skip_dropout: float = 0.6
    highest: int = 700
    critic_highest: int = 350
    displacement: float = 0.7
    ema: float = 0.998


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
    run = TrainingRun(out, options)
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
    critic_optimiser = torch.optim.AdamW(groups, lr=options.critic_rate, betas=(0.5, 0.99))
    share = 0.0
    if (state := run.resume()) is not None:
        unet.load_state_dict(state["unet"])
        average.load_state_dict(state["ema"])
        critic.load_state_dict(state["critic"])
        judge.unet.load_state_dict(state["judge"])
        share = state["share"]
        optimiser.load_state_dict(state["optimiser"])
        critic_optimiser.load_state_dict(state["critic_optimiser"])
    levels = torch.tensor(spaces.timesteps)
    for progress in run.loop():
        rate = options.learning_rate * warmed(run.step, 500) * held(progress)
        set_rate(optimiser, rate)
        z = cache.draw(options.batch)
        n, half = len(z), len(z) // 2
        ts = torch.randint(60, options.highest + 1, (n,), generator=generator)
        z_t = schedule.add_noise(z, torch.randn(z.shape, generator=generator), ts)
        keep = (torch.rand(n, generator=generator) >= options.skip_dropout).float()
        keep[:half] = 0
        with torch.no_grad(), autocast():
            bottleneck = drop_skips(student.encode(z_t, ts), keep)
            moved = bottleneck.h.float()
            nearest = (ts[:half, None] - levels[None]).abs().argmin(1)
            size = torch.rand(half, 1, generator=generator) * options.displacement
            coordinates = torch.randn(half, spaces.basis.shape[1], generator=generator) * size
            shift = torch.einsum("nk,nkd->nd", coordinates, spaces.basis[nearest])
            moved[:half] += shift.reshape(half, *spaces.shape)
            goal = z.clone()
            goal[:half] = teacher.decode(
                Bottleneck(
                    moved[:half], tuple(s[:half] for s in bottleneck.skips), bottleneck.embedding[:half], ts[:half]
                )
            ).float()
        with autocast():
            x0 = student.decode(bottleneck, moved).float()
        # The critic first, on this step's faces; the same noise level for real and drawn.
        seen = torch.randint(0, options.critic_highest + 1, (n,), generator=generator)
        noise = torch.randn(z.shape, generator=generator)
        real = cache.draw(n)
        with autocast():
            both = torch.cat([schedule.add_noise(real, noise, seen), schedule.add_noise(x0.detach(), noise, seen)])
            features = judge.encode(both, seen.repeat(2))
        scores = critic(_float(features))
        critic_loss = hinge(scores[:n], scores[n:])
        critic_optimiser.zero_grad(set_to_none=True)
        critic_loss.backward()
        critic_optimiser.step()

        leaf = x0.detach().requires_grad_()
        _, sigma = schedule.levels(ts, z)
        weight = (1 / sigma.reshape(-1).pow(2)).clamp_max(8.0)
        weight[:half] *= 0.5
        picture = (weight * (leaf - goal).pow(2).mean((1, 2, 3))).mean()
        (pull,) = torch.autograd.grad(picture, leaf)
        with autocast():
            features = judge.encode(schedule.add_noise(leaf, noise, seen), seen)
        drawn = -critic(_float(features)).mean()
        (push,) = torch.autograd.grad(drawn, leaf)
        # Calibrated while only the critic learns, then fixed: a critic that cannot tell pushes little.
        if run.step <= 300:
            ratio = options.adversarial * float(pull.norm() / push.norm().clamp_min(1e-12))
            share = ratio if run.step == 0 else share + 0.02 * (ratio - share)
        optimiser.zero_grad(set_to_none=True)
        x0.backward(pull + share * min(1.0, max(0, run.step - 300) / 500) * push)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        run.check_finite(picture.item() + critic_loss.item())
        optimiser.step()
        figures = {"loss": picture.item(), "critic": critic_loss.item(), "drawn": drawn.item()}
        run.made(figures | {"push": share * float(push.norm() / pull.norm())})
        follow(averaged, parameters, options.ema, run.step)
        if run.due:
            row = {"step": run.step, "hours": run.hours, "lr": rate} | run.means()
            for name, latents in validation.items():
                row |= {f"{name}_{k}": v for k, v in denoising_errors(SplitUNet(average), schedule, latents).items()}
            state = {
                "unet": unet.state_dict(),
                "ema": average.state_dict(),
                "critic": critic.state_dict(),
                "judge": judge.unet.state_dict(),
                "share": share,
            }
            state |= {"optimiser": optimiser.state_dict(), "critic_optimiser": critic_optimiser.state_dict()}
            run.checkpoint(row, state)
            average.save_pretrained(out / "unet")


def _float(b: Bottleneck) -> Bottleneck:
    """In float32 and contiguous: the backward of GroupNorm crashes on channels-last input (torch 2.13, CPU)."""
    return Bottleneck(
        b.h.float().contiguous(), tuple(s.float().contiguous() for s in b.skips), b.embedding, b.timesteps
    )
