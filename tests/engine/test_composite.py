"""The soft region stays inside the crop; compositing changes nothing outside it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fluidvid.engine.composite import (
    DARKER,
    EYES_AND_MOUTH,
    LIT,
    SHADED,
    beside_mouth,
    between_brows,
    composite,
    eyes_and_mouth,
    face_region,
    gaze_region,
    leave_gaze,
    no_stronger,
    relight,
    skin_region,
    unmarked,
)
from tests.engine.tiny import face68


@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("angle", [0.0, 0.4, -0.4])
@pytest.mark.parametrize("squeeze", [1.0, 0.5])
def test_region_covers_the_features_and_ends_at_the_outline(size: int, angle: float, squeeze: float) -> None:
    centre = np.array([0.5, 0.56])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    points = ((face68() - centre) * [squeeze, 0.9]) @ turn.T + centre
    region = face_region(torch.from_numpy(points[None]).float(), size)[0, 0]
    assert region.min() >= 0
    assert region.max() <= 1

    def at(point: np.ndarray) -> float:
        x, y = (point * size).clip(0, size - 1).astype(int)
        return float(region[y, x])

    assert min(at(p) for p in points[27:]) > 0.9  # eyes, nose, mouth
    assert max(at(centre + 1.08 * (p - centre)) for p in points[:17]) < 0.05  # beyond the jaw
    assert torch.cat([region[0], region[-1], region[:, 0], region[:, -1]]).max() == 0


def test_a_turned_face_gets_no_halo_beside_the_cheek() -> None:
    points = face68()
    points[:17, 0] = np.where(points[:17, 0] > 0.5, 0.5 + 0.4 * (points[:17, 0] - 0.5), points[:17, 0])
    region = face_region(torch.from_numpy(points[None]).float(), 100)[0, 0]
    assert region[50, 25] > 0.5  # near cheek
    assert region[50, 66] < 0.05  # as far from the middle, beyond the far cheek


@pytest.mark.parametrize("angle", [0.0, 0.5])
def test_the_upper_forehead_stays_the_sources(angle: float) -> None:
    centre = np.array([0.5, 0.56])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    points = face68()
    up = points[36:48].mean(0) - points[48:68].mean(0)
    brow = points[17:27].mean(0)
    region = face_region(torch.from_numpy(((points - centre) @ turn.T + centre)[None]).float(), 128)[0, 0]

    def at(height: float) -> float:
        x, y = (((brow + height * up - centre) @ turn.T + centre) * 128).astype(int)
        return float(region[y, x])

    assert at(0.05) > 0.9  # the brows themselves are edited
    assert 0.05 < at(0.24) < 0.9
    assert at(0.42) == 0


def test_degenerate_landmarks_give_a_finite_region() -> None:
    assert torch.isfinite(face_region(torch.full((1, 68, 2), 0.3), 64)).all()


def test_the_edited_face_takes_the_place_of_the_source_inside_only() -> None:
    crops, edited = torch.rand(1, 3, 64, 64) - 0.5, torch.rand(1, 3, 64, 64) - 0.5
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 20:40, 20:40] = 1
    mask[..., 50, 50] = 0.25
    result = composite(crops, edited, mask)
    torch.testing.assert_close(result[..., 20:40, 20:40], edited[..., 20:40, 20:40])
    torch.testing.assert_close(result[..., 50, 50], 0.75 * crops[..., 50, 50] + 0.25 * edited[..., 50, 50])
    torch.testing.assert_close(result * (mask == 0), crops * (mask == 0))
    assert float(composite(crops, 9 * edited, mask).abs().max()) <= 1


def test_skin_lies_between_and_beside_the_features() -> None:
    landmarks = torch.full((1, 68, 2), 0.9)
    landmarks[0, 17] = torch.tensor([0.3, 0.4])
    skin = skin_region(landmarks, 100)[0, 0]
    assert skin[39, 29] < 0.05  # on the feature: x 0.3, y 0.4
    assert skin[29, 39] > 0.95
    landmarks[0, :17] = 0.5
    assert skin_region(landmarks, 100)[0, 0, 49, 49] > 0.95  # the outline is no feature


def test_the_place_between_the_brows_is_as_wide_as_they_are_apart() -> None:
    landmarks = torch.full((1, 68, 2), 0.9)
    landmarks[0, [21, 22, 27]] = torch.tensor([[0.4, 0.3], [0.6, 0.3], [0.5, 0.36]])
    place = between_brows(landmarks, 100)[0, 0]
    assert place[31, 49] > 0.98  # x 0.5, y 0.32
    assert 0.2 < place[31, 39] < 0.5 and 0.2 < place[31, 59] < 0.5
    assert place[31, 20] < 0.01 and place[60, 49] < 0.01


def test_beside_the_mouth_is_above_below_and_at_its_corners_and_not_on_the_lips() -> None:
    points = face68()
    place = beside_mouth(torch.from_numpy(points[None]).float(), 128)[0, 0]

    def at(point: np.ndarray) -> float:
        x, y = (point * 128).astype(int)
        return float(place[y, x])

    nose, chin = points[31:36].mean(0), points[7:10].mean(0)
    assert at((2 * points[51] + nose) / 3) > 0.9 and at((2 * points[57] + chin) / 3) > 0.9
    assert all(
        at(points[corner] + 0.25 * (points[corner] - points[other])) > 0.9 for corner, other in ((48, 54), (54, 48))
    )
    assert at(points[60:68].mean(0)) < 0.2 and at(points[30]) < 0.1 and at(points[36]) < 0.01


def _faces_with_open_eyes_and_mouth() -> torch.Tensor:
    """Two sets of 68 landmarks; the second one's eyes and mouth are closed."""
    points = torch.rand(2, 68, 2, generator=torch.Generator().manual_seed(0))
    places = ((0.35, 0.4, 0.04), (0.65, 0.4, 0.04), (0.5, 0.7, 0.08))
    for ring, (x, y, height) in zip(EYES_AND_MOUTH, places, strict=True):
        turn = torch.linspace(0, 2 * torch.pi, ring.stop - ring.start + 1)[:-1]
        points[0, ring] = torch.stack([x + 0.08 * turn.cos(), y + height * turn.sin()], 1)
        points[1, ring] = torch.stack([x + 0.08 * turn.cos(), torch.full_like(turn, y)], 1)
    return points


