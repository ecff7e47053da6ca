"""Train the unconditional latent U-Net of the embedded prior.

x-prediction with a clamped weight, t from a logit-normal, EMA, and SKIP DROPOUT: for a part of the samples every skip
tensor is zeroed, so that h alone describes the face and directions in h move it. A linear probe aligns h with the
embedding of a face network while training (representation alignment, arXiv 2410.06940) and is thrown away afterwards.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fluidvid.engine.autoencoder import FaceAutoencoder
from fluidvid.engine.crops import to_pictures
from fluidvid.engine.hspace import Bottleneck, SplitUNet
from fluidvid.engine.precision import autocast
from fluidvid.engine.sampling import denoised
from fluidvid.engine.schedule import NoiseSchedule
from fluidvid.engine.training.latents import LatentCache
from fluidvid.engine.training.runs import TrainingOptions, TrainingRun, falling, follow, set_rate, warmed

log = logging.getLogger(__name__)

SHEET_DDIM = 20
"""Steps of the samples on a sheet."""


@dataclass(frozen=True)
class DiffusionTraining(TrainingOptions):
    """Options of one run. `sheet_steps`: draw a sheet of samples every so many steps; 0: none."""

    learning_rate: float = 6e-4
    warmup: int = 200
    skip_dropout: float = 0.6
    time_mean: float = 0.0
    time_std: float = 1.1
    max_weight: float = 12.0
    ema: float = 0.999
    alignment: float = 0.3
    fresh_per_step: int = 4
    sheet_steps: int = 1000


def new_unet(latent_channels: int = 16, sample_size: int = 16) -> UNet2DModel:
    """The embedded prior's shape, about 9 M parameters, h-space 256 x 8 x 8."""
    return UNet2DModel(
        sample_size=sample_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(96, 256),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
        attention_head_dim=64,
    )


