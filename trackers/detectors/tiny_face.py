"""face-api's tiny face detector: a tiny YOLOv2 of another family and training set than CenterFace, for a second look.

It gives boxes only; the five landmarks come from face-api's 68-point network on its boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fluidvid.geometry import similarity
from fluidvid.trackers.align import crop
from fluidvid.trackers.detectors.base import HINT, OnnxDetector, above, fitted, scaled, split, suppressed
from fluidvid.trackers.session import CPU, Provider, check_outputs, open_session
from fluidvid.trackers.types import Detection, Image

CELL = 32
ANCHORS = np.array(
    [(1.603231, 2.094468), (6.041143, 7.080126), (2.882459, 3.518061), (4.266906, 5.178857), (9.041765, 10.66308)]
)
LANDMARK_SIDE = 112
LANDMARK_MARGIN = 1.15
FIVE_OF_68 = (range(36, 42), range(42, 48), (30,), (48,), (54,))
"""Which of the 68 points make left eye, right eye, nose, left mouth corner, right mouth corner."""


class TinyFace(OnnxDetector):
    """The embedded second detector.

    Args:
        path: the ONNX file; RGB 0..255, output `(1, 25, H / 32, W / 32)`.
        landmarks: the 68-point network's ONNX file.
        others: see `OnnxDetector`.

    Raises:
        ValueError: a file does not have the outputs of its kind.
    """

    name = "tiny_face"

    def __init__(
        self,
        path: Path,
        *,
        landmarks: Path,
        score: float = 0.3,
        long_side: int = 1280,
        providers: Sequence[Provider] = CPU,
        threads: int = 0,
    ) -> None:
        super().__init__(path, score=score, long_side=long_side, providers=providers, threads=threads)
        self._points = open_session(landmarks, providers, threads=threads)
        check_outputs(self._points, landmarks, "68-point network", [(68, 2)])
        self._points_input = self._points.get_inputs()[0].name

    def _check(self, path: Path) -> None:
        check_outputs(self._session, path, "tiny face detector", [(5 * len(ANCHORS),)])

    def detect(self, image: Image) -> list[Detection]:
        """See `FaceDetector`."""
        return self.detect_and_hint(image)[0]

    def detect_and_hint(self, image: Image) -> tuple[list[Detection], NDArray[np.float32]]:
        """See `FaceDetector`."""
        found, hints = self.boxes_and_hint(image)
        return [self.with_landmarks(image, face) for face in found], hints

    def detect_many(self, images: NDArray[np.uint8]) -> list[list[Detection]]:
        """See `FaceDetector`."""
        return [
            [self.with_landmarks(image, face) for face in found]
            for image, found in zip(images, self.boxes_many(images), strict=True)
        ]

    def boxes_and_hint(self, image: Image) -> tuple[list[Detection], NDArray[np.float32]]:
        """See `FaceDetector`."""
        picture, x_scale, y_scale = fitted(image, self._long_side)
        raw = self._session.run(None, {self._input: picture.transpose(2, 0, 1)[None].astype(np.float32)})[0]
        return self._found(raw[0], (x_scale, y_scale), min(HINT, self._score))

    def boxes_many(self, images: NDArray[np.uint8]) -> list[list[Detection]]:
        """See `FaceDetector`."""
        raw = self._session.run(None, {self._input: images.transpose(0, 3, 1, 2).astype(np.float32)})[0]
        return [self._found(cells, (1.0, 1.0), self._score)[0] for cells in raw]

    def with_landmarks(self, image: Image, face: Detection) -> Detection:
        """See `FaceDetector`."""
        return Detection(face.box, face.score, self._five(image, face.box), self.name)

    def _found(
        self, raw: NDArray[np.float32], factors: tuple[float, float], least: float
    ) -> tuple[list[Detection], NDArray[np.float32]]:
        """Decode the map `(25, H / 32, W / 32)` of one picture; the landmarks stay at zero."""
        raw = raw.astype(np.float64)
        cells = raw.reshape(len(ANCHORS), 5, *raw.shape[1:])
        scores = 1 / (1 + np.exp(-cells[:, 4]))
        anchor, row, column = np.nonzero(above(scores, least))
        if len(anchor) == 0:
            return split([], self._score)
        x, y, width, height = cells[anchor, :4, row, column].T
        centre = np.stack([column + 1 / (1 + np.exp(-x)), row + 1 / (1 + np.exp(-y))], 1) * CELL
        size = np.exp(np.clip(np.stack([width, height], 1), -8, 8)) * ANCHORS[anchor] * CELL
        boxes = np.hstack([centre - size / 2, centre + size / 2]).astype(np.float32)
        nowhere = np.zeros((len(boxes), 5, 2), np.float32)
        rough = scaled(boxes, scores[anchor, row, column].astype(np.float32), nowhere, factors, self.name)
        return split(suppressed(rough, 0.4), self._score)

    def _five(self, image: Image, box: NDArray[np.float32]) -> NDArray[np.float32]:
        """`(5, 2)` float32 landmarks in pixels from the 68-point network."""
        centre, side = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max()) * LANDMARK_MARGIN
        square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * side + centre - side / 2
        corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * LANDMARK_SIDE
        face = crop(image, similarity(square, corners), LANDMARK_SIDE)
        blob = ((face.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)[None]
        points = self._points.run(None, {self._points_input: blob})[0].reshape(68, 2)
        five = np.stack([points[list(group)].mean(0) for group in FIVE_OF_68])
        return np.asarray(five * side + centre - side / 2, dtype=np.float32)
