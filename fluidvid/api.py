"""The Python API for files, and the one place where a run's parts are put together."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluidvid.config import Config
from fluidvid.editing import FaceEditor
from fluidvid.errors import InputError, OutputError
from fluidvid.models import ModelStore
from fluidvid.pipeline import Outcome, Stages, reasons_not_prepared, run
from fluidvid.progress import ProgressCallback, silent
from fluidvid.report import RunReport


def anonymize(
    source: str | Path,
    target: str | Path,
    *,
    config: Config | None = None,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> RunReport:
    """Pseudonymise (or, in the classic modes, mask) every face of a video file.

    Args:
        source: a video file with anything PyAV decodes.
        target: the result; written beside itself under a temporary name and renamed when all went well.
        config: default: the preset `default`. Pseudonyms change from run to run unless `config.seed` is set.
        overwrite: replace an existing target.
        progress: called after every frame; must be quick.

    Returns:
        The account of the run. `edited + held + masked == faces`, `raw == 0`.

    Raises:
        InputError: the source is missing or cannot be decoded.
        OutputError: the target exists, or cannot be written.
        ModelError: a model is missing or altered.
        DetectionError: faces could not be looked for in some frame.
        StrictError: with `config.strict`.
    """
    chosen = config or Config()
    where_from, where_to = Path(source), Path(target)
    check_paths(where_from, where_to, overwrite=overwrite)
    stages = build_stages(where_from, where_to, chosen, overwrite=overwrite)
    outcome = run(stages, chosen, progress or silent)
    return make_report(where_from, where_to, chosen, stages, outcome)


def check_paths(source: Path, target: Path, *, overwrite: bool) -> None:
    """Refuse early what cannot end well, before any work is done.

    Raises:
        InputError: the source does not exist or is a folder.
        OutputError: the target is the source, exists without `overwrite`, or its folder does not exist.
    """
    if not source.is_file():
        raise InputError(f"no such file: {source}")
    if target.exists() and target.resolve() == source.resolve():
        raise OutputError(f"{target} is the source itself: choose another name for the result")
    if target.is_dir():
        raise OutputError(f"{target} is a folder: give the result a file name")
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists: add --overwrite to replace it")
    if not target.parent.is_dir():
        raise OutputError(f"folder {target.parent} does not exist: create it first")


def make_editor(config: Config, models: ModelStore, generator: np.random.Generator) -> FaceEditor | None:
    """Build the editor the configuration asks for; None in the classic modes.

    Args:
        config: the whole tree; `edit` and `device` matter here.
        models: resolves manifest names to verified paths.
        generator: the run's secret salt.

    Raises:
        ModelError: the backbone or a network it needs is missing or altered.
    """
    if config.mode != "fluid":
        return None
    from fluidvid.engine import build_editor

    editor: FaceEditor = build_editor(config, models, generator)
    return editor
