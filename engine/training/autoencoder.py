"""Train `FaceAutoencoder`: faithful pictures, and latents that a small diffusion model can learn.

Reconstruction (L1, gradients, pooled L1, features of a face network) makes the pictures; two terms make the latents
easy: scale equivariance (the pooled latent decodes to the pooled picture: EQ-VAE, arXiv 2502.09509) and nested channel
dropout (early channels carry most: arXiv 1402.0915).
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fluidvid.engine.autoencoder import FaceAutoencoder
from fluidvid.engine.crops import to_crops
from fluidvid.engine.face_networks import Recogniser
from fluidvid.engine.onnx_module import OnnxModule
from fluidvid.engine.precision import autocast
from fluidvid.engine.training.pictures import augment
from fluidvid.engine.training.runs import TrainingOptions, TrainingRun, falling, set_rate, warmed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AutoencoderTraining(TrainingOptions):
    """Options of one run; weights multiply the mean of each term."""

    hours: float = 0.7
    batch: int = 12
    learning_rate: float = 3e-4
    latent_noise: float = 0.25
    equivariance: float = 0.5
    channel_dropout: float = 0.25
    identity: float = 0.3
    features: float = 0.1
    checkpoint_seconds: float = 180.0


def _gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(y: Tensor, x: Tensor) -> Tensor:
    """L1 + half the L1 of gradients + L1 of the 4x pooled pictures."""
    gradient = sum((a - b).abs().mean() for a, b in zip(_gradients(y), _gradients(x), strict=True)) / 2
    return (y - x).abs().mean() + gradient + (F.avg_pool2d(y, 4) - F.avg_pool2d(x, 4)).abs().mean()


def feature_taps(net: OnnxModule) -> tuple[str, ...]:
    """Three activations of an ONNX recogniser, a quarter, half and three quarters of the way through it."""
    outs = net.activations
    return tuple(dict.fromkeys(outs[len(outs) * k // 4] for k in (1, 2, 3))) if outs else ()


class FaceFeatures:
    """Feature maps and embedding of a frozen recogniser, as a perceptual distance of crops."""

    def __init__(self, recogniser: Recogniser) -> None:
        self.view, self.taps = recogniser.view, feature_taps(recogniser.net)
        self.net = OnnxModule(recogniser.spec.path, taps=self.taps).eval().requires_grad_(False)

    def __call__(self, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine distance of the embeddings, and mean distance of channel-normalised feature maps."""
        with torch.no_grad():
            target = self.net(self.view(x))
        found = self.net(self.view(y))
        name = self.net.output_names[0]
        cosine = 1 - F.cosine_similarity(found[name].float(), target[name].float()).mean()
        maps = [
            (F.normalize(found[t], dim=1) - F.normalize(target[t], dim=1)).float().pow(2).sum(1).mean()
            for t in self.taps
        ]
        return cosine, torch.stack([*maps, cosine.new_zeros(())]).sum() / max(1, len(maps))


@torch.no_grad()
def evaluate(model: FaceAutoencoder, crops: Tensor, features: FaceFeatures, noise: float = 0.15) -> dict[str, float]:
    """Held-out figures: PSNR of the round trip, with latent noise, of pooled latents, and identity cosine."""
    model.eval()
    generator = torch.Generator().manual_seed(1)
    sums = dict.fromkeys(("mse", "noisy", "pooled", "cosine"), 0.0)
    for part in crops.split(32):
        z = model.encode(part)
        y = model.decode(z).clamp(-1, 1)
        noisy = model.decode(z + noise * torch.randn(z.shape, generator=generator)).clamp(-1, 1)
        pooled = model.decode(F.avg_pool2d(z, 2)).clamp(-1, 1)
        sums["mse"] += float((y - part).pow(2).mean()) * len(part)
        sums["noisy"] += float((noisy - part).pow(2).mean()) * len(part)
        sums["pooled"] += float((pooled - F.avg_pool2d(part, 2)).pow(2).mean()) * len(part)
        sums["cosine"] += (1 - float(features(y, part)[0])) * len(part)
    model.train()
    mean = {k: v / len(crops) for k, v in sums.items()}
    db = {f"psnr_{k}_db": 10 * math.log10(4 / mean[k]) for k in ("mse", "noisy", "pooled")}
    return db | {"identity_cosine": mean["cosine"]}


