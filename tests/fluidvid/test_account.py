"""Coverage and report: the account adds up or the run ends."""

from __future__ import annotations

import io
import json
import sys
import threading
from typing import Any

import pytest
from rich.console import Console

from fluidvid.coverage import Coverage, CoverageError, FaceOutcome
from fluidvid.report import RunReport


def report(**changes: Any) -> RunReport:
    values: dict[str, Any] = {
        "input": "a.mp4",
        "output": "b.mp4",
        "mode": "fluid",
        "frames": 10,
        "faces": 6,
        "tracks": 2,
        "edited": 3,
        "held": 1,
        "masked": 2,
        "masked_reasons": {"too small": 2},
        "seconds": 2.0,
        "fps": 5.0,
        "realtime_factor": 4.0,
    }
    return RunReport(**(values | changes))


def test_account_of_frames() -> None:
    coverage = Coverage()
    coverage.add(0, 2, [FaceOutcome(1, True, "edited"), FaceOutcome(2, True, "masked", "too small")])
    coverage.add(1, 2, [FaceOutcome(1, False, "edited"), FaceOutcome(2, False, "masked", "too small")])
    coverage.add(2, 1, [FaceOutcome(1, False, "masked", "held too long to edit")])
    coverage.add(3, 0, [])
    assert (coverage.frames, coverage.faces, coverage.edited, coverage.held, coverage.masked) == (
        4,
        5,
        1,
        3,
        1,
    )
    assert coverage.edited + coverage.held + coverage.masked == coverage.faces and coverage.tracks == 2
    assert dict(coverage.masked_reasons) == {"too small": 1}
    summary = coverage.summary()
    assert summary["edited_by_face"] == 2 / 5 and summary["treated"] == 1.0
    assert summary["frames_with_faces"] == 3 and summary["frames_fully_edited"] == 0
    assert summary["longest_held_frames"] == 2 and summary["tracks_fully_masked"] == 1
    assert summary["held_edited"] == 1 and summary["held_masked"] == 2
    assert summary["edited_by_track_mean"] == pytest.approx((2 / 3 + 0) / 2)  # a held face that is edited counts


@pytest.mark.parametrize("outcomes", [[], [FaceOutcome(1, True, "raw")], [FaceOutcome(1, True, "edited")] * 2])
def test_a_face_without_treatment_ends_the_run(outcomes: list[FaceOutcome]) -> None:
    with pytest.raises(CoverageError):
        Coverage().add(0, 1, outcomes)


def test_no_faces_is_not_full_coverage() -> None:
    assert Coverage().summary()["treated"] is None


@pytest.mark.parametrize("changes", [{"edited": 4}, {"raw": 1}, {"masked_reasons": {}}, {"faces": 7}])
def test_report_refuses_what_does_not_add_up(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="add up"):
        report(**changes)


def test_json_has_every_promised_key_on_one_line() -> None:
    text = report(dropped_streams=("data track 2 (gpmd)",)).to_json()
    tree = json.loads(text)
    assert "\n" not in text
    for key in [
        "input",
        "output",
        "mode",
        "frames",
        "faces",
        "tracks",
        "edited",
        "held",
        "masked",
        "raw",
        "masked_reasons",
        "dropped_streams",
        "warnings",
        "seconds",
        "fps",
        "realtime_factor",
    ]:
        assert key in tree
    assert tree["dropped_streams"] == ["data track 2 (gpmd)"]


def test_summary_names_what_matters() -> None:
    stream = io.StringIO()
    report(dropped_streams=("data track 2",), warnings=("voices identify",)).print_summary(
        Console(file=stream, width=120)
    )
    text = stream.getvalue()
    for words in (
        "6 in 2 tracks",
        "3 edited, 1 held, 2 masked, 0 raw",
        "2 too small",
        "data track 2",
        "voices identify",
        "pseudonymisation",
        "still identify",
    ):
        assert words in text


def test_names_in_the_summary_are_no_markup() -> None:
    """They come from outside: what looks like markup would vanish, or end a run whose result is there already."""
    stream = io.StringIO()
    made = report(output="o4[final]:cat:.mp4", dropped_metadata=("[/x]",), warnings=("[bold]stays[/]",))
    made.print_summary(Console(file=stream, width=120))
    for words in ("o4[final]:cat:.mp4", "[/x]", "[bold]stays[/]"):
        assert words in stream.getvalue()


def test_a_snapshot_adds_up_while_another_thread_adds() -> None:
    coverage, done = Coverage(), threading.Event()

    def add() -> None:
        frame = 0
        while not done.is_set():
            faces = [FaceOutcome(frame // 5 + i, i != 1, "masked" if i else "edited", "mode") for i in range(3)]
            coverage.add(frame, 3, faces)
            coverage.forget(frame - 20)
            frame += 1

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    adding = threading.Thread(target=add)
    adding.start()
    try:
        for _ in range(2000):
            seen = coverage.snapshot()
            assert seen.edited + seen.held + seen.masked == seen.faces == 3 * seen.frames
            assert sum(seen.masked_reasons.values()) == seen.masked
            assert seen.summary()["held_masked"] == seen.held
    finally:
        done.set()
        adding.join()
        sys.setswitchinterval(usual)
    assert coverage.frames > 0
