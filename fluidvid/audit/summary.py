"""The audit's report for people at a terminal: verdict, checks, then every figure with its interval and coverage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fluidvid.audit.statistics import Figure, in_digits, is_share
from fluidvid.audit.verdict import State

if TYPE_CHECKING:
    from fluidvid.audit.privacy import Recognition
    from fluidvid.audit.report import AuditReport

NAMES_WIDTH, COLUMN_WIDTH = 36, 22
"""Of the figures' names and of a recogniser's column, in characters: as many go side by side as can be read."""
WORST = 3
"""Tracks whose worst frame is printed, per recogniser; the page and the JSON have all."""


def print_summary(report: AuditReport, console: Console) -> None:
    """Write the human summary to `console` (stderr in the command line)."""
    from fluidvid.audit.report import HONEST_WORDS

    colour = {State.PASSED: "green", State.FAILED: "red", State.UNDECIDED: "yellow"}[report.verdict.state]
    words = escape(report.verdict.words)
    console.print(f"[bold {colour}]{report.verdict.state.value}[/] {words}", soft_wrap=True)
    console.print(_checks(report))
    across = max(1, (console.width - NAMES_WIDTH) // COLUMN_WIDTH)
    for shown in _batched(report.recognitions, across):
        console.print(_privacy(report, shown))
    console.print(_rest(report))
    console.print(HONEST_WORDS, style="dim")


def _batched(recognitions: Sequence[Recognition], most: int) -> Iterator[Sequence[Recognition]]:
    """At most so many at a time."""
    return (recognitions[k : k + most] for k in range(0, len(recognitions), most))


def _plain_table(*heads: str) -> Table:
    table = Table(*heads, box=None, pad_edge=False, header_style="dim")
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.overflow = "fold"
    return table


def _checks(report: AuditReport) -> Table:
    table = _plain_table("", "")
    for check in sorted(report.verdict.checks, key=lambda c: {False: 0, None: 1, True: 2}[c.passed]):
        mark = {True: "[green]ok[/]", False: "[red]fail[/]", None: "[yellow]open[/]"}[check.passed]
        table.add_row(mark, escape(check.words))
    faces = report.coverage()
    covered = f"{faces['judged_by_recognisers']} of {faces['faces']} faces judged by recognisers"
    table.add_row("coverage", f"{covered}, {faces['not_found_in_result']} not found again in the result")
    for text in report.unmeasured:
        table.add_row("[yellow]not measured[/]", escape(text))
    return table


def _privacy(report: AuditReport, recognitions: Sequence[Recognition]) -> Table:
    """A row per figure and a column per recogniser."""
    table = _plain_table("privacy", *(escape(f"{r.grader.name} ({r.grader.part.value})") for r in recognitions))
    for name in dict.fromkeys(n for r in recognitions for n in r.figures):
        table.add_row(_words(name), *(in_words(name, r.figures.get(name)) for r in recognitions))
    worst = []
    for r in recognitions:
        tracks = sorted(r.worst.items(), key=lambda item: -item[1][1])[:WORST]
        worst.append("; ".join(f"track {t}: {cosine:.2f} in frame {frame}" for t, (frame, cosine) in tracks) or "-")
    table.add_row("worst frame of a track", *worst)
    for name in dict.fromkeys(n for figures in report.linkage.values() for n in figures):
        cells = (report.linkage[r.grader.name].get(name) for r in recognitions)
        table.add_row(_words(name), *(in_words(name, figure) for figure in cells))
    for name in dict.fromkeys(a.name for a in report.attacks):
        found = {a.recogniser: a for a in report.attacks if a.name == name}
        cells_ = []
        for r in recognitions:
            outcome = found.get(r.grader.name, found.get("all"))
            share = None if outcome is None else outcome.share
            was = None if outcome is None else outcome.before
            cells_.append("-" if share is None or was is None else f"{share:.1%} (without: {was:.1%})")
        table.add_row(f"re-identified after {name}", *cells_)
    return table


def _rest(report: AuditReport) -> Table:
    """Utility and time: value, noise floor, coverage."""
    table = _plain_table("utility and time", "value [95 % over tracks]", "source's own", "of faces")
    groups: tuple[Mapping[str, Figure], ...] = (report.utility, report.time)
    for name, figure in ((n, f) for figures in groups for n, f in figures.items()):
        floor = "" if figure.floor is None else in_digits(figure.floor, is_share(name))
        table.add_row(
            _words(name), in_words(name, figure), floor, f"{figure.count} of {figure.of}" if figure.of else ""
        )
    return table


def _words(name: str) -> str:
    return escape(name.replace("_", " "))


def in_words(name: str, figure: Figure | None) -> str:
    """`12.3% [10.0%, 20.0%]`, or a dash where nothing was measured."""
    if figure is None or figure.value is None:
        return "-"
    text = in_digits(figure.value, is_share(name))
    if figure.low is not None and figure.high is not None:
        ends = (in_digits(v, is_share(name)) for v in (figure.low, figure.high))
        text += f" \\[{', '.join(ends)}]"
    return text
