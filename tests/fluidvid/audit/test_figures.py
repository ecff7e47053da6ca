"""Figures of privacy, utility and time against results whose change is known; and where they are printed."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fluidvid.audit import Auditor, AuditReport
from fluidvid.audit.look import Look
from fluidvid.audit.page import page
from fluidvid.audit.privacy import recognise, templates
from fluidvid.audit.steadiness import jumps, steadiness
from fluidvid.audit.utility import utility
from tests.fluidvid.audit.conftest import Case
from tests.fluidvid.audit.media import Picture, blurred, masked, pictures_of, write


@pytest.fixture(scope="module")
def same(auditor: Auditor, case: Case) -> AuditReport:
    """An audit of the source against itself."""
    return auditor.audit(case.study, case.source)


@pytest.fixture(scope="module")
def two(auditor: Auditor, case: Case, tmp_path_factory: pytest.TempPathFactory) -> AuditReport:
    """Two people; one is masked, the other only softened."""
    folder = tmp_path_factory.mktemp("two")
    source = write(folder / "two.mp4", [np.hstack([p, p[:, ::-1]]) for p in case.pictures[:6]], crf=10)
    study = auditor.study(source)
    boxes = [[study.faces[r].box for r in study.rows_of(i)] for i in range(6)]

    def treated(i: int, picture: Picture) -> Picture:
        left, right = sorted(boxes[i], key=lambda box: float(box[0]))
        return blurred(masked(picture, [left]), [right], 1.5)

    return auditor.audit(study, write(folder / "r.mp4", [treated(i, p) for i, p in enumerate(pictures_of(source))]))


def test_curves_of_a_result_that_is_the_source(same: AuditReport) -> None:
    for recognition in same.recognitions:
        values = {name: figure.value for name, figure in recognition.figures.items()}
        assert values["true_accepts_at_1_percent"] == values["rank_1"] == values["rank_10"] == 1.0
        assert values["equal_error_rate"] is not None and values["equal_error_rate"] < 0.02
        assert values["rank_1_by_chance"] is not None and values["rank_1_by_chance"] < 0.01
        assert values["cosine_to_same_frame"] == pytest.approx(1.0, abs=1e-4)


def test_curves_of_a_result_that_shows_the_opposite_of_everybody(
    auditor: Auditor, case: Case, same: AuditReport
) -> None:
    assert case.study.look is not None
    for grader in auditor.panel.graders:
        name, gallery = grader.name, auditor.galleries[grader.name]
        away = np.repeat(-templates(case.study, name)[1][None], 8, 0)
        turned = replace(case.study.look, embeddings={name: away})
        measured = replace(same.measured, look=turned, own={name: away}, smooth={name: away})
        figures = recognise(case.study, measured, grader, gallery).figures
        assert figures["true_accepts_at_1_percent"].value == figures["rank_1"].value == figures["rank_10"].value == 0.0
        assert figures["reidentified_at_1_percent"].value == 0.0
        error = figures["equal_error_rate"].value
        assert error is not None and error > 0.95, "genuine scores below all impostors'"


def test_nothing_changes_in_a_result_that_is_the_source(same: AuditReport) -> None:
    for name in ("landmarks_by_eye_distance", "expression", "age_years", "gender_probability", "mouth_openness"):
        assert same.utility[name].value == pytest.approx(0.0, abs=1e-5), name
        floor = same.utility[name].floor
        assert floor is not None and floor > 1e-4, name
    assert same.time["flicker_ratio"].value == pytest.approx(1.0)
    assert same.time["motion_correlation"].value is None, "eight steps are needed, seven are there"


@pytest.mark.parametrize(
    ("part", "change", "name", "expected"),
    [
        ("age", 12.0, "age_years", 12.0),
        ("male", -0.25, "gender_probability", 0.25),
        ("landmarks", 0.0, "landmarks_by_eye_distance", 0.0),
    ],
)
def test_age_and_gender_are_compared_face_by_face(
    case: Case, same: AuditReport, part: str, change: float, name: str, expected: float
) -> None:
    assert case.study.look is not None
    older: Look = replace(case.study.look, **{part: getattr(case.study.look, part) + change})
    measured = replace(same.measured, look=older)
    assert utility(case.study, measured)[name].value == pytest.approx(expected, abs=1e-4)


def test_a_jump_is_found_where_the_identity_changes(case: Case, same: AuditReport) -> None:
    """In frame 4 the direction of the edit changes: the track is somebody else from there on."""
    assert case.study.look is not None
    for recognition in same.recognitions:
        name = recognition.grader.name
        table = case.study.look.embeddings[name].copy()
        table[4:] *= -1
        measured = replace(same.measured, look=replace(case.study.look, embeddings={name: table}))
        found = jumps(case.study, measured, recognition)
        assert [(j.track, j.frame) for j in found] == [(1, 4)] and found[0].cosine < -0.5
        assert steadiness(case.study, measured, [recognition])[f"jumps_{name}"].value == pytest.approx(1 / 7)
        assert jumps(case.study, same.measured, recognition) == []


def test_flicker_is_measured_against_the_source(auditor: Auditor, case: Case) -> None:
    def blinking(i: int, picture: Picture) -> Picture:
        return np.asarray(np.clip(picture.astype(int) + 24 * (i % 2), 0, 255), np.uint8)

    report = auditor.audit(case.study, case.result("blinking", blinking))
    ratio = report.time["flicker_ratio"].value
    assert ratio is not None and ratio > 3


def test_faces_that_only_the_result_shows_are_counted(auditor: Auditor, case: Case, tmp_path: Path) -> None:
    covered = [masked(p, case.boxes(i)) for i, p in enumerate(case.pictures)]
    source = write(tmp_path / "covered.mp4", covered, crf=10)
    coverage = auditor.audit(auditor.study(source), case.source).coverage()
    assert coverage["faces"] == 0 and coverage["frames_searched_whole_in_result"] == 2
    assert coverage["faces_only_in_result"] == 2 and coverage["faces_only_in_result_with_source_pixels"] == 0


def test_intervals_stand_in_json_page_and_terminal(two: AuditReport) -> None:
    assert two.coverage()["tracks"] == 2
    tree = json.loads(two.to_json())
    dlib = next(p for p in tree["privacy"] if p["recogniser"] == "dlib_resnet")
    assert dlib["figures"]["reidentified_at_1_percent"]["interval"] == [0.0, 1.0]
    for name in ("equal_error_rate", "true_accepts_at_1_percent", "rank_1", "cosine_to_template"):
        low, high = dlib["figures"][name]["interval"]
        assert low <= dlib["figures"][name]["value"] <= high and low < high, name
    assert set(dlib["worst_frame"]) == {"1", "2"}
    assert "[0.0%, 100.0%]" in page(two)
    console = Console(file=io.StringIO(), width=220)
    two.print_summary(console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "50.0% [0.0%, 100.0%]" in text
    for words in ("true accepts at 1 percent", "equal error rate", "rank 1", "worst frame of a track", "age years"):
        assert words in text, words
    for words in ("gender probability", "flicker ratio", "jumps dlib resnet", "tracks of one person linked"):
        assert words in text, words
