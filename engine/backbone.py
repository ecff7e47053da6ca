"""A backbone: first stage + frozen unconditional U-Net + noise schedule, loaded from a folder or a hub id.

Layout: diffusers' own (`unet/`, `scheduler/`, and `vqvae/` or `vae/` for latent models; or a bare UNet2DModel folder),
plus our `fluidvid.json` for what diffusers cannot say, and `autoencoder/` for the embedded `FaceAutoencoder`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DModel, VQModel
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray
from torch import Tensor, nn

from fluidvid.engine.autoencoder import FaceAutoencoder
from fluidvid.engine.hspace import SplitUNet
from fluidvid.engine.precision import keep_reduced
from fluidvid.engine.schedule import NoiseSchedule
from fluidvid.errors import ModelError

FFHQ = np.array([(0.37691, 0.46864), (0.62285, 0.46912), (0.50123, 0.61331), (0.39308, 0.72541), (0.61150, 0.72490)])
"""FFHQ / CelebA-HQ alignment in fractions of the side: five-point means of the aligned data sets."""
SCHEDULERS = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
)
"""Schedulers whose models were trained on DDPM's noise levels."""
LEVELS = (700, 500, 300)
"""Timesteps at which a backbone is edited that does not say which."""
_CARD = (
    "a JSON object is needed whose template (points: five pairs), crop_size and edit_timesteps (1 or more, from 1 on), "
    "if they are there, are numbers; without the file the usual ones are taken"
)
RUN = "run"
"""Folder in which a training keeps what it needs to go on, inside the folder of its result."""


class FirstStage(Protocol):
    """Pixels to the U-Net's space and back; both differentiable."""

    def encode(self, crops: Tensor) -> Tensor:
        """`(N, 3, S, S)` in [-1, 1] to `(N, C, s, s)`."""

    def decode(self, z: Tensor) -> Tensor:
        """`(N, C, s, s)` to `(N, 3, S, S)`, not clamped."""


class IdentityStage(nn.Module):
    """Pixel-space models: nothing to do."""

    def encode(self, crops: Tensor) -> Tensor:
        return crops

    def decode(self, z: Tensor) -> Tensor:
        return z


class DiffusersStage(nn.Module):
    """diffusers' AutoencoderTiny, VQModel or AutoencoderKL (posterior mean).

    Args:
        model: the autoencoder.
        scale: what its latents are multiplied by for the U-Net.
        shift: what is taken off before (`shift_factor`).
    """

    def __init__(self, model: Any, scale: float, shift: float = 0.0) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.scale = scale
        self.shift = shift

    def encode(self, crops: Tensor) -> Tensor:
        out = self.model.encode(crops)
        z = out.latent_dist.mean if hasattr(out, "latent_dist") else out.latents
        return cast(Tensor, (z - self.shift) * self.scale)

    def decode(self, z: Tensor) -> Tensor:
        return cast(Tensor, self.model.decode(z / self.scale + self.shift).sample)


@dataclass(frozen=True, eq=False)
class Backbone:
    """Everything the editors need of a model.

    Attributes:
        name: folder name or hub id.
        folder: where its files are.
        unet: the split U-Net, frozen.
        schedule: noise schedule and prediction type.
        first_stage: pixels <-> the U-Net's space.
        template: `(5, 2)` alignment in fractions of the crop's side.
        crop_size: side of the crop in pixels.
        edit_timesteps: default levels of the edit, descending.
        digest: SHA-256 over the weight files, the identity of the model in caches and reports.
        card: `fluidvid.json` as read (licence, training data, figures).
    """

    name: str
    folder: Path
    unet: SplitUNet
    schedule: NoiseSchedule
    first_stage: FirstStage
    template: NDArray[np.float64]
    crop_size: int
    edit_timesteps: tuple[int, ...]
    digest: str
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    def encode(self, crops: Tensor) -> Tensor:
        """`(N, 3, S, S)` crops in [-1, 1] to latents in the U-Net's dtype."""
        with self.unet.autocast():
            return self.first_stage.encode(crops.to(self.device, self.dtype)).to(self.dtype)

    def decode(self, z: Tensor) -> Tensor:
        """Latents to crops `(N, 3, S, S)` float32 in [-1, 1]."""
        with self.unet.autocast():
            return self.first_stage.decode(z).float().clamp(-1, 1)

    def predict(self, z_t: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, eps) of the unedited model at `(N,)` timesteps."""
        return self.schedule.x0_and_eps(self.unet.decode(self.unet.encode(z_t, timesteps)), z_t, timesteps)


def resolve_folder(source: str | Path) -> Path:
    """A local folder, or the already downloaded snapshot of a hub id; never touches the network.

    Raises:
        ModelError: neither exists here.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if str(source).count("/") == 1 and not str(source).startswith((".", "/")):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(str(source), local_files_only=True))
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
            raise ModelError(
                f"no backbone {source}: there is neither such a folder nor a downloaded hub model of that name; check "
                f"the path, or download it once with 'hf download {source}'"
            ) from error
    raise ModelError(
        f"no backbone folder at {source}: give a folder in diffusers' layout or a hub id such as owner/name"
    )


