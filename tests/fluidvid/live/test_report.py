"""The summary of a live run."""

from __future__ import annotations

import io

from rich.console import Console

from fluidvid.live.report import LiveReport


def test_names_and_errors_are_shown_as_they_are() -> None:
    """Rich takes brackets for its own: some vanished, others ended the summary with an error of its own."""
    names = ("in[red].mp4", "o4[final].mp4", "no [/x] :smile:", "note [/]", "reason[b]", "rung[/b]", "[/stop]")
    report = LiveReport(
        input=names[0],
        outputs=({"address": names[1], "written": 1, "dropped": 0, "reconnects": 0, "gave_up": names[2]},),
        mode="solid",
        seconds=1.0,
        pictures_in=1,
        pictures_out=1,
        dropped=0,
        corrupt=0,
        faces=1,
        tracks=1,
        edited=0,
        held=0,
        masked=1,
        masked_reasons={names[4]: 1},
        reconnects=0,
        moved=0,
        latency_median=None,
        latency_p95=None,
        ladder={"full": 1, names[5]: 1},
        directions={},
        stopped=names[6],
        warnings=(names[3],),
    )
    told = io.StringIO()
    report.print_summary(Console(file=told, width=120))
    assert all(name in told.getvalue() for name in names)
