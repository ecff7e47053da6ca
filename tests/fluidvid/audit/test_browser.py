"""The report's page as a browser shows it, offline: nothing is fetched, nothing fails, everything is there."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fluidvid.audit import Auditor, AuditReport
from fluidvid.audit.page import page
from tests.fluidvid.audit.chromium import opened
from tests.fluidvid.audit.conftest import Case
from tests.fluidvid.audit.media import blurred


@pytest.fixture(scope="module")
def report(auditor: Auditor, case: Case) -> AuditReport:
    return auditor.audit(case.study, case.result("shown", lambda i, p: blurred(p, case.boxes(i), 1.5)))


def test_page_in_headless_chromium(report: AuditReport, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page(report), encoding="utf-8")
    with opened(file, tmp_path / "profile") as browser:
        text = browser.value("document.body.innerText")
        assert text.startswith("Failed") and report.verdict.words in text
        for heading in ("Why", "Person 1", "Who is recognised", "What stayed", "Over time", "Not measured"):
            assert browser.value(f"[...document.querySelectorAll('h2')].some(h => h.innerText == '{heading}')"), heading
        widths = browser.value("[...document.images].map(i => i.complete ? i.naturalWidth : 0)")
        assert len(widths) == 2 and min(widths) >= 96, "source and result strip"
        drawn = browser.value("[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().height)")
        assert len(drawn) >= 4 and min(drawn) > 50, "plots"
        assert browser.value("document.documentElement.scrollWidth <= window.innerWidth"), "nothing overflows"
        outside = [address for address in browser.requested() if not address.startswith("data:image/png;base64,")]
        assert outside == [file.as_uri()]
        assert browser.complaints() == []
        shot = cv2.imdecode(np.frombuffer(browser.screenshot(), np.uint8), cv2.IMREAD_COLOR)
        assert shot is not None and shot.std() > 10, "a page with text is not one colour"


def test_the_browser_would_notice(tmp_path: Path) -> None:
    """Control: a page that breaks the rules is seen to break them."""
    file = tmp_path / "bad.html"
    file.write_text('<body>x<img src="http://127.0.0.1:9/a.png"><script>console.error("no")</script>')
    with opened(file, tmp_path / "profile") as browser:
        assert "http://127.0.0.1:9/a.png" in browser.requested()
        assert any('"no"' in text for text in browser.complaints())
