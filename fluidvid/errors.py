"""Every error a user can meet, with its exit code; the message carries the remedy. A leaf: all may import it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

UNWRITTEN = ": stopped before it was written"
"""How a run ends its words about a frame: of a live stream those before it are published."""


class ExitCode(IntEnum):
    """Stable process exit codes (documented in README.md)."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    INPUT = 3
    OUTPUT = 4
    MODEL = 5
    STRICT = 6
    DETECTION = 7
    AUDIT = 8
    CACHE = 9
    INTERRUPTED = 130


class FluidvidError(Exception):
    """Base of all expected failures: one clear line that says what is wrong and what to do."""

    exit_code: ExitCode = ExitCode.INTERNAL


class ConfigError(FluidvidError):
    """A flag, preset or configuration file is wrong."""

    exit_code = ExitCode.USAGE


class InputError(FluidvidError):
    """The source cannot be opened, read or decoded."""

    exit_code = ExitCode.INPUT


class OutputError(FluidvidError):
    """The target cannot be written."""

    exit_code = ExitCode.OUTPUT


class ModelError(FluidvidError):
    """A model file is missing, foreign or altered."""

    exit_code = ExitCode.MODEL


class DetectionError(FluidvidError):
    """The face detector or tracker failed: the run stops, since an uninspected frame must not leave."""

    exit_code = ExitCode.DETECTION


class StrictError(FluidvidError):
    """`--strict` found a face held too long or a suspicious gap."""

    exit_code = ExitCode.STRICT


class TrainingError(FluidvidError):
    """A training run cannot go on; its last checkpoint is kept."""


class TrainingInterruptedError(TrainingError):
    """A training run was asked to stop; its last checkpoint is kept."""

    exit_code = ExitCode.INTERRUPTED


class CacheError(FluidvidError):
    """The direction cache cannot be used. In a run this becomes a warning and the run goes on without it."""

    exit_code = ExitCode.CACHE


class InterruptedStreamError(FluidvidError):
    """A second signal ended a live stream before its outputs were finished."""

    exit_code = ExitCode.INTERRUPTED


class InterruptedResultError(FluidvidError):
    """A signal came when a result had its name already: that one is complete, what would have followed is lost."""

    exit_code = ExitCode.INTERRUPTED


@contextmanager
def detection_errors(place: str, ending: str = "") -> Iterator[None]:
    """Whatever fails while faces are looked for is a DetectionError that says where.

    Raises:
        FluidvidError: as it is.
        DetectionError: in place of every other exception; `ending` follows its words.
    """
    try:
        yield
    except FluidvidError:
        raise
    except Exception as error:
        raise DetectionError(f"face detection failed in {place} ({type(error).__name__}: {error}){ending}") from error
