"""What every detector is: a name, its providers, and `detect`; and what several of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fluidvid.trackers.session import CPU, Provider, give_back, open_session
from fluidvid.trackers.types import Detection, Image, TrackedFace

STRIDE = 32
SMALLEST = 320
"""Pictures with a shorter long side than this are enlarged to it: faces in them are as small as they are."""

WINDOW = 160
"""Side of a window around a face as a network sees it, in pixels."""
LARGEST = 64.0
"""Longer side of a face in its window; larger ones are scaled down to it."""

HINT = 0.15
"""Score from which a place is a hint."""
MOST_HINTS = 5


class FaceDetector(ABC):
    """Finds faces in one picture at a time."""

    name: str = ""

    @property
    @abstractmethod
    def providers(self) -> tuple[str, ...]:
        """Execution providers of onnxruntime in use, the first one leads."""

    @abstractmethod
    def detect(self, image: Image) -> list[Detection]:
        """Faces of `(H, W, 3)` uint8 RGB, best first; boxes may reach beyond the picture's edges."""

    def detect_and_hint(self, image: Image) -> tuple[list[Detection], NDArray[np.float32]]:
        """`detect`, and `(M, 4)` boxes of places not quite enough for a face: worth a look in other frames."""
        return self.detect(image), np.zeros((0, 4), np.float32)

    def suspects(self, image: Image, face: Detection) -> bool:
        """Whether a close look at a face of this detector shows a trace of it; True where that is not worth a look."""
        return True

    def detect_many(self, images: NDArray[np.uint8]) -> list[list[Detection]]:
        """Faces of each of `(N, S, S, 3)` uint8 RGB small pictures, S a multiple of 32, in one run where possible."""
        return [self.detect(image) for image in images]

    def boxes_and_hint(self, image: Image) -> tuple[list[Detection], NDArray[np.float32]]:
        """`detect_and_hint`, where landmarks that cost a further look may be left at zero; see `with_landmarks`."""
        return self.detect_and_hint(image)

    def boxes_many(self, images: NDArray[np.uint8]) -> list[list[Detection]]:
        """`detect_many`, the same way."""
        return self.detect_many(images)

    def with_landmarks(self, image: Image, face: Detection) -> Detection:
        """A face of `boxes_and_hint` or `boxes_many` with its landmarks."""
        return face

    def close(self) -> None:
        """Give back the memory of the networks, hundreds of megabytes for large pictures; not usable afterwards."""
        from onnxruntime import InferenceSession

        for name, part in list(vars(self).items()):
            if isinstance(part, FaceDetector):
                part.close()
            elif isinstance(part, InferenceSession):
                give_back(part)
                delattr(self, name)


class DetectorAround(FaceDetector):
    """Another detector with something done to its faces.

    Args:
        detector: finds them.
    """

    def __init__(self, detector: FaceDetector) -> None:
        self._detector = detector
        self.name = detector.name

    @property
    def providers(self) -> tuple[str, ...]:
        """See `FaceDetector`."""
        return self._detector.providers

    def detect(self, image: Image) -> list[Detection]:
        """See `FaceDetector`."""
        return self.detect_and_hint(image)[0]

    @abstractmethod
    def detect_and_hint(self, image: Image) -> tuple[list[Detection], NDArray[np.float32]]:
        """See `FaceDetector`."""

    def suspects(self, image: Image, face: Detection) -> bool:
        """See `FaceDetector`."""
        return self._detector.suspects(image, face)

    def detect_many(self, images: NDArray[np.uint8]) -> list[list[Detection]]:
        """See `FaceDetector`."""
        return self._detector.detect_many(images)


class OnnxDetector(FaceDetector):
    """A detector in one ONNX file.

    Args:
        path: the file.
        score: detections below it are dropped.
        long_side: pictures are scaled down to it.
        providers: onnxruntime's, in order of preference.
        threads: CPU threads of one run; 0: as many as there are cores.

    Raises:
        ValueError: the file has other outputs.
    """

    def __init__(
        self,
        path: Path,
        *,
        score: float = 0.3,
        long_side: int = 1280,
        providers: Sequence[Provider] = CPU,
        threads: int = 0,
    ) -> None:
        self._session = open_session(path, providers, threads=threads)
        self._check(path)
        self._input = self._session.get_inputs()[0].name
        self._score, self._long_side = score, long_side

    @abstractmethod
    def _check(self, path: Path) -> None:
        """Raise ValueError if the session's outputs are not this detector's."""

    @property
    def providers(self) -> tuple[str, ...]:
        """See `FaceDetector`."""
        return session_providers(self._session.get_providers())


