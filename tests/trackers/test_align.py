"""Aligned crops against slow references."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fluidvid.geometry import ARCFACE_112, similarity, transform
from fluidvid.trackers.align import _softened_outside, crop
from tests.trackers.scenes import texture


def _similarity(
    scale: float, degrees: float, source: tuple[float, float], target: tuple[float, float]
) -> NDArray[np.float64]:
    """`(2, 3)` that turns and scales, and carries a point of the picture to one of the crop."""
    c, s = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    linear = np.array([[c, -s], [s, c]])
    return np.hstack([linear, (np.array(target) - linear @ source)[:, None]])


def _sources(matrix: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """`(size, size, 2)` places in the picture that the crop's pixels come from."""
    y, x = np.mgrid[:size, :size].astype(np.float64)
    return (np.stack([x, y], 2) - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T


def _bilinear(image: NDArray[np.uint8], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Float64 reference; places must lie inside."""
    low = np.floor(places).astype(int)
    fx, fy = (places - low)[..., 0, None], (places - low)[..., 1, None]
    x, y = low[..., 0], low[..., 1]
    picture = image.astype(np.float64)
    top = (1 - fx) * picture[y, x] + fx * picture[y, x + 1]
    bottom = (1 - fx) * picture[y + 1, x] + fx * picture[y + 1, x + 1]
    return np.asarray((1 - fy) * top + fy * bottom)


def _whole(image: NDArray[np.uint8], matrix: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """The same warp over the whole picture: what the local window must not change."""
    scale = float(np.hypot(matrix[0, 0], matrix[0, 1]))
    if scale < 0.75:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), 0.45 / scale), dtype=np.uint8)
    how = cv2.INTER_LINEAR if scale < 1 else cv2.INTER_CUBIC
    warped = np.asarray(cv2.warpAffine(image, matrix, (size, size), flags=how, borderMode=cv2.BORDER_REFLECT), np.uint8)
    return _softened_outside(warped, image.shape[:2], matrix)


def test_the_identity_copies() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    np.testing.assert_array_equal(crop(image, np.eye(2, 3), 64), image)


def test_a_shift_by_whole_pixels_copies_a_part() -> None:
    image = np.random.default_rng(1).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    matrix = np.array([[1.0, 0, -120], [0, 1, -70]])
    np.testing.assert_array_equal(crop(image, matrix, 48), image[70:118, 120:168])


@pytest.mark.parametrize(("scale", "degrees"), [(0.8, 0), (0.9, 25), (0.77, -160)])
def test_against_a_float64_bilinear_warp(scale: float, degrees: float) -> None:
    image = texture(2, 300, 400, blur=3)
    matrix = _similarity(scale, degrees, (201.3, 148.6), (47.5, 47.5))
    expected = _bilinear(image, _sources(matrix, 96))
    error = np.abs(crop(image, matrix, 96).astype(np.float64) - expected)
    assert error.max() <= 2
    assert error.mean() < 0.5


@pytest.mark.parametrize(("scale", "degrees"), [(0.5, 10), (1.0, 33), (1.7, 0), (3.0, -75)])
def test_against_a_picture_that_is_a_formula(scale: float, degrees: float) -> None:
    """Waves of 40 pixels, sampled at the exact places: an offset of 0.05 pixels would show."""

    def wave(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        u = 127 + 100 * np.sin(2 * np.pi * x / 40) * np.cos(2 * np.pi * y / 40)
        v = 127 + 100 * np.cos(2 * np.pi * (x + y) / 60)
        return np.stack([u, v, 0.5 * u + 0.5 * v], -1)

    y, x = np.mgrid[:360, :480].astype(np.float64)
    image = np.asarray(np.rint(wave(x, y)), dtype=np.uint8)
    matrix = _similarity(scale, degrees, (240.4, 170.7), (64, 64))
    places = _sources(matrix, 128)
    expected = wave(places[..., 0], places[..., 1])
    got = crop(image, matrix, 128).astype(np.float64)
    # The blur before a reduction dims the waves a little, it must not move them.
    slope = float(((got - got.mean()) * (expected - expected.mean())).sum() / ((expected - expected.mean()) ** 2).sum())
    assert slope > (0.95 if scale < 0.75 else 0.985)
    assert np.abs(got - got.mean() - slope * (expected - expected.mean())).max() < 3


@pytest.mark.parametrize("scale", [0.5, 0.31, 0.13, 0.05])
def test_a_checkerboard_becomes_grey(scale: float) -> None:
    """Without a low pass its samples would be black and white, in moving patterns."""
    y, x = np.mgrid[:1200, :1200]
    board = np.repeat((255 * ((x + y) % 2))[..., None], 3, 2).astype(np.uint8)
    got = crop(board, _similarity(scale, 7, (600, 600), (24, 24)), 48)
    assert np.abs(got.astype(int) - 127).max() < 12


def test_a_reduction_keeps_the_mean() -> None:
    image = texture(3, 600, 600, blur=4)
    got = crop(image, np.array([[0.1, 0, -0.45], [0, 0.1, -0.45]]), 60)
    np.testing.assert_allclose(got.mean((0, 1)), image.mean((0, 1)), atol=1.5)


def test_what_lies_outside_is_mirrored_and_blurred() -> None:
    image = texture(4, 100, 120, blur=3)
    got = crop(image, np.array([[1.0, 0, 40], [0, 1, 40]]), 100)
    mirrored = np.pad(image, ((40, 0), (40, 0), (0, 0)), "symmetric")[:100, :100]
    blurred = cv2.GaussianBlur(mirrored, (0, 0), 8, borderType=cv2.BORDER_REFLECT)
    np.testing.assert_array_equal(got[40:, 40:], image[:60, :60])
    far = (slice(33), slice(None))  # six pixels and more from the edge
    assert np.abs(got[far].astype(int) - blurred[far]).max() <= 1
    shares = [np.abs(got[row, 60:].astype(float) - mirrored[row, 60:]).mean() for row in range(39, 33, -1)]
    goals = [np.abs(blurred[row, 60:].astype(float) - mirrored[row, 60:]).mean() for row in range(39, 33, -1)]
    np.testing.assert_allclose(np.divide(shares, goals), np.arange(1, 7) / 6, atol=0.05)
    beyond = crop(image, np.array([[1.0, 0, -60], [0, 1, -50]]), 100)
    np.testing.assert_array_equal(beyond[:50, :60], image[50:, 60:])


def test_a_mirrored_face_does_not_look_like_a_second_one() -> None:
    """Of the stripes just inside the edge hardly anything is left just beyond it."""
    image = np.full((80, 80, 3), 128, np.uint8)
    image[4:20:4] = 255
    image[6:20:4] = 0
    got = crop(image, np.array([[1.0, 0, 0], [0, 1, 30]]), 80).astype(float)
    assert got[34:50].std() > 60 and got[8:24].std() < 6
    whole = np.full((200, 200, 3), 128, np.uint8)
    whole[60:140] = texture(7, 80, 200)
    within = np.array([[1.0, 0, -60], [0, 1, -60]])
    np.testing.assert_array_equal(crop(whole, within, 80), whole[60:140, 60:140])


@pytest.mark.parametrize("scale", [0.2, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("where", [(-300, -200), (900, 60), (60, 5000), (-1e6, 1e6)])
def test_a_crop_outside_the_picture_does_not_crash(scale: float, where: tuple[float, float]) -> None:
    image = texture(5, 120, 160)
    got = crop(image, _similarity(scale, 20, where, (32, 32)), 64)
    assert got.shape == (64, 64, 3)
    assert got.dtype == np.uint8
    assert image.min() <= got.mean() <= image.max()


@pytest.mark.parametrize("seed", range(40))
def test_the_local_window_equals_the_warp_of_the_whole_picture(seed: int) -> None:
    """Inside, across the edges, and beyond them."""
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(60, 400, 2))
    image = texture(seed, height, width, blur=4)
    size = int(rng.integers(32, 129))
    point = (rng.uniform(-0.3, 1.3) * width, rng.uniform(-0.3, 1.3) * height)
    matrix = _similarity(float(np.exp(rng.uniform(-1.8, 1))), rng.uniform(-180, 180), point, (size / 2, size / 2))
    error = np.abs(crop(image, matrix, size).astype(int) - _whole(image, matrix, size).astype(int))
    assert error.max() <= 2


@pytest.mark.parametrize("scale", [0.3, 0.9, 1.5])
def test_the_surroundings_do_not_matter(scale: float) -> None:
    """The same face in a larger picture gives the same crop."""
    small = texture(6, 400, 400, blur=3)
    large = texture(7, 1000, 1300, blur=3)
    large[300:700, 500:900] = small
    size = 64
    a = crop(small, _similarity(scale, 15, (200.25, 203.5), (32, 32)), size)
    b = crop(large, _similarity(scale, 15, (700.25, 503.5), (32, 32)), size)
    assert np.abs(a.astype(int) - b.astype(int)).max() <= 1


def test_landmarks_come_to_stand_on_the_template() -> None:
    points = np.array([(130.0, 110), (180, 118), (150, 150), (128, 172), (170, 180)])
    matrix = similarity(points, ARCFACE_112 * 112)
    image = np.zeros((300, 300, 3), np.uint8)
    for channel, place in enumerate(points[[0, 1, 4]]):
        x, y = np.rint(place).astype(int)
        image[y - 2 : y + 3, x - 2 : x + 3, channel] = 255
    got = crop(image, matrix, 112).astype(np.float64)
    y, x = np.mgrid[:112, :112]
    for channel, place in enumerate(points[[0, 1, 4]]):
        weight = got[..., channel] / got[..., channel].sum()
        middle = ((x * weight).sum(), (y * weight).sum())
        np.testing.assert_allclose(middle, transform(matrix, np.rint(place)), atol=0.1)


@pytest.mark.parametrize(
    "matrix",
    [np.full((2, 3), np.nan), np.zeros((2, 3)), np.array([[1.0, 0, np.inf], [0, 1, 0]])],
    ids=["nan", "zero", "inf"],
)
def test_nonsense_is_refused_with_its_value(matrix: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match=r"finite, invertible transform, got \["):
        crop(texture(0, 50, 50), matrix, 32)


def test_the_picture_is_not_changed() -> None:
    image = texture(8, 100, 100)
    before = image.copy()
    crop(image, _similarity(0.3, 10, (50, 50), (16, 16)), 32)
    crop(image[::-1], _similarity(1.3, 10, (50, 50), (16, 16)), 32)
    np.testing.assert_array_equal(image, before)
