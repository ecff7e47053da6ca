"""The folder of a training run: what it is a run of, and whether it may begin or go on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fluidvid.engine.backbone import RUN
from fluidvid.errors import ConfigError, OutputError


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


def open_run(out: Path, facts: RunFacts, *, resume: bool) -> Path:
    """`out/run`, where state and log of the run are kept.

    Raises:
        ConfigError: there is a run and `resume` was not asked for, or none to resume, or it is another one.
        OutputError: the folder cannot be written.
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
        return run
    if resume:
        raise ConfigError(f"{out} holds no run to resume: leave out --resume")
    try:
        run.mkdir(parents=True, exist_ok=True)
        (run / "run.tmp").write_text(json.dumps(asdict(facts), indent=1) + "\n")
        (run / "run.tmp").replace(known)
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error.strerror}): choose another --out") from error
    return run


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
