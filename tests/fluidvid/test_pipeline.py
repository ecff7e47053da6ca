"""The whole pipeline over fakes: whatever breaks, no raw face leaves; and its memory does not hold frames."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fluidvid.assembly import completing
from fluidvid.config import Config
from fluidvid.errors import DetectionError, StrictError
from fluidvid.pipeline import GROUP, Outcome, analyse, run
from fluidvid.progress import ProgressEvent
from fluidvid.trackers import Detection, Tracker, face_pose, smooth_transforms
from fluidvid.tracktable import COMPACT, ROW
from tests.fluidvid.fakes import Boom, Rig, box_at, picture, raw_share

CONFIG = Config().updated({"edit.fade_frames": 3, "edit.batch": 2, "edit.key_frames": 4})


def go(rig: Rig, config: Config = CONFIG, **changes: Any) -> Outcome:
    return run(rig.stages(), config.updated(changes) if changes else config)


def assert_nothing_raw(rig: Rig) -> None:
    """In everything that was handed to a writer that committed, every face differs from the source all over."""
    for writer in rig.writers:
        if writer.committed:
            for index, result in enumerate(writer.frames):
                assert raw_share(picture(index), result, index) < 0.02, index


def assert_account(outcome: Outcome, faces: int) -> None:
    c = outcome.coverage
    assert c.faces == faces == c.edited + c.held + c.masked
    assert sum(c.masked_reasons.values()) == c.masked


@pytest.mark.parametrize("mode", ["blur", "pixelate", "solid"])
def test_classic_modes_mask_every_face(mode: str) -> None:
    rig = Rig(classic=True)
    outcome = go(rig, mode=mode)
    assert rig.writers[0].committed and len(rig.writers[0].frames) == 40
    assert_account(outcome, 40)
    assert dict(outcome.coverage.masked_reasons) == {"classic mode": 40}
    assert_nothing_raw(rig)


def test_nobody_is_prepared_from_detections_that_are_unsure() -> None:
    rig = Rig(unsure=range(10, 40))
    outcome = go(rig)
    assert outcome.coverage.faces == 40
    assert rig.editor is not None and rig.editor.prepared_from and max(rig.editor.prepared_from) < 10
    assert_nothing_raw(rig)


def test_a_face_that_was_unsure_at_first_is_treated_from_its_first_picture_on() -> None:
    rig = Rig(unsure=range(20))
    stages = dataclasses.replace(rig.stages(), tracker=Tracker())
    outcome = run(stages, CONFIG)
    assert_account(outcome, 40)
    assert rig.editor is not None and min(rig.editor.prepared_from) >= 20
    assert_nothing_raw(rig)


def test_a_place_whose_landmarks_nobody_saw_is_masked_with_the_held_ones_beside_it() -> None:
    rig = Rig(missing=[19, 21])
    stages = rig.stages()
    detect = stages.detector.detect

    def places(image: NDArray[np.uint8]) -> list[Detection]:
        found = detect(image)
        if found and found[0].box[0] == box_at(20)[0]:
            return [Detection(found[0].box, 0.4, np.full((5, 2), np.nan, np.float32))]
        return found

    detector = SimpleNamespace(detect=places)
    complete = completing(CONFIG.track)
    outcome = run(
        dataclasses.replace(stages, detector=detector, complete=complete, smooth=smooth_transforms, pose=face_pose),
        CONFIG.updated({"edit.fade_frames": 0}),
    )
    c = outcome.coverage
    assert_nothing_raw(rig)
    assert (c.faces, c.edited, c.held, c.masked) == (40, 37, 2, 1) and not c.held_edited
    assert dict(c.masked_reasons) == {"no usable landmarks": 1}


def test_fluid_edits_every_face_and_touches_nothing_far_from_it() -> None:
    rig = Rig()
    outcome = go(rig)
    assert_account(outcome, 40)
    assert outcome.coverage.edited == 40
    assert rig.editor is not None and rig.editor.prepared_with == {1: 4}
    assert_nothing_raw(rig)
    result = rig.writers[0].frames[10]
    assert np.array_equal(result[:, 160:], picture(10)[:, 160:])


def test_raw_share_would_notice_a_raw_face() -> None:
    assert raw_share(picture(3), picture(3), 3) == 1.0


STAGES = [
    "open_reader",
    "reader",
    "detector",
    "tracker",
    "complete",
    "smooth",
    "pose",
    "prepare",
    "edit",
    "open_writer",
    "writer",
    "commit",
]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("error", [RuntimeError, ValueError, MemoryError])
@pytest.mark.parametrize("call", [0, 15, 55])
@pytest.mark.parametrize("stage", STAGES)
def test_an_exception_in_any_stage_never_lets_a_raw_face_out(
    stage: str, call: int, error: type[Exception], workers: int
) -> None:
    rig = Rig(boom=Boom(stage, call, error), workers=workers)
    outcome = None
    try:
        outcome = go(rig)
    except (error, DetectionError):
        assert not any(writer.committed for writer in rig.writers)
    assert_nothing_raw(rig)
    if outcome is not None:
        assert_account(outcome, 40)
    if stage in ("detector", "tracker") and rig.boom.counts[stage] > call:
        assert outcome is None
    if stage in ("prepare", "edit") and call == 0:
        assert outcome is not None and outcome.coverage.edited == 0
        reason = "not prepared" if stage == "prepare" else "editor error"
        assert outcome.coverage.masked_reasons[reason] > 0


def test_a_broken_composite_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("composite broke")

    monkeypatch.setattr("fluidvid.treatment.add_residual", broken)
    rig = Rig()
    outcome = go(rig)
    assert outcome.coverage.edited == 0 and outcome.coverage.masked_reasons["composite error"] > 0
    assert rig.writers[0].committed
    assert_nothing_raw(rig)


def test_a_broken_mask_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("mask broke")

    monkeypatch.setattr("fluidvid.treatment.face_mask", broken)
    rig = Rig(classic=True)
    with pytest.raises(RuntimeError):
        go(rig, mode="blur")
    assert not rig.writers[0].committed


@pytest.mark.parametrize("gain", [0.0, 0.2, float("nan")])
def test_an_edit_that_changes_nothing_is_no_edit(gain: float) -> None:
    rig = Rig(gain=gain)
    outcome = go(rig)
    assert outcome.coverage.edited == 0 and outcome.coverage.masked == 40
    assert_nothing_raw(rig)


def test_an_edit_that_calls_itself_bad_is_masked_with_its_reason() -> None:
    rig = Rig(ok=False)
    outcome = go(rig)
    assert outcome.coverage.masked_reasons["out of domain"] > 0 and outcome.coverage.edited == 0
    assert_nothing_raw(rig)


def test_a_person_whose_verification_failed_is_masked() -> None:
    rig = Rig(prepared=False)
    outcome = go(rig)
    assert dict(outcome.coverage.masked_reasons) == {"not prepared": 40}
    assert_nothing_raw(rig)


@pytest.mark.parametrize(
    ("changes", "yaw", "reason"), [({"edit.min_face": 70}, 0.0, "too small"), ({}, 70.0, "too turned")]
)
def test_gates(changes: dict[str, Any], yaw: float, reason: str) -> None:
    rig = Rig(yaw=yaw)
    outcome = go(rig, **changes)
    assert dict(outcome.coverage.masked_reasons) == {reason: 40}
    assert_nothing_raw(rig)


def test_nobody_is_searched_for_who_is_edited_nowhere() -> None:
    rig = Rig()
    outcome = go(rig, CONFIG.updated({"edit.min_face": 400}))
    assert rig.editor is not None and rig.editor.prepared_with == {}
    assert outcome.preparations == {}
    assert_account(outcome, 40)
    assert dict(outcome.coverage.masked_reasons) == {"too small": 40}
    assert_nothing_raw(rig)


@pytest.mark.parametrize(
    ("failing", "waits"), [(10, 0), (15, 1)]
)  # what comes is known for the rest of 16 frames, then for the next 16
def test_after_one_failed_edit_a_face_fades_in_once_the_frames_ahead_are_known_to_be_good(
    failing: int, waits: int
) -> None:
    class Once(Boom):
        def __call__(self, stage: str) -> None:
            self.counts[stage] = self.counts.get(stage, 0) + 1
            if stage == "edit" and self.counts[stage] == failing:
                raise RuntimeError("once")

    rig = Rig(boom=Once())
    outcome = go(rig, CONFIG.updated({"edit.batch": 1}))
    reasons = outcome.coverage.masked_reasons
    assert (
        reasons["editor error"] == 1
        and reasons["after a failed edit"] == waits
        and reasons["fading between mask and face"] == 3
    )
    assert outcome.coverage.edited == 40 - 4 - waits
    assert_nothing_raw(rig)


def test_held_faces_are_counted_and_never_raw() -> None:
    """The tracker's box stands still where the face moves on: the margin and the mask still cover most of it."""
    rig = Rig(missing={10, 11, 20, 21, 22, 23, 24, 25})
    outcome = go(rig)
    c = outcome.coverage
    assert c.held == 8 and c.held_edited == 2 and dict(c.held_reasons) == {"held too long to edit": 6}
    assert_account(outcome, 40)


