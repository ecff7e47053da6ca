"""What all tests share: where the clip and the folder ../shared are."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

import fluidvid  # noqa: F401 - before any test imports torch: it settles how torch's threads wait

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

# The same examples at every run: a red run means a change, not a draw. Search on with --hypothesis-profile=default.
settings.register_profile("fluidvid", derandomize=True, deadline=None)
settings.load_profile("fluidvid")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def clip() -> Path:
    """The demo clip: 176x144, 120 frames, one face."""
    return ROOT / "tests" / "clips" / "carphone_pristine.mp4"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with clips and weights that may not be committed; tests that use it are marked `shared`."""
    if not SHARED.is_dir():
        pytest.skip(f"NOT TESTED: {SHARED} is absent")
    return SHARED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `shared` skip loudly where the folder is absent."""
    if SHARED.is_dir():
        return
    for item in items:
        if item.get_closest_marker("shared"):
            item.add_marker(pytest.mark.skip(reason=f"NOT TESTED: {SHARED} is absent"))
