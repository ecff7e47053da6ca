"""Loading real formats: our latent folder, a bare UNet2DModel, LDM folders with diffusers' three autoencoders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    ScoreSdeVeScheduler,
    VQModel,
)
from safetensors.torch import save

from fluidvid.engine.autoencoder import FaceAutoencoder
from fluidvid.engine.backbone import FFHQ, IdentityStage, load_backbone, resolve_folder
from fluidvid.engine.pseudonyms import PseudonymBank
from fluidvid.engine.subspace import ComponentSpace
from fluidvid.errors import ModelError
from fluidvid.geometry import FFHQ_112
from tests.engine.tiny import TINY_AUTOENCODER, tiny_backbone, tiny_unet, write_backbone


def test_latent_folder_round_trip(tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path)
    assert backbone.crop_size == 64
    assert backbone.edit_timesteps == (500, 300)
    assert (backbone.template == FFHQ_112).all()
    crops = torch.rand(2, 3, 64, 64) * 2 - 1
    z = backbone.encode(crops)
    assert z.shape == (2, 4, 8, 8)
    assert backbone.decode(z).shape == crops.shape
    x0, eps = backbone.predict(z, torch.tensor([10, 900]))
    assert x0.shape == eps.shape == z.shape


def test_bare_unet_folder_is_a_pixel_model_with_the_ffhq_template(tmp_path: Path) -> None:
    tiny_unet(channels=3, side=16).save_pretrained(tmp_path)
    DDPMScheduler(beta_schedule="linear").save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path)
    assert isinstance(backbone.first_stage, IdentityStage)
    assert backbone.crop_size == 16
    assert backbone.schedule.prediction_type == "epsilon"
    assert (backbone.template == FFHQ).all()
    crops = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(backbone.decode(backbone.encode(crops)), crops)


def _vq() -> VQModel:
    return VQModel(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        num_vq_embeddings=16,
        norm_num_groups=4,
    )


def _kl() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )


def _taesd() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
        upsampling_scaling_factor=2,
    )


@pytest.mark.parametrize(("make", "folder"), [(_vq, "vqvae"), (_kl, "vae"), (_taesd, "vae")])
def test_ldm_folders_load_unchanged(make: object, folder: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = make()  # type: ignore[operator]
    model.save_pretrained(tmp_path / folder)
    tiny_unet().save_pretrained(tmp_path / "unet")
    DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    backbone = load_backbone(tmp_path)
    assert backbone.crop_size == 16  # the U-Net's sample size 8 times the autoencoder's factor 2
    crops = torch.rand(2, 3, 16, 16, requires_grad=True)
    z = backbone.encode(crops)
    assert z.shape == (2, 4, 8, 8)
    expected = (
        model.eval().decode(z / (1.0 if isinstance(model, AutoencoderTiny) else model.config.scaling_factor)).sample
    )
    torch.testing.assert_close(backbone.decode(z), expected.clamp(-1, 1), atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(backbone.decode(z).sum(), crops)
    assert torch.isfinite(gradient).all()


def test_a_vq_folder_without_a_scale_has_none(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = _vq().eval()
    model.save_pretrained(tmp_path / "vqvae")
    config = json.loads((tmp_path / "vqvae" / "config.json").read_text())
    del config["scaling_factor"]
    (tmp_path / "vqvae" / "config.json").write_text(json.dumps(config))
    tiny_unet().save_pretrained(tmp_path / "unet")
    DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    crops = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(load_backbone(tmp_path).encode(crops), model.encode(crops).latents)


def test_latents_are_shifted_as_the_autoencoder_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = _kl().eval()
    model.register_to_config(scaling_factor=0.5, shift_factor=0.25)
    model.save_pretrained(tmp_path / "vae")
    tiny_unet().save_pretrained(tmp_path / "unet")
    DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    backbone, crops = load_backbone(tmp_path), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        latents = model.encode(crops).latent_dist.mean
        torch.testing.assert_close(backbone.encode(crops), (latents - 0.25) * 0.5)
        torch.testing.assert_close(backbone.decode((latents - 0.25) * 0.5), model.decode(latents).sample.clamp(-1, 1))


@pytest.mark.parametrize("scheduler", [ScoreSdeVeScheduler, FlowMatchEulerDiscreteScheduler])
def test_other_kinds_of_noise_are_refused(scheduler: type, tmp_path: Path) -> None:
    tiny_unet().save_pretrained(tmp_path / "unet")
    scheduler().save_pretrained(tmp_path / "scheduler")
    with pytest.raises(ModelError, match=f"{scheduler.__name__}, whose noise is not that of DDPM"):
        load_backbone(tmp_path)


def test_noise_is_predicted_in_full_precision(tmp_path: Path) -> None:
    tiny_unet().save_pretrained(tmp_path / "unet")
    for kind, expected in (("epsilon", None), ("sample", torch.bfloat16)):
        DDPMScheduler(prediction_type=kind).save_pretrained(tmp_path / "scheduler")
        assert load_backbone(tmp_path, reduced=torch.bfloat16).unet.reduced == expected


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    digest = tiny_backbone(tmp_path).digest
    card = json.loads((tmp_path / "fluidvid.json").read_text())
    (tmp_path / "fluidvid.json").write_text(json.dumps(card | {"sha256": digest}))
    assert load_backbone(tmp_path).digest == digest
    FaceAutoencoder(TINY_AUTOENCODER).save_pretrained(tmp_path / "autoencoder")
    with pytest.raises(ModelError, match="not those of its"):
        load_backbone(tmp_path)


def test_missing_and_incomplete_folders_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="hf download nobody/nothing"):
        resolve_folder("nobody/nothing")
    with pytest.raises(ModelError, match="no backbone folder"):
        resolve_folder(tmp_path / "absent")
    write_backbone(tmp_path)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError, match="not a complete backbone"):
        load_backbone(tmp_path)


def test_unknown_autoencoder_class_is_named(tmp_path: Path) -> None:
    tiny_unet().save_pretrained(tmp_path / "unet")
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text('{"_class_name": "AutoencoderDC"}')
    with pytest.raises(ModelError, match="AutoencoderDC"):
        load_backbone(tmp_path)


@pytest.mark.parametrize(
    "card",
    [
        "{",
        "[]",
        '{"template": "ffhq"}',
        '{"template": {}}',
        '{"template": {"points": [[0.3, 0.4]]}}',
        '{"crop_size": "large"}',
        '{"crop_size": 1e999}',
        '{"edit_timesteps": []}',
        '{"edit_timesteps": [0]}',
    ],
)
def test_a_card_that_cannot_be_used_is_named(card: str, tmp_path: Path) -> None:
    write_backbone(tmp_path)
    (tmp_path / "fluidvid.json").write_text(card)
    with pytest.raises(ModelError, match=r"fluidvid\.json cannot be used.*template"):
        load_backbone(tmp_path)


@pytest.mark.parametrize("content", [b"damaged", save({"other": torch.zeros(1)})])
def test_damaged_components_and_pseudonyms_are_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged\.safetensors holds no components"):
        ComponentSpace.load(path, (16, 4, 4))
    with pytest.raises(ModelError, match=r"damaged\.safetensors is not a pseudonym bank"):
        PseudonymBank.load(path)


def _safetensors(**tensors: torch.Tensor) -> bytes:
    return save(tensors)


LEVELS = torch.tensor([100])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_safetensors(basis=torch.zeros(256), timesteps=LEVELS), r"a basis of \(256,\)"),
        (_safetensors(basis=torch.zeros(1, 256), timesteps=LEVELS), r"a basis of \(1, 256\)"),
        (_safetensors(basis=torch.zeros(1, 2, 256), timesteps=torch.tensor(100)), r"timesteps of \(\)"),
        (_safetensors(basis=torch.zeros(1, 2, 256), timesteps=torch.tensor([100, 300])), r"timesteps of \(2,\)"),
        (_safetensors(basis=torch.full((1, 2, 256), torch.inf), timesteps=LEVELS), r"a basis of \(1, 2, 256\)"),
    ],
)
def test_components_of_another_shape_are_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "hspace.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"hspace\.safetensors holds no components of h \(.*{words}.*search in all"):
        ComponentSpace.load(path, (16, 4, 4))


@pytest.mark.parametrize(
    ("changed", "tensor"),
    [
        ("ages", torch.zeros(())),
        ("males", torch.zeros(3)),
        ("embedding.sface", torch.zeros(2)),
        ("embedding.sface", torch.full((2, 8), torch.nan)),
        ("coordinates", torch.zeros(2, 5)),
        ("coordinates", torch.zeros(3, 1, 5)),
        ("drawn", torch.zeros(3)),
    ],
)
def test_a_bank_of_another_shape_is_one_line(changed: str, tensor: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "pseudonyms.safetensors"
    good = {"ages": torch.zeros(2), "males": torch.zeros(2), "embedding.sface": torch.eye(2, 8)}
    path.write_bytes(save(good))
    assert PseudonymBank.load(path).embeddings["sface"].shape == (2, 8)
    path.write_bytes(save(good | {changed: tensor}))
    with pytest.raises(ModelError, match=r"pseudonyms\.safetensors is not a pseudonym bank \(.* people\): get the"):
        PseudonymBank.load(path)
