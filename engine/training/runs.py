"""What every training run keeps in its folder: a state that survives `kill -9`, and a table of figures."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def save_state(out: Path, state: Mapping[str, Any]) -> None:
    """Write `out/state.pt` whole or not at all."""
    torch.save(dict(state), out / "state.tmp")
    (out / "state.tmp").replace(out / "state.pt")


def load_state(out: Path) -> dict[str, Any] | None:
    """What `save_state` wrote, or None where there is nothing yet."""
    path = out / "state.pt"
    state: dict[str, Any] | None = torch.load(path, weights_only=False) if path.exists() else None
    return state


def append_row(out: Path, row: Mapping[str, float]) -> None:
    """Add a row to `out/log.csv`; one with other names than the last begins under a header of its own."""
    path = out / "log.csv"
    lines = path.read_text().splitlines() if path.exists() else []
    names = next((line for line in reversed(lines) if not line[:1].isdigit()), "")
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if names != ",".join(row):
            writer.writeheader()
        writer.writerow(row)
