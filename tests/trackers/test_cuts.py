"""Cuts are found; flashes, fades, pans and noise are not cuts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fluidvid.trackers import SceneCutDetector
from tests.trackers.scenes import texture

Picture = NDArray[np.uint8]
HEIGHT, WIDTH = 180, 320


def _cuts(pictures: Iterable[Picture], threshold: float = 0.35) -> list[int]:
    detector = SceneCutDetector(threshold)
    return [i for i, picture in enumerate(pictures) if detector.update(picture)]


def _scene(seed: int) -> Picture:
    """A picture with a palette of its own, as shots have."""
    rng = np.random.default_rng(seed)
    soft = texture(seed, HEIGHT, WIDTH, blur=25).astype(np.float64)
    return np.asarray(np.clip(soft * rng.uniform(0.3, 1.0, 3) + rng.uniform(0, 60, 3), 0, 255), dtype=np.uint8)


def _flat(value: int) -> Picture:
    return np.full((HEIGHT, WIDTH, 3), value, np.uint8)


def _noisy(picture: Picture, rng: np.random.Generator, sigma: float) -> Picture:
    return np.asarray(np.clip(picture + rng.normal(0, sigma, picture.shape), 0, 255), dtype=np.uint8)


def _mixed(a: Picture, b: Picture, share: float) -> Picture:
    return np.asarray((1 - share) * a + share * b, dtype=np.uint8)


@pytest.mark.parametrize("seed", range(8))
def test_a_hard_cut_is_found_where_it_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shots = [_scene(3 * seed), _scene(3 * seed + 1), _scene(3 * seed + 2)]
    assert _cuts(_noisy(shots[i // 10], rng, 4) for i in range(30)) == [10, 20]


def test_the_first_picture_is_no_cut() -> None:
    assert _cuts([_scene(0)]) == []


def test_cuts_in_consecutive_pictures_are_all_found() -> None:
    assert _cuts([_scene(i) for i in range(6)]) == [1, 2, 3, 4, 5]


def test_a_still_picture_and_its_noise_are_no_cut() -> None:
    rng = np.random.default_rng(0)
    assert _cuts([_scene(0)] * 10) == []
    assert _cuts(_noisy(_scene(0), rng, 25) for _ in range(20)) == []
    assert _cuts(_noisy(_flat(20), rng, 10) for _ in range(20)) == []


def test_snow_is_no_series_of_cuts() -> None:
    rng = np.random.default_rng(1)
    snow = [rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8) for _ in range(20)]
    assert _cuts(snow) == []
    grey = [np.repeat(rng.integers(0, 256, (HEIGHT, WIDTH, 1)), 3, 2).astype(np.uint8) for _ in range(20)]
    assert _cuts(grey) == []


@pytest.mark.parametrize("speed", [4, 12, 30])
def test_a_pan_is_no_cut(speed: int) -> None:
    wide = texture(5, HEIGHT, WIDTH + 20 * speed, blur=20)
    assert _cuts(wide[:, i * speed : i * speed + WIDTH] for i in range(20)) == []


def test_a_zoom_is_no_cut() -> None:
    picture = texture(6, 2 * HEIGHT, 2 * WIDTH, blur=20)

    def zoomed(i: int) -> Picture:
        width, height = round(2 * WIDTH * 0.97**i), round(2 * HEIGHT * 0.97**i)
        x, y = WIDTH - width // 2, HEIGHT - height // 2
        return np.asarray(cv2.resize(picture[y : y + height, x : x + width], (WIDTH, HEIGHT)), dtype=np.uint8)

    assert _cuts(zoomed(i) for i in range(20)) == []


@pytest.mark.parametrize("gain", [1.5, 2.5, 100.0])
def test_a_flash_is_no_cut(gain: float) -> None:
    """One or two overexposed pictures, up to pure white: the shot goes on behind them, and so do its tracks."""
    rng = np.random.default_rng(2)
    shot = _scene(7)
    bright = np.asarray(np.clip(shot * gain + 40.0, 0, 255), dtype=np.uint8)
    assert _cuts(_noisy(bright if i in (10, 11, 20) else shot, rng, 3) for i in range(30)) == []


def test_a_cut_behind_a_white_or_black_picture_is_found() -> None:
    for value in (0, 255):
        pictures = [_scene(8)] * 5 + [_flat(value)] * 2 + [_scene(9)] * 5
        assert _cuts(pictures) == [7]


@pytest.mark.parametrize("seed", [0, 1, 3, 4, 5])
def test_a_cut_to_somebody_on_a_white_ground_is_told_at_once(seed: int) -> None:
    """As interviews are filmed: a flash is the same shot in more light, which scene 2 might be by chance."""
    studio = _flat(252)
    studio[60:, 110:210] = _scene(seed + 20)[60:, 110:210]
    assert _cuts([_scene(seed)] * 5 + [studio] * 5 + [_scene(seed)] * 5) == [5, 10]


def test_a_long_cut_to_black_is_told_late() -> None:
    assert _cuts([_scene(8)] * 5 + [_flat(0)] * 10 + [_scene(8)] * 5) == [8, 15]


def test_fades_are_no_cuts() -> None:
    """Down to black over 12 frames, and up again: the black may count as a shot, the fading does not."""
    a, b, black = _scene(10), _scene(11), _flat(0)
    down = [_mixed(a, black, i / 12) for i in range(13)]
    up = [_mixed(black, b, i / 12) for i in range(13)]
    assert set(_cuts([a] * 5 + down + [black] * 3 + up + [b] * 5)) <= set(range(16, 21))


def test_black_to_white_and_back() -> None:
    assert _cuts([_flat(0)] * 5 + [_flat(255)] * 5 + [_flat(0)] * 5) == [5, 10]
    assert _cuts([_flat(100)] * 5 + [_flat(104)] * 5) == []


def test_a_picture_out_of_black_begins_a_shot() -> None:
    assert _cuts([_flat(0)] * 5 + [_scene(12)] * 5) == [5]


def test_a_shaken_camera_is_no_series_of_cuts() -> None:
    rng = np.random.default_rng(3)
    wide = texture(13, HEIGHT + 60, WIDTH + 60, blur=15)
    places = rng.integers(0, 61, (40, 2))
    assert _cuts(wide[y : y + HEIGHT, x : x + WIDTH] for x, y in places) == []


def test_a_passer_by_is_no_cut() -> None:
    shot = _scene(14)

    def passed(i: int) -> Picture:
        picture = shot.copy()
        picture[40:, max(0, 20 * i - 120) : max(0, 20 * i)] = (30, 20, 25)
        return picture

    assert _cuts(passed(i) for i in range(22)) == []


def test_a_cut_between_pictures_with_the_same_bars_is_found() -> None:
    """Portrait pictures in a landscape frame: the bars at the sides do not change."""

    def barred(seed: int) -> Picture:
        picture = _flat(0)
        picture[:, 110:210] = _scene(seed)[:, 110:210]
        return picture

    rng = np.random.default_rng(4)
    shots = [barred(s) for s in (15, 16, 17, 18)]
    assert _cuts(_noisy(shots[i // 8], rng, 2) for i in range(32)) == [8, 16, 24]


def test_the_size_of_the_picture_does_not_matter() -> None:
    shots = [_scene(19), _scene(20)]
    for size in ((40, 30), (176, 144), (641, 359), (120, 400)):
        pictures = [np.asarray(cv2.resize(shots[i // 5], size), dtype=np.uint8) for i in range(10)]
        assert _cuts(pictures) == [5], size


def test_the_threshold_is_checked_and_used() -> None:
    for bad in (0.0, -1.0, 1.5):
        with pytest.raises(ValueError, match="threshold"):
            SceneCutDetector(bad)
    assert _cuts([_scene(0), _scene(1)], threshold=1.0) == []


def _decoded(path: Path) -> Iterable[Picture]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)


def test_the_demo_clip_is_one_shot(clip: Path) -> None:
    assert _cuts(_decoded(clip)) == []


@pytest.mark.shared
def test_the_cuts_of_a_film(shared: Path) -> None:
    """Looked at picture by picture: three cuts; singer and audience gesticulate between them."""
    assert _cuts(_decoded(shared / "clips" / "short_hamilton_clip.mp4")) == [20, 82, 211]


@pytest.mark.shared
def test_the_cuts_of_a_slide_show(shared: Path) -> None:
    """Stills with black bars, then street scenes with pans and passers-by; looked at picture by picture."""
    stills = [17, 36, 54, 73, 93, 111, 130, 149, 167, 186, 204, 222, 291]
    scenes = [432, 540, 609, 710, 769, 819, 949]
    found = _cuts(_decoded(shared / "clips" / "googlework_short.mp4"))
    missed, wrong = set(stills + scenes) - set(found), set(found) - set(stills + scenes)
    assert not missed
    assert not wrong


@pytest.mark.shared
@pytest.mark.parametrize("name", ["lp_driving_d12.mp4", "chaplin.mp4", "mmaction2_test.avi", "fire2.mp4"])
def test_single_shots_have_no_cuts(shared: Path, name: str) -> None:
    assert _cuts(_decoded(shared / "clips" / name)) == []
