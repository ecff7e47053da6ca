"""Is a face of what was filmed still to be seen in what was published? Judged by pixels at the faces' places.

The detector looks at every published picture and at what was filmed of it: a face is judged wherever either shows one.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from fluidvid.assembly import make_detector
from fluidvid.audit.pictures import face_change, luma, outside, untouched
from fluidvid.config import Config
from fluidvid.models import ModelStore
from tests.fluidvid.live.camera import BLOCK, read_code

Image = NDArray[np.uint8]
EXPOSED = 0.5
"""Correlation of detail from which a face counts as raw; coding twice leaves .8 and more, a mask nothing."""


@cache
def filmed(clip: Path, width: int, height: int) -> list[Image]:
    """The camera's pictures before its time code is drawn."""
    with av.open(str(clip)) as container:
        return [
            np.asarray(
                cv2.resize(frame.to_ndarray(format="rgb24"), (width, height), interpolation=cv2.INTER_CUBIC), np.uint8
            )
            for frame in container.decode(video=0)
        ]


Box = tuple[float, float, float, float]


@cache
def places(clip: Path, width: int, height: int, number: int) -> list[Box]:
    """Faces of one of the camera's pictures, by the full detector."""
    return found_in(filmed(clip, width, height)[number])


def found_in(image: Image) -> list[Box]:
    """Faces of a picture, by the full detector."""
    boxes: list[Box] = []
    for face in _detector().detect(image):
        if face.score >= 0.5:
            x1, y1, x2, y2 = (float(v) for v in face.box)
            boxes.append((x1, y1, x2, y2))
    return boxes


@cache
def _detector() -> Any:
    return make_detector(Config(), ModelStore())


def exposed(clip: Path, published: Iterable[Image], *, size: tuple[int, int], edits: bool = False) -> tuple[int, int]:
    """How many faces were published as they were filmed, and how many were filmed, over every published picture.

    A picture is found in the film by the number in its code. What a mask takes away is detail: a face is exposed where
    its detail still goes with that of what was filmed.

    Args:
        clip: what was filmed.
        published: `(H, W, 3)` pictures of the camera's size with its time code.
        size: `(width, height)`.
        edits: faces are edited, which keeps some detail: the audit's own judgement of an untouched face counts.
    """
    seen = faces = 0
    source = filmed(clip, *size)
    judge = _untouched if edits else _shows_detail
    for image in published:
        number = read_code(image) % len(source)
        known = places(clip, *size, number)
        faces += len(known)
        seen += sum(judge(source[number], image, box, known) for box in [*known, *found_in(image)])
    return seen, faces


def _shows_detail(filmed: Image, published: Image, box: Box, _: list[Box]) -> bool:
    x1, y1, x2, y2 = box
    dx, dy = (x2 - x1) / 5, (y2 - y1) / 5
    rows = slice(max(0, int(y1 + dy)), int(y2 - dy))
    columns = slice(max(0, int(x1 + dx)), int(x2 - dx))
    ours, theirs = (_detail(picture[rows, columns]) for picture in (published, filmed))
    if not ours.std() or not theirs.std():
        return False
    return bool(np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > EXPOSED)


def _untouched(filmed: Image, published: Image, box: Box, known: list[Box]) -> bool:
    ours, theirs = luma(published)[:-BLOCK], luma(filmed)[:-BLOCK]  # without the code, which was not filmed
    around = outside(theirs, ours, [np.array(other, np.float32) for other in known])
    return untouched(*face_change(theirs, ours, box), around)


def _detail(face: Image) -> NDArray[np.float32]:
    """What is finer than an eighth of the face."""
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.asarray(grey - cv2.GaussianBlur(grey, (0, 0), face.shape[1] / 16), np.float32)


def pictures(path: str, *, limit: int = 10**9, **options: str) -> tuple[list[Image], list[float]]:
    """Pictures and times in seconds of a file or stream, read by PyAV."""
    images, times = [], []
    with av.open(path, options=options, timeout=(10, 10)) as container:
        for frame in container.decode(video=0):
            images.append(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8))
            assert frame.time is not None
            times.append(frame.time)
            if len(images) >= limit:
                break
    return images, times
