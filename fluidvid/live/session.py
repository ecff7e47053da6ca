"""The loop of a live run: pictures in, inspected, treated, encoded, published, until told to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
from av.audio.stream import AudioStream

from fluidvid.api import unused_options
from fluidvid.assembly import completing
from fluidvid.config import Config
from fluidvid.coverage import Coverage
from fluidvid.errors import ConfigError, OutputError, detection_errors
from fluidvid.heap import give_back
from fluidvid.inspection import inspect
from fluidvid.live.addresses import Address
from fluidvid.live.clock import TIME_BASE
from fluidvid.live.directions import BackgroundDirections, leave_room
from fluidvid.live.encoding import Coded, LiveEncoder, Look
from fluidvid.live.ladder import Ladder, LevelledEditor, Rung, rungs
from fluidvid.live.metrics import MetricsServer
from fluidvid.live.monitor import Monitor
from fluidvid.live.publisher import OutputSettings, Publisher
from fluidvid.live.report import LiveReport
from fluidvid.live.reuse import ReusingEditor
from fluidvid.live.source import LiveFrame, LiveSource
from fluidvid.overlap import read_ahead
from fluidvid.rate import USUAL_RATE
from fluidvid.stages import Stages
from fluidvid.trackers import Tracker
from fluidvid.window import Window

WAIT_SHARE = 0.3
"""Share of the latency budget in which a picture may wait for those behind it: a track covers its first frames."""
KEPT = 1000
"""Pictures after which a track that was not seen is folded into the account of all."""
MAX_RATE = Fraction(120)
"""Pictures per second; an announced rate outside is not believed."""
GIVE_BACK = 10.0
"""Seconds after which freed memory is given back to the system."""
_TRIAL = (320, 240)
LOOK_SHARE = 0.2
"""Share in which it may wait for the next look at a whole picture."""


def check_config(config: Config) -> None:
    """Raise ConfigError for an option that a live stream cannot honour, the encoder's among them."""
    if config.strict:
        raise ConfigError("--strict judges a whole video before it is written: a live stream cannot wait for that")
    if config.media.start is not None or config.media.end is not None:
        raise ConfigError("--start and --end cut files: stop a live stream with Ctrl-C or SIGTERM")
    if config.media.keep_metadata:
        raise ConfigError("--keep-metadata is for files: a live stream carries picture and sound only")
    media = config.media  # tried on some size: the pictures' own is known when the first one is here
    LiveEncoder(_TRIAL, Fraction(25), key_interval=1.0, codec=media.codec, crf=media.crf, preset=media.preset)


