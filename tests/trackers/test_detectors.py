"""Detectors on real pictures, and their common logic on made-up faces."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fluidvid.geometry import transform
from fluidvid.trackers import (
    DETECTORS,
    Detection,
    EnsembleDetector,
    FaceDetector,
    RefinedDetector,
    build_detector,
)
from fluidvid.trackers.detectors.base import fitted, iou_matrix, scaled, session_providers, suppressed
from fluidvid.trackers.detectors.refined import _better, _is_double
from fluidvid.trackers.types import Image
from tests.trackers.scenes import box_at, detection, points_in, texture

EMBEDDED = ("centerface", "tiny_face")


class Fixed(FaceDetector):
    """Always finds the same faces."""

    def __init__(self, *found: Detection, name: str = "fixed") -> None:
        self.found, self.name = found, name

    @property
    def providers(self) -> tuple[str, ...]:
        return (self.name.upper(),)

    def detect(self, image: Image) -> list[Detection]:
        return list(self.found)


def _frames(path: Path, wanted: Sequence[int]) -> list[Image]:
    pictures: list[Image] = []
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                pictures.append(np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8))
            if index >= max(wanted):
                break
    return pictures


@pytest.fixture(scope="module")
def assets(root: Path) -> Path:
    return root / "fluidvid" / "assets"


@pytest.fixture(scope="module")
def detectors(assets: Path) -> dict[str, FaceDetector]:
    return {name: _embedded(assets, name) for name in EMBEDDED}


def _embedded(assets: Path, name: str) -> FaceDetector:
    points = assets / "landmark68.onnx" if name == "tiny_face" else None
    return build_detector(name, assets / f"{name}.onnx", landmarks=points)


@pytest.fixture(scope="module")
def pictures(clip: Path) -> list[Image]:
    """Every tenth picture of the demo clip, 176x144, one face of about 45x62 pixels."""
    return _frames(clip, range(0, 120, 10))


@pytest.fixture(scope="module")
def mesh(assets: Path) -> Path:
    return assets / "facemesh468.onnx"


def _in_order(face: Detection) -> None:
    """Landmarks inside the box, left before right, eyes above nose above mouth (the head is nearly upright)."""
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
    assert face.box.shape == (4,)
    assert face.landmarks.shape == (5, 2)
    assert face.box.dtype == face.landmarks.dtype == np.float32
    assert (face.landmarks >= face.box[:2]).all()
    assert (face.landmarks <= face.box[2:]).all()
    assert left_eye[0] < nose[0] < right_eye[0] + 2
    assert left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    assert 0 < face.score <= 1


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_face_is_found_in_every_picture(
    detectors: dict[str, FaceDetector], pictures: list[Image], name: str
) -> None:
    assert len(pictures) == 12
    for picture in pictures:
        (face,) = detectors[name].detect(picture)
        _in_order(face)
        assert face.source == name
        width, height = face.box[2:] - face.box[:2]
        assert 35 < width < 80
        assert 45 < height < 80


@pytest.mark.parametrize("scale", [0.6, 1.0, 2.5])
def test_eight_bits_see_what_floating_point_sees(
    detectors: dict[str, FaceDetector], assets: Path, pictures: list[Image], scale: float
) -> None:
    quantised = build_detector("centerface_int8", assets / "centerface_int8.onnx")
    for picture in pictures:
        for light in (1.0, 0.35):
            lit = cv2.convertScaleAbs(picture, alpha=light)
            seen = np.asarray(cv2.resize(lit, None, fx=scale, fy=scale), dtype=np.uint8)
            known, found = detectors["centerface"].detect(seen), quantised.detect(seen)
            assert len(found) == len(known)
            for one, other in zip(known, found, strict=True):
                assert abs(one.score - other.score) < 0.12
                assert float(iou_matrix(one.box[None], other.box[None])[0, 0]) > 0.8
                eyes = float(np.linalg.norm(one.landmarks[0] - one.landmarks[1]))
                assert float(np.abs(one.landmarks - other.landmarks).max()) < 0.35 * eyes


def test_two_networks_agree_on_the_landmarks(detectors: dict[str, FaceDetector], pictures: list[Image]) -> None:
    """Different families, different training sets: what they share is the face."""
    errors = []
    for picture in pictures[::2]:
        (a,), (b,) = detectors["centerface"].detect(picture), detectors["tiny_face"].detect(picture)
        assert iou_matrix(a.box[None], b.box[None])[0, 0] > 0.4
        eyes = float(np.linalg.norm(a.landmarks[1] - a.landmarks[0]))
        errors.append(float(np.linalg.norm(a.landmarks - b.landmarks, axis=1).mean()) / eyes)
    assert np.mean(errors) < 0.15


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_a_face_cut_by_the_edge_is_found(detectors: dict[str, FaceDetector], pictures: list[Image], side: str) -> None:
    """A third of the face is outside; what is found covers the rest up to the edge."""
    picture = pictures[0]
    detector = detectors["centerface"]
    whole = detector.detect(picture)[0].box
    x1, y1, x2, y2 = (int(v) for v in whole)
    third_x, third_y = (x2 - x1) // 3, (y2 - y1) // 3
    window = {
        "left": (x1 + third_x, 0, 176, 144),
        "right": (0, 0, x2 - third_x, 144),
        "top": (0, y1 + third_y, 176, 144),
        "bottom": (0, 0, 176, y2 - third_y),
    }[side]
    part = np.ascontiguousarray(picture[window[1] : window[3], window[0] : window[2]])
    (face,) = detector.detect(part)
    shift = np.array([window[0], window[1]] * 2)
    seen = np.concatenate([np.maximum(whole[:2], window[:2]), np.minimum(whole[2:], window[2:])]) - shift
    low, high = np.maximum(face.box[:2], seen[:2]), np.minimum(face.box[2:], seen[2:])
    assert np.clip(high - low, 0, None).prod() > 0.8 * (seen[2:] - seen[:2]).prod()


def test_boxes_beyond_the_edge_are_not_clipped(detectors: dict[str, FaceDetector], pictures: list[Image]) -> None:
    """Of the crops that cut the face ever deeper, some give boxes beyond the edges, and they stay so."""
    picture = pictures[0]
    x2 = int(detectors["centerface"].detect(picture)[0].box[2])
    beyond = 0
    for cut in range(6, 24, 4):
        part = np.ascontiguousarray(picture[:, : x2 - cut])
        for face in detectors["centerface"].detect(part):
            beyond += bool(face.box[2] > part.shape[1])
    assert beyond >= 2


@pytest.mark.parametrize("name", EMBEDDED)
@pytest.mark.parametrize("size", [(353, 289), (265, 217), (177, 145)])
def test_odd_sizes(detectors: dict[str, FaceDetector], pictures: list[Image], name: str, size: tuple[int, int]) -> None:
    """The place scales with the picture, in x and in y."""
    picture = pictures[3]
    (reference,) = detectors["centerface"].detect(picture)
    factors = np.array([size[0] / 176, size[1] / 144])
    found = detectors[name].detect(np.asarray(cv2.resize(picture, size), dtype=np.uint8))
    truth = reference.landmarks * factors
    eyes = float(np.linalg.norm(truth[1] - truth[0]))
    assert np.linalg.norm(found[0].landmarks - truth, axis=1).mean() < 0.2 * eyes


def test_large_pictures_are_looked_at_small(assets: Path, pictures: list[Image]) -> None:
    detector = build_detector("centerface", assets / "centerface.onnx", long_side=352)
    big = np.asarray(cv2.resize(pictures[0], (1760, 1440), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
    (face,) = detector.detect(big)
    (reference,) = detector.detect(pictures[0])
    assert iou_matrix(face.box[None], 10 * reference.box[None])[0, 0] > 0.8


def test_a_tiny_picture(detectors: dict[str, FaceDetector], pictures: list[Image]) -> None:
    """40x30 pixels, the face is 11 pixels wide."""
    small = np.asarray(cv2.resize(pictures[0], (40, 30), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    (face,) = detectors["centerface"].detect(small)
    (reference,) = detectors["centerface"].detect(pictures[0])
    assert iou_matrix(face.box[None], reference.box[None] * np.float32(40 / 176))[0, 0] > 0.5
    assert all(isinstance(d, Detection) for d in detectors["tiny_face"].detect(small))


@pytest.mark.parametrize("name", EMBEDDED)
@pytest.mark.parametrize("shape", [(144, 176), (1, 1), (3, 200), (200, 2)])
def test_pictures_without_a_face(detectors: dict[str, FaceDetector], name: str, shape: tuple[int, int]) -> None:
    for value in (0, 128, 255):
        assert detectors[name].detect(np.full((*shape, 3), value, np.uint8)) == []


def test_the_picture_is_not_changed(detectors: dict[str, FaceDetector], pictures: list[Image], mesh: Path) -> None:
    picture = pictures[0].copy()
    RefinedDetector(EnsembleDetector(detectors["centerface"], detectors["tiny_face"]), mesh).detect(picture)
    np.testing.assert_array_equal(picture, pictures[0])


def test_the_score_is_a_threshold(assets: Path, pictures: list[Image]) -> None:
    assert build_detector("centerface", assets / "centerface.onnx", score=0.99).detect(pictures[0]) == []


def test_providers_are_told_by_their_short_names(detectors: dict[str, FaceDetector], mesh: Path) -> None:
    assert [d.providers for d in detectors.values()] == [("CPU",), ("CPU",)]
    assert RefinedDetector(Fixed(), mesh).providers == ("FIXED",)
    assert session_providers(["CUDAExecutionProvider", "CPUExecutionProvider"]) == ("CUDA", "CPU")


class _Maps:
    """An open CenterFace that always says the same."""

    def __init__(self, *maps: NDArray[np.float32]) -> None:
        self.maps = maps
        self.seen: NDArray[np.float32] | None = None

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="input")]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(shape=["n", m.shape[1], "h", "w"]) for m in self.maps]

    def run(self, _: None, feed: dict[str, NDArray[np.float32]]) -> tuple[NDArray[np.float32], ...]:
        self.seen = feed["input"]
        return self.maps


def test_centerface_is_decoded_to_the_pixel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One hot cell in row 10, column 1 of a 320x160 picture: the box reaches beyond the left edge."""
    heat, scale, offset, points = (np.zeros((1, c, 40, 80), np.float32) for c in (1, 2, 2, 10))
    heat[0, 0, 10, 1] = 0.8
    scale[0, :, 10, 1] = np.log([6, 5])  # height, width in cells
    offset[0, :, 10, 1] = 0.25, 0.75
    points[0, :, 10, 1] = np.array([(0.4, 0.3), (0.4, 0.7), (0.6, 0.5), (0.8, 0.35), (0.8, 0.65)]).ravel()  # (y, x)
    session = _Maps(heat, scale, offset, points)
    monkeypatch.setattr("fluidvid.trackers.detectors.base.open_session", lambda *_, **__: session)
    image = np.zeros((160, 320, 3), np.uint8)
    image[..., 0] = 200
    (face,) = build_detector("centerface", tmp_path / "any.onnx").detect(image)
    x1, y1 = (1 + 0.75 + 0.5) * 4 - 10, (10 + 0.25 + 0.5) * 4 - 12
    np.testing.assert_allclose(face.box, (x1, y1, x1 + 20, y1 + 24), atol=1e-4)
    assert face.box[0] < 0
    shares = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)])
    np.testing.assert_allclose(face.landmarks, (x1, y1) + shares * (20, 24), atol=1e-4)
    assert face.score == pytest.approx(0.8)
    assert session.seen is not None
    assert session.seen[0, :, 0, 0].tolist() == [200, 0, 0], "RGB"


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("centerface", [(1, 1, 40, 80), (1, 2, 40, 80), (1, 2, 40, 80), (1, 10, 40, 80)]),
        ("centerface_int8", [(1, 1, 40, 80), (1, 2, 40, 80), (1, 2, 40, 80), (1, 10, 40, 80)]),
        ("tiny_face", [(1, 25, 5, 10)]),
        ("scrfd", [(n, c) for c in (1, 4, 10) for n in (1600, 400, 100)]),
    ],
)
def test_a_network_that_fails_does_not_pass_for_one_that_sees_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, maps: list[tuple[int, ...]]
) -> None:
    session = _Maps(*(np.full(shape, np.nan, np.float32) for shape in maps))
    monkeypatch.setattr("fluidvid.trackers.detectors.base.open_session", lambda *_, **__: session)
    monkeypatch.setattr("fluidvid.trackers.detectors.tiny_face.open_session", lambda *_, **__: session)
    monkeypatch.setattr("fluidvid.trackers.detectors.tiny_face.check_outputs", lambda *_: None)
    detector = build_detector(name, tmp_path / "any.onnx", landmarks=tmp_path / "any.onnx")
    with pytest.raises(ValueError, match="--device cpu"):
        detector.detect(np.zeros((160, 320, 3), np.uint8))


