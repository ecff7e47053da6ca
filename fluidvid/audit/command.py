"""`fluidvid audit`: arguments, exit code, where the report goes."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fluidvid.audit.options import chosen_attacks
from fluidvid.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from rich.console import Console

    from fluidvid.audit.report import AuditReport
    from fluidvid.audit.study import Tick

STAGES = {"source": "studying the source", "look": "looking at faces", "result": "measuring", "attack": "attacking"}


def run_audit(
    source: Path,
    result: Path,
    *,
    html: Path | None,
    recognisers: Path | None,
    second: Path | None,
    attacks: str | None,
    start: str | None = None,
    end: str | None,
    backbone: str | None = None,
    min_face: float,
    overwrite: bool,
    pictures: bool,
    console: Console,
    quiet: bool,
) -> AuditReport:
    """Check the arguments before any work is done, audit, and write the page.

    Raises:
        FluidvidError: see `fluidvid.audit.audit`.
        OutputError: the page exists without `overwrite`, or cannot be written.
    """
    from fluidvid import config
    from fluidvid.video import VideoReader
    from fluidvid.video.target_file import check_target, write_error

    given = {"media.start": start, "media.end": end}
    changes = {key: config.parse_value(key, text) for key, text in given.items() if text is not None}
    part = config.load("default").updated(changes)
    with VideoReader(source, start=part.start, end=part.end):  # says what is wrong before others are looked through
        pass
    results = [result] if second is None else [result, second]
    for path in results:
        with VideoReader(path):
            pass
    if html is not None:
        try:
            is_video = html.exists() and any(html.samefile(media) for media in (source, *results))
        except PermissionError as error:  # nobody may look into its folder
            raise write_error(html, error) from error
        if is_video:
            raise OutputError(f"{html} is one of the videos: choose another name for the report")
        check_target(html, source, overwrite)
    if recognisers is not None and not recognisers.is_dir():
        raise ConfigError(f"no folder {recognisers}: --recognisers names a folder with <recogniser>.onnx files")
    if recognisers is not None and not any(recognisers.glob("*.onnx")):
        raise ConfigError(f"{recognisers} holds no .onnx file: put <recogniser>.onnx files there")
    if recognisers is not None and not any((recognisers / f"{name}.onnx").is_file() for name in _known()):
        raise ConfigError(f"no .onnx file in {recognisers} is named like a recogniser: {', '.join(_known())} are known")
    if not 0 < min_face < math.inf:
        raise ConfigError(f"--min-face {min_face:g}: a positive number of pixels is needed")
    wanted = chosen_attacks(attacks)

    from fluidvid.audit.run import audit

    with _progress(console, quiet) as tick:
        report = audit(
            source,
            result,
            recognisers=recognisers,
            second=second,
            attacks=wanted,
            backbone=backbone,
            start=part.start,
            end=part.end,
            min_face=min_face,
            tick=tick,
        )
    if html is not None:
        from fluidvid.audit.page import page

        write_page(html, page(report, pictures=pictures))
    return report


def _known() -> Iterable[str]:
    """Names of the recognisers that can be asked."""
    from fluidvid.engine.build import RECOGNISERS

    return RECOGNISERS


def write_page(html: Path, text: str) -> None:
    """Write whole or not at all, readable by its owner only: the page may show the source's faces.

    Raises:
        OutputError: the system refuses.
    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{html.name}.", suffix=".part", dir=html.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(temporary).replace(html)
    except OSError as error:
        raise OutputError(f"cannot write {html}: {error.strerror or error}; check the folder and its space") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


@contextmanager
def _progress(console: Console, quiet: bool) -> Iterator[Tick]:
    from fluidvid.progress import ProgressEvent, progress_bar

    if quiet or not console.is_terminal:
        yield lambda stage, done, total: None
        return
    with progress_bar(console, STAGES) as show:
        yield lambda stage, done, total: show(ProgressEvent(stage, done, total))
