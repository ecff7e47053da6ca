"""`fluidvid prior sample`: pictures of people who do not exist."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import cv2
import torch

from fluidvid.assembly import backbone_source
from fluidvid.engine.backbone import load_backbone
from fluidvid.engine.crops import to_pictures
from fluidvid.engine.sampling import sample
from fluidvid.errors import ConfigError, InterruptedResultError, OutputError
from fluidvid.models import ModelStore

MOST = 10**6


def write_samples(prior: str, count: int, seed: int, out: Path, *, steps: int, overwrite: bool) -> None:
    """Write `count` pictures `out/000000.png` and so on.

    Raises:
        ConfigError: count or steps are no positive numbers, or there would be more pictures than names.
        ModelError: no such prior.
        OutputError: a picture exists without `overwrite`, or cannot be written.
        InterruptedResultError: a signal came when some pictures had been written.
    """
    if count < 1 or steps < 1:
        raise ConfigError("--count and --ddim must be positive")
    if count > MOST:
        raise ConfigError(f"--count {count}: at most {MOST}, the numbers that the names of the pictures can hold")
    paths = [out / f"{index:06d}.png" for index in range(count)]
    there = {path: path.stat().st_ino for path in paths if path.exists()}
    if there and not overwrite:
        raise OutputError(f"{next(iter(there))} exists already: --overwrite replaces samples, or choose another --out")
    backbone = load_backbone(backbone_source(prior, ModelStore()))
    index = 0
    try:
        for crops in sample(backbone, count, torch.Generator().manual_seed(seed), steps):
            for picture in to_pictures(crops):
                _write(paths[index], cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
                index += 1
    except KeyboardInterrupt:
        # The last one may have got its name just now.
        written = sum(path.exists() and path.stat().st_ino != there.get(path) for path in paths[: index + 1])
        if not written:
            raise
        raise InterruptedResultError(f"interrupted: {written} of {count} samples were written to {out}") from None


def _write(path: Path, data: bytes) -> None:
    part = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror}): choose another --out") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
