"""What an audit must never let pass, and that it lets an honest mask pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fluidvid.audit import Auditor, AuditReport, State
from fluidvid.audit.graders import Panel
from fluidvid.audit.look import crops_of
from fluidvid.audit.privacy import FIGURES
from fluidvid.audit.verdict import decide
from fluidvid.engine.build import load_recogniser
from fluidvid.engine.crops import to_crops
from fluidvid.geometry import FFHQ_112, invert
from tests.fluidvid.audit.conftest import Case
from tests.fluidvid.audit.media import RATE, Picture, blurred, masked, pictures_of, write


def failed(report: AuditReport) -> set[str]:
    return {check.name for check in report.verdict.checks if check.passed is False}


def test_a_solid_mask_passes(auditor: Auditor, case: Case) -> None:
    report = auditor.audit(case.study, case.result("solid", lambda i, p: masked(p, case.boxes(i))))
    assert report.verdict.state is State.PASSED, report.verdict
    coverage = report.coverage()
    assert coverage["faces"] == coverage["judged_by_recognisers"] == coverage["not_found_in_result"] == 8
    for recognition in report.recognitions:
        assert recognition.figures["reidentified_at_1_percent_where_found_again"].value is None


def test_a_result_equal_to_the_source(auditor: Auditor, case: Case) -> None:
    report = auditor.audit(case.study, case.source)
    assert report.verdict.state is State.FAILED
    assert "untouched faces" in failed(report)
    assert report.coverage()["untouched"] == 8
    for recognition in report.recognitions:
        assert recognition.figures["reidentified_at_1_percent"].value == 1.0
        assert recognition.figures["rank_1"].value == 1.0


def test_a_reencoded_source(auditor: Auditor, case: Case) -> None:
    report = auditor.audit(case.study, write(case.folder / "again.mp4", case.pictures, crf=30))
    assert report.verdict.state is State.FAILED and report.coverage()["untouched"] == 8


def test_a_weak_blur(auditor: Auditor, case: Case) -> None:
    report = auditor.audit(case.study, case.result("weak", lambda i, p: blurred(p, case.boxes(i), 1.5)))
    assert report.verdict.state is State.FAILED
    assert "re-identified by dlib_resnet" in failed(report)


def test_one_raw_entry_frame(auditor: Auditor, case: Case) -> None:
    report = auditor.audit(case.study, case.result("entry", lambda i, p: masked(p, case.boxes(i)) if i else p))
    assert report.verdict.state is State.FAILED
    assert "untouched faces" in failed(report)
    assert "frames 0)" in report.verdict.words
    assert report.people()[0]["untouched_frames"] == [0]
    assert all(seen["worst_frame"] == 0 for seen in report.people()[0]["recognisers"].values())


def test_one_track_skipped(auditor: Auditor, case: Case, tmp_path: Path) -> None:
    both = [np.hstack([p, p[:, ::-1]]) for p in case.pictures[:6]]
    source = write(tmp_path / "two.mp4", both, crf=10)
    study = auditor.study(source)
    assert len({face.track_id for face in study.faces}) == 2
    left = {t for t in study.people if study.faces[study.track.tolist().index(t)].box[0] < 176}

    def treat(frame: int, picture: Picture) -> Picture:
        return masked(picture, [study.faces[r].box for r in study.rows_of(frame) if study.track[r] in left])

    pictures = [treat(i, p) for i, p in enumerate(pictures_of(source))]
    report = auditor.audit(study, write(tmp_path / "skipped.mp4", pictures))
    assert report.verdict.state is State.FAILED
    assert report.coverage()["untouched"] == 6
    (skipped,) = set(study.people) - left
    dlib = next(r for r in report.recognitions if r.grader.name == "dlib_resnet")
    assert dlib.worst[skipped][1] > 0.9 > dlib.worst[next(iter(left))][1]


def attacked(case: Case, auditor: Auditor, name: str, steps: int = 8, most: float = 5.0) -> list[Picture]:
    """Every face with noise of at most `most` 8-bit values that takes recogniser `name` away from the person."""
    net = load_recogniser(name, auditor.models.resolve, FFHQ_112)
    pictures = []
    for frame, picture in enumerate(case.pictures):
        (row,) = case.study.rows_of(frame)
        matrix = case.study.matrices[row]
        crop = to_crops(crops_of(picture, matrix[None]))
        assert case.study.look is not None
        person = torch.from_numpy(case.study.look.embeddings[name][row])
        noise = torch.zeros_like(crop, requires_grad=True)
        for _ in range(steps):
            (gradient,) = torch.autograd.grad((net(crop + noise) @ person).sum(), noise)
            bound = most / 127.5
            noise = (noise - bound / 4 * gradient.sign()).clamp(-bound, bound).detach().requires_grad_()
        delta = 127.5 * noise.detach()[0].permute(1, 2, 0).numpy()
        back = invert(matrix)
        small = cv2.warpAffine(delta, back, picture.shape[1::-1], flags=cv2.INTER_AREA)
        pictures.append(np.clip(picture + np.clip(2 * small, -most, most), 0, 255).astype(np.uint8))
    return pictures


def test_noise_against_the_auditing_recogniser(auditor: Auditor, case: Case) -> None:
    """The attacked recogniser is fooled by the plain picture; the audit is not, even with that recogniser alone."""
    result = write(case.folder / "noise.mp4", attacked(case, auditor, "dlib_resnet"), crf=4)
    report = auditor.audit(case.study, result)
    assert report.verdict.state is State.FAILED
    dlib = next(r for r in report.recognitions if r.grader.name == "dlib_resnet")
    plain = dlib.same_frame[np.isfinite(dlib.same_frame)]
    assert (plain < dlib.grader.calibrated).all(), "the attack must work, or the test says nothing"
    assert {"re-identified by identity_student", "re-identified by faceres"} <= failed(report)
    assert dlib.figures["reidentified_at_1_percent"].value == 1.0
    assert report.coverage()["untouched"] == 8


def only(auditor: Auditor, name: str) -> Auditor:
    panel = auditor.panel
    pairs = [(g, r) for g, r in zip(panel.graders, panel.recognisers, strict=True) if g.name == name]
    graders, recognisers = zip(*pairs, strict=True)
    return replace(auditor, panel=Panel(graders, recognisers, panel.attributes, panel.missing))


def test_a_guide_cannot_acquit(auditor: Auditor, case: Case) -> None:
    alone = only(auditor, "identity_student")
    solid = case.result("solid", lambda i, p: masked(p, case.boxes(i)))
    report = alone.audit(case.study, solid)
    assert report.verdict.state is State.UNDECIDED and not report.passed
    assert "optimised" in report.verdict.words


def test_frames_that_nobody_can_compare(auditor: Auditor, case: Case) -> None:
    pictures = [masked(p, case.boxes(i)) for i, p in enumerate(case.pictures)]
    longer = write(case.folder / "longer.mp4", [*pictures, case.pictures[-1]])
    report = auditor.audit(case.study, longer)
    assert report.verdict.state is State.UNDECIDED
    assert "1 result frames have no counterpart" in report.verdict.words


@pytest.mark.parametrize(
    ("name", "words"),
    [("turned", "another shape"), ("wider", "another shape"), ("upside down", "does not show what the source shows")],
)
def test_a_raw_result_that_is_framed_or_turned_differently(auditor: Auditor, case: Case, name: str, words: str) -> None:
    """Nobody is found or recognised in the source's places: that says nothing."""

    def placed(_: int, picture: Picture) -> Picture:
        if name == "wider":
            return np.pad(picture, ((0, 0), (120, 120), (0, 0)))
        return np.rot90(picture, 1 if name == "turned" else 2)

    report = auditor.audit(case.study, case.result(name, placed))
    (check,) = (c for c in report.verdict.checks if c.name == "same picture")
    assert check.passed is None and words in check.words and "turned the same way" in check.words
    assert not report.passed


