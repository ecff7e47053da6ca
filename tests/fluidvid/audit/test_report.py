"""What leaves the audit: JSON without templates, a page that needs nothing else, a command with exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fluidvid.audit import Auditor, AuditReport, audit
from fluidvid.audit.attacks import averaging, sharpening, try_attack
from fluidvid.audit.command import run_audit
from fluidvid.audit.options import ATTACKS, chosen_attacks
from fluidvid.audit.page import page
from fluidvid.audit.verdict import Check, State, frames_in_words
from fluidvid.errors import ConfigError, InputError
from tests.fluidvid.audit.conftest import Case
from tests.fluidvid.audit.media import blurred, masked

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[3])}


@pytest.fixture(scope="module")
def report(auditor: Auditor, case: Case) -> AuditReport:
    return auditor.audit(case.study, case.result("soft", lambda i, p: blurred(p, case.boxes(i), 1.5)))


def test_json_is_complete_plain_and_holds_no_template(report: AuditReport) -> None:
    tree = json.loads(report.to_json())
    assert {"verdict", "timeline", "coverage", "privacy", "utility", "time", "people", "not_measured"} <= set(tree)

    def longest(node: object) -> int:
        if isinstance(node, dict):
            return max((longest(v) for v in node.values()), default=0)
        return max(len(node), *(longest(v) for v in node)) if isinstance(node, list) and node else 0

    assert longest(tree) < 64, "a list this long could be an embedding"
    for entry in tree["privacy"]:
        for figure in entry["figures"].values():
            assert figure["value"] is not None or figure["why"]
            assert figure["of"] == 8
    assert any("attacks" in text for text in tree["not_measured"])


def test_time_and_utility_have_floors(report: AuditReport) -> None:
    for name in ("landmarks_by_eye_distance", "expression", "age_years", "yaw_degrees"):
        floor = report.utility[name].floor
        assert floor is not None and floor >= 0, name
    assert report.time["warp_error"].floor is not None
    outside = report.utility["outside_psnr_db"].value
    assert outside is not None and outside > 30


class Page(HTMLParser):
    """Collects addresses and checks that tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]
        if tag not in ("meta", "img", "br", "link", "use", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in ("path", "use"):
            return
        assert self.open and self.open.pop() == tag, tag


def test_page_is_one_file_that_fetches_nothing(report: AuditReport) -> None:
    text = page(report)
    parsed = Page()
    parsed.feed(text)
    assert parsed.open == []
    assert {"svg", "img", "table"} <= parsed.tags and not {"script", "link", "iframe", "object"} & parsed.tags
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in parsed.addresses)
    assert not re.search(r"url\((?!#|\"?#)", text) and "@import" not in text
    assert "default-src" in text
    assert text.index("Failed") < text.index("Person 1") < text.index("Not measured")


def test_page_without_pictures_shows_nobody(report: AuditReport) -> None:
    text = page(report, pictures=False)
    assert "<img" not in text and "shows the source" not in text


def test_attacks_report_their_own_thresholds(auditor: Auditor, case: Case, report: AuditReport) -> None:
    for attack in (sharpening(report.measured), averaging(case.study, report.measured)):
        found = try_attack(
            "any", "words", attack, case.study, report.measured, auditor.panel, report.recognitions, auditor.galleries
        )
        assert [o.recogniser for o in found] == [r.grader.name for r in report.recognitions]
        for outcome, recognition in zip(found, report.recognitions, strict=True):
            assert outcome.threshold is not None and recognition.loose.value is not None
            assert outcome.threshold >= recognition.loose.value and outcome.count == 8
            assert outcome.share is not None and outcome.before is not None


@pytest.mark.slow
def test_negation_runs_on_the_embedded_prior(auditor: Auditor, case: Case) -> None:
    masks = case.result("masks", lambda i, p: masked(p, case.boxes(i)))
    report = auditor.audit(case.study, masks, attacks=("negate",))
    assert {o.recogniser for o in report.attacks} == {g.name for g in auditor.panel.graders}
    assert all(o.share is not None and o.share <= 0.2 for o in report.attacks)
    assert report.to_json() == auditor.audit(case.study, masks, attacks=("negate",)).to_json()


def test_two_runs_alike_are_linked(auditor: Auditor, case: Case) -> None:
    report = auditor.audit(case.study, case.source, second=case.source)
    for name, figures in report.linkage.items():
        assert figures["linked_between_runs"].value == 1.0, name


def test_frames_in_words() -> None:
    assert frames_in_words([0]) == "0"
    assert frames_in_words([0, 1, 2, 5, 9, 10]) == "0-2, 5, 9-10"
    assert frames_in_words(list(range(0, 20, 2))).endswith(", ...")


def test_check_is_plain() -> None:
    assert Check("a", None, "b").to_dict() == {"name": "a", "passed": None, "words": "b"}
    assert [s.value for s in State] == ["passed", "failed", "undecided"]


def fluidvid(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fluidvid", "audit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False)


