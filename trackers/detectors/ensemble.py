"""Two detectors as one: the second adds what the first did not find."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fluidvid.trackers.detectors.base import (
    FaceDetector,
    boxes_of,
    enlarged,
    fitting_scale,
    iou_matrix,
    resized,
    share_inside,
)
from fluidvid.trackers.types import Detection, Image

SAME = 0.3
INSIDE = 0.6
NEAR_THE_MIDDLE = 0.3
"""Of the larger box's sides: a smaller box inside it whose centre is further from its own is the face of somebody else,
who looks over a shoulder."""
TINY = 1 / 8
"""Of a face's area: a box so small in it is something else (a face on a shirt, an eye), and covers nothing of it."""


class EnsembleDetector(FaceDetector):
    """All of the first detector's faces, and those of the second that none of them shows too.

    Each detector tells two faces apart by itself: those of the second are not taken for one another, and a face of the
    first stands for one of them, the nearest, and for what the second sees in the middle of that one or around it.

    Where both see a face, the first one's box and landmarks stand, and the scores add up as independent evidence does,
    1 - (1 - a)(1 - b): a face that two networks of different families see is one, even if neither was sure.

    Args:
        first: the main detector.
        second: an independent one.
        long_side: to which both scale pictures down; it is done here, once for the two.
    """

    def __init__(self, first: FaceDetector, second: FaceDetector, *, long_side: int = 1280) -> None:
        self._first, self._second, self._long_side = first, second, long_side
        self.name = f"{first.name} + {second.name}"

    @property
    def providers(self) -> tuple[str, ...]:
        """See `FaceDetector`."""
        return self._first.providers

    def detect(self, image: Image) -> list[Detection]:
        """See `FaceDetector`."""
        return self.detect_and_hint(image)[0]

    def detect_and_hint(self, image: Image) -> tuple[list[Detection], NDArray[np.float32]]:
        """See `FaceDetector`."""
        small, x, y = resized(image, min(1.0, fitting_scale(image, self._long_side)))
        factors = np.array([x, y], np.float32)
        (first, hints), (second, more) = (one.boxes_and_hint(small) for one in (self._first, self._second))
        own = [self._first.with_landmarks(image, enlarged(face, factors)) for face in first]
        others = [enlarged(face, factors) for face in second]
        places = np.concatenate([hints, more]) / np.tile(factors, 2)
        return self._merged(image, own, others), places.astype(np.float32)

    def suspects(self, image: Image, face: Detection) -> bool:
        """See `FaceDetector`: the first looks closely at what the second alone sees."""
        return face.source != self._second.name or self._first.suspects(image, face)

    def detect_many(self, images: NDArray[np.uint8]) -> list[list[Detection]]:
        """See `FaceDetector`."""
        both = zip(images, self._first.detect_many(images), self._second.boxes_many(images), strict=True)
        return [self._merged(image, first, second) for image, first, second in both]

    def _merged(self, image: Image, first: list[Detection], second: list[Detection]) -> list[Detection]:
        found = list(first)
        for extra, match in zip(second, _matches(first, second), strict=True):
            if match is None:
                found.append(self._second.with_landmarks(image, extra))
                continue
            known = found[match]
            both = 1 - (1 - known.score) * (1 - extra.score)
            found[match] = Detection(known.box, both, known.landmarks, known.source)
        return sorted(found, key=lambda d: -d.score)


def _matches(first: list[Detection], second: list[Detection]) -> list[int | None]:
    """For each of `second` the index in `first` of the face that stands for it, or None."""
    alike = [_alike(first, extra) for extra in second]
    pairs = [(float(a.overlap[j]), i, int(j)) for i, a in enumerate(alike) for j in np.flatnonzero(a.same)]
    own: dict[int, int] = {}  # index in `second` -> index in `first`: the nearest, each once
    for _, i, j in sorted(pairs, reverse=True):
        if i not in own and j not in own.values():
            own[i] = j
    return [own[i] if i in own else _seen_twice(second, i, alike[i].same, own) for i in range(len(second))]


def _seen_twice(second: list[Detection], index: int, same: NDArray[np.bool_], own: dict[int, int]) -> int | None:
    """The face of the first detector whose own face of the second is what `second[index]` shows, too.

    Args:
        second: the second detector's faces.
        index: of one that has none of its own.
        same: `(N,)`, which of the first detector's faces it may show.
        own: index in `second` -> index in `first`.
    """
    others = [i for i, j in own.items() if same[j]]
    if not others:
        return None
    central = _alike([second[i] for i in others], second[index]).central
    return own[others[int(central.argmax())]] if central.any() else None


class _Alike(NamedTuple):
    """How a face compares with `(N,)` others: overlap, whether they may be the same, or one is the other's middle."""

    overlap: NDArray[np.float32]
    same: NDArray[np.bool_]
    central: NDArray[np.bool_]


def _alike(found: list[Detection], extra: Detection) -> _Alike:
    """Which faces `extra` may show too: by overlap, or because one lies in the middle of the other."""
    boxes = boxes_of(found)
    overlap = iou_matrix(extra.box[None], boxes)[0]
    inside = np.array([share_inside(extra.box, box) for box in boxes])
    corners = np.append(boxes, extra.box[None], axis=0)
    sizes, centres = corners[:, 2:] - corners[:, :2], (corners[:, 2:] + corners[:, :2]) / 2
    areas = sizes.prod(axis=1)
    larger = np.where((areas[:-1] >= areas[-1])[:, None], sizes[:-1], sizes[-1])
    middle = (np.abs(centres[:-1] - centres[-1]) <= NEAR_THE_MIDDLE * larger).all(axis=1)
    central = (inside > INSIDE) & middle & (areas[:-1] >= TINY * areas[-1])
    return _Alike(overlap, (overlap > SAME) | central, central)