def new_scheduler() -> DDIMScheduler:
    """Squared-cosine levels, x-prediction."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False, timestep_spacing="trailing"
    )


def drop_skips(bottleneck: Bottleneck, keep: Tensor) -> Bottleneck:
    """Zero every skip tensor of the samples where `keep` `(N,)` is 0."""
    scale = keep.to(bottleneck.h.dtype).reshape(-1, 1, 1, 1)
    return Bottleneck(
        bottleneck.h, tuple(s * scale for s in bottleneck.skips), bottleneck.embedding, bottleneck.timesteps
    )


class _IdentityProbe(nn.Module):
    """Linear read-out of an identity embedding from h."""

    def __init__(self, channels: int, cells: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, 32, 1)
        self.read = nn.Linear(32 * cells, width)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.read(self.reduce(h).flatten(1))
        return out


@torch.no_grad()
def denoising_errors(unet: SplitUNet, schedule: NoiseSchedule, latents: Tensor) -> dict[str, float]:
    """Mean squared x0 error by timestep over `(N, C, h, w)` latents, with skips and (`s`) without."""
    generator = torch.Generator().manual_seed(7)
    errors: dict[str, float] = {}
    for t in (100, 300, 500, 700):
        noise = torch.randn(latents.shape, generator=generator)
        with_skips: list[Tensor] = []
        without: list[Tensor] = []
        for z, n in zip(latents.split(64), noise.split(64), strict=True):
            ts = torch.full((len(z),), t)
            z_t = schedule.add_noise(z, n, ts)
            b = unet.encode(z_t, ts)
            for store, bottleneck in ((with_skips, b), (without, drop_skips(b, torch.zeros(len(z))))):
                x0, _ = schedule.x0_and_eps(unet.decode(bottleneck), z_t, ts)
                store.append((x0 - z).pow(2).mean((1, 2, 3)))
        errors[f"{t}"], errors[f"{t}s"] = float(torch.cat(with_skips).mean()), float(torch.cat(without).mean())
    return errors


@torch.no_grad()
def write_sheet(unet: SplitUNet, schedule: NoiseSchedule, autoencoder: FaceAutoencoder, path: Path) -> None:
    """Write 4 x 4 samples as one PNG; always from the same noise, so that sheets can be compared."""
    config = unet.unet.config
    noise = torch.randn(
        (16, config["in_channels"], config["sample_size"], config["sample_size"]),
        generator=torch.Generator().manual_seed(0),
    )
    pixels = to_pictures(autoencoder.decode(denoised(unet, schedule, noise, SHEET_DDIM)).float())
    rows = [np.hstack(list(pixels[row : row + 4])) for row in range(0, 16, 4)]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.vstack(rows)[..., ::-1])[1].tobytes())


def train_diffusion(
    unet: UNet2DModel,
    autoencoder: FaceAutoencoder,
    pictures: NDArray[np.uint8],
    held_out: NDArray[np.bool_],
    shares: NDArray[np.float64],
    embeddings: NDArray[np.float32],
    validation: dict[str, Tensor],
    out: Path,
    options: DiffusionTraining,
) -> None:
    """Train for `options.hours`, checkpointing the EMA atomically into `out/unet`; resumes from `out/state.pt`.

    Sheets of samples go to `out/samples/STEP.png`.

    Args:
        unet: trained in place.
        autoencoder: frozen first stage.
        pictures: `(N, S, S, 3)` uint8 aligned faces.
        held_out: `(N,)` bool, pictures that are not used.
        shares: `(N,)` sampling weights.
        embeddings: `(N, D)` identity embeddings for the alignment.
        validation: named latents `(M, C, h, w)` to report denoising errors on.
        out: folder for checkpoints and `log.csv`.
        options: see `DiffusionTraining`.
    """
    run = TrainingRun(out, options)
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    schedule = NoiseSchedule.from_scheduler(new_scheduler())
    split = SplitUNet(unet)
    unet.train().requires_grad_(True).to(memory_format=torch.channels_last)
    ema = copy.deepcopy(unet).eval().requires_grad_(False)
    channels, cells = unet.config["block_out_channels"][-1], (unet.config["sample_size"] // 2) ** 2
    probe = _IdentityProbe(channels, cells, embeddings.shape[1])
    parameters = [*unet.parameters(), *probe.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    if (state := run.resume()) is not None:
        unet.load_state_dict(state["unet"])
        ema.load_state_dict(state["ema"])
        probe.load_state_dict(state["probe"])
        optimiser.load_state_dict(state["optimiser"])
        generator.set_state(state["generator"])
        rng.bit_generator.state = state["rng"]
    log.info("caching latents of %d pictures", int((~held_out).sum()))
    weights = np.where(held_out, 0.0, shares)
    kept = None if state is None else state["cache"]
    cache = LatentCache(autoencoder, pictures, weights, options.fresh_per_step, rng, generator, kept)
    for progress in run.loop():
        rate = options.learning_rate * warmed(run.step, options.warmup) * falling(progress)
        set_rate(optimiser, rate)
        z = cache.draw(options.batch)
        uniform = torch.randn(len(z), generator=generator) * options.time_std + options.time_mean
        ts = (torch.sigmoid(uniform) * len(schedule.alphas_cumprod)).long()
        z_t = schedule.add_noise(z, torch.randn(z.shape, generator=generator), ts)
        keep = (torch.rand(len(z), generator=generator) >= options.skip_dropout).float()
        with autocast():
            b = split.encode(z_t.to(memory_format=torch.channels_last), ts)
            x0 = split.decode(drop_skips(b, keep)).float()
            guess = probe(b.h)
        _, sigma = schedule.levels(ts, z)
        weight = (1 / sigma.reshape(-1).pow(2)).clamp_max(options.max_weight)
        picture = (weight * (x0 - z).pow(2).mean((1, 2, 3))).mean()
        align = (1 - F.cosine_similarity(guess.float(), torch.from_numpy(embeddings[cache.picked]))).mean()
        loss = picture + options.alignment * align
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        run.check_finite(loss.item())
        optimiser.step()
        run.made({"loss": picture.item(), "align": align.item()})
        follow(ema.parameters(), unet.parameters(), options.ema, run.step)
        if options.sheet_steps and run.step % options.sheet_steps == 0:
            write_sheet(SplitUNet(ema), schedule, autoencoder, out / "samples" / f"{run.step:07d}.png")
        if run.due:
            row = {"step": run.step, "hours": run.hours, "lr": rate} | run.means()
            for name, latents in validation.items():
                row |= {f"{name}_{k}": v for k, v in denoising_errors(SplitUNet(ema), schedule, latents).items()}
            state = {"unet": unet.state_dict(), "ema": ema.state_dict(), "probe": probe.state_dict()}
            state |= {"optimiser": optimiser.state_dict(), "generator": generator.get_state(), "cache": cache.kept}
            run.checkpoint(row, state | {"rng": rng.bit_generator.state})
            ema.save_pretrained(out / "unet")