def fitted(image: Image, long_side: int) -> tuple[Image, float, float]:
    """Scale a picture down (or a tiny one up) so that both sides are multiples of 32.

    Args:
        image: `(H, W, 3)` uint8.
        long_side: longest side wanted, in pixels.

    Returns:
        the scaled picture, zero-padded at the right and at the bottom, and how many of its pixels one pixel of the
        original takes, in x and y.
    """
    small, x, y = resized(image, fitting_scale(image, long_side))
    height, width = small.shape[:2]
    padded = np.zeros((-(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE, 3), dtype=np.uint8)
    padded[:height, :width] = small
    return padded, x, y


def resized(image: Image, scale: float) -> tuple[Image, float, float]:
    """A picture `(H, W, 3)` uint8 at a scale, and how many of its pixels one of the original takes, in x and y."""
    height, width = image.shape[:2]
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    if inner != (width, height):
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, inner, interpolation=how), dtype=np.uint8)
    return image, inner[0] / width, inner[1] / height


def enlarged(face: Detection, factors: NDArray[np.float32], margin: float = 0.0) -> Detection:
    """A face in the original's pixels, from those of a picture scaled by `(2,)` factors within a margin in pixels."""
    if margin == 0 and (factors == 1).all():
        return face
    box = ((face.box - margin) / np.tile(factors, 2)).astype(np.float32)
    return Detection(box, face.score, ((face.landmarks - margin) / factors).astype(np.float32), face.source)


def fitting_scale(image: Image, long_side: int) -> float:
    """By which `fitted` scales a picture."""
    longest = max(image.shape[:2])
    if longest < SMALLEST:
        return float(min(SMALLEST, long_side) / longest)
    return float(min(1.0, long_side / longest))


def boxes_of(faces: Sequence[Detection | TrackedFace]) -> NDArray[np.float32]:
    """`(N, 4)` boxes of faces, also of none."""
    return np.array([face.box for face in faces], np.float32).reshape(-1, 4)


def iou_matrix(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of `(N, 4)` and `(M, 4)` boxes as `(N, M)` float32."""
    left_top = np.maximum(a[:, None, :2], b[None, :, :2])
    right_bottom = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.clip(right_bottom - left_top, 0, None).prod(2)
    areas = [np.clip(x[:, 2:] - x[:, :2], 0, None).prod(1) for x in (a, b)]
    union = areas[0][:, None] + areas[1][None] - inter
    return np.asarray(inter / np.maximum(union, 1e-9), dtype=np.float32)


def suppressed(found: Iterable[Detection], overlap: float = 0.3) -> list[Detection]:
    """Non-maximum suppression: best first, without those that overlap a better one by more than `overlap`."""
    left = sorted(found, key=lambda d: -d.score)
    boxes = boxes_of(left)
    kept: list[Detection] = []
    while left:
        kept.append(left[0])
        apart = np.flatnonzero(iou_matrix(boxes[:1], boxes[1:])[0] <= overlap) + 1
        left, boxes = [left[i] for i in apart], boxes[apart]
    return kept


def split(found: list[Detection], score: float) -> tuple[list[Detection], NDArray[np.float32]]:
    """Detections, best first, into those above `score` and the boxes `(M, 4)` of the best `MOST_HINTS` others."""
    faces = [d for d in found if d.score > score]
    hints = [d.box for d in found[len(faces) :][:MOST_HINTS]]
    return faces, np.array(hints, np.float32).reshape(-1, 4)


NO_NUMBERS = "a network gave {} that are no numbers: try --device cpu, or another --detector"


def above(scores: NDArray[Any], least: float) -> NDArray[np.bool_]:
    """Where scores of any shape exceed `least`.

    Raises:
        ValueError: some are not finite: a network that fails must not pass for one that sees nobody.
    """
    if not np.isfinite(scores).all():
        raise ValueError(NO_NUMBERS.format("scores"))
    return np.asarray(scores > least)


def scaled(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    landmarks: NDArray[np.float32],
    factors: tuple[float, float],
    source: str,
) -> list[Detection]:
    """Detections in the original's pixels from `(N, 4)` boxes, `(N,)` scores, `(N, 5, 2)` landmarks of the scaled one.

    Boxes without area are left out.

    Raises:
        ValueError: some values are not finite: a face that was found must not be lost.
    """
    if not all(np.isfinite(values).all() for values in (boxes, scores, landmarks)):
        raise ValueError(NO_NUMBERS.format("faces"))
    x, y = factors
    boxes = (boxes / np.array([x, y, x, y], np.float32)).astype(np.float32)
    landmarks = (landmarks / np.array([x, y], np.float32)).astype(np.float32)
    good = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return [Detection(boxes[i], float(scores[i]), landmarks[i], source) for i in np.flatnonzero(good)]


def session_providers(session_names: Sequence[str]) -> tuple[str, ...]:
    """Short names of onnxruntime's providers: `CPU`, `CUDA`."""
    return tuple(name.removesuffix("ExecutionProvider") for name in session_names)


def share_inside(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Share of the smaller of two `(4,)` boxes that lies inside the other."""
    width, height = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    smaller = min(float((a[2:] - a[:2]).prod()), float((b[2:] - b[:2]).prod()))
    return float(width * height) / max(smaller, 1e-9)
