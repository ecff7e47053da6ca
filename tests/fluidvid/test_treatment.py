"""One frame's faces: fades mix new face and mask only, masks win over neighbours' edits, compositing is exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fluidvid.composite import add_residual, crop_footprint
from fluidvid.config import MaskConfig
from fluidvid.coverage import CoverageError
from fluidvid.geometry import similarity
from fluidvid.masks import SOLID_RGB
from fluidvid.trackers.align import crop
from fluidvid.treatment import FrameTreatment, PlannedFace
from tests.fluidvid.fakes import Boom, FakeEdited, FakeEditor, box_at, landmarks_in, picture

MASK = MaskConfig()


def face(index: int = 5, *, track: int = 1, weight: float = 1.0, shift: float = 0.0) -> PlannedFace:
    box = np.array(box_at(index), np.float32) + np.array([shift, 0, shift, 0], np.float32)
    matrix = similarity(landmarks_in(box.tolist()), FakeEditor.template * FakeEditor.crop_size)
    return PlannedFace(track, track, box, True, matrix, weight, None if weight == 1 else "fading")


def treatment(gain: float = 40.0) -> FrameTreatment:
    return FrameTreatment(MASK, "solid", FakeEditor(Boom(), gain=gain), fade_frames=3)


def test_a_fade_mixes_the_new_face_with_the_mask_and_nothing_of_the_source() -> None:
    """The source enters with the weight of the edit only: at weight .25 its contrast is a quarter."""
    source = picture(5)
    for weight in (0.25, 0.5, 0.75):
        full = treatment().apply(source, [face()]).rgb.astype(float)
        faded = treatment().apply(source, [face(weight=weight)])
        x1, y1, x2, y2 = (int(v) for v in box_at(5))
        expected = weight * full + (1 - weight) * np.array(SOLID_RGB, float)
        assert np.abs(faded.rgb[y1:y2, x1:x2] - expected[y1:y2, x1:x2]).max() <= 1
        assert faded.outcomes[0].treatment == "masked"


def test_a_mask_wins_over_a_neighbours_edit() -> None:
    masked = face(shift=20, track=2, weight=0)
    result = treatment().apply(picture(5), [masked, face()])
    x1, y1, x2, y2 = (int(v) for v in masked.box)
    assert (result.rgb[y1:y2, x1:x2] == SOLID_RGB).all()
    assert {o.track_id: o.treatment for o in result.outcomes} == {1: "edited", 2: "masked"}


def test_the_source_is_not_modified_and_frames_without_faces_pass() -> None:
    source = picture(5)
    treatment().apply(source, [face()])
    assert np.array_equal(source, picture(5))
    empty = treatment().apply(source, [])
    assert empty.rgb is source and empty.regions == ()


def test_regions_hold_every_changed_pixel() -> None:
    source = picture(5)
    result = treatment().apply(source, [face(), face(shift=60, track=2, weight=0)])
    changed = (result.rgb != source).any(axis=2)
    for x1, y1, x2, y2 in result.regions:
        changed[y1:y2, x1:x2] = False
    assert not changed.any()


def test_two_faces_of_one_track_or_a_box_outside_are_refused() -> None:
    with pytest.raises(CoverageError):
        treatment().apply(picture(5), [face(shift=1000, weight=0)])


def test_an_editor_that_loses_a_crop_masks_the_group() -> None:
    class Losing(FakeEditor):
        def edit(self, *arguments: object) -> list[FakeEdited]:
            return []

    result = FrameTreatment(MASK, "solid", Losing(Boom())).apply(picture(5), [face()])
    assert [o.treatment for o in result.outcomes] == ["masked"]


@pytest.mark.parametrize("bad", [{2}, {1, 3}, {1, 2, 3}, set()])
def test_only_those_are_masked_on_whom_the_editor_throws_alone(bad: set[int]) -> None:
    """Also where it has no memory for all of them at once."""

    class Choosy(FakeEditor):
        def edit(self, person_ids: Sequence[int], *rest: Any) -> Any:
            if bad & set(person_ids) or len(person_ids) > 1 > len(bad):
                raise MemoryError("too many" if not bad else "no direction")
            return super().edit(person_ids, *rest)

    under_test = FrameTreatment(MASK, "solid", Choosy(Boom()), batch=16, fade_frames=3)
    faces = [face(0, track=track, shift=50.0 * (track - 1)) for track in (1, 2, 3)]
    outcomes = under_test.apply(picture(0), faces).outcomes
    assert {o.track_id: o.reason for o in outcomes} == {t: "editor error" if t in bad else None for t in (1, 2, 3)}
    assert set(under_test.failing) == bad


def test_frames_treated_together_come_out_as_one_by_one() -> None:
    frames = [(picture(i), [face(i), face(i, shift=60, track=2)]) for i in range(5)]
    together = FrameTreatment(MASK, "solid", FakeEditor(Boom()), batch=4).apply_all(frames)
    alone = treatment()
    for (source, faces), result in zip(frames, together, strict=True):
        single = alone.apply(source, faces)
        assert np.array_equal(single.rgb, result.rgb) and single.outcomes == result.outcomes


def test_an_editor_meets_a_persons_frames_in_a_row() -> None:
    seen: list[list[int]] = []

    class Noting(FakeEditor):
        def edit(self, person_ids: Sequence[int], *rest: Any) -> Any:
            seen.append(list(person_ids))
            return super().edit(person_ids, *rest)

    frames = [(picture(i), [face(i), face(i, shift=60, track=2)]) for i in range(4)]
    FrameTreatment(MASK, "solid", Noting(Boom()), batch=4).apply_all(frames)
    assert seen == [[1] * 4, [2] * 4]


def test_a_face_that_keeps_failing_stays_masked_longer_each_time() -> None:
    """A steady mask beats a blinking face; and what works for long enough is forgiven."""

    class Failing(FakeEditor):
        failing = True

        def edit(self, person_ids: Sequence[int], *rest: Any) -> Any:
            done = super().edit(person_ids, *rest)
            return [replace(e, ok=False, reason="weak edit") for e in done] if self.failing else done

    editor = Failing(Boom())
    under_test = FrameTreatment(MASK, "solid", editor, fade_frames=3)

    def masked_after_a_failure() -> int:
        editor.failing = True
        count = 0
        while True:
            (outcome,) = under_test.apply(picture(5), [face()]).outcomes
            editor.failing = False
            if outcome.treatment == "edited":
                return count
            count += outcome.reason == "after a failed edit"

    # What failed, the frames of waiting, and never more than PATIENCE times as many.
    assert [masked_after_a_failure() for _ in range(6)] == [3, 6, 12, 24, 24, 24]
    for _ in range(40):
        under_test.apply(picture(5), [face()])
    assert masked_after_a_failure() == 3


@pytest.mark.parametrize(
    ("bad", "count", "waited", "edits"),
    [
        ({2}, 16, 0, 16),  # the next two are known to be good
        ({2, 4}, 16, 2, 16),  # between the two nobody knows; then they are
        ({2}, 4, 1, 4),  # too few are known
        ({2}, 1, 3, 1),
        ({2, 4, 6}, 12, 3, 12),  # five are known, of six that are waited for after the second failure that is seen
        ({2, 4, 6}, 9, 5, 9),  # two are known
    ],
)
def test_a_face_is_shown_again_as_soon_as_the_frames_ahead_are_known_to_be_good(
    bad: set[int], count: int, waited: int, edits: int
) -> None:
    class Failing(FakeEditor):
        def edit(self, person_ids: Sequence[int], crops: Any, *rest: Any) -> Any:
            done = super().edit(person_ids, crops, *rest)
            first = len(made)
            made.extend(person_ids)
            return [replace(e, ok=first + i not in bad) for i, e in enumerate(done)]

    made: list[int] = []
    under_test = FrameTreatment(MASK, "solid", Failing(Boom()), batch=4, fade_frames=3)
    outcomes = []
    for begin in range(0, 16, count):
        group = [(picture(5), [face()]) for _ in range(begin, min(16, begin + count))]
        outcomes += [result.outcomes[0] for result in under_test.apply_all(group)]
        if begin == 0:
            assert len(made) == edits
    assert sum(o.reason == "after a failed edit" for o in outcomes) == waited
    assert all(outcomes[i].treatment == "masked" for i in bad)


def ramp(size: int) -> NDArray[np.float32]:
    """A smooth residual that is zero at the rim."""
    line = np.sin(np.linspace(0, np.pi, size))
    return (60 * np.outer(line, line))[..., None].repeat(3, 2).astype(np.float32)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, 4.0])
def test_a_residual_lands_where_the_crop_was_cut(scale: float) -> None:
    """Against the analytic warp of the same smooth function; both enlarging and shrinking."""
    size = 128
    matrix = np.array([[scale, 0, -20.0 * scale], [0, scale, -12.0 * scale]])
    canvas = np.full((300, 320, 3), 100, np.uint8)
    region = add_residual(canvas, ramp(size), matrix)
    assert region == crop_footprint(matrix, size, canvas.shape)
    ys, xs = np.mgrid[0:300, 0:320]
    u, v = scale * (xs - 20.0), scale * (ys - 12.0)
    inside = (u >= 0) & (u <= size - 1) & (v >= 0) & (v <= size - 1)
    truth = 60 * np.sin(np.pi * u / (size - 1)) * np.sin(np.pi * v / (size - 1)) * inside
    assert np.abs(canvas[..., 0] - (100 + truth)).max() < 3.0


@pytest.mark.parametrize(("scale", "lost"), [(0.3, 0.05), (0.6, 0.06), (0.9, 0.06), (1.2, 0.055), (1.7, 0.14)])
def test_the_crop_cut_again_shows_the_residual(scale: float, lost: float) -> None:
    """Fine detail arrives: `lost` is the share of it that does not. Warping alone loses .11, .12, .10, .06, .22."""
    size = 128
    noise = np.random.default_rng(0).normal(0, 60, (size, size, 3)).astype(np.float32)
    residual = (cv2.GaussianBlur(noise, (0, 0), 1.5) * (ramp(size) > 20)).astype(np.float32)
    matrix = np.asarray(cv2.getRotationMatrix2D((0.0, 0.0), 7, scale), np.float64)
    matrix[:, 2] += -20.3 * scale, 5.6 * scale
    canvas = np.full((600, 600, 3), 128, np.uint8)
    assert add_residual(canvas, residual, matrix) is not None
    arrived = crop(canvas, matrix, size).astype(np.float32) - 128
    inside = cv2.erode((ramp(size)[..., 0] > 20).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert np.std((arrived - residual)[inside]) < lost * np.std(residual[inside])


def test_clipping_and_the_edge_of_the_picture() -> None:
    canvas = np.full((60, 60, 3), 250, np.uint8)
    region = add_residual(canvas, ramp(64), np.array([[1.0, 0, 30], [0, 1.0, 30]]))
    assert region is not None and region[:2] == (0, 0) and canvas.max() == 255 and canvas.min() == 250


@pytest.mark.parametrize(
    ("residual", "matrix"),
    [
        (np.full((64, 64, 3), np.nan, np.float32), np.eye(2, 3)),
        (np.zeros((64, 32, 3), np.float32), np.eye(2, 3)),
        (np.zeros((64, 64, 3), np.float32), np.zeros((2, 3))),
    ],
)
def test_unusable_residuals_are_refused(residual: NDArray[np.float32], matrix: NDArray[np.float64]) -> None:
    canvas = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match=r"finite|degenerate"):
        add_residual(canvas, residual, matrix)
    assert not canvas.any()
