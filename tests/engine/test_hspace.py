"""The split U-Net equals UNet2DModel's forward, for the block kinds that diffusers' unconditional models use."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fluidvid.engine.hspace import SplitUNet
from fluidvid.engine.plan import without_skips
from fluidvid.errors import ModelError
from tests.engine.tiny import tiny_unet

ATTENTION: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
}
SKIP: dict[str, Any] = {
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
    "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
    "block_out_channels": (32, 64),
    "norm_num_groups": 8,
    "in_channels": 3,
    "out_channels": 3,
}


@pytest.mark.parametrize(
    "changes", [{}, ATTENTION, SKIP, {"center_input_sample": True}, {"time_embedding_type": "fourier"}]
)
def test_split_equals_forward(changes: dict[str, Any]) -> None:
    unet = tiny_unet(**changes)
    z = torch.randn(3, unet.config["in_channels"], 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([1, 400, 990])
    split = SplitUNet(unet)
    with torch.no_grad():
        whole = unet(z, timesteps).sample
        halves = split.decode(split.encode(z, timesteps))
    torch.testing.assert_close(halves, whole, atol=1e-5, rtol=1e-5)


def test_a_learned_variance_is_left_out() -> None:
    unet = tiny_unet(out_channels=8)
    z, timesteps = torch.randn(2, 4, 8, 8), torch.tensor([300, 500])
    split = SplitUNet(unet)
    with torch.no_grad():
        torch.testing.assert_close(split.decode(split.encode(z, timesteps)), unet(z, timesteps).sample[:, :4])


def test_h_and_skips_both_matter_and_can_be_replaced() -> None:
    unet = tiny_unet()
    split = SplitUNet(unet)
    z, timesteps = torch.randn(2, 4, 8, 8), torch.tensor([300, 500])
    with torch.no_grad():
        bottleneck = split.encode(z, timesteps)
        plain = split.decode(bottleneck)
        assert (split.decode(bottleneck, bottleneck.h + 1) - plain).abs().max() > 1e-3
        assert (split.decode(without_skips(bottleneck)) - plain).abs().max() > 1e-3
        twice = split.decode(bottleneck.repeat(2))
    torch.testing.assert_close(twice, torch.cat([plain, plain]))


def test_weights_are_frozen() -> None:
    assert not any(p.requires_grad for p in SplitUNet(tiny_unet()).unet.parameters())


def test_class_conditional_unet_is_refused() -> None:
    with pytest.raises(ModelError, match="unconditional"):
        SplitUNet(tiny_unet(num_class_embeds=3))


def test_reduced_precision_keeps_dtype_and_result() -> None:
    unet = tiny_unet()
    z, timesteps = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([100, 700])
    exact, reduced = SplitUNet(unet), SplitUNet(unet, torch.bfloat16)
    with torch.no_grad():
        bottleneck = reduced.encode(z, timesteps)
        output = reduced.decode(bottleneck)
        expected = exact.decode(exact.encode(z, timesteps))
    assert bottleneck.h.dtype == output.dtype == torch.float32
    assert not torch.equal(output, expected)
    torch.testing.assert_close(output, expected, atol=0.05 * float(expected.abs().max()), rtol=0)
