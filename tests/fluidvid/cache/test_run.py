"""A whole run whose cache is no cache: it ends well, says so once, touches nothing, and no face is raw."""

from __future__ import annotations

from pathlib import Path

import pytest

import fluidvid
from fluidvid.config import Config
from tests.engine.tiny import write_backbone

pytestmark = pytest.mark.slow


def test_a_foreign_file_in_the_place_of_the_cache(clip: Path, tmp_path: Path) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear cache,")
    config = Config().updated(
        {
            "cache.path": str(letter),
            "edit.backbone": str(write_backbone(tmp_path / "backbone")),
            "edit.iterations": 1,
            "media.end": "0.2",
        }
    )
    report = fluidvid.anonymize(clip, tmp_path / "out.mp4", config=config)
    assert report.faces >= 6 and report.raw == 0 and report.edited + report.held + report.masked == report.faces
    (line,) = [w for w in report.warnings if "cache" in w]
    assert "not a fluidvid cache" in line and line.endswith("this run goes on without the cache")
    assert letter.read_text() == "Dear cache,"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["backbone", "letter.txt", "out.mp4"]


def test_an_empty_cache_and_the_account(clip: Path, tmp_path: Path) -> None:
    config = Config().updated(
        {
            "cache.path": str(tmp_path / "people.cache"),
            "edit.backbone": str(write_backbone(tmp_path / "backbone")),
            "edit.iterations": 1,
            "media.end": "0.2",
        }
    )
    report = fluidvid.anonymize(clip, tmp_path / "out.mp4", config=config)
    assert not [w for w in report.warnings if "cache" in w]
    assert report.memory["new"] == sum(p["ok"] for p in report.preparation), "only what was verified is kept"
    assert {p.name for p in tmp_path.iterdir()} == {"backbone", "out.mp4", "people.cache", "people.cache.key"}
