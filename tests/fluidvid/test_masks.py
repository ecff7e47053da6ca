"""A mask covers the whole box with its margin, at any edge, and keeps at most 8 x 8 numbers of the face."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fluidvid.config import MaskKind
from fluidvid.masks import MAX_CELLS, SOLID_RGB, clip_region, face_mask

KINDS: tuple[MaskKind, ...] = ("solid", "pixelate", "blur")


def noise(height: int = 120, width: int = 160) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("box", [(40, 30, 90, 100), (-30, -20, 25, 30), (130, 90, 300, 300), (-50, -50, 500, 500)])
def test_box_and_margin_are_covered_and_nothing_else(kind: MaskKind, box: tuple[int, ...]) -> None:
    source, image = noise(), noise()
    region = face_mask(image, box, kind=kind, cells=8, margin=0.2)
    assert region is not None
    x1, y1, x2, y2 = region
    assert x1 <= max(0, box[0]) and y1 <= max(0, box[1]) and x2 >= min(160, box[2]) and y2 >= min(120, box[3])
    changed = (image != source).any(axis=2)
    assert changed[y1:y2, x1:x2].mean() > 0.98
    changed[y1:y2, x1:x2] = False
    assert not changed.any()


@pytest.mark.parametrize("kind", ["pixelate", "blur"])
@pytest.mark.parametrize("cells", [1, 3, 6, 8])
def test_a_face_keeps_at_most_cells_by_cells_numbers(kind: MaskKind, cells: int) -> None:
    """Two pictures with equal cell means give equal masks: nothing finer than a cell survives."""
    image = noise()
    face_mask(image, (40, 20, 104, 100), kind="pixelate", cells=cells, margin=0.05)
    inside = image[20:100, 40:104]
    assert len(np.unique(inside.reshape(-1, 3), axis=0)) <= (cells + 1) ** 2
    columns = int((np.abs(np.diff(inside[40].astype(int), axis=0)).sum(axis=1) > 0).sum()) + 1
    assert columns <= cells + 1
    again = image.copy()
    face_mask(image, (40, 20, 104, 100), kind=kind, cells=cells, margin=0.05)
    face_mask(again, (40, 20, 104, 100), kind=kind, cells=cells, margin=0.05)
    assert np.array_equal(image, again)


def test_blur_destroys_what_pixelation_destroys() -> None:
    """A fine pattern of equal cell means vanishes: its contrast inside the box is gone."""
    image = np.zeros((128, 128, 3), np.uint8)
    image[::2] = 255
    face_mask(image, (32, 32, 96, 96), kind="blur", cells=8, margin=0.1)
    assert image[36:92, 36:92].std() < 2


def test_solid_is_one_colour() -> None:
    image = noise()
    region = face_mask(image, (10, 10, 60, 60), kind="solid", cells=6, margin=0.2)
    assert region is not None
    x1, y1, x2, y2 = region
    assert (image[y1:y2, x1:x2] == SOLID_RGB).all()


def test_box_outside_gives_none_and_changes_nothing() -> None:
    image = noise()
    assert face_mask(image, (400, 400, 450, 450), kind="solid", cells=6, margin=0.2) is None
    assert np.array_equal(image, noise())


@pytest.mark.parametrize("box", [(np.nan, 0, 1, 1), (0, 0, np.inf, 1), (0, 0, 1)])
def test_an_unusable_box_is_never_taken_for_no_face(box: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="finite"):
        clip_region(box, (10, 10))


def test_swapped_corners_still_cover() -> None:
    assert clip_region((8, 9, 2, 3), (20, 20)) == (2, 3, 8, 9)


@pytest.mark.parametrize("cells", [0, MAX_CELLS + 1])
def test_cells_out_of_range(cells: int) -> None:
    with pytest.raises(ValueError, match="cells"):
        face_mask(noise(), (0, 0, 9, 9), kind="pixelate", cells=cells, margin=0.2)


def test_one_pixel_face_at_the_corner() -> None:
    image = noise()
    assert face_mask(image, (-0.4, -0.4, 0.6, 0.6), kind="pixelate", cells=8, margin=0.05) is not None
