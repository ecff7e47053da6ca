"""Calls the command line inside the test's process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from fluidvid.cli import app, run

Fluidvid = Callable[..., tuple[int, str, str]]
"""Arguments to exit code, stdout and stderr."""


def caller(capsys: pytest.CaptureFixture[str], group: str) -> Fluidvid:
    """`fluidvid GROUP` with the arguments it is called with."""

    def call(*arguments: str | Path | int) -> tuple[int, str, str]:
        command = typer.main.get_command(app)
        code = run(lambda: command([group, *map(str, arguments)], standalone_mode=False))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
