"""Signals that ask for an end."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from fluidvid.signals import ENDING, kept_from_children


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has no signal masks")
def test_processes_started_apart_never_get_signals_that_end() -> None:
    """From their very first line on; who started them gets these signals as before."""
    ask = [sys.executable, "-c", "import signal; print(*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, [])))"]
    with kept_from_children():
        told = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
    assert {int(number) for number in told.split()} >= set(map(int, ENDING))
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(ENDING)
