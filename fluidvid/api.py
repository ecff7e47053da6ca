"""The Python API for files."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from fluidvid.assembly import file_stages
from fluidvid.config import CacheConfig, Config, EditConfig, as_config
from fluidvid.editing import Preparation
from fluidvid.errors import ConfigError
from fluidvid.pipeline import Outcome, reasons_not_prepared, run
from fluidvid.progress import ProgressCallback, silent
from fluidvid.report import RunReport
from fluidvid.stages import Memory


def anonymize(
    source: str | Path,
    target: str | Path,
    *,
    config: Config | str | Path | None = None,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> RunReport:
    """Pseudonymise (or, in the classic modes, mask) every face of a video file.

    Args:
        source: a video file with anything PyAV decodes.
        target: the result; written beside itself under a temporary name and renamed when all went well.
        config: a configuration, or a preset's name or TOML file; default: the preset `default`. Pseudonyms change from
            run to run unless `config.seed`, `cache.key_file` or `cache.path` fixes them.
        overwrite: replace an existing target.
        progress: called after every frame; must be quick.

    Returns:
        The account of the run. `edited + held + masked == faces`, `raw == 0`.

    Raises:
        ConfigError: no such preset, or the cache would go into the source or the target.
        InputError: the source is missing or cannot be decoded.
        OutputError: the target exists, or cannot be written.
        ModelError: a model is missing or altered.
        DetectionError: faces could not be looked for in some frame.
        StrictError: with `config.strict`.
    """
    chosen = Config() if config is None else as_config(config)
    where_from, where_to = Path(source), Path(target)
    check_paths(where_from, where_to, overwrite=overwrite)
    videos = [os.path.realpath(path) for path in (where_from, where_to)]  # Path.resolve raises at a loop of links
    check_cache_apart(chosen.cache, lambda path: os.path.realpath(path) in videos)
    began = time.perf_counter()
    stages = file_stages(where_from, where_to, chosen, overwrite=overwrite)
    with closing(stages.memory) if stages.memory is not None else nullcontext() as memory:
        outcome = run(stages, chosen, progress or silent)
        return make_report(where_from, where_to, chosen, outcome, time.perf_counter() - began, memory)


def check_paths(source: Path, target: Path, *, overwrite: bool) -> None:
    """Refuse early what cannot end well, before any work is done.

    Raises:
        InputError: see `check_source`.
        OutputError: see `check_target`.
    """
    from fluidvid.video.opening import check_source
    from fluidvid.video.target_file import check_target

    check_source(source)
    check_target(target, source, overwrite)


def check_cache_apart(cache: CacheConfig, is_video: Callable[[Path], bool]) -> None:
    """Raise ConfigError if what is to be remembered would go into a source or target."""
    for name in ("path", "key_file"):
        kept = getattr(cache, name)
        if kept is not None and is_video(Path(kept)):
            raise ConfigError(f"cache.{name} = {kept} is a video of this run: choose another file")


def unused_options(config: Config) -> Iterator[str]:
    """What was asked for that a mode without pseudonyms does not use."""
    asked = {
        "--cache": config.cache.path is not None,
        "--key-file": config.cache.key_file is not None,
        "--cache-passphrase": config.cache.passphrase,
        "--backbone": config.edit.backbone != EditConfig().backbone,
    }
    names = [flag for flag, given in asked.items() if given]
    if config.mode != "fluid" and names:
        yield f"mode {config.mode} makes no pseudonyms: {', '.join(names)} not used, nothing is remembered"


def make_report(
    source: Path, target: Path, config: Config, outcome: Outcome, seconds: float, memory: Memory | None = None
) -> RunReport:
    """The account of a finished run.

    Args:
        source: as the user named it.
        target: as the user named it.
        config: what was asked for.
        outcome: what the pipeline did.
        seconds: wall-clock time in all, from before the models were loaded.
        memory: of people, or None.
    """
    coverage, analysis = outcome.coverage, outcome.analysis
    mux: Any = getattr(outcome.writer, "report", None)
    duration = analysis.duration
    warnings = [
        *unused_options(config),
        *getattr(outcome.reader, "warnings", ()),
        *getattr(mux, "warnings", ()),
        *getattr(mux, "converted", ()),
        *reasons_not_prepared(outcome.preparations),
        *(memory.warnings() if memory is not None else ()),
    ]
    return RunReport(
        input=str(source),
        output=str(target),
        mode=config.mode,
        frames=coverage.frames,
        faces=coverage.faces,
        tracks=coverage.tracks,
        edited=coverage.edited,
        held=coverage.held,
        masked=coverage.masked,
        masked_reasons=dict(coverage.masked_reasons.most_common()),
        seconds=round(seconds, 3),
        fps=round(coverage.frames / seconds, 3) if seconds > 0 else 0.0,
        realtime_factor=round(seconds / float(duration), 3) if duration else None,
        people=len(set(analysis.people.values())) if config.mode == "fluid" else None,
        coverage=coverage.summary(),
        preparation=tuple(_described(person, p) for person, p in sorted(outcome.preparations.items())),
        dropped_streams=tuple(getattr(mux, "dropped_streams", ())),
        dropped_metadata=tuple(getattr(mux, "dropped_metadata", ())),
        corrupt_frames=int(getattr(outcome.reader, "corrupt_frames", 0)),
        suspicious_gaps=analysis.gaps,
        warnings=tuple(dict.fromkeys(warnings)),
        detectors=outcome.detectors,
        memory=dict(memory.account()) if memory is not None else {},
        encoder=str(getattr(mux, "encoder", "")),
    )


def _described(person: int, prepared: Preparation | None) -> dict[str, Any]:
    if prepared is None:
        return {"person": person, "ok": False, "reason": "editor failed", "seconds": None, "figures": {}}
    figures = {name: round(float(value), 4) for name, value in prepared.figures.items()}
    return {
        "person": person,
        "ok": prepared.ok,
        "reason": prepared.reason,
        "seconds": round(prepared.seconds, 3),
        "figures": {name: value for name, value in figures.items() if math.isfinite(value)},
    }