def test_between_lids_and_lips_lie_gaze_and_teeth_and_next_to_nothing_where_they_are_closed() -> None:
    shown = eyes_and_mouth(_faces_with_open_eyes_and_mouth(), 128)
    assert shown.shape == (2, 1, 128, 128)
    places = [(int(x * 128), int(y * 128)) for x, y in ((0.35, 0.4), (0.65, 0.4), (0.5, 0.7))]
    assert all(float(shown[0, 0, y, x]) > 0.99 for x, y in places)
    assert float(shown[0, 0, 70, 64]) == 0  # between the eyes and the mouth
    assert float(shown[0].sum()) > 3 * float(shown[1].sum())


def test_an_edit_leaves_what_eyes_and_mouth_show_softened() -> None:
    crops, edited = torch.full((1, 3, 128, 128), -0.5), torch.full((1, 3, 128, 128), 0.5)
    crops[..., ::2] = -0.3  # finer than two pixels
    shown = gaze_region(_faces_with_open_eyes_and_mouth()[:1], torch.ones(1, 1, 128, 128))
    done = leave_gaze(crops, edited, shown)[0, 0]
    y, x = int(0.7 * 128), 64
    torch.testing.assert_close(done[y, x - 2 : x + 2], torch.full((4,), -0.4), atol=0.01, rtol=0)
    assert float(done[70, 64]) == 0.5