def weight_digest(folder: Path) -> str:
    """SHA-256 over the weight files of a folder: what its `fluidvid.json` says under `sha256`.

    What a training keeps in it for its own use (`RUN`) is none of them: the result stays what it is when that goes on
    or is deleted.
    """
    digest = hashlib.sha256()
    weights = (p for p in folder.rglob("*") if p.suffix in (".safetensors", ".bin"))
    for path in sorted(p for p in weights if p.relative_to(folder).parts[0] != RUN):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _load_first_stage(folder: Path) -> FirstStage:
    if (folder / "autoencoder" / "model.safetensors").exists():
        return FaceAutoencoder.from_pretrained(folder / "autoencoder").requires_grad_(False)
    classes = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny, "VQModel": VQModel}
    for name in ("vqvae", "vae", "autoencoder", "first_stage"):
        config = folder / name / "config.json"
        if config.exists():
            said = json.loads(config.read_text())
            kind = said.get("_class_name")
            if kind not in classes:
                raise ModelError(
                    f"{config} names a {kind}: only {', '.join(classes)} and FaceAutoencoder are supported"
                )
            model = classes[kind].from_pretrained(folder / name, low_cpu_mem_usage=False)
            # A VQ folder that names no scale has none (ldm-celebahq-256); diffusers would fill in Stable Diffusion's.
            scales = said if kind == "VQModel" else model.config
            scale = 1.0 if kind == "AutoencoderTiny" else float(scales.get("scaling_factor") or 1.0)
            return DiffusersStage(model, scale, float(said.get("shift_factor") or 0.0))
    return IdentityStage()


def _load_scheduler(folder: Path) -> Any:
    """The DDIM scheduler with the noise levels of the folder's own, of diffusers' defaults where it has none."""
    config = folder / "scheduler_config.json"
    if not config.exists():
        return DDIMScheduler()
    kind = json.loads(config.read_text()).get("_class_name", "DDIMScheduler")
    if kind not in SCHEDULERS:
        raise ModelError(
            f"{config} names a {kind}, whose noise is not that of DDPM: use a model with one of {', '.join(SCHEDULERS)}"
        )
    return DDIMScheduler.from_pretrained(folder)


def _read_card(folder: Path) -> tuple[dict[str, Any], NDArray[np.float64], int, tuple[int, ...]]:
    """Content of `fluidvid.json`; template and levels, the usual ones where it has none; crop size, 0 if not said."""
    path = folder / "fluidvid.json"
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        template = np.array(card["template"]["points"], np.float64) if "template" in card else FFHQ
        side, levels = int(card.get("crop_size") or 0), tuple(int(t) for t in card.get("edit_timesteps", LEVELS))
        good = template.shape == (5, 2) and np.isfinite(template).all() and side >= 0 and min(levels) >= 1
    except (OSError, ArithmeticError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} cannot be used ({type(error).__name__}: {error}): {_CARD}") from error
    if not good:
        raise ModelError(f"{path} cannot be used: {_CARD}")
    return card, template, side, levels


def load_backbone(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    reduced: torch.dtype | None = None,
) -> Backbone:
    """Load a backbone folder or an already downloaded hub id.

    Args:
        source: folder in diffusers' layout, bare UNet2DModel folder, or hub id.
        device: where the networks run.
        dtype: of the U-Net's and the first stage's weights and results.
        reduced: None, or the dtype they compute in (`fluidvid.engine.precision.reduced_precision`); models that predict
            the noise keep their own.

    Raises:
        ModelError: missing, incomplete, altered (its digest differs from fluidvid.json's) or unsupported.
    """
    folder = resolve_folder(source)
    diffusers_logging.set_verbosity_error()
    card, template, side, levels = _read_card(folder)
    digest = weight_digest(folder)
    if card.get("sha256") not in (None, digest):
        raise ModelError(f"the weights in {folder} are not those of its fluidvid.json: reinstall or train again")
    unet_folder = folder / "unet" if (folder / "unet").is_dir() else folder
    try:
        unet = cast(Any, UNet2DModel).from_pretrained(unet_folder, low_cpu_mem_usage=False)
        first_stage = _load_first_stage(folder)
        scheduler_folder = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
        scheduler = _load_scheduler(scheduler_folder)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        line = str(error).strip().splitlines()[0]
        raise ModelError(f"{folder} is not a complete backbone ({line}): see README, 'Backbones'") from error
    schedule = NoiseSchedule.from_scheduler(scheduler).to(torch.device(device))
    if schedule.prediction_type == "epsilon":  # at t = 700 x0 holds twelve times the rounding of the noise
        reduced = None
    crop_size = side or _crop_size(unet, first_stage)
    # Where latents and weights are laid out differently, weights are copied at every convolution.
    if isinstance(first_stage, nn.Module):
        first_stage.to(device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    split = SplitUNet(unet.to(device, dtype).to(memory_format=torch.channels_last), reduced)
    if reduced is not None:
        keep_reduced(unet, reduced)
        if isinstance(first_stage, nn.Module):
            keep_reduced(first_stage, reduced)
    return Backbone(str(source), folder, split, schedule, first_stage, template, crop_size, levels, digest, card)


def _crop_size(unet: UNet2DModel, first_stage: FirstStage) -> int:
    """The crop whose latents have the U-Net's sample size, found from the first stage itself."""
    side = unet.config["sample_size"]
    side = int(side[0] if isinstance(side, list | tuple) else side)
    if isinstance(first_stage, IdentityStage):
        return side
    probe = first_stage.encode(torch.zeros(1, 3, 64, 64))
    return side * 64 // probe.shape[-1]
