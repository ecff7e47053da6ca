"""The folder of a training run: what it is a run of, and whether it may begin or go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from fluidvid.engine.backbone import RUN
from fluidvid.errors import ConfigError, OutputError

WRITTEN = ("fluidvid.json", "README.md", "autoencoder", "unet", "scheduler", "identity_student.onnx")
"""What the kinds of training write into their folder as they end."""


@dataclass(frozen=True)
class RunFacts:
    """What a run must keep from its first start to its last.

    Attributes:
        kind: "autoencoder", "diffusion", "identity", "swaps" or "bank".
        data: sources of pictures as they were named.
        start: folder or file whose weights it began with, or None.
        teacher: recogniser it learns from, or None.
        seed: of everything random.
        donors: source of the people to become, or None.
    """

    kind: str
    data: tuple[str, ...]
    start: str | None
    teacher: str | None
    seed: int
    donors: str | None = None


@contextmanager
def open_run(out: Path, facts: RunFacts, *, resume: bool) -> Iterator[Path]:
    """`out/run`, where state and log of the run are kept; of one that fails in this context as it begins nothing stays.

    Raises:
        ConfigError: there is a run and `resume` was not asked for, or none to resume, or it is another one.
        OutputError: the folder cannot be written, or holds what a new run would replace.
    """
    run = out / RUN
    known = run / "run.json"
    began = known.exists() and {path.name for path in run.iterdir()} != {known.name}  # else nothing was made yet
    if known.exists() and (began or resume):
        if not resume:
            raise ConfigError(f"{out} holds a run already: --resume goes on with it, or choose another --out")
        before = read_facts(out)
        for name, now, then in ((k, v, asdict(before)[k]) for k, v in asdict(facts).items()):
            if now != then:
                raise ConfigError(
                    f"the run in {out} had {name} {then}, not {now}: go on with the same, or choose another --out"
                )
        yield run
        return
    if resume:
        raise ConfigError(f"{out} holds no run to resume: leave out --resume")
    for name in WRITTEN:
        if (out / name).exists():
            raise OutputError(f"{out / name} exists, and the run would replace it: choose another --out")
    new = [folder for folder in (run, *run.parents) if not folder.exists()]
    part = known.with_suffix(".tmp")
    try:
        try:
            run.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(asdict(facts), indent=1) + "\n")
            part.replace(known)
        except OSError as error:
            raise OutputError(f"{out} cannot be written ({error.strerror}): choose another --out") from error
        yield run
    except Exception:
        with suppress(OSError):
            part.unlink(missing_ok=True)
            known.unlink(missing_ok=True)
            for folder in new:
                folder.rmdir()
        raise


def has_run(out: Path) -> bool:
    """True if there is a run in `out` that --resume can go on with."""
    return (out / RUN / "run.json").exists()


def read_facts(out: Path) -> RunFacts:
    """What the run in `out` is a run of.

    Raises:
        ConfigError: there is none.
    """
    try:
        facts = json.loads((out / RUN / "run.json").read_text())
        return RunFacts(**{**facts, "data": tuple(facts["data"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{out} holds no run of 'fluidvid prior train': check --out") from error