def test_strict_refuses_before_anything_is_opened_for_writing() -> None:
    rig = Rig(missing=set(range(10, 20)))
    with pytest.raises(StrictError, match="held for 10 frames"):
        go(rig, CONFIG.updated({"strict": True, "track.strict_held": 9}))
    assert rig.writers == []
    go(Rig(missing=set(range(10, 20))), CONFIG.updated({"strict": True, "track.strict_held": 10}))
    quick = dataclasses.replace(Rig(missing=set(range(10, 20))).stages(), rate=Fraction(50))
    run(quick, CONFIG.updated({"strict": True, "track.strict_held": 5}))


def test_strict_refuses_a_suspicious_gap() -> None:
    rig = Rig(classic=True)
    stages = rig.stages()

    class TwoTracks:
        def update(self, frame_index: int, detections: Any, embeddings: Any = None, scene_cut: bool = False) -> Any:
            from fluidvid.trackers.types import TrackedFace

            if 15 <= frame_index < 20:
                return []
            found = detections[0]
            return [TrackedFace(1 if frame_index < 15 else 2, frame_index, found.box, found.landmarks, 0.9, True)]

    with pytest.raises(StrictError, match="frames 15 to 19 between tracks 1 and 2"):
        run(
            dataclasses.replace(stages, tracker=TwoTracks()),
            CONFIG.updated({"mode": "solid", "strict": True}),
        )
    assert rig.writers == []


