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
UNSEEN = np.full((5, 2), np.nan, np.float32)
"""Landmarks of a trace."""


class MirroredDetector(DetectorAround):
    """Another detector's faces, and those it finds across the edges of the mirrored picture.

    Of somebody whose eyes have left the picture there are mostly traces only: places at an edge that were not quite
    enough for a face. They are given with a score at which they begin no track, but go on with one that is there, and
    with landmarks that are NaN: nobody has seen any.

    The windows of `detect_many` are left as they are: they lie around faces that were found in whole pictures.

    Args:
        detector: finds the faces.
        long_side: to which it scales pictures down.
        trace_score: see above; 0: no traces.
    """

    def __init__(self, detector: FaceDetector, *, long_side: int = 1280, trace_score: float = 0.0) -> None:
        super().__init__(detector)
        self._long_side, self._trace_score = long_side, trace_score

    def detect_and_hint(self, image: Image) -> tuple[list[Detection], NDArray[np.float32]]:
        """See `FaceDetector`."""
        found, hints = self._detector.detect_and_hint(image)
        faces, traces = self._across_edges(image)
        for extra in faces:
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
        if self._trace_score:
            seen = [_inside(face.box, image) for face in found]
            for box in traces:
                if all(share_inside(_inside(box, image), other) < SAME for other in seen):
                    found.append(Detection(box, self._trace_score, UNSEEN, self._detector.name))
        return sorted(found, key=lambda face: -face.score), hints

    def _across_edges(self, image: Image) -> tuple[Sequence[Detection], Sequence[NDArray[np.float32]]]:
        """Faces of the mirrored picture that an edge of the picture cuts through, and `(4,)` boxes of such places that
        were not quite enough for one, in the picture's pixels.
        """
        small, x, y = resized(image, SHRUNK * fitting_scale(image, self._long_side))
        mirrored = cv2.copyMakeBorder(small, MARGIN, MARGIN, MARGIN, MARGIN, cv2.BORDER_REFLECT_101)
        factors = np.array([x, y], np.float32)
        faces, hints = self._detector.detect_and_hint(np.asarray(mirrored, dtype=np.uint8))
        found = [enlarged(face, factors, MARGIN) for face in faces]
        traces = ((hints - MARGIN) / np.tile(factors, 2)).astype(np.float32)
        return [face for face in found if _cut(face.box, image)], [box for box in traces if _cut(box, image)]


def _cut(box: NDArray[np.float32], image: Image) -> bool:
    """Whether an edge cuts through a `(4,)` box and leaves enough of it."""
    inside = _inside(box, image)
    return VISIBLE <= float(np.clip(inside[2:] - inside[:2], 0, None).prod() / (box[2:] - box[:2]).prod()) < 1


def _inside(box: NDArray[np.float32], image: Image) -> NDArray[np.float32]:
    """The part of a `(4,)` box that lies in the picture; without area if none does."""
    height, width = image.shape[:2]
    return np.clip(box, 0, np.array([width, height, width, height], np.float32)).astype(np.float32)
