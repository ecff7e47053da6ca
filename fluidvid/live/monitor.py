"""Tells how a live run is going: the status line, the metrics, its health, and the report at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fluidvid.coverage import Coverage
from fluidvid.live.directions import BackgroundDirections
from fluidvid.live.figures import Latencies, Rate
from fluidvid.live.ladder import Ladder
from fluidvid.live.metrics import Health, Sample
from fluidvid.live.publisher import Publisher
from fluidvid.live.report import LiveReport
from fluidvid.live.source import LiveSource
from fluidvid.stages import Memory


@dataclass(eq=False)
class Monitor:
    """Looks at the parts of a run from outside; every method may be called from any thread.

    Attributes:
        shown: the input's address, redacted.
        mode: of the run.
        timeout: seconds without a published picture from which the run is not healthy.
        notes: for the report.
        published: `time.monotonic()` of the latest published picture, or of the start.
    """

    shown: str
    mode: str
    timeout: float
    source: LiveSource
    publishers: Sequence[Publisher]
    ladder: Ladder
    coverage: Coverage
    directions: BackgroundDirections | None
    latencies: Latencies = field(default_factory=Latencies)
    rate_out: Rate = field(default_factory=Rate)
    notes: list[str] = field(default_factory=list)
    tracks: int = 0
    began: float = field(default_factory=time.monotonic)
    published: float = field(default_factory=time.monotonic)

    def sent(self, tracks: int) -> None:
        """One picture was handed to the outputs."""
        self.published = time.monotonic()
        self.rate_out.add()
        self.tracks = tracks

    def status(self) -> str:
        """One plain line."""
        took = self.latencies.recent()
        latency = "no picture yet" if took is None else f"{1000 * took[0]:.0f}/{1000 * took[1]:.0f} ms (median/95 %)"
        c, source = self.coverage.snapshot(), self.source
        state = "" if source.connected else " (input lost)"
        outs = sum(p.account.connected for p in self.publishers)
        return (
            f"{self.rate_out.per_second():.1f} pictures/s{state}, latency {latency}, {self.tracks} tracks, faces "
            f"{c.edited} edited {c.held} held {c.masked} masked 0 raw, {self.ladder.rung.name}, "
            f"{outs}/{len(self.publishers)} outputs, {source.reconnects + self._output_reconnects()} reconnects, "
            f"{source.dropped} dropped"
        )

    def _output_reconnects(self) -> int:
        return sum(p.account.reconnects for p in self.publishers)

    def health(self) -> Health:
        """Healthy while pictures leave and every output is connected."""
        silent = time.monotonic() - self.published
        if silent > self.timeout:
            return Health(False, f"no picture for {silent:.0f} s")
        lost = [p.address.shown for p in self.publishers if not p.account.connected]
        return Health(False, f"not publishing to {', '.join(lost)}") if lost else Health(True, "ok")

    def samples(self) -> Iterator[Sample]:
        """For Prometheus; names are prefixed with `fluidvid_`."""
        c, source = self.coverage.snapshot(), self.source
        yield "counter", "pictures_in", "decoded pictures", {}, source.pictures_in
        yield "counter", "pictures_out", "published pictures", {}, c.frames
        yield "counter", "pictures_dropped", "decoded but not published: too slow", {}, source.dropped
        yield "counter", "pictures_corrupt", "damaged pictures and packets, not published", {}, source.corrupt
        for treatment, count in (("edited", c.edited), ("held", c.held), ("masked", c.masked), ("raw", 0)):
            yield "counter", "faces", "faces in published pictures by treatment", {"treatment": treatment}, count
        for reason, count in c.masked_reasons.items():
            yield "counter", "faces_masked", "masked faces by reason", {"reason": reason}, count
        yield "gauge", "fps", "published pictures per second", {}, self.rate_out.per_second()
        yield "gauge", "tracks", "faces followed at present", {}, self.tracks
        yield "gauge", "ladder", "0 = full quality; each step gives up something", {}, self.ladder.position
        yield "gauge", "input_connected", "1 while pictures come in", {}, float(source.connected)
        yield "counter", "input_reconnects", "attempts to get the input back", {}, source.reconnects
        yield "counter", "input_times_moved", "jumps of the input's times", {}, source.moved
        for quantile, value in zip(("0.5", "0.95"), self.latencies.recent() or (), strict=False):
            yield "gauge", "latency_seconds", "from arriving to leaving, latest pictures", {"quantile": quantile}, value
        for number, out in enumerate(self.publishers, 1):
            label = {"number": str(number), "output": out.address.shown}  # two keys at one server are shown alike
            yield "gauge", "output_connected", "1 while it takes pictures", label, float(out.account.connected)
            yield "counter", "output_reconnects", "workers that had to be replaced", label, out.account.reconnects
            yield "counter", "output_pictures", "pictures written", label, out.account.written
            yield "counter", "output_dropped", "pictures this output missed", label, out.account.dropped
        if self.directions is not None:
            yield "counter", "directions_begun", "first directions taken from the bank", {}, self.directions.begun
            yield "counter", "directions_found", "directions verified in the background", {}, self.directions.found
            yield "counter", "directions_failed", "searches without success", {}, self.directions.failed

    def report(self, stopped: str, memory: Memory | None) -> LiveReport:
        """The account of the run so far: why it ended, and the memory of people, if there is one."""
        c, source, took = self.coverage.snapshot(), self.source, self.latencies.overall()
        found = self.directions
        return LiveReport(
            input=self.shown,
            outputs=tuple(
                {
                    "address": p.address.shown,
                    "written": p.account.written,
                    "dropped": p.account.dropped,
                    "reconnects": p.account.reconnects,
                    "gave_up": p.account.gave_up,
                }
                for p in self.publishers
            ),
            mode=self.mode,
            seconds=round(time.monotonic() - self.began, 3),
            pictures_in=source.pictures_in,
            pictures_out=c.frames,
            dropped=source.dropped,
            corrupt=source.corrupt,
            faces=c.faces,
            tracks=c.tracks,
            edited=c.edited,
            held=c.held,
            masked=c.masked,
            masked_reasons=dict(c.masked_reasons.most_common()),
            reconnects=source.reconnects,
            moved=source.moved,
            latency_median=None if took is None else round(took[0], 4),
            latency_p95=None if took is None else round(took[1], 4),
            ladder=dict(self.ladder.pictures),
            directions={} if found is None else {"begun": found.begun, "found": found.found, "failed": found.failed},
            coverage=c.summary(),
            stopped=stopped,
            memory={} if memory is None else dict(memory.account()),
            warnings=(*self.notes, *(() if memory is None else memory.warnings())),
        )
