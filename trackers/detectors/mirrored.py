"""Faces that the picture's edge cuts through: mirrored at the edge, what is left of one looks like a face again.

Detectors look for the middle of a face. Where that lies beyond the edge they mostly see nobody, and half a face that
stays there (somebody beside the one who is filmed) would be in no track at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from fluidvid.trackers.detectors.base import (
    DetectorAround,
    FaceDetector,
    enlarged,
    fitting_scale,
    iou_matrix,
    resized,
    share_inside,
)
from fluidvid.trackers.types import Detection, Image

SHRUNK = 0.5
"""Scale of the mirrored look as a share of the whole picture's: small faces at the edge are not worth a second one."""
MARGIN = 32
"""Pixels that are mirrored at each edge, at that scale."""
VISIBLE = 0.3
"""Share of a face's box that must be inside the picture: what shows less is the mirror image of another."""
SAME = 0.5
"""Share of the smaller box from which a face inside the picture is one that the first look found."""


class MirroredDetector(DetectorAround):
    """Another detector's faces, and those it finds across the edges of the mirrored picture.

    The windows of `detect_many` are left as they are: they lie around faces that were found in whole pictures.

    Args:
        detector: finds the faces.
        long_side: to which it scales pictures down.
    """

    def __init__(self, detector: FaceDetector, *, long_side: int = 1280) -> None:
        super().__init__(detector)
        self._long_side = long_side

    def detect_and_hint(self, image: Image) -> tuple[list[Detection], NDArray[np.float32]]:
        """See `FaceDetector`."""
        found, hints = self._detector.detect_and_hint(image)
        for extra in self._across_edges(image):
            shown = _inside(extra.box, image)
            own = [i for i, known in enumerate(found) if share_inside(shown, _inside(known.box, image)) >= SAME]
            if not own:
                found.append(extra)
                continue
            nearest = max(own, key=lambda i: float(iou_matrix(shown[None], found[i].box[None])[0, 0]))
            known = found[nearest]
            if extra.score <= known.score:
                continue
            # A first look that sees the eyes alone at the edge must not leave the rest of the face uncovered.
            low, high = np.minimum(known.box[:2], extra.box[:2]), np.maximum(known.box[2:], extra.box[2:])
            found[nearest] = Detection(np.concatenate([low, high]), extra.score, known.landmarks, extra.source)
        return sorted(found, key=lambda face: -face.score), hints

    def _across_edges(self, image: Image) -> Sequence[Detection]:
        """Faces of the mirrored picture that an edge of the picture cuts through, in the picture's pixels."""
        small, x, y = resized(image, SHRUNK * fitting_scale(image, self._long_side))
        mirrored = cv2.copyMakeBorder(small, MARGIN, MARGIN, MARGIN, MARGIN, cv2.BORDER_REFLECT_101)
        factors = np.array([x, y], np.float32)
        found = []
        for face in self._detector.detect(np.asarray(mirrored, dtype=np.uint8)):
            there = enlarged(face, factors, MARGIN)
            inside = _inside(there.box, image)
            shown = float(np.clip(inside[2:] - inside[:2], 0, None).prod() / (there.box[2:] - there.box[:2]).prod())
            if VISIBLE <= shown < 1:
                found.append(there)
        return found


def _inside(box: NDArray[np.float32], image: Image) -> NDArray[np.float32]:
    """The part of a `(4,)` box that lies in the picture; without area if none does."""
    height, width = image.shape[:2]
    return np.clip(box, 0, np.array([width, height, width, height], np.float32)).astype(np.float32)
