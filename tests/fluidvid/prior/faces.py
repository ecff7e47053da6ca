"""Pictures and a tiny prior for the commands of `fluidvid prior`."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tests.engine.tiny import faces


def write_faces(folder: Path, count: int, side: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    """`count` different pictures as PNGs; what was written, RGB."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = faces(count, side, seed)
    for index, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{index:03d}.png"), picture[..., ::-1])
    return pictures