def test_landmarks_in_the_wrong_places_leave_nothing_of_the_source() -> None:
    scattered = _faces_with_open_eyes_and_mouth()
    scattered[0, EYES_AND_MOUTH[2]] = 0.1 + 0.8 * torch.rand(8, 2, generator=torch.Generator().manual_seed(1))
    mask = face_region(torch.from_numpy(face68()[None]).float(), 128).expand(2, -1, -1, -1)
    assert float((mask * eyes_and_mouth(scattered, 128))[0].sum()) > 0.12 * float(mask[0].sum())
    shown = gaze_region(scattered, mask)
    assert float(shown[0].sum()) == 0
    torch.testing.assert_close(shown[1], eyes_and_mouth(scattered, 128)[1])  # the other face keeps its own


def test_an_edit_keeps_the_sources_light_and_its_own_shapes() -> None:
    axis = torch.linspace(-1, 1, 128)
    lit = (0.3 * axis).expand(1, 3, 128, 128)  # from the right
    shapes = 0.2 * (torch.arange(128) % 4 < 2).float().mul(2).sub(1)[:, None]
    source = lit + shapes.T
    mask = face_region(torch.from_numpy(face68()[None]).float(), 128)
    inside = mask > 0.9
    done = relight(source, shapes - lit + 0.25, mask)
    off = (done - lit - shapes)[inside.expand_as(done)]
    assert float(off.abs().mean()) < 0.03  # before: .3
    assert float((done[..., 2:, :] - done[..., :-2, :])[..., inside[0, 0, 1:-1]].abs().mean()) > 0.38  # the shapes
    torch.testing.assert_close(relight(source, source, mask), source)


def test_no_more_contrast_and_no_more_colour_than_the_face_has() -> None:
    grid = torch.linspace(0, 40, 64).sin()
    shapes = (grid[:, None] * grid).expand(1, 3, 64, 64)
    colours = torch.stack([shapes[:, 0], -shapes[:, 0], 0 * shapes[:, 0]], 1)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 16:48, 16:48] = 1
    grey = no_stronger(0.8 * shapes + 0.3 * colours, 0.2 * shapes.roll(7, 2), mask)
    torch.testing.assert_close(grey, grey.mean(1, keepdim=True).expand_as(grey), atol=1e-5, rtol=0)

    def strength(x: torch.Tensor) -> float:
        return float((x.pow(2) * mask).sum().sqrt())

    assert strength(grey) == pytest.approx(strength(0.2 * shapes.roll(7, 2)), rel=1e-3)
    soft = 0.1 * shapes + 0.02 * colours
    torch.testing.assert_close(no_stronger(soft, 0.3 * shapes.roll(7, 2) + 0.1 * colours, mask), soft)


ALL = torch.ones(1, 1, 128, 128)


def test_brows_do_not_join_unless_they_did() -> None:
    landmarks = torch.from_numpy(face68()[None]).float()
    skin, dark = torch.full((1, 3, 128, 128), 0.4), torch.full((1, 3, 128, 128), -0.5)
    x, y = (int(v) for v in (landmarks[0, 21] + landmarks[0, 22] + landmarks[0, 27]) / 3 * 128)
    assert float(unmarked(skin, dark, landmarks, ALL)[0, 0, y, x]) == pytest.approx(0.4 - DARKER, abs=1e-3)
    torch.testing.assert_close(unmarked(dark, dark, landmarks, ALL), dark)
    # Where they did, an edit may part them, but for the skin around, as light as skin is beside them.
    joined = skin.clone()
    joined[..., y - 2 : y + 3, :] = -0.5
    assert float(unmarked(joined, skin, landmarks, ALL)[0, 0, y, x]) > 0


def test_bare_skin_is_smooth_and_about_as_light_as_the_source_s() -> None:
    """A cheek gets no bars, neither dark ones nor light ones, and no outlines where they were held back."""
    landmarks = torch.from_numpy(face68()[None]).float()
    skin = torch.zeros(1, 3, 128, 128)
    drawn = skin - 0.02
    y, x = 82, 30
    for mark in (-0.6, 0.6):
        marked = drawn.clone()
        marked[..., y - 6 : y + 7, x - 6 : x + 7] = mark
        found = unmarked(skin, marked, landmarks, ALL)[0, 0, y]
        assert 0.02 < abs(float(found[x])) < (SHADED if mark < 0 else LIT)
        assert float(found[x - 12 : x + 13].diff().abs().max()) < 0.06  # where the mark has .6 at one step
    line = drawn.clone()
    line[..., y, :] = 0.1
    assert float(unmarked(skin, line, landmarks, ALL)[0, 0, y, x]) < 0.02
    torch.testing.assert_close(unmarked(skin, drawn, landmarks, ALL), drawn, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("feature", "least"), [(19, 0.1), (35, 0.1), (37, 0.1)])
