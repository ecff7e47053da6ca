"""Puts the parts of a run together: models, detectors, tracker, editor, reader and writer."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluidvid.config import Config
from fluidvid.editing import FaceEditor
from fluidvid.errors import ModelError
from fluidvid.models import ModelStore


def make_editor(config: Config, models: ModelStore, seed: int) -> FaceEditor | None:
    """Build the editor the configuration asks for; None in the classic modes. The one seam to the engine.

    Args:
        config: the whole tree; `edit` and `device` matter here.
        models: resolves manifest names to verified paths.
        seed: the run's secret; everything random in the engine comes from it.

    Raises:
        ModelError: the backbone or a network it needs is missing or altered, or the engine cannot be loaded.
    """
    if config.mode != "fluid":
        return None
    try:
        from fluidvid.engine import build_editor
    except ImportError as error:
        raise ModelError(
            f"the engine cannot be loaded ({error}): reinstall fluidvid, or use --mode blur, pixelate or solid"
        ) from error
    edit = config.edit
    folder = Path(edit.backbone)
    editor: FaceEditor = build_editor(
        backbone=folder if folder.is_dir() else models.resolve(edit.backbone),
        resolve=models.resolve,
        editor=edit.editor,
        geometry=edit.geometry,
        strength=edit.strength,
        timesteps=edit.timesteps,
        iterations=edit.iterations,
        inversion_steps=edit.inversion_steps,
        device=config.device,
        seed=seed,
    )
    return editor


def run_seed(config: Config) -> int:
    """The run's secret: fresh from the operating system unless `config.seed` fixes it for a test."""
    return secrets.randbits(63) if config.seed is None else config.seed
