"""Better landmarks for any detector: MediaPipe's face mesh looks at each face again.

On the shared clips the mesh halves both the error of CenterFace's landmarks against SCRFD's and their jitter from frame
to frame (benchmarks/RESULTS.md), and what it says about a face is a further opinion: whether there is one at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fluidvid.geometry import invert, transform
from fluidvid.trackers.align import crop
from fluidvid.trackers.detectors.base import DetectorAround, FaceDetector, share_inside
from fluidvid.trackers.session import CPU, Provider, check_outputs, open_session
from fluidvid.trackers.types import Detection, Image

SIDE = 192
POINTS = 468
FIVE_OF_468 = (
    (33, 133, 160, 159, 158, 144, 145, 153),
    (362, 263, 387, 386, 385, 373, 374, 380),
    (4,),
    (61,),
    (291,),
)
"""Which mesh points make left eye, right eye, nose, left mouth corner, right mouth corner."""
SURE = 0.5
"""Mesh score from which its points are taken."""
FAR = 0.5
"""Points that lie further from the detector's than this share of the eye distance (on average) are not believed."""
MIN_SIDE = 20.0
BATCH = 8
"""Crops that go through the mesh at once."""
CONFIRMED = 0.9
"""Mesh score that lifts an unsure detection."""
DENIED = 0.1
"""Mesh score below which it sees no face."""
FIVE = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)], np.float32)
"""Where eyes, nose and mouth are in a face's box, roughly."""
DOUBTFUL, KNOWN, HALF_UPON, SAME_POINTS, NEAR_POINTS = 0.65, 0.8, 0.35, 0.5, 0.75
"""Doubles: largest score of an unsure face, least of a sure one, share of the smaller box inside the other, and mean
distance of the points in eye distances: of any two faces, and of an unsure one from a sure one."""
IN_THE_FACE, IN_THE_HEAD = 4, 2
"""A head around a sure face: how many of its five points lie in the face's box, and of the face's in its own. With four
at least one eye is in the face's box: of another person behind that face there is nothing left to see."""


class RefinedDetector(DetectorAround):
    """Another detector's faces with the face mesh's landmarks.

    Args:
        detector: finds the faces.
        mesh: the mesh network's ONNX file; 192 x 192 RGB in [-1, 1], outputs points and score.
        sure_score: an unsure face that the mesh is certain of is lifted to this score.
        providers: onnxruntime's, in order of preference.
        threads: CPU threads of one run; 0: as many as there are cores.

    Raises:
        ValueError: the file does not have the mesh's outputs.
    """

    def __init__(
        self,
        detector: FaceDetector,
        mesh: Path,
        *,
        sure_score: float = 0.5,
        providers: Sequence[Provider] = CPU,
        threads: int = 0,
    ) -> None:
        super().__init__(detector)
        self._session = open_session(mesh, providers, threads=threads)
        check_outputs(self._session, mesh, "face mesh", [(POINTS, 3), (1,)])
        self._input = self._session.get_inputs()[0].name
        self._sure_score = sure_score

    def detect_and_hint(self, image: Image) -> tuple[list[Detection], NDArray[np.float32]]:
        """See `FaceDetector`."""
        found, hints = self._detector.detect_and_hint(image)
        return self.refine([image], [found])[0], hints

    def detect_many(self, images: NDArray[np.uint8]) -> list[list[Detection]]:
        """See `FaceDetector`."""
        return self.refine(list(images), self.detect_roughly(images))

    def detect_roughly(self, images: NDArray[np.uint8]) -> list[list[Detection]]:
        """`detect_many` of the detector below, without the mesh."""
        return self._detector.detect_many(images)

    def refine(
        self, images: Sequence[Image], found: Sequence[Sequence[Detection]], *, min_side: float = MIN_SIDE
    ) -> list[list[Detection]]:
        """Take the mesh's landmarks over, lift the faces it is sure of and drop doubles, best first.

        What only one of two detectors sees, the other not even as a trace, and the mesh does not see either (hair at a
        shoulder, food, a shoe) is no sure face any more: it goes on with a track, but begins none.

        Args:
            images: pictures `(H, W, 3)`.
            found: the faces of each.
            min_side: faces with a shorter side below it keep the detector's landmarks, and are not judged, unless only
                one detector sees them.
        """
        faces = [list(of_one) for of_one in found]
        wanted: list[tuple[int, int, NDArray[np.float64]]] = []
        doubted: set[tuple[int, int]] = set()
        for picture, of_one in enumerate(faces):
            for index, face in enumerate(of_one):
                matrix = _mesh_crop(_points(face))
                side = float((face.box[2:] - face.box[:2]).min())
                if matrix is None or side < MIN_SIDE:
                    continue
                if face.score >= self._sure_score and not self._detector.suspects(images[picture], face):
                    doubted.add((picture, index))
                elif side < min_side:
                    continue
                wanted.append((picture, index, matrix))
        surely: dict[tuple[int, int], float] = {}
        for begin in range(0, len(wanted), BATCH):
            group = wanted[begin : begin + BATCH]
            crops = np.stack([crop(images[picture], matrix, SIDE) for picture, _, matrix in group])
            blob = ((crops.astype(np.float32) - 127.5) / 127.5).transpose(0, 3, 1, 2)
            meshes, scores = self._session.run(None, {self._input: blob})
            meshes = meshes.reshape(len(group), POINTS, -1)[..., :2] * SIDE
            for (picture, index, matrix), mesh, score in zip(group, meshes, scores.reshape(-1), strict=True):
                five = np.stack([mesh[list(points)].mean(0) for points in FIVE_OF_468])
                placed = transform(invert(matrix), five).astype(np.float32)
                surely[picture, index] = float(score)
                faces[picture][index] = _better(faces[picture][index], placed, float(score), self._sure_score)
        judged = {picture for picture, _ in surely}
        for picture in judged:
            kept = _without_doubles(faces[picture], picture, surely)
            # Only now: as an unsure one it might pass for a double of its neighbour, and be gone.
            denied = {index for index in kept if (picture, index) in doubted and surely[picture, index] < SURE}
            of_one = [self._unsure(face) if index in denied else face for index, face in kept.items()]
            faces[picture] = sorted(of_one, key=lambda face: -face.score)
        return faces

    def _unsure(self, face: Detection) -> Detection:
        return Detection(face.box, math.nextafter(self._sure_score, 0.0), face.landmarks, face.source)


