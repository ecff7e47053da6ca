"""What every training run has: options, a clock, a state that survives `kill -9`, and a table of figures."""

from __future__ import annotations

import contextlib
import csv
import logging
import math
import pickle
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from fluidvid.errors import ConfigError, OutputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingOptions:
    """What every kind of run is told.

    Attributes:
        hours: length of the run in all, over every resumption.
        batch: samples per step.
        checkpoint_seconds: time between checkpoints.
        steps: stop after so many in all, whatever the hours say; None for no such limit.
        seed: of everything random.
    """

    hours: float = 1.0
    batch: int = 16
    checkpoint_seconds: float = 300.0
    steps: int | None = None
    seed: int = 0


class TrainingRun:
    """Clock, state and log of one run in a folder: `for progress in run.loop()`, and in it `made`, `due`, `checkpoint`.

    Attributes:
        out: folder of the run, made where there is none.
        step: steps made in all, over every resumption.
    """

    def __init__(self, out: Path, options: TrainingOptions) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.options = out, options
        self.step = 0
        self._spent, self._progress = 0.0, 0.0
        self._begun = self._saved = time.monotonic()
        self._figures: list[Mapping[str, float]] = []

    def resume(self) -> dict[str, Any] | None:
        """The last checkpoint's state, from whose step and hours the run goes on; None where it begins."""
        state = load_state(self.out)
        if state is not None:
            self.step, self._spent = state["step"], state["spent"]
        return state

    def loop(self) -> Iterator[float]:
        """The share of the hours that has passed, in [0, 1], step by step; one step is made also when time is over."""
        self._begun = self._saved = time.monotonic()
        while True:
            self._progress = min(self.hours / self.options.hours, 1.0)
            yield self._progress
            if self.done:
                return

    @property
    def hours(self) -> float:
        """Hours in all, over every resumption."""
        return (self._spent + time.monotonic() - self._begun) / 3600

    @property
    def done(self) -> bool:
        """The step that was made is the last one."""
        return self._progress >= 1.0 or (self.options.steps is not None and self.step >= self.options.steps)

    @property
    def due(self) -> bool:
        """A checkpoint has to be written now."""
        return self.done or time.monotonic() - self._saved > self.options.checkpoint_seconds

    def check_finite(self, value: float, what: str = "the loss") -> None:
        """Guard the weights before they are changed.

        Raises:
            FloatingPointError: the value is no number any more.
        """
        if not math.isfinite(value):
            raise FloatingPointError(f"{what} became {value} at step {self.step}: lower the learning rate")

    def made(self, figures: Mapping[str, float]) -> None:
        """Count a step; `means` is over its figures too."""
        self.step += 1
        self._figures.append(figures)

    def means(self) -> dict[str, float]:
        """Mean figures of the steps since the last checkpoint."""
        return {name: float(np.mean([f[name] for f in self._figures])) for name in self._figures[0]}

    def checkpoint(self, row: Mapping[str, float], state: Mapping[str, Any]) -> None:
        """Add a row to the log, and keep the state with step and time."""
        log.info("%s", {name: round(value, 4) for name, value in row.items()})
        with write_errors(self.out / "log.csv"):
            append_row(self.out, row)
        save_state(self.out, {**state, "step": self.step, "spent": self.hours * 3600})
        self._saved, self._figures = time.monotonic(), []


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """What the system, torch's writer (RuntimeError) or safetensors' refuses is an OutputError.

    Raises:
        OutputError: in place of their errors.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or "the write was refused, is the disk full?"
        raise OutputError(
            f"{path} cannot be written ({reason}): make room and check rights, then go on with --resume"
        ) from error


@contextlib.contextmanager
def whole(path: Path, *, private: bool = False) -> Iterator[Path]:
    """A temporary file beside `path` to write to, which then takes its place; nothing is left of it after an error.

    Args:
        path: of the file.
        private: only its owner may read it: it shows somebody's face, or whose it is.

    Raises:
        OutputError: it cannot be written.
    """
    part = path.with_suffix(".tmp")
    try:
        with write_errors(path):
            if private:
                part.unlink(missing_ok=True)
                part.touch(0o600)
            yield part
            part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def save_state(out: Path, state: Mapping[str, Any]) -> None:
    """Write `out/state.pt` whole or not at all; `state` holds tensors and plain values only.

    Raises:
        OutputError: it cannot be written; the last state is kept.
    """
    with whole(out / "state.pt", private=True) as part:
        torch.save(dict(state), part)


def load_state(out: Path) -> dict[str, Any] | None:
    """What `save_state` wrote, or None where there is nothing yet.

    Raises:
        ConfigError: it is damaged, or holds more than tensors and plain values.
    """
    path = out / "state.pt"
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)  # else it could run any code
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise ConfigError(
            f"{path} is damaged or of another version of fluidvid: the run cannot go on, begin it with another --out"
        ) from error
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


def warmed(step: int, steps: int) -> float:
    """Multiple of the learning rate that rises over the first steps."""
    return min(1.0, (step + 1) / steps)


def falling(progress: float) -> float:
    """Multiple of the learning rate that falls over the whole run, to a hundredth."""
    return 0.5 * (1 + math.cos(math.pi * progress)) + 0.01


def held(progress: float) -> float:
    """Multiple of the learning rate that is held for three fifths of the run, then falls to a fiftieth."""
    return 1.0 if progress < 0.6 else (1 - progress) / 0.4 + 0.02


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """One learning rate for all parameters."""
    for group in optimiser.param_groups:
        group["lr"] = rate


@torch.no_grad()
def follow(averages: Iterable[Tensor], values: Iterable[Tensor], decay: float, step: int) -> None:
    """Move the exponential averages on by one step; the first steps count more, so that the start is forgotten."""
    torch._foreach_lerp_(list(averages), list(values), 1 - min(decay, (1 + step) / (10 + step)))