# What detectors share


@pytest.mark.parametrize("size", [(176, 144), (640, 360), (1920, 1080), (40, 30), (321, 1), (999, 2001)])
def test_fitted_pictures_have_sides_of_whole_strides(size: tuple[int, int]) -> None:
    image = np.full((size[1], size[0], 3), 200, np.uint8)
    got, x, y = fitted(image, 640)
    assert got.shape[0] % 32 == got.shape[1] % 32 == 0
    assert max(got.shape[:2]) <= 640
    inside = got[: round(size[1] * y), : round(size[0] * x)]
    assert (inside == 200).all()
    assert got.sum() == inside.sum()
    assert (x, y) == pytest.approx((x, x), rel=0.5 / min(inside.shape[:2]) + 0.01)


def test_iou_of_known_boxes() -> None:
    a = np.array([[0, 0, 10, 10], [-10, -10, 0, 0]], np.float32)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [-5, -5, 0, 0]], np.float32)
    np.testing.assert_allclose(iou_matrix(a, b), [[1, 1 / 3, 0, 0], [0, 0, 0, 0.25]], atol=1e-6)
    assert iou_matrix(a[:0], b).shape == (0, 4)


def test_suppression_keeps_the_best_of_each_face() -> None:
    faces = [
        detection(100, 100, score=0.6),
        detection(105, 100, score=0.9),
        detection(300, 100, score=0.5),
        detection(97, 103, score=0.7),
    ]
    assert [d.score for d in suppressed(faces)] == [0.9, 0.5]
    assert suppressed([]) == []
    neighbours = [detection(100, 100, score=0.8), detection(135, 100, score=0.7)]
    assert len(suppressed(neighbours, 0.3)) == 2
    assert len(suppressed(neighbours, 0.2)) == 1


