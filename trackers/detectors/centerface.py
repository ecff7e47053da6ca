"""CenterFace: anchor-free heat map at stride 4 with five landmarks (Xu et al., arXiv 1911.03599)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fluidvid.geometry import similarity
from fluidvid.trackers.align import crop
from fluidvid.trackers.detectors.base import (
    HINT,
    LARGEST,
    WINDOW,
    OnnxDetector,
    above,
    fitted,
    scaled,
    split,
    suppressed,
)
from fluidvid.trackers.session import check_outputs
from fluidvid.trackers.types import Detection, Image

CELL = 4
NOTHING = 0.1
"""Score below which there is no trace of a face, and a place is left as it is: there are thousands of them."""


class CenterFace(OnnxDetector):
    """The embedded first detector.

    Args:
        path: the ONNX file; RGB 0..255, outputs heat map, scale, offset, landmarks.
        others: see `OnnxDetector`.

    Raises:
        ValueError: the file does not have CenterFace's outputs.
    """

    name = "centerface"

    _bonus = np.float32(0)

    def _check(self, path: Path) -> None:
        check_outputs(self._session, path, "CenterFace", [(1,), (2,), (2,), (10,)])

    def detect(self, image: Image) -> list[Detection]:
        """See `FaceDetector`."""
        return self.detect_and_hint(image)[0]

    def detect_and_hint(self, image: Image) -> tuple[list[Detection], NDArray[np.float32]]:
        """See `FaceDetector`."""
        picture, x_scale, y_scale = fitted(image, self._long_side)
        found = self._run(picture[None], (x_scale, y_scale), min(HINT, self._score))[0]
        return split(found, self._score)

    def detect_many(self, images: NDArray[np.uint8]) -> list[list[Detection]]:
        """See `FaceDetector`."""
        return self._run(images, (1.0, 1.0), self._score)

    def suspects(self, image: Image, face: Detection) -> bool:
        """See `FaceDetector`."""
        centre, side = (face.box[:2] + face.box[2:]) / 2, float((face.box[2:] - face.box[:2]).max())
        seen = min(LARGEST, side)
        square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
        around = (square - 0.5) * side * WINDOW / seen + centre
        part = crop(image, similarity(around, square * WINDOW), WINDOW)
        # Turned, too: what is upside down leaves no trace otherwise.
        blob = np.stack([np.rot90(part, turns) for turns in range(4)]).transpose(0, 3, 1, 2).astype(np.float32)
        heat = self._session.run(None, {self._input: blob})[0]
        first, last = (int((WINDOW + sign * seen) / 2 / CELL) for sign in (-1, 1))
        return bool(above(heat[..., first : last + 1, first : last + 1], NOTHING).any())

    def _run(self, pictures: NDArray[np.uint8], factors: tuple[float, float], least: float) -> list[list[Detection]]:
        blob = pictures.transpose(0, 3, 1, 2).astype(np.float32)
        outputs = self._session.run(None, {self._input: blob})
        heat, scale, offset, points = outputs
        heat = np.where(heat < NOTHING, heat, np.minimum(heat + self._bonus, np.float32(1)))
        return [self._found(heat[i], scale[i], offset[i], points[i], factors, least) for i in range(len(pictures))]

    def _found(
        self,
        heat: NDArray[np.float32],
        scale: NDArray[np.float32],
        offset: NDArray[np.float32],
        points: NDArray[np.float32],
        factors: tuple[float, float],
        least: float,
    ) -> list[Detection]:
        """Decode the maps `(C, H / 4, W / 4)` of one picture."""
        rows, columns = np.nonzero(above(heat[0], least))
        if len(rows) == 0:
            return []
        # Scales, offsets and landmarks come in (y, x) order.
        heights, widths = (np.exp(scale[:, rows, columns].T) * CELL).T
        y1 = (rows + offset[0, rows, columns] + 0.5) * CELL - heights / 2
        x1 = (columns + offset[1, rows, columns] + 0.5) * CELL - widths / 2
        boxes = np.stack([x1, y1, x1 + widths, y1 + heights], 1).astype(np.float32)
        raw = points[:, rows, columns].T.reshape(-1, 5, 2)
        # Not clipped before this point: the landmarks are relative to the whole box.
        landmarks = np.stack(
            [raw[..., 1] * widths[:, None] + x1[:, None], raw[..., 0] * heights[:, None] + y1[:, None]], 2
        ).astype(np.float32)
        scores = heat[0, rows, columns].astype(np.float32)
        return suppressed(scaled(boxes, scores, landmarks, factors, self.name))


class QuantisedCenterFace(CenterFace):
    """The same network in 8 bits (`tools/quantise_detector.py`): half the time on a CPU.

    Its scores are off by .02 (standard deviation) to either side. Two of those are added: what floating point would
    just have found must not be lost.
    """

    name = "centerface_int8"
    _bonus = np.float32(0.04)