class LiveSession:
    """One run from one input to several outputs.

    Args:
        source: where from.
        sinks: where to.
        config: the whole tree. A track reaches back `track.look_ahead` pictures from its first detection as far as the
            latency allows, and is held for `live.hold` after its last.
        stages: tracker, detector, editor and so on; `complete` is made here, when the picture rate is known.
        say: takes one line for the user; called from any thread.

    Raises:
        ConfigError: an option that a live stream cannot honour, or the metrics' address cannot be listened on.
    """

    def __init__(
        self,
        source: Address,
        sinks: Sequence[Address],
        config: Config,
        stages: Stages,
        *,
        say: Callable[[str], None],
    ) -> None:
        check_config(config)
        self._config, self._live, self._say = config, config.live, say
        live = config.live
        self._reuse = None if stages.editor is None else ReusingEditor(stages.editor)
        self._directions = None if stages.editor is None else BackgroundDirections(stages.editor, cores=live.cores)
        self._levelled = stages.editor if isinstance(stages.editor, LevelledEditor) else None
        self._stages = replace(stages, editor=self._reuse, workers=1)
        self._window: Window | None = None
        self._coverage = Coverage()
        levels = 1 if self._levelled is None else self._levelled.levels
        self._ladder = Ladder(rungs(edits=stages.editor is not None, levels=levels), live.latency)
        self._wait, self._every = 0, 1
        self._encoder: LiveEncoder | None = None
        self._dropped = self._found = 0
        self._gave_back = time.monotonic()
        self._stopped = ""
        self._ended = threading.Event()
        self._source = LiveSource(
            source,
            transport=live.transport,
            timeout=live.timeout,
            retries=live.retries,
            behind=live.latency,
            say=say,
            began=self._begin,
            heard=self._publish,
        )
        settings = OutputSettings(live.transport, live.segment, live.timeout, live.retries)
        self._publishers = [
            Publisher(sink, settings, say=say, need_key=self._need_key, took=self._took, gone=self._gone)
            for sink in sinks
        ]
        self.monitor = Monitor(
            shown=source.shown,
            mode=config.mode,
            timeout=live.timeout,
            source=self._source,
            publishers=self._publishers,
            ladder=self._ladder,
            coverage=self._coverage,
            directions=self._directions,
            notes=list(unused_options(config)),
        )
        self._metrics = (
            None if live.metrics is None else MetricsServer(live.metrics, self.monitor.samples, self.monitor.health)
        )

    def stop(self, why: str) -> None:
        """End soon, with everything that was inspected published and every trailer written; from any thread."""
        self._stopped = self._stopped or why
        self._source.stop()

    def report(self) -> LiveReport:
        """The account so far; complete after `run`."""
        return self.monitor.report(self._stopped, self._stages.memory)

    def run(self) -> None:
        """Run until the input ends, `stop` is called, or there is no hope.

        Raises:
            InputError: the input was given up.
            OutputError: all outputs were given up, or none is complete.
            DetectionError: faces could not be looked for; nothing of that picture was published.
            CoverageError: a face came out untreated, which is a bug; nothing of that picture was published.
            ConfigError: the encoder refuses its options.
        """
        for note in self.monitor.notes:
            self._say(note)
        if self._live.status:
            threading.Thread(target=self._tell, name="status", daemon=True).start()
        if self._directions is not None:
            leave_room(self._live.cores)
        self._warm_up()
        self._source.start()
        try:
            for stretch in self._source.stretches():
                self._treat(stretch)
                self._check_outputs()
            if not self._stopped:
                self._check_outputs()
                self._stopped = "the input ended"
        except Exception as error:
            self._stopped = self._stopped or str(error)
            self._close()
            raise
        self._close()
        self._check_outputs()  # they may have failed at their very end, also when that was asked for

    def _close(self) -> None:
        self._ended.set()
        self._source.stop()
        # Trailers first: who sent the signal may not wait for the rest. Daemons: a second signal ends at once.
        closing = [threading.Thread(target=publisher.close, daemon=True) for publisher in self._publishers]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()
        self._source.close()
        if self._directions is not None:
            self._directions.close()
        if self._metrics is not None:
            self._metrics.close()

    def _begin(
        self, size: tuple[int, int], rate: Fraction, sound: AudioStream | None, header: bytes, look: Look
    ) -> None:
        """The first picture is here, its size settled: make what depends on it and start the outputs."""
        config, live, media = self._config, self._live, self._config.media
        rate = rate if 1 <= rate <= MAX_RATE else Fraction(USUAL_RATE)
        self._encoder = LiveEncoder(
            size,
            rate,
            key_interval=live.key_interval,
            codec=media.codec,
            crf=media.crf,
            preset=media.preset,
            look=look,
        )
        # By the clock, not in pictures: when some are dropped, the others must not wait the longer for it.
        track = config.track.at_rate(rate)
        wait = min(float(track.look_ahead / rate), WAIT_SHARE * live.latency)
        self._wait = int(wait / float(TIME_BASE))
        self._every = min(config.detect.every, 1 + int(LOOK_SHARE * live.latency * rate))
        # At most 4 s of 120 pictures each, by the option and MAX_RATE; boxes are kept of them, no pictures.
        held = max(track.look_ahead, round(live.hold * rate))
        holding = config.model_copy(update={"track": track.model_copy(update={"look_ahead": held})})
        self._stages = replace(self._stages, complete=completing(holding.track, rate))
        if isinstance(self._stages.tracker, Tracker):
            self._stages.tracker.rate = float(rate)
        self._window = Window(self._stages, holding, self._directions)
        if sound is not None:
            self.monitor.notes.append("the sound is kept unchanged: voices identify people too")
        description = self._encoder.description(sound, header)
        for publisher in self._publishers:
            if note := publisher.start(description):
                self.monitor.notes.append(note)

    def _warm_up(self) -> None:
        """Make the networks ready before anything has to be in time."""
        nothing = np.zeros((288, 352, 3), np.uint8)
        near = self._stages.near
        with detection_errors("a black picture"):
            if near is None:
                self._stages.detector.detect(nothing)
            else:
                near.whole(nothing)
                near.detect([nothing], [np.array([[100, 100, 200, 200]], np.float32)])

    def _treat(self, stretch: Iterator[LiveFrame]) -> None:
        """Inspect, treat and publish the pictures of one connection; no track runs on into the next."""
        window = self._window
        assert window is not None  # made before the first picture was given out
        first = True
        looks = inspect(stretch, self._stages, every=self._every, sure_score=self._config.detect.score)
        # Faces of the next picture are looked for while those of this one are edited.
        with read_ahead(looks, limit=self._every, size=lambda _: 1) as inspected:
            try:
                for seen in inspected:
                    window.push(seen.rgb, seen.detections, cut=seen.cut or first, tag=seen.frame)
                    first = False
                    while window.waiting and seen.frame.pts - window.waiting[0].tag.pts >= self._wait:
                        self._send_oldest(window)
                    del seen
            except BaseException:
                self._source.stop()  # or who reads ahead would wait for the next picture
                raise
        while window.waiting:
            self._send_oldest(window)
        give_back()

    def _send_oldest(self, window: Window) -> None:
        treated, frame = window.pop(self._coverage)
        if treated.regions:
            frame.patch(treated.rgb, treated.regions)
        assert self._encoder is not None
        for packet in self._encoder.encode(frame.picture, arrived=frame.arrived):
            self._publish(packet)
        self.monitor.sent(len(window.tracks))
        self._coverage.forget(self._coverage.frames - KEPT)
        if self._reuse is not None:
            self._reuse.forget(window.tracks)
        if time.monotonic() - self._gave_back > GIVE_BACK:
            self._gave_back = time.monotonic()
            give_back()
        self._check_outputs()
        dropped, self._dropped = self._source.dropped - self._dropped, self._source.dropped
        if self._directions is not None and self._directions.found != self._found and self._directions.idle:
            # All searches are over, and what they found needs fewer edits that are made anew.
            self._found = self._directions.found
            self._ladder.reconsider()
        position = self._ladder.position
        left = self.monitor.published
        if self._ladder.observe(left - frame.arrived, at=left, dropped=dropped > 0):
            if self._ladder.position > position:
                self._source.catch_up()
            self._obey(self._ladder.rung, window)

    def _obey(self, rung: Rung, window: Window) -> None:
        self._say(f"latency budget of {1000 * self._live.latency:.0f} ms: {rung.name}")
        window.editing = rung.editing
        self._source.newest_only = rung.dropping
        if self._directions is not None:
            self._directions.busy = self._ladder.position > 0
        if self._reuse is not None:
            self._reuse.every = rung.edit_every
        if self._levelled is not None:
            self._levelled.use_levels(fewer=rung.fewer_levels)

    def _publish(self, packet: Coded) -> None:
        for publisher in self._publishers:
            publisher.publish(packet)

    def _need_key(self) -> None:
        if self._encoder is not None:
            self._encoder.key_frame_due()

    def _took(self, seconds: float) -> None:
        self.monitor.latencies.add(seconds)

    def _gone(self) -> None:
        """The last output may be given up while no picture comes in."""
        if all(publisher.gave_up for publisher in self._publishers):
            self._source.stop()

    def _check_outputs(self) -> None:
        if all(publisher.gave_up for publisher in self._publishers):
            raise OutputError(self._publishers[0].given_up)

    def _tell(self) -> None:
        while not self._ended.wait(self._live.status):
            self._say(self.monitor.status())