def test_a_smaller_result_is_the_same_picture(auditor: Auditor, case: Case) -> None:
    small = case.result("small", lambda i, p: cv2.resize(masked(p, case.boxes(i)), (132, 108)).astype(np.uint8))
    assert auditor.audit(case.study, small).verdict.state is State.PASSED


def test_a_result_that_begins_later(auditor: Auditor, clip: Path, tmp_path: Path) -> None:
    """Its first picture is compared with the source's first; only a source that is cut alike says what it shows."""
    pictures, late = pictures_of(clip, 14), 10
    source, result = write(tmp_path / "source.mp4", pictures, crf=10), write(tmp_path / "late.mp4", pictures[late:])
    whole = auditor.audit(auditor.study(source), result)
    (check,) = (c for c in whole.verdict.checks if c.name == "timeline")
    assert check.passed is None and "0.3 s shorter" in check.words and "cut the source" in check.words
    study = auditor.study(source, start=late / RATE)
    report = auditor.audit(study, result)
    assert report.measured.timeline.same and report.coverage()["untouched"] == 4
    good = [masked(p, [study.faces[r].box for r in study.rows_of(i)]) for i, p in enumerate(pictures[late:])]
    assert auditor.audit(study, write(tmp_path / "good.mp4", good)).passed


def test_a_source_without_faces_is_no_success(auditor: Auditor, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(90, 160, (9, 11, 3)).astype(np.uint8)
    picture = np.asarray(cv2.resize(noise, (176, 144), interpolation=cv2.INTER_CUBIC), np.uint8)
    empty = write(tmp_path / "empty.mp4", [picture] * 3)
    report = auditor.audit(auditor.study(empty), empty)
    assert report.coverage()["faces"] == 0
    assert report.verdict.state is State.UNDECIDED and "no face was found in the source" in report.verdict.words
    for recognition in report.recognitions:
        assert tuple(recognition.figures) == FIGURES
        assert all(f.value is None and f.why for f in recognition.figures.values())


def test_a_held_place_with_the_sources_pixels_is_counted_among_all(auditor: Auditor, case: Case) -> None:
    report = auditor.audit(case.study, case.source)
    faces = [replace(f, observed=f.frame != 3) for f in case.study.faces]
    verdict = decide(replace(case.study, faces=faces), report.measured, report.recognitions)
    assert verdict.words.startswith("Do not publish: 8 of 8 faces are still the source's own pixels")


def test_two_audits_agree_to_the_last_digit(auditor: Auditor, case: Case) -> None:
    from fluidvid.audit.page import page

    weak = case.result("weak", lambda i, p: blurred(p, case.boxes(i), 1.5))
    reports = [auditor.audit(study, weak) for study in (case.study, auditor.study(case.source))]
    assert reports[0].to_json() == reports[1].to_json()
    assert page(reports[0]) == page(reports[1])
