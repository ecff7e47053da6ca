"""Half an hour of a live run through one outage a minute: memory and processes stay what they were."""

from __future__ import annotations

import faulthandler
import statistics
from collections.abc import Callable

import pytest

from tests.fluidvid.live.conftest import Server
from tests.fluidvid.live.soak import soak


@pytest.mark.slow
def test_thirty_minutes(serve: Callable[..., Server]) -> None:
    faulthandler.cancel_dump_traceback_later()  # pytest's limit for a test that hangs
    found = soak(30)
    half = len(found.curve) // 2
    early, late = found.curve[half // 4 : half], found.curve[half:]
    for column in (1, 2):
        before, after = (statistics.median(line[column] for line in part) for part in (early, late))
        assert after < 1.05 * before + 5, f"MB grew from {before:.0f} to {after:.0f}"
    assert max(line[3] for line in found.curve) <= 2
    assert found.report["reconnects"] >= 20 and found.report["raw"] == 0
    assert found.report["faces"] >= found.report["pictures_out"] > 10_000