@pytest.mark.parametrize(("count", "words"), [(41, "not inspected"), (30, "the second pass gave 30")])
def test_other_frames_in_the_second_pass_stop_the_run(count: int, words: str) -> None:
    rig = Rig()
    stages = rig.stages()
    counts = iter((40, count))

    def changing() -> Any:
        rig.count = next(counts)
        return stages.open_reader()

    with pytest.raises(DetectionError, match=words):
        run(dataclasses.replace(stages, open_reader=changing), CONFIG)
    assert not rig.writers[0].committed


def test_threads_change_nothing_in_the_result() -> None:
    rig, alone = Rig(missing={10, 11}, workers=2), Rig(missing={10, 11})
    outcome = go(rig)
    assert outcome.coverage == go(alone).coverage
    assert np.array_equal(np.stack(rig.writers[0].frames), np.stack(alone.writers[0].frames))


@pytest.mark.parametrize("workers", [1, 2])
def test_keyboard_interrupt_passes_and_nothing_is_committed(workers: int) -> None:
    for stage in ("detector", "prepare", "edit", "writer"):
        rig = Rig(boom=Boom(stage, 3 if stage != "prepare" else 0, KeyboardInterrupt), workers=workers)
        with pytest.raises(KeyboardInterrupt):
            go(rig)
        assert not any(writer.committed for writer in rig.writers)


