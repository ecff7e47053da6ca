"""`FaceAutoencoder`: the small convolutional first stage of the embedded prior (128 px crop <-> 16 x 16 latent)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from fluidvid.errors import ModelError


@dataclass(frozen=True)
class FaceAutoencoderConfig:
    """Shape of the network; `config.json` of the autoencoder folder holds the same keys."""

    latent_channels: int = 16
    spatial_factor: int = 8
    encoder_channels: tuple[int, int] = (64, 128)
    encoder_blocks: tuple[int, int] = (2, 3)
    decoder_channels: tuple[int, int, int] = (160, 80, 40)
    decoder_blocks: tuple[int, int, int] = (3, 2, 1)
    normalise_eps: float = 1e-5


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1)


class _ResidualBlock(nn.Module):
    """`x + conv(relu(conv(relu(x))))`, the last convolution starting at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_1 = _conv(channels, channels)
        self.conv_2 = _conv(channels, channels)
        nn.init.zeros_(self.conv_2.weight)
        nn.init.zeros_(self.conv_2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv_2(F.relu(self.conv_1(F.relu(x))))
        return x + y


class _Normalise(nn.Module):
    """Fixed per-channel normalisation of the latents to zero mean and unit variance."""

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, z: Tensor) -> Tensor:
        mean, variance = self.mean[None, :, None, None], self.variance[None, :, None, None]
        return (z - mean) / torch.sqrt(variance + self.eps)


class _Encoder(nn.Module):
    def __init__(self, config: FaceAutoencoderConfig) -> None:
        super().__init__()
        (low, high), (low_blocks, high_blocks) = config.encoder_channels, config.encoder_blocks
        self.conv_in = _conv(48, low)
        self.down = _conv(low, high, stride=2)
        self.conv_out = _conv(high, config.latent_channels)
        self.normalise = _Normalise(config.latent_channels, config.normalise_eps)
        self.low_blocks, self.high_blocks = low_blocks, high_blocks
        for index in range(low_blocks + high_blocks):
            self.add_module(f"block_{index}", _ResidualBlock(low if index < low_blocks else high))

    def raw(self, crops: Tensor) -> Tensor:
        """Latents before the normalisation."""
        x = self.conv_in(F.pixel_unshuffle(crops, 4))
        for index in range(self.low_blocks):
            x = self.get_submodule(f"block_{index}")(x)
        x = self.down(x)
        for index in range(self.low_blocks, self.low_blocks + self.high_blocks):
            x = self.get_submodule(f"block_{index}")(x)
        z: Tensor = self.conv_out(x)
        return z

    def forward(self, crops: Tensor) -> Tensor:
        z: Tensor = self.normalise(self.raw(crops))
        return z


class _Decoder(nn.Module):
    def __init__(self, config: FaceAutoencoderConfig) -> None:
        super().__init__()
        wide, middle, narrow = config.decoder_channels
        self.blocks = config.decoder_blocks
        self.conv_in = _conv(config.latent_channels, wide)
        self.up_0 = _conv(wide, middle * 4)
        self.up_1 = _conv(middle, narrow * 4)
        self.conv_out = _conv(narrow, 12)
        widths = [w for w, n in zip(config.decoder_channels, config.decoder_blocks, strict=True) for _ in range(n)]
        for index, width in enumerate(widths):
            self.add_module(f"block_{index}", _ResidualBlock(width))

    def forward(self, z: Tensor) -> Tensor:
        x: Tensor = self.conv_in(z)
        index = 0
        for stage, count in enumerate(self.blocks):
            for _ in range(count):
                x = self.get_submodule(f"block_{index}")(x)
                index += 1
            out = (self.up_0, self.up_1, self.conv_out)[stage]
            x = F.pixel_shuffle(out(x), 2)
        return x


class FaceAutoencoder(nn.Module):
    """Deterministic autoencoder; both directions are differentiable.

    `encode`: crops `(N, 3, S, S)` float in [-1, 1], S a multiple of 8, to latents `(N, C, S/8, S/8)` of about unit
    variance. `decode`: latents back to crops (not clamped).
    """

    def __init__(self, config: FaceAutoencoderConfig | None = None) -> None:
        super().__init__()
        self.config = config or FaceAutoencoderConfig()
        self.encoder = _Encoder(self.config)
        self.decoder = _Decoder(self.config)

    def encode(self, crops: Tensor) -> Tensor:
        z: Tensor = self.encoder(crops)
        return z

    def decode(self, z: Tensor) -> Tensor:
        crops: Tensor = self.decoder(z)
        return crops

    def save_pretrained(self, folder: Path, dtype: torch.dtype = torch.float16) -> None:
        """Write `config.json` and `model.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = asdict(self.config) | {"dtype": str(dtype).removeprefix("torch.")}
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        tensors = {k: v.detach().to("cpu", dtype).contiguous() for k, v in self.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")

    @classmethod
    def from_pretrained(cls, folder: Path) -> FaceAutoencoder:
        """Load a folder written by `save_pretrained`, in float32.

        Raises:
            ModelError: the folder is incomplete or its tensors do not fit its config.
        """
        try:
            values = json.loads((folder / "config.json").read_text())
            values.pop("dtype", None)
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            config = FaceAutoencoderConfig(**fields)
            model = cls(config)
            tensors = load_file(folder / "model.safetensors")
            model.load_state_dict({k: v.float() for k, v in tensors.items()})
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise ModelError(f"{folder} is not a FaceAutoencoder folder: {error}; reinstall or retrain it") from error
        return model.eval()