def test_suppression_is_not_a_chain() -> None:
    """The middle one overlaps both others, but only what overlaps a kept face goes."""
    faces = [detection(100, 100, score=0.9), detection(125, 100, score=0.8), detection(150, 100, score=0.7)]
    assert [d.score for d in suppressed(faces)] == [0.9, 0.7]


def test_scaled_leaves_out_boxes_without_area_and_keeps_what_is_outside() -> None:
    boxes = np.array([[-20, -10, 20, 30], [10, 10, 10, 20]], np.float32)
    points = np.stack([points_in(b) for b in boxes])
    (face,) = scaled(boxes, np.array([0.5, 0.7], np.float32), points, (2.0, 4.0), "me")
    np.testing.assert_allclose(face.box, (-10, -2.5, 10, 7.5))
    np.testing.assert_allclose(face.landmarks, points_in(face.box), atol=1e-5)
    assert (face.score, face.source) == (0.5, "me")


@pytest.mark.parametrize("which", range(3))
def test_a_face_that_was_found_is_not_lost_for_values_that_are_no_numbers(which: int) -> None:
    boxes = np.array([[0, 0, 20, 30], [40, 40, 60, 60]], np.float32)
    scores, points = np.array([0.5, 0.7], np.float32), np.stack([points_in(b) for b in boxes])
    (boxes, scores, points)[which].flat[-1] = np.nan
    with pytest.raises(ValueError, match="no numbers"):
        scaled(boxes, scores, points, (1.0, 1.0), "me")


# The ensemble


def test_the_ensemble_adds_what_the_first_missed() -> None:
    a, b = detection(100, 100, score=0.9), detection(300, 100, score=0.6)
    both = EnsembleDetector(Fixed(a, name="one"), Fixed(b, name="two"))
    assert both.detect(np.zeros((9, 9, 3), np.uint8)) == [a, b]
    assert both.name == "one + two"
    assert both.providers == ("ONE",)


def test_the_first_ones_box_stands_and_scores_add_up() -> None:
    a, b = detection(100, 100, score=0.4), detection(106, 97, 70, 80, score=0.45)
    (face,) = EnsembleDetector(Fixed(a), Fixed(b)).detect(np.zeros((9, 9, 3), np.uint8))
    assert face.box is a.box
    assert face.landmarks is a.landmarks
    assert face.score == pytest.approx(1 - 0.6 * 0.55)


