"""Attempts to undo a result: they find what is there to be found, and nothing where there is nothing."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from fluidvid.audit import Auditor, AuditReport, State
from fluidvid.audit.attacks import AttackOutcome
from fluidvid.audit.negation import rerun
from fluidvid.audit.page import page
from fluidvid.audit.pictures import luma, psnr
from fluidvid.audit.privacy import recognise
from fluidvid.audit.superresolution import PLAIN, regenerated
from fluidvid.audit.verdict import decide
from fluidvid.config import Config
from fluidvid.engine.backbone import load_backbone
from fluidvid.engine.crops import to_crops
from fluidvid.errors import StrictError
from tests.fluidvid.audit.conftest import Case
from tests.fluidvid.audit.media import masked, pictures_of


@pytest.fixture(scope="module")
def solid(case: Case) -> Path:
    return case.result("masks-to-attack", lambda i, p: masked(p, case.boxes(i)))


def rerun_with(
    auditor: Auditor, case: Case, result: Path, again: Path | Exception
) -> tuple[AuditReport, list[AttackOutcome], list[Config]]:
    """Outcomes of the attack, its engine a fake that answers with a file or an error; and the configuration it got."""
    report = auditor.audit(case.study, result)
    seen: list[Config] = []

    def anonymise(source: Path, target: Path, config: Config) -> None:
        assert source == result
        seen.append(config)
        if isinstance(again, Exception):
            raise again
        shutil.copy(again, target)

    found = list(report.recognitions)
    outcomes = rerun(
        case.study,
        result,
        auditor.panel,
        auditor.near,
        found,
        auditor.galleries,
        tick=lambda *_: None,
        anonymise=anonymise,
    )
    return report, outcomes, seen


def test_a_second_run_that_leads_back_is_seen_and_fails(auditor: Auditor, case: Case, solid: Path) -> None:
    report, outcomes, seen = rerun_with(auditor, case, solid, case.source)
    assert [o.recogniser for o in outcomes] == [g.name for g in auditor.panel.graders]
    for outcome in outcomes:
        assert (outcome.before, outcome.share, outcome.count) == (0.0, 1.0, 8)
        assert outcome.cosine is not None and outcome.cosine_before is not None
        assert outcome.cosine > 0.8 > outcome.cosine_before
    verdict = decide(case.study, report.measured, report.recognitions, outcomes)
    assert verdict.state is State.FAILED and "fluidvid run once more" in verdict.words
    assert seen[0].seed is not None and seen[0].end is None


def test_a_second_run_that_changes_nothing_brings_nothing_back(auditor: Auditor, case: Case, solid: Path) -> None:
    report, outcomes, _ = rerun_with(auditor, case, solid, solid)
    assert all(o.share == o.before == 0.0 and o.cosine == pytest.approx(o.cosine_before, abs=0.02) for o in outcomes)
    assert decide(case.study, report.measured, report.recognitions, outcomes).state is State.PASSED


def test_a_second_run_that_fails_is_not_measured_and_says_why(auditor: Auditor, case: Case, solid: Path) -> None:
    report, outcomes, _ = rerun_with(auditor, case, solid, StrictError("refused"))
    assert [(o.share, o.why) for o in outcomes] == [(None, "refused")]
    verdict = decide(case.study, report.measured, report.recognitions, outcomes)
    assert verdict.state is State.UNDECIDED
    assert "attack rerun" in verdict.words and "could not be tried: refused" in verdict.words


def test_an_attack_that_failed_is_listed_as_not_measured(
    auditor: Auditor, case: Case, solid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StrictError("refused")

    monkeypatch.setattr("fluidvid.audit.negation._anonymise", refuse)
    report = auditor.audit(case.study, solid, attacks=("rerun",))
    assert not report.passed
    console = Console(file=io.StringIO(), width=220)
    report.print_summary(console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for shown in (text, page(report), report.to_json()):
        assert "attack rerun: could not be tried (refused)" in shown
    assert "rerun: not asked for" not in text


def test_a_second_run_uses_the_backbone_of_the_first(auditor: Auditor, case: Case, solid: Path) -> None:
    """As named to the auditor, whose guides are that backbone's."""
    seen: list[Config] = []

    def anonymise(source: Path, target: Path, config: Config) -> None:
        seen.append(config)
        raise StrictError("seen")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fluidvid.audit.negation._anonymise", anonymise)
        for one in (auditor, replace(auditor, backbone="own")):
            one.audit(case.study, solid, attacks=("rerun",))
    assert [config.edit.backbone for config in seen] == ["prior", "own"]


@pytest.mark.parametrize(
    ("share", "before", "passed", "words"),
    [
        (0.094, 0.0, True, "brings little back: 9.4%"),
        (0.094, 0.094, True, "brings nothing further back"),
        (0.2, 0.3, True, "brings nothing further back"),
        (0.2, 0.0, False, "brings people back"),
    ],
)
def test_what_an_attack_brought_back_in_words(
    auditor: Auditor, case: Case, solid: Path, share: float, before: float, passed: bool, words: str
) -> None:
    report = auditor.audit(case.study, solid)
    outcome = AttackOutcome("any", "dlib_resnet", "an attack", share, before, 32)
    (check,) = (
        c
        for c in decide(case.study, report.measured, report.recognitions, [outcome]).checks
        if c.name.startswith("attack")
    )
    assert check.passed is passed and words in check.words


def test_a_second_run_covers_what_is_compared(auditor: Auditor, case: Case) -> None:
    study = auditor.study(case.source, end=Fraction(1, 10))
    shorter = Case(case.source, case.pictures, study, case.folder)
    report, outcomes, seen = rerun_with(auditor, shorter, case.source, case.source)
    assert report.coverage()["faces"] == outcomes[0].count == 3
    assert seen[0].end == Fraction(1, 10)


@pytest.mark.slow
def test_superresolution_makes_a_sharp_face_that_fits(auditor: Auditor, clip: Path) -> None:
    face = pictures_of(clip, 1)[0][30:110, 45:125]
    crop = np.asarray(cv2.resize(face, (128, 128), interpolation=cv2.INTER_CUBIC), np.uint8)
    soft = np.asarray(cv2.GaussianBlur(crop, (0, 0), 5.0), np.uint8)
    backbone = load_backbone(auditor.models.resolve("prior"))
    made = regenerated(backbone, to_crops(soft[None]), PLAIN)[0]
    assert made.shape == crop.shape and (made == regenerated(backbone, to_crops(soft[None]), PLAIN)[0]).all()
    detail = [float(cv2.Laplacian(luma(p), cv2.CV_32F).std()) for p in (soft, made)]
    assert detail[1] > 1.5 * detail[0], "it adds detail"
    blurred = np.asarray(cv2.GaussianBlur(made, (0, 0), 5.0), np.uint8)
    assert psnr(luma(blurred), luma(soft)) > 20, "that the blur could have come from"


@pytest.mark.slow
def test_all_attacks_run_in_one_audit(auditor: Auditor, case: Case, solid: Path) -> None:
    report = auditor.audit(case.study, solid, attacks=("sharpen", "average", "superresolve"))
    assert {a.name for a in report.attacks} == {"sharpen", "average", "superresolve"}
    assert all(a.share is not None and a.share <= 0.2 for a in report.attacks), "a grey square gives nothing back"
    found = recognise(case.study, report.measured, auditor.panel.graders[0], None)
    assert found.figures["reidentified_at_1_percent"].value == 0.0
