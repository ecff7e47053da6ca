"""Arrows point down: trackers and engine import nothing of fluidvid's but themselves and its leaves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


@pytest.mark.parametrize("package", ["trackers", "engine"])
def test_lower_packages_know_their_leaves_only(package: str, root: Path) -> None:
    files = list((root / package).rglob("*.py"))
    assert files
    imported = {
        module
        for file in files
        for module in re.findall(r"^\s*(?:from|import) fluidvid\.(\w+)", file.read_text(), re.MULTILINE)
    }
    assert imported <= {package, "errors", "geometry", "rate"}