def _without_doubles(
    found: list[Detection], picture: int, surely: dict[tuple[int, int], float]
) -> dict[int, Detection]:
    """Those that stay, by their index, best first."""
    kept: dict[int, Detection] = {}
    for index in sorted(range(len(found)), key=lambda i: -found[i].score):
        if not any(_is_double(found[index], surely.get((picture, index)), known) for known in kept.values()):
            kept[index] = found[index]
    return kept


def _is_double(face: Detection, mesh_score: float | None, known: Detection) -> bool:
    """Whether a face is a surer one seen again in a misplaced box.

    Either the mesh led both to the same points; or the box is unsure, the other face sure, and the points are near to
    its own, or it is the head around that face, or the mesh denies a face in it and it lies half upon the other.
    """
    points, own = _points(face), _points(known)
    eyes = float(np.linalg.norm(own[1] - own[0]))
    apart = float(np.linalg.norm(points - own, axis=1).mean())
    if apart < SAME_POINTS * eyes:
        return True
    if face.score > DOUBTFUL or known.score < KNOWN:
        return False
    if apart < NEAR_POINTS * eyes or _is_head_around(face, known):
        return True
    return mesh_score is not None and mesh_score <= DENIED and share_inside(face.box, known.box) > HALF_UPON


def _is_head_around(face: Detection, known: Detection) -> bool:
    areas = [float((f.box[2:] - f.box[:2]).prod()) for f in (face, known)]
    in_the_face, in_the_head = _held(_points(face), known.box), _held(_points(known), face.box)
    return areas[0] >= areas[1] and in_the_face >= IN_THE_FACE and in_the_head >= IN_THE_HEAD


def _points(face: Detection) -> NDArray[np.float32]:
    """A face's `(5, 2)` landmarks; of a mere place, where they would be."""
    if np.isfinite(face.landmarks).all():
        return face.landmarks
    return np.asarray(face.box[:2] + FIVE * (face.box[2:] - face.box[:2]), dtype=np.float32)


def _held(points: NDArray[np.float32], box: NDArray[np.float32]) -> int:
    """How many of `(5, 2)` points lie in a `(4,)` box."""
    return int(((points > box[:2]) & (points < box[2:])).all(axis=1).sum())


def _mesh_crop(landmarks: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """`(2, 3)` from picture to the mesh's square, eyes level; None where the landmarks coincide."""
    points = np.asarray(landmarks, dtype=np.float64)
    across = points[1] - points[0]
    eyes = float(np.linalg.norm(across))
    down = float(np.linalg.norm(points[3:].mean(0) - points[:2].mean(0)))
    side = 3.5 * max(down, 0.9 * eyes)
    if not math.isfinite(side) or side < 1.0:
        return None
    angle = math.atan2(across[1], across[0])
    scale = SIDE / side
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    linear = np.array([[c, s], [-s, c]])
    return np.hstack([linear, (SIDE / 2 - linear @ points.mean(0))[:, None]])


def _better(face: Detection, points: NDArray[np.float32], score: float, sure_score: float) -> Detection:
    own = _points(face)
    eyes = float(np.linalg.norm(own[1] - own[0]))
    height = float(face.box[3] - face.box[1])
    apart = float(np.linalg.norm(points - own, axis=1).mean())
    # A profile has next to no eye distance: a share of the height stands in for it.
    if score < SURE or not np.isfinite(points).all() or apart > FAR * max(eyes, 0.25 * height):
        return face
    lifted = max(face.score, sure_score) if score >= CONFIRMED else face.score
    return Detection(face.box, lifted, points, face.source)
