"""The report of a run: one frozen record, as JSON for machines and as a short summary for people."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

HONEST_WORDS = (
    "This is pseudonymisation of faces, not anonymity: hair, clothes, gait, voice and context still identify people. "
    "Faces that no detector found are not in this account."
)

_RECALLED = ("known", "new", "renewed", "returned", "ambiguous", "unrecognisable", "damaged")


def check_account(faces: int, edited: int, held: int, masked: int, raw: int, reasons: Mapping[str, int]) -> None:
    """Refuse an account that does not add up.

    Raises:
        ValueError: `edited + held + masked != faces`, or `raw` is not 0, or the reasons do not add up.
    """
    if edited + held + masked != faces or raw != 0:
        raise ValueError(
            f"account does not add up: {edited} edited + {held} held + {masked} masked, {faces} faces, {raw} raw"
        )
    if sum(reasons.values()) != masked:
        raise ValueError(f"reasons {dict(reasons)} do not add up to {masked} masked")


def print_rows(console: Console, rows: Iterable[tuple[str, str]]) -> None:
    """Write names, in rich's markup, with their words, which are shown as they are; then the honest words."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, words in rows:
        table.add_row(name, Text(words))
    console.print(table)
    console.print(HONEST_WORDS, style="dim")


@dataclass(frozen=True)
class RunReport:
    """What one run did. Contains no embedding, direction, seed or salt.

    Attributes:
        input: source path as given.
        output: target path as given.
        mode: fluid, blur, pixelate or solid.
        frames: frames written.
        faces: face instances over all frames; `edited + held + masked == faces`.
        tracks: tracks with at least one face in the picture.
        edited: faces turned into another one, supported by a detection.
        held: faces without a detection in that frame (predicted, interpolated), edited or masked all the same.
        masked: faces covered, supported by a detection.
        raw: always 0: a run that would leave a tracked face untreated stops instead.
        masked_reasons: why, with counts that add up to `masked`.
        people: distinct people after linking tracks, None if nothing was linked.
        coverage: shares by frame and by track, see `Coverage.summary`.
        preparation: per person what `FaceEditor.prepare` measured: ok, reason, seconds, figures.
        dropped_streams: streams left out of the result, and why.
        dropped_metadata: tags left out.
        corrupt_frames: frames that could not be decoded and were concealed.
        suspicious_gaps: places where a face may have been missed, in words.
        warnings: everything else worth knowing.
        memory: how many people returned, were doubtful (and got a pseudonym of their own), came from the cache or went
            into it, and the cache entry of each person who has one.
        detectors: names and providers in use.
        encoder: name of the video encoder.
        seconds: wall-clock time of the run.
        fps: frames per second of wall-clock time.
        realtime_factor: seconds of work per second of video; None if the duration is not known.
    """

    input: str
    output: str
    mode: str
    frames: int
    faces: int
    tracks: int
    edited: int
    held: int
    masked: int
    masked_reasons: Mapping[str, int]
    seconds: float
    fps: float
    realtime_factor: float | None
    raw: int = 0
    people: int | None = None
    coverage: Mapping[str, Any] = field(default_factory=dict)
    preparation: tuple[Mapping[str, Any], ...] = ()
    dropped_streams: tuple[str, ...] = ()
    dropped_metadata: tuple[str, ...] = ()
    corrupt_frames: int = 0
    suspicious_gaps: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    memory: Mapping[str, Any] = field(default_factory=dict)
    detectors: tuple[str, ...] = ()
    encoder: str = ""

    def __post_init__(self) -> None:
        check_account(self.faces, self.edited, self.held, self.masked, self.raw, self.masked_reasons)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, in the order of the fields."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    def print_summary(self, console: Console) -> None:
        """Write the human summary to `console` (stderr in the command line)."""
        print_rows(console, self._rows())

    def _rows(self) -> Iterator[tuple[str, str]]:
        people = "" if self.people is None else f", {self.people} people"
        yield "output", f"{self.output} ({self.mode}, {self.encoder or 'encoder not reported'})"
        yield "frames", str(self.frames) + (f", {self.corrupt_frames} corrupt" if self.corrupt_frames else "")
        yield "faces", f"{self.faces} in {self.tracks} tracks{people}"
        yield "treated", f"{self.edited} edited, {self.held} held, {self.masked} masked, {self.raw} raw"
        if self.masked_reasons:
            yield "why masked", ", ".join(f"{n} {reason}" for reason, n in self.masked_reasons.items())
        shares = [
            f"{self.coverage[key]:.1%} {words}"
            for key, words in (
                ("edited_by_face", "of faces carry a new face"),
                ("edited_by_track_min", "in the worst track"),
            )
            if self.coverage.get(key) is not None
        ]
        if shares and self.mode == "fluid":
            yield "coverage", ", ".join(shares)
        if recalled := [f"{self.memory[k]} {k}" for k in _RECALLED if self.memory.get(k)]:
            yield "people", ", ".join(recalled)
        for stream in self.dropped_streams:
            yield "dropped", stream
        if self.dropped_metadata:
            yield "dropped tags", ", ".join(self.dropped_metadata)
        factor = "" if self.realtime_factor is None else f", {self.realtime_factor:.2f} s per second of video"
        yield "speed", f"{self.seconds:.1f} s, {self.fps:.1f} frames/s{factor}"
        for gap in self.suspicious_gaps:
            yield "[yellow]gap[/]", gap
        for warning in self.warnings:
            yield "[yellow]note[/]", warning
