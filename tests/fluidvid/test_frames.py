"""The iterator form: as many pictures out as in, mask first, bounded look-ahead, nothing raw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fluidvid.assembly import completing
from fluidvid.config import Config
from fluidvid.coverage import Coverage
from fluidvid.errors import ConfigError, DetectionError
from fluidvid.frames import anonymize_frames, process
from fluidvid.trackers import Tracker
from tests.fluidvid.fakes import Boom, Rig, picture, raw_share

CONFIG = Config().updated({"edit.fade_frames": 3, "edit.key_frames": 2, "track.look_ahead": 4, "track.max_gap": 5})


def pictures(count: int) -> Iterator[NDArray[np.uint8]]:
    for index in range(count):
        yield picture(index)


def results(rig: Rig, count: int = 40) -> tuple[list[NDArray[np.uint8]], Coverage]:
    coverage = Coverage()
    return list(process(rig.stages(), CONFIG, pictures(count), coverage)), coverage


def test_masked_until_ready_then_faded_then_edited() -> None:
    out, coverage = results(Rig())
    assert len(out) == 40 and coverage.frames == coverage.faces == 40
    assert coverage.masked_reasons["not prepared"] >= 1 and coverage.masked_reasons["fading between mask and face"] == 3
    assert coverage.edited > 25 and coverage.edited + coverage.masked == 40
    for index, image in enumerate(out):
        assert raw_share(picture(index), image, index) < 0.02


@pytest.mark.parametrize("classic", [False, True])
@pytest.mark.parametrize(("look_ahead", "missing"), [(4, range(20, 30)), (0, range(20, 21))])
def test_what_the_tracker_holds_is_covered_beyond_the_look_ahead(
    look_ahead: int, missing: range, classic: bool
) -> None:
    config = CONFIG.updated({"track.look_ahead": look_ahead, "track.max_gap": 10})
    stages = replace(
        Rig(missing=missing, classic=classic).stages(),
        tracker=Tracker(max_missed=config.track.max_gap),
        complete=completing(config.track),
    )
    coverage = Coverage()
    out = list(process(stages, config, pictures(40), coverage))
    assert max(raw_share(picture(i), image, i) for i, image in enumerate(out)) < 0.02
    assert coverage.faces == 40 and coverage.held == len(missing)
    held_too_long = len(missing) - config.edit.max_held
    if not classic and held_too_long > 0:
        assert coverage.held_reasons["held too long to edit"] == held_too_long


def test_look_ahead_is_bounded() -> None:
    given = 0

    def counted() -> Iterator[NDArray[np.uint8]]:
        nonlocal given
        for image in pictures(30):
            given += 1
            yield image

    for taken, _ in enumerate(process(Rig().stages(), CONFIG, counted(), Coverage()), 1):
        assert given - taken <= CONFIG.track.look_ahead


@pytest.mark.parametrize("stage", ["detector", "tracker", "prepare", "edit", "pose", "complete"])
@pytest.mark.parametrize("call", [0, 7])
def test_exceptions_never_let_a_raw_face_out(stage: str, call: int) -> None:
    rig = Rig(boom=Boom(stage, call))
    out: list[NDArray[np.uint8]] = []
    try:
        for image in process(rig.stages(), CONFIG, pictures(40), Coverage()):
            out.append(image)
    except (DetectionError, RuntimeError):
        pass
    for index, image in enumerate(out):
        assert raw_share(picture(index), image, index) < 0.02
    if stage in ("prepare", "edit"):
        assert len(out) == 40


def test_pictures_are_not_modified() -> None:
    given = list(pictures(10))
    list(process(Rig().stages(), CONFIG, given, Coverage()))
    assert all(np.array_equal(image, picture(i)) for i, image in enumerate(given))


@pytest.mark.parametrize("key", ["strict", "media.start", "media.end"])
def test_what_only_a_whole_file_can_give_is_refused(key: str) -> None:
    changed = Config().updated({key: True if key == "strict" else "1"})
    with pytest.raises(ConfigError, match="for whole files"):
        next(anonymize_frames([picture(0)], config=changed))


@pytest.mark.parametrize(
    "bad",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 0, 3), np.uint8), [[[0, 0, 0]]]],
)
def test_other_arrays_are_refused(bad: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="uint8 RGB"):
        list(process(Rig().stages(), CONFIG, [bad], Coverage()))


def test_a_change_of_size_is_refused() -> None:
    with pytest.raises(ValueError, match="one size"):
        list(process(Rig().stages(), CONFIG, [picture(0), picture(1)[:100]], Coverage()))


def test_state_does_not_grow() -> None:
    from fluidvid.window import Window

    stages = Rig().stages()
    window = Window(stages, CONFIG, None)
    coverage = Coverage()
    for image in pictures(60):
        window.push(image, stages.detector.detect(image), cut=False)
        if len(window.waiting) > 4:
            window.pop(coverage)
        assert len(window._faces) <= 4 + 5 + 2


def test_nobody_is_prepared_from_detections_that_are_unsure() -> None:
    rig = Rig(unsure=range(1, 20))
    out, _ = results(rig)
    assert rig.editor is not None and sorted(rig.editor.prepared_from) == [0, 20]
    assert all(raw_share(picture(i), image, i) < 0.02 for i, image in enumerate(out))


def test_what_was_unsure_before_a_track_began_is_covered_where_it_still_waits() -> None:
    stages = replace(Rig(unsure=range(20)).stages(), tracker=Tracker())
    coverage = Coverage()
    out = list(process(stages, CONFIG, pictures(40), coverage))
    shares = [raw_share(picture(i), image, i) for i, image in enumerate(out)]
    assert max(shares[20 - CONFIG.track.look_ahead :]) < 0.02 and coverage.faces == 20 + CONFIG.track.look_ahead


def test_a_direction_that_failed_verification_is_never_applied() -> None:
    out, coverage = results(Rig(prepared=False))
    assert coverage.edited == 0 and dict(coverage.masked_reasons) == {"not prepared": 40}
    assert all(raw_share(picture(i), image, i) < 0.02 for i, image in enumerate(out))


@pytest.mark.parametrize("how", [ValueError, np.nan])
def test_a_face_fades_in_again_after_a_picture_without_usable_landmarks(how: type[ValueError] | float) -> None:
    stages, calls = Rig().stages(), 0

    def smooth(landmarks: NDArray[np.float32], template: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal calls
        calls += 1
        if calls == 20:
            if not isinstance(how, float):
                raise how("they coincide")
            return np.full((len(landmarks), 2, 3), how)
        return stages.smooth(landmarks, template)

    coverage = Coverage()
    list(process(replace(stages, smooth=smooth), CONFIG, pictures(40), coverage))
    reasons = coverage.masked_reasons
    assert (
        reasons["no usable landmarks"] == 1 and reasons["fading between mask and face"] == 2 * CONFIG.edit.fade_frames
    )