def test_frames_are_not_kept() -> None:
    """However long the run: a handful of frames alive, and the analysis holds rows, no pictures."""
    for count in (20, 60):
        rig = Rig(count=count)
        outcome = go(rig)
        assert rig.live[1] <= GROUP + 2
        assert outcome.analysis.key_crops == {} and outcome.analysis.embeddings == {}


def test_bytes_per_face_are_bounded() -> None:
    assert ROW.itemsize <= 128 and COMPACT.itemsize <= 40


def test_progress_covers_both_passes() -> None:
    events: list[ProgressEvent] = []
    run(Rig().stages(), CONFIG, events.append)
    assert [e.done for e in events if e.stage == "detect"] == list(range(1, 41))
    assert [e.done for e in events if e.stage == "write"] == list(range(1, 41))
    assert any(e.stage == "prepare" for e in events)


def test_the_face_leaves_through_the_edge_and_is_still_treated() -> None:
    rig = Rig(count=80, classic=True)
    outcome = go(rig, mode="solid")
    visible = sum(box_at(i)[0] < 192 for i in range(80))
    assert_account(outcome, visible)


MEMORY = """
import dataclasses, resource, sys
from contextlib import contextmanager
from fluidvid.config import Config
from fluidvid.pipeline import run
from fluidvid.trackers.types import TrackedFace
from tests.fluidvid import fakes

fakes.box_at = lambda index: (20.0, 40.0, 80.0, 110.0)
still = fakes.picture(0)
fakes.FakeFrame.rgb = lambda self: still.copy()

class FourTracks:
    def update(self, index, found, embeddings=None, scene_cut=False):
        return [TrackedFace(k + 100 * (index // 300), index, found[0].box + k, found[0].landmarks, 0.9, True)
                for k in range(4)]

class Nowhere:
    def write(self, *arguments):
        pass

@contextmanager
def open_writer(reader):
    yield Nowhere()

stages = fakes.Rig(classic=True, count=int(sys.argv[1])).stages()
outcome = run(dataclasses.replace(stages, tracker=FourTracks(), open_writer=open_writer), Config(mode="solid"))
print(outcome.coverage.faces, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_peak_memory_does_not_grow_with_length(root: Path) -> None:
    """Twelve times the length with four faces per frame: within a tenth of the peak of the short run."""
    peaks = []
    for count in (500, 6000):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(count)], cwd=root, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        faces, peak = map(int, done.stdout.split())
        assert faces == 4 * count
        peaks.append(peak)
    assert peaks[1] < 1.1 * peaks[0], peaks


def test_what_only_the_looking_needs_is_given_back_before_other_networks_look() -> None:
    order: list[str] = []

    def identify(crops: np.ndarray) -> np.ndarray:
        order.append("identify")
        return np.ones((len(crops), 4), np.float32) / 2

    rig = Rig()
    stages = dataclasses.replace(rig.stages(), looked=lambda: order.append("looked"), identify=identify)
    stages = dataclasses.replace(stages, link=lambda known, tracks: {})
    run(stages, Config(), lambda event: order.append(event.stage))
    assert order.count("looked") == 1 and "identify" in order
    assert set(order[: order.index("looked")]) == {"detect"} and "detect" not in order[order.index("looked") :]


def test_people_are_told_apart_by_where_they_are_seen_not_by_where_they_are_held() -> None:
    given: dict[int, np.ndarray] = {}

    def link(known: Any, tracks: Any) -> dict[int, int]:
        given.update(tracks)
        return {}

    def identify(crops: np.ndarray) -> np.ndarray:
        return np.full((len(crops), 4), 0.5, np.float32)

    stages = dataclasses.replace(Rig(missing=(10, 11)).stages(), identify=identify, link=link)
    found = analyse(stages, Config(), lambda event: None)
    held = 0
    for track, indices in found.table.tracks():
        rows = found.table.rows(indices)
        assert given[track].tolist() == rows["frame"][rows["observed"]].tolist()
        held += int((~rows["observed"]).sum())
    assert held > 0
