"""What a run leaves behind: a backbone folder with its card, for the engine to load and for people to read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DModel
from diffusers.utils import logging as diffusers_logging

from fluidvid.engine.autoencoder import FaceAutoencoder
from fluidvid.engine.backbone import weight_digest
from fluidvid.engine.training.runs import whole, write_errors
from fluidvid.errors import ModelError

KEPT = ("format", "crop_size", "first_stage", "template", "edit_timesteps", "edit_skips", "guides")
"""What a successor inherits from the card of the folder it began with."""


def read_card(folder: Path) -> dict[str, Any]:
    """`fluidvid.json` of a folder.

    Raises:
        ModelError: it is missing, unreadable, or names no template and crop size.
    """
    try:
        card: dict[str, Any] = json.loads((folder / "fluidvid.json").read_text())
        card["template"]["points"], card["crop_size"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder} has no fluidvid.json with template and crop_size: begin with 'prior' or what 'prior train' wrote"
        ) from error
    return card


def write_folder(
    out: Path,
    card: Mapping[str, Any],
    *,
    autoencoder: FaceAutoencoder,
    unet: UNet2DModel | None = None,
    scheduler: DDIMScheduler | None = None,
    components: Path | None = None,
    pseudonyms: Path | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a backbone folder; its card comes last, so that a folder with a card is complete.

    Args:
        out: the folder; may hold a run.
        card: content of `fluidvid.json`, without `sha256`.
        autoencoder: first stage.
        unet: None leaves a first stage only, which `fluidvid prior train diffusion --fresh` can begin with.
        scheduler: of the U-Net.
        components: file of a `ComponentSpace` of h to copy.
        pseudonyms: file of a `PseudonymBank` to copy.
        dtype: of the U-Net's and the first stage's weights.

    Raises:
        OutputError: the folder cannot be written.
    """
    with write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        beside = {"hspace.safetensors": components, "pseudonyms.safetensors": pseudonyms}
        for name in ("fluidvid.json", *beside):
            (out / name).unlink(missing_ok=True)
        autoencoder.save_pretrained(out / "autoencoder", dtype)
        if unet is not None and scheduler is not None:
            diffusers_logging.set_verbosity_error()
            unet.to(dtype).save_pretrained(out / "unet")
            _forget_origin(out / "unet" / "config.json")
            scheduler.save_pretrained(out / "scheduler")
        for name, path in beside.items():
            if path is not None:
                shutil.copy(path, out / name)
        full = {**card, "sha256": weight_digest(out)}
        (out / "README.md").write_text(model_card(full))
        with whole(out / "fluidvid.json") as part:
            part.write_text(json.dumps(full, indent=1) + "\n")


def _forget_origin(config: Path) -> None:
    """Drop where diffusers read a network from: a path of the maker's machine is no part of a model."""
    kept = json.loads(config.read_text())
    kept.pop("_name_or_path", None)
    config.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")


def model_card(card: Mapping[str, Any]) -> str:
    """The card for people."""
    template = card["template"].get("name", "its own") if isinstance(card.get("template"), Mapping) else "its own"
    guides = ", ".join(card.get("guides", [])) or "none"
    lines = [
        "# A fluidvid prior",
        "",
        "Written by `fluidvid prior train`; use it with `fluidvid anonymize --set edit.backbone=FOLDER`.",
        "",
        f"- pictures: {card.get('training_data', 'not recorded')}",
        f"- licence: {card.get('licence', 'not chosen: that of its pictures allows what it allows')}",
        f"- crop: {card.get('crop_size')} pixels, template {template}",
        f"- edit levels: {', '.join(map(str, card.get('edit_timesteps', [])))}",
        f"- recognisers that guided it, no independent judges of its edits: {guides}",
        f"- SHA-256 of its weights: {card['sha256']}",
        "",
        "| figure | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in card.get("figures", {}).items()),
    ]
    return "\n".join(lines) + "\n"
