"""Results of imaginary tools, built from the demo clip: cheats that an audit must catch, and honest masks."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from fluidvid.masks import face_mask
from fluidvid.video import VideoReader
from fluidvid.video.orientation import Orientation

Picture = NDArray[np.uint8]
FRAMES = 8
RATE = Fraction(30000, 1001)


def pictures_of(path: Path, count: int = FRAMES) -> list[Picture]:
    with VideoReader(path) as reader:
        return [frame.rgb() for frame, _ in zip(reader, range(count), strict=False)]


def write(
    path: Path,
    pictures: Sequence[Picture],
    *,
    crf: int = 18,
    times: Sequence[int] | None = None,
    sar: Fraction | None = None,
    quarter_turns: int = 0,
) -> Path:
    """H.264, 4:4:4; `times` in frame intervals; players turn the pictures counter-clockwise by `quarter_turns`."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.time_base = "yuv444p", 1 / RATE
        stream.options = {"crf": str(crf), "preset": "ultrafast"}
        if sar is not None:
            stream.sample_aspect_ratio = sar
        if quarter_turns:
            stream.set_display_matrix(Orientation.from_angle(90 * quarter_turns).matrix)
        for time, picture in zip(times or range(len(pictures)), pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = time, 1 / RATE
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def masked(picture: Picture, boxes: Sequence[NDArray[np.float32]]) -> Picture:
    copy = picture.copy()
    for box in boxes:
        face_mask(copy, box, kind="solid", cells=8, margin=0.25)
    return copy


def blurred(picture: Picture, boxes: Sequence[NDArray[np.float32]], sigma: float) -> Picture:
    copy = picture.copy()
    for box in boxes:
        x1, y1, x2, y2 = np.clip(box, 0, None).astype(int)
        copy[y1:y2, x1:x2] = cv2.GaussianBlur(copy[y1:y2, x1:x2], (0, 0), sigma)
    return copy