def test_command_fails_a_bad_result_and_writes_its_report(case: Case, tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    done = fluidvid(case.source, case.source, "--end", "0.1", "--html", html, "--json")
    assert done.returncode == 8, done.stderr
    tree = json.loads(done.stdout)
    assert tree["verdict"]["state"] == "failed" and tree["timeline"]["source_frames"] == 3
    assert "Do not publish" in done.stderr
    assert "Failed" in html.read_text() and stat.S_IMODE(html.stat().st_mode) == 0o600


# In the process itself, so that no clock decides: the signal comes when the page has its name.
STANDING = """
import os, runpy, signal
from fluidvid.audit import command

write_page = command.write_page

def interrupted(html, text):
    write_page(html, text)
    os.kill(os.getpid(), signal.SIGTERM)

command.write_page = interrupted
runpy.run_module("fluidvid", run_name="__main__")
"""


def test_a_signal_does_not_deny_a_page_that_has_its_name(case: Case, tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    html.write_text("an older page")
    arguments = [case.source, case.source, "--end", "0.1", "--html", html, "--overwrite", "-q"]
    command = [sys.executable, "-c", STANDING, "audit", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=False)
    assert done.returncode == 130 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "report.html was complete: it stands" in done.stderr and "nothing was written" not in done.stderr
    assert "Failed" in html.read_text()


def test_command_passes_a_good_result(case: Case) -> None:
    good = case.result("good", lambda i, p: masked(p, case.boxes(i)))
    done = fluidvid(case.source, good, "--end", "0.1", "--quiet")
    assert done.returncode == 0 and done.stdout == done.stderr == "", done.stderr


def test_command_passes_on_what_it_is_told(case: Case, report: AuditReport, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def audit(*_: Path, **options: Any) -> AuditReport:
        seen.update(options)
        return report

    def run(**options: str) -> None:
        run_audit(
            case.source,
            case.source,
            html=None,
            recognisers=None,
            second=None,
            attacks=None,
            min_face=24.0,
            overwrite=False,
            pictures=False,
            console=Console(file=io.StringIO()),
            quiet=True,
            **{"end": None, **options},
        )

    monkeypatch.setattr("fluidvid.audit.run.audit", audit)
    run(start="0:00.1", end="0.2", backbone="own")
    assert (seen["start"], seen["end"], seen["backbone"]) == (Fraction(1, 10), Fraction(1, 5), "own")
    run()
    assert seen["start"] is seen["end"] is seen["backbone"] is None
    with pytest.raises(InputError, match="earlier start"):
        run(start="90")


@pytest.mark.parametrize("changed", ["source.mp4", "result.mp4", "second.mp4"])
def test_a_file_that_changes_while_it_is_judged_gives_no_report(
    changed: str, clip: Path, tmp_path: Path, report: AuditReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, result, second = (tmp_path / f"{name}.mp4" for name in ("source", "result", "second"))
    for path in (source, result, second):
        shutil.copy(clip, path)

    class Judged:
        def study(self, *_: Path, **__: Any) -> None:
            Path(shutil.copy(clip, tmp_path / "new.mp4")).replace(tmp_path / changed)

        def audit(self, *_: Path, **__: Any) -> AuditReport:
            return report

    monkeypatch.setattr(Auditor, "load", lambda *_, **__: Judged())
    with pytest.raises(InputError, match=f"{changed} changed while it was being read"):
        audit(source, result, second=second)


def test_attacks_are_named_in_any_order_and_all_may_stand_among_them() -> None:
    assert chosen_attacks("negate, sharpen") == ("sharpen", "negate")
    assert chosen_attacks("all") == chosen_attacks("sharpen,all") == ATTACKS
    with pytest.raises(ConfigError, match="no attack 'bribe'"):
        chosen_attacks("all,bribe")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{source}", "absent.mp4"], 3, ["absent.mp4"]),
        (["{source}", "{source}", "--attacks", "bribe"], 2, ["bribe", "sharpen"]),
        (["{source}", "{source}", "--html", "{source}"], 4, ["one of the videos"]),
        (["{source}", "{source}", "--second", "{second}", "--html", "{second}", "--overwrite"], 4, ["of the videos"]),
        (["{source}", "{source}", "--html", "no/such/r.html"], 4, ["folder no/such"]),
        (["{source}", "{source}", "--html", "."], 4, ["is a folder"]),
        (["{source}", __file__], 3, ["test_report.py"]),
        (["{source}", "{source}", "--recognisers", "no/such"], 2, ["no/such"]),
        (["{source}", "{source}", "--end", "soon"], 2, ["soon"]),
        (["{source}", "{source}", "--recognisers", str(Path(__file__).parent)], 2, ["holds no .onnx file"]),
        (["{source}", "{source}", "--recognisers", "{folder}"], 2, ["is named like a recogniser", "edgeface_xs"]),
        (["{source}", "{source}", "--min-face", "-1"], 2, ["-1"]),
        (["{source}", "{source}", "--min-face", "nan"], 2, ["nan"]),
    ],
)
def test_command_refuses_early_in_one_line(
    case: Case, clip: Path, tmp_path: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    second = Path(shutil.copy(clip, tmp_path / "second.mp4"))
    (tmp_path / "edgeface-xs.onnx").touch()
    done = fluidvid(*[a.format(source=case.source, second=second, folder=tmp_path) for a in arguments])
    assert second.read_bytes() == clip.read_bytes()
    assert done.returncode == code, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("fluidvid: ") and done.stdout == ""
    assert all(word in lines[0] for word in words), lines[0]