def test_a_large_picture_is_scaled_down_once_for_both() -> None:
    """To two thirds; what they find comes back in its own pixels, landmarks are looked for in the picture itself."""

    class Seeing(Fixed):
        def detect(self, image: Image) -> list[Detection]:
            seen.append(image)
            return super().detect(image)

        def with_landmarks(self, image: Image, face: Detection) -> Detection:
            assert image is picture
            return face

    seen: list[Image] = []
    picture = np.zeros((1080, 1920, 3), np.uint8)
    a, b = detection(100, 100, score=0.9), detection(300, 100, score=0.6)
    found = EnsembleDetector(Seeing(a), Seeing(b)).detect(picture)
    assert [image.shape for image in seen] == [(720, 1280, 3)] * 2 and seen[0] is seen[1]
    assert all(np.allclose(got.box, 1.5 * face.box) for got, face in zip(found, (a, b), strict=True))
    assert all(np.allclose(got.landmarks, 1.5 * face.landmarks) for got, face in zip(found, (a, b), strict=True))


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_close_look_shows_a_trace_of_a_turned_face_and_none_of_what_is_none(
    detectors: dict[str, FaceDetector], pictures: list[Image], degrees: int
) -> None:
    (face,) = detectors["tiny_face"].detect(pictures[0])
    height, width = pictures[0].shape[:2]
    to = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    turned = np.asarray(cv2.warpAffine(pictures[0], to, (width, height), borderMode=cv2.BORDER_REFLECT), np.uint8)
    x, y = to @ np.append((face.box[:2] + face.box[2:]) / 2, 1)
    side = float((face.box[2:] - face.box[:2]).max())
    assert detectors["centerface"].suspects(turned, detection(x, y, side, side))
    assert not detectors["centerface"].suspects(texture(3, 144, 176), detection(75, 75, 50, 50))


@pytest.mark.parametrize(
    ("alone", "trace", "there", "sure"),
    [
        (True, False, False, False),
        (True, True, False, True),
        (True, False, True, True),  # the mesh sees it
        (False, False, False, True),  # the first detector's own
    ],
)
def test_what_only_the_second_detector_sees_is_not_sure(
    pictures: list[Image],
    detectors: dict[str, FaceDetector],
    mesh: Path,
    *,
    alone: bool,
    trace: bool,
    there: bool,
    sure: bool,
) -> None:
    class Closer(Fixed):
        def suspects(self, image: Image, face: Detection) -> bool:
            return trace

    (real,) = detectors["centerface"].detect(pictures[0])
    face = Detection(real.box, 0.8, real.landmarks, "second" if alone else "first")
    picture = pictures[0] if there else texture(3, 144, 176)
    first, second = Closer(*([] if alone else [face]), name="first"), Fixed(*([face] if alone else []), name="second")
    chain = RefinedDetector(EnsembleDetector(first, second), mesh)
    (found,) = chain.detect(picture)
    assert (found.score >= 0.5) == sure and found.score > 0.49
    ((near,),) = chain.refine([picture], [[face]], min_side=math.inf)
    assert (near.score >= 0.5) == sure


def test_a_doubted_face_beside_a_sure_one_stays_unsure(
    pictures: list[Image], detectors: dict[str, FaceDetector], mesh: Path
) -> None:
    """It is no double of its neighbour: somebody cheek to cheek goes on with a track."""

    class Blind(Fixed):
        def suspects(self, image: Image, face: Detection) -> bool:
            return False

    (real,) = detectors["centerface"].detect(pictures[0])
    known = Detection(real.box, 0.9, real.landmarks, "first")
    away = 0.6 * (real.box[2] - real.box[0])
    box = (real.box + np.array([away, 0, away, 0])).astype(np.float32)
    other = Detection(box, 0.8, (real.landmarks + np.array([away, 0])).astype(np.float32), "second")
    chain = RefinedDetector(EnsembleDetector(Blind(known, name="first"), Fixed(other, name="second")), mesh)
    beside = next(face for face in chain.detect(texture(3, 144, 176)) if face.source == "second")
    assert beside.score == pytest.approx(0.5) and beside.score < 0.5


