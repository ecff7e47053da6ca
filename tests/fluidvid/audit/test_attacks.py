"""Attempts to undo a result: they find what is there to be found, and nothing where there is nothing."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from fluidvid.audit import Auditor, AuditReport, State
from fluidvid.audit.attacks import AttackOutcome
from fluidvid.audit.negation import rerun
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
    _, outcomes, _ = rerun_with(auditor, case, solid, StrictError("refused"))
    assert [(o.share, o.why) for o in outcomes] == [(None, "refused")]


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