@torch.no_grad()
def calibrate(model: FaceAutoencoder, crops: Tensor) -> None:
    """Set the encoder's fixed normalisation from these crops without changing what the decoder makes of them."""
    z = torch.cat([model.encoder.raw(part) for part in crops.split(64)])
    old_mean, old_scale = model.encoder.normalise.mean.clone(), torch.sqrt(model.encoder.normalise.variance + 1e-5)
    mean, variance = z.mean((0, 2, 3)), z.var((0, 2, 3))
    scale = torch.sqrt(variance + 1e-5)
    model.encoder.normalise.mean.copy_(mean)
    model.encoder.normalise.variance.copy_(variance)
    # z_old = a * z_new + b, folded into the decoder's first convolution (b is exact except at the border).
    a, b = scale / old_scale, (mean - old_mean) / old_scale
    conv = model.decoder.conv_in
    assert conv.bias is not None
    conv.bias += (conv.weight * b[None, :, None, None]).sum((1, 2, 3))
    conv.weight *= a[None, :, None, None]


def train_autoencoder(
    model: FaceAutoencoder,
    pictures: NDArray[np.uint8],
    held_out: NDArray[np.bool_],
    features: FaceFeatures,
    out: Path,
    options: AutoencoderTraining,
) -> dict[str, float]:
    """Train in place for `options.hours`, checkpointing atomically into `out`; returns the last held-out figures.

    A run that was killed continues from `out/state.pt`, with its clock, when called again with the same options.
    """
    run = TrainingRun(out, options)
    generator = torch.Generator().manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    if (state := run.resume()) is not None:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        generator.set_state(state["generator"])
        rng.bit_generator.state = state["rng"]
    model.train()
    training, validation = np.flatnonzero(~held_out), to_crops(pictures[held_out][:192])
    figures: dict[str, float] = evaluate(model, validation, features)
    log.info("start at step %d: %s", run.step, figures)
    for progress in run.loop():
        rate = options.learning_rate * warmed(run.step, 100) * falling(progress)
        set_rate(optimiser, rate)
        rows = rng.choice(training, options.batch, replace=len(training) < options.batch)
        x = augment(to_crops(pictures[rows]), generator)
        with autocast():
            z = model.encode(x)
            noise = options.latent_noise * torch.rand(len(x), 1, 1, 1, generator=generator)
            noisy = z + noise * torch.randn(z.shape, generator=generator)
            if float(torch.rand((), generator=generator)) < options.channel_dropout:
                keep = int(torch.randint(1, 4, (), generator=generator)) * z.shape[1] // 4
                noisy = torch.cat([noisy[:, :keep], torch.zeros_like(noisy[:, keep:])], 1)
            y = model.decode(noisy)
            half = model.decode(F.avg_pool2d(z, 2))
            cosine, maps = features(y, x)
        y, half, z = y.float(), half.float(), z.float()
        terms = {
            "picture": reconstruction_loss(y, x),
            "equivariance": options.equivariance * reconstruction_loss(half, F.avg_pool2d(x, 2)),
            "identity": options.identity * cosine,
            "features": options.features * maps,
            # The normalisation is fixed, so hold the moments of the latents near (0, 1) while the encoder moves.
            "moments": 0.05 * (z.mean((0, 2, 3)).pow(2).mean() + (z.var((0, 2, 3)) - 1).pow(2).mean()),
        }
        loss = torch.stack(list(terms.values())).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        run.check_finite(loss.item())
        optimiser.step()
        run.made({k: v.item() for k, v in terms.items()})
        if run.due:
            if run.done:
                model.eval()
                calibrate(model, to_crops(pictures[rng.permutation(training)[:512]]))
                model.train()
            figures = evaluate(model, validation, features)
            row = {"step": run.step, "pictures": run.step * options.batch, "hours": run.hours, "lr": rate}
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
            state |= {"generator": generator.get_state(), "rng": rng.bit_generator.state}
            run.checkpoint(row | run.means() | figures, state)
            model.save_pretrained(out / "autoencoder")
    return figures
