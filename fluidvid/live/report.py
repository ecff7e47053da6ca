"""The report of a live run: the account of every published face, and what went wrong on the way."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fluidvid.report import check_account, print_rows

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class LiveReport:
    """What one run of `fluidvid stream` did. Contains no embedding, direction, seed, salt or credential.

    Attributes:
        input: the source, redacted.
        outputs: one record per target: address (redacted), pictures written and dropped (`pictures_out` together),
            reconnects, why given up or left without its end.
        mode: fluid, blur, pixelate or solid.
        seconds: length of the run.
        pictures_in: decoded pictures.
        pictures_out: inspected, treated and published ones.
        dropped: decoded pictures that were not published because the machine was too slow.
        corrupt: damaged pictures and packets, never published.
        faces: face instances over all published pictures; `edited + held + masked == faces`.
        tracks: faces followed.
        edited: turned into another face, supported by a detection.
        held: without a detection in that picture, edited or masked all the same.
        masked: covered, supported by a detection.
        masked_reasons: why; adds up to `masked`.
        reconnects: of the input.
        moved: jumps of the input's times.
        latency_median: seconds from arriving to leaving for the output's muxer.
        latency_p95: the same, 95th percentile.
        ladder: pictures published on each rung.
        directions: found, and failed, in the background.
        coverage: shares by frame and by track.
        raw: always 0.
        stopped: why it ended.
        memory: how many people returned, were doubtful, came from the cache or went into it, and their entries.
        warnings: what else is worth knowing.
    """

    input: str
    outputs: tuple[Mapping[str, Any], ...]
    mode: str
    seconds: float
    pictures_in: int
    pictures_out: int
    dropped: int
    corrupt: int
    faces: int
    tracks: int
    edited: int
    held: int
    masked: int
    masked_reasons: Mapping[str, int]
    reconnects: int
    moved: int
    latency_median: float | None
    latency_p95: float | None
    ladder: Mapping[str, int]
    directions: Mapping[str, int]
    coverage: Mapping[str, Any] = field(default_factory=dict)
    raw: int = 0
    stopped: str = ""
    memory: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_account(self.faces, self.edited, self.held, self.masked, self.raw, self.masked_reasons)

    def to_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False)

    def print_summary(self, console: Console) -> None:
        """Write the human summary to `console` (stderr in the command line)."""
        print_rows(console, self._rows())

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield "stopped", self.stopped
        yield (
            "input",
            f"{self.input}: {self.pictures_in} pictures, {self.corrupt} corrupt, {self.reconnects} reconnects",
        )
        for out in self.outputs:
            end = f", not complete: {out['gave_up']}" if out["gave_up"] else ""
            yield (
                "output",
                f"{out['address']}: {out['written']} pictures, {out['dropped']} missed, "
                f"{out['reconnects']} reconnects{end}",
            )
        yield "published", f"{self.pictures_out} pictures in {self.seconds:.0f} s, {self.dropped} dropped"
        yield "faces", f"{self.faces} in {self.tracks} tracks"
        yield "treated", f"{self.edited} edited, {self.held} held, {self.masked} masked, {self.raw} raw"
        if self.masked_reasons:
            yield "why masked", ", ".join(f"{n} {reason}" for reason, n in self.masked_reasons.items())
        if self.latency_median is not None and self.latency_p95 is not None:
            yield "latency", f"{1000 * self.latency_median:.0f} ms median, {1000 * self.latency_p95:.0f} ms 95 %"
        if len(self.ladder) > 1:
            yield "ladder", ", ".join(f"{n} {name}" for name, n in self.ladder.items())
        for warning in self.warnings:
            yield "[yellow]note[/]", warning