def test_features_are_no_darker_than_the_darkest_nearby_and_no_lighter_than_the_lightest(
    feature: int, least: float
) -> None:
    """A brow, a nostril, an eye may move a little; where the source shows none, none is drawn, and no white tip."""
    landmarks = torch.from_numpy(face68()[None]).float()
    source, drawn = torch.zeros(1, 3, 128, 128), torch.full((1, 3, 128, 128), -0.7)
    x, y = (int(128 * v) for v in landmarks[0, feature])
    assert float(unmarked(source, drawn, landmarks, ALL)[0, 0, y, x]) == pytest.approx(-DARKER, abs=0.02)
    shown = source.clone()
    shown[..., y - 2 : y + 3, x - 2 : x + 3] = -0.6
    moved = unmarked(shown, drawn, landmarks, ALL)[0, 0]
    assert float(moved[y, x]) == pytest.approx(-0.6, abs=least)
    assert float(moved[y, x - 10]) > -0.4
    assert float(unmarked(source, drawn + 1.2, landmarks, ALL)[0, 0, y, x]) == pytest.approx(DARKER, abs=0.02)
    assert float(unmarked(-shown, drawn + 1.2, landmarks, ALL)[0, 0, y, x]) > 0.3


def test_nothing_is_of_a_colour_that_the_source_does_not_show_nearby() -> None:
    """A blot in orange is skin, as light as it was drawn; lips may move a little."""
    landmarks = torch.from_numpy(face68()[None]).float()
    skin = torch.full((1, 3, 128, 128), 0.1)
    orange = torch.tensor([0.3, 0.0, -0.3])[:, None, None]
    held = unmarked(skin, skin + orange, landmarks, ALL)
    torch.testing.assert_close(held, skin, atol=1e-3, rtol=0)
    x, y = (int(128 * v) for v in landmarks[0, 57])
    lips = skin.clone()
    lips[..., y - 4 : y + 5, x - 4 : x + 5] += orange
    moved = unmarked(lips, skin + orange, landmarks, ALL)[0, 0]
    assert float(moved[y, x]) == pytest.approx(0.4, abs=0.05)
    assert float(moved[y, x - 5]) > 0.3  # beside them, where lips may have moved to
    assert float(moved[y, x - 16]) == pytest.approx(0.1, abs=0.02)


def test_rims_leave_no_shade_on_the_skin_beside_them() -> None:
    landmarks = torch.from_numpy(face68()[None]).float()
    skin, rims = torch.full((1, 3, 128, 128), 0.3), torch.zeros(1, 1, 128, 128)
    rims[..., 70:73, 20:108] = 1
    worn = torch.where(rims > 0, -0.8, skin)
    found = unmarked(worn, skin, landmarks, 1 - rims)
    torch.testing.assert_close(found[..., 60:85, 20:40], skin[..., 60:85, 20:40])


def test_where_landmarks_are_wrong_anything_may_be_drawn() -> None:
    """Else the eyes would stay, for they would be taken for bare skin."""
    landmarks = torch.from_numpy(face68()[None]).float()
    source, drawn = torch.zeros(1, 3, 128, 128), torch.full((1, 3, 128, 128), 0.5)
    eyes = gaze_region(landmarks, ALL)
    assert float(unmarked(source, drawn, landmarks, ALL, eyes)[0, 0, 82, 30]) < 0.2
    torch.testing.assert_close(unmarked(source, drawn, landmarks, ALL, 0 * eyes), drawn)
