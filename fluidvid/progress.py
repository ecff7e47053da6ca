"""Progress of a run: a plain callback for programs, a bar with rate and remaining time for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class ProgressEvent:
    """One step: `stage` is `detect`, `prepare`, `write` or a command's own; `done` of `total` units, if known."""

    stage: str
    done: int
    total: int | None


ProgressCallback = Callable[[ProgressEvent], None]


def silent(_: ProgressEvent) -> None:
    """Show nothing."""


@contextmanager
def progress_bar(console: Console, words: Mapping[str, str] | None = None) -> Iterator[ProgressCallback]:
    """A bar per stage on `console`, with rate and remaining time; `words` name further stages."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Task as RichTask

    class RateColumn(TextColumn):
        def __init__(self) -> None:
            super().__init__("")

        def render(self, task: RichTask):  # type: ignore[no-untyped-def]
            from rich.text import Text

            speed = task.finished_speed or task.speed
            return Text(f"{speed:.1f}/s" if speed else "", style="progress.data.speed")

    labels = {"detect": "finding faces", "prepare": "making pseudonyms", "write": "writing", **(words or {})}
    tasks: dict[str, TaskID] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:

        def show(event: ProgressEvent) -> None:
            if event.stage not in tasks:
                tasks[event.stage] = bar.add_task(labels.get(event.stage, event.stage), total=event.total)
            bar.update(tasks[event.stage], completed=event.done, total=event.total)

        yield show