def test_the_second_ones_landmarks_are_only_looked_for_where_they_are_used(
    detectors: dict[str, FaceDetector], pictures: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = detectors["tiny_face"]
    seen: list[Detection] = []
    look = tiny.with_landmarks

    def counted(image: Image, face: Detection) -> Detection:
        seen.append(face)
        return look(image, face)

    alone = tiny.detect(pictures[0])
    monkeypatch.setattr(tiny, "with_landmarks", counted)
    EnsembleDetector(detectors["centerface"], tiny).detect(pictures[0])
    assert alone and not seen  # both find the one face
    found = EnsembleDetector(Fixed(), tiny).detect(pictures[0])
    assert len(seen) == len(found) == len(alone)
    np.testing.assert_array_equal(found[0].landmarks, alone[0].landmarks)


def test_a_box_inside_the_other_is_the_same_face() -> None:
    """One detector boxes the whole head, the other eyes to chin: hardly any overlap over union."""
    head, features = detection(100, 100, 100, 140, score=0.6), detection(100, 115, 50, 60, score=0.5)
    assert iou_matrix(head.box[None], features.box[None])[0, 0] < 0.3
    assert len(EnsembleDetector(Fixed(head), Fixed(features)).detect(np.zeros((9, 9, 3), np.uint8))) == 1
    assert len(EnsembleDetector(Fixed(features), Fixed(head)).detect(np.zeros((9, 9, 3), np.uint8))) == 1


def test_a_face_that_looks_over_a_shoulder_is_not_the_one_in_front() -> None:
    """The second detector alone sees it, two thirds of it inside the first one's box."""
    front, behind = detection(200, 230, 200, 260, score=0.9), detection(288, 127, 60, 75, score=0.95)
    image = np.zeros((9, 9, 3), np.uint8)
    found = EnsembleDetector(Fixed(front), Fixed(front, behind)).detect(image)
    assert [d.box for d in found] == [front.box, behind.box]
    assert len(EnsembleDetector(Fixed(behind), Fixed(front)).detect(image)) == 2


def test_a_small_box_does_not_stand_for_the_face_around_it() -> None:
    """What covers an eye would leave the face raw."""
    eye, face = detection(120, 130, 20, 15, score=0.35), detection(100, 100, 100, 140, score=0.95)
    found = EnsembleDetector(Fixed(eye), Fixed(face)).detect(np.zeros((9, 9, 3), np.uint8))
    assert [d.score for d in found] == pytest.approx([0.95, 0.35])


def test_boxes_that_overlap_by_a_third_are_the_same_face() -> None:
    a, b = detection(100, 100, score=0.6), detection(128, 100, score=0.5)
    (face,) = EnsembleDetector(Fixed(a), Fixed(b)).detect(np.zeros((9, 9, 3), np.uint8))
    assert face.box is a.box


def test_the_nearest_of_two_faces_gets_the_evidence() -> None:
    a, b = detection(100, 100, score=0.5), detection(130, 100, score=0.4)
    found = EnsembleDetector(Fixed(a, b), Fixed(detection(128, 101, score=0.9))).detect(np.zeros((9, 9, 3), np.uint8))
    assert [round(d.score, 3) for d in found] == [0.94, 0.5]
    assert found[0].box is b.box


def test_neighbours_are_not_merged() -> None:
    a, b = detection(100, 100, score=0.9), detection(140, 100, score=0.8)
    assert len(EnsembleDetector(Fixed(a), Fixed(b)).detect(np.zeros((9, 9, 3), np.uint8))) == 2


def test_two_people_whom_only_the_second_sees_stay_two() -> None:
    """They overlap by a third, less than what its own suppression takes for one face."""
    a, b = detection(100, 100, score=0.9), detection(126, 100, score=0.8)
    assert 0.3 < iou_matrix(a.box[None], b.box[None])[0, 0] < 0.4
    assert EnsembleDetector(Fixed(), Fixed(a, b)).detect(np.zeros((9, 9, 3), np.uint8)) == [a, b]


def test_what_the_second_alone_sees_is_covered_whole() -> None:
    """Of a sure pair of features and the head around them, the features would leave most of the face raw."""
    features, head = detection(100, 115, 50, 60, score=0.9), detection(100, 100, 100, 140, score=0.6)
    assert EnsembleDetector(Fixed(), Fixed(features, head)).detect(np.zeros((9, 9, 3), np.uint8)) == [features, head]


def test_one_face_of_the_first_does_not_stand_for_two_people() -> None:
    front, behind = detection(100, 100, score=0.9), detection(126, 100, score=0.8)
    between = detection(108, 100, score=0.5)
    assert (iou_matrix(np.stack([front.box, behind.box]), between.box[None]) > 0.3).all()
    found = EnsembleDetector(Fixed(between), Fixed(behind, front)).detect(np.zeros((9, 9, 3), np.uint8))
    assert [d.box for d in found] == [between.box, behind.box]
    assert [d.score for d in found] == pytest.approx([0.95, 0.8])


def test_who_is_nearer_to_another_leaves_a_face_to_its_own() -> None:
    """Both of the second's lie nearest to `a`; `b` is seen by both detectors all the same, and nobody twice."""
    a, b = detection(100, 100, score=0.5), detection(124, 100, score=0.5)
    mine, other = detection(101, 100, score=0.8), detection(111, 100, score=0.6)
    found = EnsembleDetector(Fixed(a, b), Fixed(mine, other)).detect(np.zeros((9, 9, 3), np.uint8))
    assert [(d.box[0], round(d.score, 2)) for d in found] == [(a.box[0], 0.9), (b.box[0], 0.8)]


def test_a_head_and_its_features_are_one_face_of_the_first() -> None:
    head, features = detection(100, 100, 100, 140, score=0.6), detection(100, 115, 50, 60, score=0.5)
    first = detection(100, 105, 90, 120, score=0.7)
    (face,) = EnsembleDetector(Fixed(first), Fixed(head, features)).detect(np.zeros((9, 9, 3), np.uint8))
    assert face.box is first.box and face.score == pytest.approx(1 - 0.3 * 0.4 * 0.5)


@pytest.mark.parametrize("first_sees", [True, False])
def test_one_detector_alone_is_enough(first_sees: bool) -> None:
    face = detection(100, 100)
    one, two = (Fixed(face), Fixed()) if first_sees else (Fixed(), Fixed(face))
    assert EnsembleDetector(one, two).detect(np.zeros((9, 9, 3), np.uint8)) == [face]
    assert EnsembleDetector(Fixed(), Fixed()).detect(np.zeros((9, 9, 3), np.uint8)) == []


# The face mesh's second look


def _moved(face: Detection, by: float, score: float) -> Detection:
    """The detection with landmarks off by some pixels, in different directions."""
    directions = np.array([(1, 0), (0, 1), (-1, 0), (0, -1), (1, 0)])
    return Detection(face.box, score, (face.landmarks + by * directions).astype(np.float32), face.source)


def test_the_mesh_mends_the_landmarks(detectors: dict[str, FaceDetector], pictures: list[Image], mesh: Path) -> None:
    """Landmarks that are off by 4 pixels (a fifth of the eye distance) come back to within 2."""
    for picture in pictures[:4]:
        (face,) = detectors["tiny_face"].detect(picture)
        spoiled = _moved(face, 4.0, 0.9)
        (mended,) = RefinedDetector(Fixed(spoiled), mesh).detect(picture)
        _in_order(mended)
        assert np.linalg.norm(mended.landmarks - face.landmarks, axis=1).mean() < 2
        np.testing.assert_array_equal(mended.box, face.box)
        assert mended.score == 0.9


def test_the_mesh_lifts_an_unsure_face(detectors: dict[str, FaceDetector], pictures: list[Image], mesh: Path) -> None:
    (face,) = detectors["tiny_face"].detect(pictures[0])
    unsure = Detection(face.box, 0.35, face.landmarks, face.source)
    assert RefinedDetector(Fixed(unsure), mesh).detect(pictures[0])[0].score == 0.5
    assert RefinedDetector(Fixed(unsure), mesh, sure_score=0.7).detect(pictures[0])[0].score == 0.7


def test_the_mesh_leaves_alone_what_it_does_not_see(pictures: list[Image], mesh: Path) -> None:
    """A window of the car, a face too small for it, and landmarks in one point pass as they are."""
    nothing = detection(150, 30, 40, 50, score=0.35)
    small = detection(89, 67, 15, 19, score=0.35)
    point = Detection(box_at(89, 67), 0.35, np.full((5, 2), 89, np.float32), "fake")
    for face in (nothing, small, point):
        assert RefinedDetector(Fixed(face), mesh).detect(pictures[0]) == [face]
    assert RefinedDetector(Fixed(), mesh).detect(pictures[0]) == []


@pytest.mark.parametrize("degrees", [-50, 45, 180])
def test_the_mesh_follows_a_tilted_head(
    detectors: dict[str, FaceDetector], pictures: list[Image], mesh: Path, degrees: float
) -> None:
    (face,) = detectors["tiny_face"].detect(pictures[0])
    middle = face.landmarks.mean(0)
    matrix = np.asarray(cv2.getRotationMatrix2D((float(middle[0]), float(middle[1])), degrees, 1.0))
    turned = np.asarray(cv2.warpAffine(pictures[0], matrix, (176, 144), borderMode=cv2.BORDER_REFLECT), dtype=np.uint8)
    truth = transform(matrix, face.landmarks).astype(np.float32)
    spoiled = _moved(Detection(face.box, 0.9, truth, "fake"), 3.0, 0.9)
    (mended,) = RefinedDetector(Fixed(spoiled), mesh).detect(turned)
    assert np.linalg.norm(mended.landmarks - truth, axis=1).mean() < 2


@pytest.mark.parametrize(
    ("shift", "mesh_score", "believed", "score"),
    [
        (4, 0.95, True, 0.5),
        (4, 0.7, True, 0.35),
        (4, 0.4, False, 0.35),
        (13, 0.95, False, 0.35),
        (np.nan, 1, False, 0.35),
    ],
    ids=["sure", "fair", "doubtful", "far", "nan"],
)
def test_when_the_mesh_is_believed(shift: float, mesh_score: float, believed: bool, score: float) -> None:
    """The eyes of this face are 24 pixels apart: half of that is too far."""
    face = detection(100, 100, score=0.35)
    points = face.landmarks + np.array([shift, 0], np.float32)
    better = _better(face, points, mesh_score, 0.5)
    np.testing.assert_array_equal(better.landmarks, points if believed else face.landmarks)
    assert better.score == score
    assert better.box is face.box
    assert better.source == face.source


def test_a_profile_has_no_eye_distance_to_measure_by() -> None:
    face = detection(100, 100)
    profile = face.landmarks.copy()
    profile[:, 0] = 100 + 0.05 * (profile[:, 0] - 100)
    turned = Detection(face.box, 0.9, profile, "fake")
    assert _better(turned, profile + np.float32(4), 0.95, 0.5).landmarks is not profile


def test_the_whole_chain_on_the_demo_clip(
    detectors: dict[str, FaceDetector], pictures: list[Image], mesh: Path
) -> None:
    chain = RefinedDetector(EnsembleDetector(detectors["centerface"], detectors["tiny_face"]), mesh)
    for picture in pictures[::3]:
        (face,) = chain.detect(picture)
        _in_order(face)
        assert face.score > 0.9


# Errors


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no detector 'mtcnn': choose one of centerface, centerface_int8, tiny_face"):
        build_detector("mtcnn", tmp_path / "x.onnx")


@pytest.mark.parametrize("name", [n for n in DETECTORS if n != "insightface"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model file .*absent\.onnx"):
        build_detector(name, tmp_path / "absent.onnx", landmarks=tmp_path / "absent.onnx")


@pytest.mark.parametrize("name", [n for n in DETECTORS if n != "insightface"])
def test_another_kind_of_network_is_refused(assets: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"landmark68\.onnx is no .*needed"):
        build_detector(name, assets / "landmark68.onnx", landmarks=assets / "landmark68.onnx")


def test_tiny_face_needs_the_right_landmarks(assets: Path, mesh: Path) -> None:
    with pytest.raises(ValueError, match="needs the 68-point network"):
        build_detector("tiny_face", assets / "tiny_face.onnx")
    with pytest.raises(ValueError, match=r"facemesh468\.onnx is no 68-point network"):
        build_detector("tiny_face", assets / "tiny_face.onnx", landmarks=mesh)


def test_the_refinement_needs_the_mesh(assets: Path) -> None:
    with pytest.raises(ValueError, match=r"landmark68\.onnx is no face mesh"):
        RefinedDetector(Fixed(), assets / "landmark68.onnx")


# insightface, which is not a dependency: its package is played by a stand-in


class _Zoo:
    """What `insightface.model_zoo.get_model` returns for a detector."""

    def __init__(self, boxes: NDArray[np.float64], landmarks: NDArray[np.float64] | None) -> None:
        self.boxes, self.landmarks = boxes, landmarks
        self.prepared: dict[str, object] = {}
        self.seen: Image | None = None

    def prepare(self, **options: object) -> None:
        self.prepared = options

    def detect(self, image: Image) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        self.seen = image
        return self.boxes, self.landmarks


def _install(monkeypatch: pytest.MonkeyPatch, model: object) -> None:
    package, zoo = ModuleType("insightface"), ModuleType("insightface.model_zoo")

    def get_model(path: str, **_: object) -> object:
        if isinstance(model, Exception):
            raise model
        return model

    vars(zoo)["get_model"] = get_model
    monkeypatch.setitem(sys.modules, "insightface", package)
    monkeypatch.setitem(sys.modules, "insightface.model_zoo", zoo)


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    path = tmp_path / "det_10g.onnx"
    path.write_bytes(b"model")
    return path


def test_insightface_missing_says_what_to_do(monkeypatch: pytest.MonkeyPatch, pack: Path) -> None:
    monkeypatch.setitem(sys.modules, "insightface", None)
    monkeypatch.setitem(sys.modules, "insightface.model_zoo", None)
    with pytest.raises(ImportError, match=r"pip install 'fluidvid\[insightface\]'"):
        build_detector("insightface", pack)


def test_insightface_errors_are_named(monkeypatch: pytest.MonkeyPatch, pack: Path, tmp_path: Path) -> None:
    _install(monkeypatch, None)
    with pytest.raises(FileNotFoundError, match="no model file"):
        build_detector("insightface", tmp_path / "absent.onnx")
    with pytest.raises(ValueError, match=r"does not take .*det_10g\.onnx for a face detector"):
        build_detector("insightface", pack)
    _install(monkeypatch, AssertionError("model_file should exist"))
    with pytest.raises(ValueError, match=r"cannot load .*det_10g\.onnx"):
        build_detector("insightface", pack)


def test_insightface_faces(monkeypatch: pytest.MonkeyPatch, pack: Path, caplog: pytest.LogCaptureFixture) -> None:
    boxes = np.array([[-5, 0, 40, 60, 0.6], [100, 20, 140, 70, 0.9], [5, 5, 5, 9, 0.8]], np.float64)
    model = _Zoo(boxes, np.stack([points_in(b[:4]) for b in boxes]).astype(np.float64))
    _install(monkeypatch, model)
    detector = build_detector("insightface", pack, score=0.4, long_side=700)
    assert "non-commercial" in caplog.text
    assert model.prepared == {"ctx_id": 0, "input_size": (704, 704), "det_thresh": 0.4}
    image = np.zeros((100, 200, 3), np.uint8)
    image[..., 0] = 255
    found = detector.detect(image)
    assert model.seen is not None
    assert (model.seen[0, 0] == (0, 0, 255)).all(), "insightface takes BGR"
    assert [round(d.score, 2) for d in found] == [0.9, 0.6]
    np.testing.assert_allclose(found[1].box, (-5, 0, 40, 60))
    np.testing.assert_allclose(found[0].landmarks, points_in(found[0].box), atol=1e-4)


def test_insightface_without_faces_or_landmarks(monkeypatch: pytest.MonkeyPatch, pack: Path) -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    _install(monkeypatch, _Zoo(np.zeros((0, 5)), np.zeros((0, 5, 2))))
    assert build_detector("insightface", pack).detect(image) == []
    _install(monkeypatch, _Zoo(np.zeros((0, 5)), None))
    with pytest.raises(ValueError, match="gives no landmarks"):
        build_detector("insightface", pack).detect(image)


# Against other people's detectors


@pytest.fixture(scope="module")
def talker(shared: Path) -> list[Image]:
    return _frames(shared / "clips" / "fsgan_shinzo.mp4", range(0, 600, 150))


@pytest.mark.shared
@pytest.mark.parametrize("name", ["centerface", "tiny_face", "yunet"])
def test_all_detectors_agree_with_scrfd(
    shared: Path, detectors: dict[str, FaceDetector], talker: list[Image], name: str
) -> None:
    """A frontal face of 230x320 pixels in 1280x720."""
    reference = build_detector("scrfd", shared / "weights" / "scrfd_2.5g_kps.onnx", score=0.5, long_side=640)
    if name == "yunet":
        detector: FaceDetector = build_detector("yunet", shared / "weights" / "yunet_n.onnx", score=0.5, long_side=640)
    else:
        detector = detectors[name]
    for picture in talker:
        (truth,) = reference.detect(picture)
        _in_order(truth)
        found = detector.detect(picture)
        _in_order(found[0])
        assert len([d for d in found if d.score > 0.5]) == 1
        assert iou_matrix(found[0].box[None], truth.box[None])[0, 0] > 0.55
        eyes = float(np.linalg.norm(truth.landmarks[1] - truth.landmarks[0]))
        assert np.linalg.norm(found[0].landmarks - truth.landmarks, axis=1).mean() < 0.16 * eyes


@pytest.mark.shared
@pytest.mark.parametrize(("name", "file"), [("scrfd", "scrfd_500m_kps.onnx"), ("yunet", "yunet_n.onnx")])
def test_their_boxes_reach_beyond_the_edge(
    shared: Path, pictures: list[Image], detectors: dict[str, FaceDetector], name: str, file: str
) -> None:
    detector = build_detector(name, shared / "weights" / file)
    box = detectors["centerface"].detect(pictures[0])[0].box
    part = np.ascontiguousarray(pictures[0][:, : int(box[2]) - 14])
    (face,) = detector.detect(part)
    assert face.box[2] > part.shape[1]
    assert detector.detect(np.zeros((144, 176, 3), np.uint8)) == []


@pytest.mark.shared
def test_the_mesh_brings_landmarks_nearer_to_scrfds(
    shared: Path, detectors: dict[str, FaceDetector], talker: list[Image], mesh: Path
) -> None:
    reference = build_detector("scrfd", shared / "weights" / "scrfd_2.5g_kps.onnx", score=0.5, long_side=640)
    plain, refined = [], []
    for picture in talker:
        (truth,) = reference.detect(picture)
        (face,) = detectors["centerface"].detect(picture)
        (better,) = RefinedDetector(Fixed(face), mesh).detect(picture)
        plain.append(np.linalg.norm(face.landmarks - truth.landmarks, axis=1).mean())
        refined.append(np.linalg.norm(better.landmarks - truth.landmarks, axis=1).mean())
    assert np.mean(refined) < 0.9 * np.mean(plain)


def test_a_face_in_a_misplaced_box_is_not_a_second_face(
    detectors: dict[str, FaceDetector], pictures: list[Image], mesh: Path
) -> None:
    (face,) = detectors["tiny_face"].detect(pictures[0])
    sure = Detection(face.box, 0.95, face.landmarks, "first")
    width = face.box[2] - face.box[0]
    above = (face.box - np.array([0, width, 0, width]) * 0.6).astype(np.float32)
    again = Detection(above, 0.55, face.landmarks, "second")
    assert [f.source for f in RefinedDetector(Fixed(sure, again), mesh).detect(pictures[0])] == ["first"]


@pytest.mark.parametrize(
    ("mesh_score", "score", "known", "shift", "double"),
    [
        (0.02, 0.52, 0.96, 50, True),
        (0.4, 0.52, 0.96, 50, False),  # the mesh does not deny it
        (None, 0.52, 0.96, 50, False),  # too small for the mesh
        (0.02, 0.8, 0.96, 50, False),  # its detector is sure
        (0.02, 0.52, 0.6, 50, False),  # the other one is no surer
        (0.02, 0.52, 0.96, 80, False),  # beside it
    ],
)
def test_only_a_denied_unsure_box_upon_a_sure_face_is_a_double(
    mesh_score: float | None, score: float, known: float, shift: float, double: bool
) -> None:
    face = detection(0, 0, 100, 100, score=known)
    assert _is_double(_moved(detection(shift, 0, 100, 100, score=score), 0, score), mesh_score, face) is double


FACE = Detection(
    np.array([576, 194, 811, 481], np.float32),
    0.94,
    np.array([(672, 292), (769, 302), (729, 356), (669, 414), (737, 420)], np.float32),
    "first",
)
HEAD = np.array([(670, 220), (739, 220), (714, 255), (658, 285), (729, 287)], np.float32)
"""Points of a box around the whole head of `FACE`, from the clip fsgan_shinzo; the mesh is sure of them."""


@pytest.mark.parametrize(
    ("box", "shift", "score", "double"),
    [
        ((517, 67, 858, 355), (0, 0), 0.42, True),
        ((517, 67, 858, 355), (0, 0), 0.7, False),  # its detector is sure
        ((517, 67, 858, 355), (0, -40), 0.42, False),  # both its eyes are above the face
        ((517, 67, 858, 355), (-110, 0), 0.42, False),  # one half of it is beside the face
        ((517, 67, 858, 280), (0, 0), 0.42, False),  # it holds the forehead alone
        ((640, 190, 760, 355), (0, 0), 0.42, False),  # smaller than the face: a child's in front of it
    ],
)
def test_a_head_around_a_face_is_not_a_second_face(
    box: tuple[int, int, int, int], shift: tuple[int, int], score: float, double: bool
) -> None:
    points = (HEAD + np.array(shift)).astype(np.float32)
    assert _is_double(Detection(np.array(box, np.float32), score, points, "second"), 1.0, FACE) is double


@pytest.mark.parametrize(
    ("up", "score", "double"),
    [(0.4, 0.8, True), (0.65, 0.5, True), (0.65, 0.7, False), (0.85, 0.5, False)],
)
def test_points_near_a_sure_faces_are_its_own_if_the_box_is_unsure(up: float, score: float, double: bool) -> None:
    """A forehead as a face of its own; a sure face must be nearer, for it may be a child's before the other."""
    eyes = float(np.linalg.norm(FACE.landmarks[1] - FACE.landmarks[0]))
    points = (FACE.landmarks - np.array([0, up * eyes])).astype(np.float32)
    assert (
        _is_double(Detection(np.array([582, 199, 806, 314], np.float32), score, points, "second"), 1.0, FACE) is double
    )


@pytest.mark.parametrize(("x", "y"), [(40, 45), (80, 40), (100, 40), (45, 100)])
def test_two_people_of_whom_one_looks_over_the_others_shoulder_stay_two(x: float, y: float) -> None:
    front, behind = detection(100, 100, 100, 125, score=0.98), detection(x, y, 100, 125, score=0.4)
    assert not _is_double(behind, 1.0, front)


def test_an_unsure_face_beside_a_sure_one_stays(
    detectors: dict[str, FaceDetector], pictures: list[Image], mesh: Path
) -> None:
    (face,) = detectors["tiny_face"].detect(pictures[0])
    sure = Detection(face.box, 0.95, face.landmarks, "first")
    width = face.box[2] - face.box[0]
    away = np.array([width * 0.9, 0], np.float32)
    beside = Detection(face.box + np.tile(away, 2), 0.35, face.landmarks + away, "second")
    assert len(RefinedDetector(Fixed(sure, beside), mesh).detect(pictures[0])) == 2


def test_closing_gives_back_the_package_s_network(
    monkeypatch: pytest.MonkeyPatch, pack: Path, mesh: Path, pictures: list[Image]
) -> None:
    _install(monkeypatch, _Zoo(np.zeros((0, 5)), np.zeros((0, 5, 2))))
    inner = build_detector("insightface", pack)
    assert inner.detect(pictures[0]) == []
    RefinedDetector(inner, mesh).close()
    with pytest.raises(AttributeError):
        inner.detect(pictures[0])


def test_closing_gives_back_every_network_behind_it(assets: Path, pictures: list[Image], mesh: Path) -> None:
    both = EnsembleDetector(
        build_detector("centerface", assets / "centerface.onnx"),
        build_detector("tiny_face", assets / "tiny_face.onnx", landmarks=assets / "landmark68.onnx"),
    )
    detector = RefinedDetector(both, mesh)
    parts = [detector, both, both._first, both._second]
    assert any("_session" in vars(part) for part in parts)
    detector.close()
    assert not [name for part in parts for name in vars(part) if name in ("_session", "_points")]
    with pytest.raises(AttributeError):
        both.detect(pictures[0])
