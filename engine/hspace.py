"""The U-Net in two halves: h-space is the output of the bottleneck (Asyrp, 2210.10960)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import cast

import torch
from diffusers import UNet2DModel
from torch import Tensor

from fluidvid.errors import ModelError


@dataclass(frozen=True, eq=False)
class Bottleneck:
    """What the first half hands to the second; one of these serves many decodes.

    Attributes:
        h: `(N, C, h, w)` output of the mid block.
        skips: tensors of the contracting path, outermost first.
        embedding: `(N, E)` time embedding.
        timesteps: `(N,)`.
    """

    h: Tensor
    skips: tuple[Tensor, ...]
    embedding: Tensor
    timesteps: Tensor

    def repeat(self, times: int) -> Bottleneck:
        """Stack `times` copies along the batch, for several decodes in one."""

        def tile(x: Tensor) -> Tensor:
            return x.repeat(times, *[1] * (x.ndim - 1))

        return Bottleneck(tile(self.h), tuple(tile(s) for s in self.skips), tile(self.embedding), tile(self.timesteps))

    def __getitem__(self, some: slice) -> Bottleneck:
        skips = tuple(s[some] for s in self.skips)
        return Bottleneck(self.h[some], skips, self.embedding[some], self.timesteps[some])


class SplitUNet:
    """A frozen diffusers `UNet2DModel`, cut at the bottleneck; equal to its forward to float precision.

    Args:
        unet: unconditional.
        reduced: None, or the dtype in which convolutions and products are computed (`torch.autocast`); h and the
            output keep the weights' dtype, so that directions are applied in full precision.
    """

    def __init__(self, unet: UNet2DModel, reduced: torch.dtype | None = None) -> None:
        if unet.class_embedding is not None:
            raise ModelError("this U-Net is conditioned on classes: fluidvid edits unconditional models only")
        self.unet = unet.eval().requires_grad_(False)
        self.reduced = reduced
        # Asked for at every call, and diffusers would look through all its modules.
        self.device, self.dtype = cast(torch.device, unet.device), cast(torch.dtype, unet.dtype)

    def autocast(self) -> AbstractContextManager[object]:
        """The precision the networks of this backbone are run in."""
        return nullcontext() if self.reduced is None else torch.autocast(self.device.type, self.reduced)

    def encode(self, z_t: Tensor, timesteps: Tensor) -> Bottleneck:
        """`(N, C, H, W)` noisy latents and `(N,)` timesteps to the bottleneck."""
        with self.autocast():
            bottleneck = self._encode(z_t, timesteps)
        return replace(bottleneck, h=bottleneck.h.to(self.dtype)) if self.reduced else bottleneck

    def decode(self, bottleneck: Bottleneck, h: Tensor | None = None) -> Tensor:
        """The network's output `(N, C, H, W)` from a bottleneck, with its h replaced by `h` if given."""
        with self.autocast():
            output = self._decode(bottleneck, h)
        return output.to(self.dtype) if self.reduced else output

    def _encode(self, z_t: Tensor, timesteps: Tensor) -> Bottleneck:
        unet = self.unet
        x = 2 * z_t - 1.0 if unet.config["center_input_sample"] else z_t
        embedding = unet.time_embedding(unet.time_proj(timesteps).to(dtype=self.dtype))
        outer = x
        x = unet.conv_in(x)
        skips: tuple[Tensor, ...] = (x,)
        for block in unet.down_blocks:
            if hasattr(block, "skip_conv"):
                x, taken, outer = block(hidden_states=x, temb=embedding, skip_sample=outer)
            else:
                x, taken = block(hidden_states=x, temb=embedding)
            skips += tuple(taken)
        if unet.mid_block is not None:
            x = unet.mid_block(x, embedding)
        return Bottleneck(x, skips, embedding, timesteps)

    def _decode(self, bottleneck: Bottleneck, h: Tensor | None) -> Tensor:
        unet, embedding = self.unet, bottleneck.embedding
        x = bottleneck.h if h is None else h
        skips = bottleneck.skips
        outer: Tensor | None = None
        for block in unet.up_blocks:
            count = len(block.resnets)
            taken, skips = skips[-count:], skips[:-count]
            if hasattr(block, "skip_conv"):
                x, outer = block(x, taken, embedding, outer)
            else:
                x = block(x, taken, embedding)
        x = unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))
        if outer is not None:
            x = x + outer
        if unet.config["time_embedding_type"] == "fourier":
            x = x / bottleneck.timesteps.reshape(-1, 1, 1, 1)
        # What a learned variance adds to the prediction (ADM's models) is not looked at: every step here is DDIM's.
        return cast(Tensor, x[:, : unet.config["in_channels"]])
