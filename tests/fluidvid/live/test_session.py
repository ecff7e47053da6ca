"""The live loop with parts of known truth: masked until ready, faded, edited, never raw, and down the ladder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from fluidvid.config import Config
from fluidvid.coverage import Coverage
from fluidvid.errors import ConfigError, InputError
from fluidvid.live.addresses import sink_address, source_address
from fluidvid.live.directions import BackgroundDirections
from fluidvid.live.encoding import Look
from fluidvid.live.report import LiveReport
from fluidvid.live.session import LiveSession, check_config
from fluidvid.live.source import LiveSource
from fluidvid.trackers import Tracker
from fluidvid.trackers.types import Detection
from tests.fluidvid.fakes import FACE, FakeEdited, FakeEditor, FakePreparation, Rig, box_at, landmarks_in, picture
from tests.fluidvid.live.conftest import Sender
from tests.fluidvid.live.seeing import pictures

CONFIG = Config().updated(
    {
        **{"edit.fade_frames": 3, "edit.key_frames": 2, "detect.every": 1, "track.look_ahead": 4},
        **{"live.latency": 20.0, "live.status": 0},
    }
)
COUNT = 50


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fakes' moving face as a file."""
    path = tmp_path_factory.mktemp("scene") / "scene.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", 25, options={"crf": "1", "preset": "ultrafast", "tune": "zerolatency"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 192, 144, "yuv420p"
        for index in range(COUNT):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index), format="rgb24")))
        out.mux(stream.encode(None))
    return path


Start = Callable[..., tuple[LiveReport, list[NDArray[np.uint8]], list[str]]]


@pytest.fixture
def play(scene: Path, tmp_path: Path) -> Iterator[Start]:
    def run(
        rig: Rig, config: Config = CONFIG, **other: object
    ) -> tuple[LiveReport, list[NDArray[np.uint8]], list[str]]:
        out, lines = tmp_path / "out.mkv", list[str]()
        stages = replace(rig.stages(), **other)  # type: ignore[arg-type]
        session = LiveSession(
            source_address(str(scene)),
            [sink_address(str(out), overwrite=True)],
            config.updated({"media.crf": 1}),
            stages,
            say=lines.append,
        )
        session.run()
        return session.report(), pictures(str(out))[0], lines

    yield run


def raw(image: NDArray[np.uint8]) -> float:
    """Share of bright pixels of the face's own colour; the fake face is half bright."""
    difference = np.abs(image.astype(int) - FACE).sum(axis=2)
    return float((difference < 60).mean())


def test_masked_until_ready_then_faded_then_edited(play: Start) -> None:
    report, out, _ = play(Rig(gain=90))
    assert report.pictures_out == len(out) == COUNT and report.faces == COUNT and report.raw == 0
    assert report.masked_reasons["not prepared"] >= 1 and report.masked_reasons["fading between mask and face"] == 3
    assert report.edited > 10 and report.directions == {"begun": 0, "found": 1, "failed": 0}
    assert raw(picture(5)) > 0.03
    for index, image in enumerate(out):
        assert raw(image) < 0.002, index
    # From mask to face without a jump: the face's blue rises step by step.
    blues = []
    for index, image in enumerate(out):
        x1, y1, x2, y2 = (int(v) for v in box_at(index))
        middle = image[y1 + 20 : y2 - 20, x1 + 15 : x2 - 15]
        blues.append(float(middle[:, :, 0].mean() - middle[:, :, 2].mean()))
    assert np.abs(np.diff(blues)).max() < 0.6 * (max(blues) - min(blues))


def test_whose_edits_fail_is_told_to_the_directions(play: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[set[int]] = []
    monkeypatch.setattr(BackgroundDirections, "failing", lambda _, tracks: told.append(set(tracks)))
    play(Rig(ok=False))
    assert any(told) and not told[0]
    told.clear()
    play(Rig(gain=90))
    assert told and not any(told)


@pytest.mark.parametrize(("rig", "reason"), [(Rig(prepared=False), "not prepared"), (Rig(ok=False), "out of domain")])
def test_without_a_good_edit_there_is_a_mask(play: Start, rig: Rig, reason: str) -> None:
    report, out, _ = play(rig)
    assert report.edited == 0 and reason in report.masked_reasons and report.pictures_out == COUNT
    assert max(raw(image) for image in out) < 0.002


def test_a_face_is_held_after_its_last_detection(play: Start) -> None:
    """The detector misses it for half a second: it is covered all the same."""
    config = CONFIG.updated({"mode": "solid", "track.max_gap": 10})
    tracker = Tracker(rate=1)
    report, out, _ = play(Rig(missing=range(20, 32), classic=True), config, tracker=tracker)
    assert tracker.rate == 25
    assert report.held >= 10 and max(raw(image) for image in out) < 0.002


@pytest.mark.parametrize(("rate", "held"), [(25, 100), (60, 240)])
def test_a_face_is_held_for_as_long_as_asked(scene: Path, rate: int, held: int) -> None:
    session = LiveSession(
        source_address(str(scene)),
        [],
        CONFIG.updated({"mode": "solid", "live.hold": 4.0}),
        replace(Rig(classic=True).stages(), tracker=Tracker()),
        say=lambda _: None,
    )
    session._begin((192, 144), Fraction(rate), None, b"", Look())
    window, coverage = session._window, Coverage()
    assert window is not None
    image, face = picture(0), Detection(np.array(box_at(0), np.float32), 0.9, landmarks_in(box_at(0)), "fake")
    for index in range(300):
        window.push(image, [face] if index < 3 else [], cut=False)
        window.pop(coverage)
    assert (coverage.masked, coverage.held) == (3, held)


def test_a_classic_mode_says_what_it_does_not_use(play: Start) -> None:
    config = CONFIG.updated({"mode": "solid", "cache.path": "people.cache", "edit.backbone": "mine"})
    report, _, lines = play(Rig(classic=True), config)
    note = "mode solid makes no pseudonyms: --cache, --backbone not used, nothing is remembered"
    assert note in report.warnings and lines[0] == note


def test_outputs_that_are_shown_alike_have_metrics_of_their_own(scene: Path) -> None:
    keys = [sink_address(f"rtmp://h/live/{key}", overwrite=False) for key in ("first", "second")]
    session = LiveSession(source_address(str(scene)), keys, CONFIG, Rig(classic=True).stages(), say=lambda _: None)
    series = [(name, *labels.items()) for _, name, _, labels, _ in session.monitor.samples()]
    assert len(series) == len(set(series))
    outputs = [labels for _, name, _, labels, _ in session.monitor.samples() if name == "output_connected"]
    assert outputs == [{"number": str(n), "output": "rtmp://h/live/***"} for n in (1, 2)]


def test_a_person_is_let_go_and_known_anew_after_a_reconnect(scene: Path, tmp_path: Path) -> None:
    """The editor is told in this order, by which its memory gives the same pseudonym to whoever returns."""
    told: list[tuple[str, int]] = []

    class Telling(FakeEditor):
        def prepare(self, person_id: int, crops: NDArray[np.uint8], *, frames: Sequence[int] = ()) -> FakePreparation:
            told.append(("prepare", person_id))
            return super().prepare(person_id, crops, frames=frames)

        def release(self, person_id: int) -> None:
            told.append(("release", person_id))

    with av.open(str(scene)) as source, av.open(str(tmp_path / "scene.ts"), "w") as out:
        copied = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = copied
                out.mux(packet)
    data = (tmp_path / "scene.ts").read_bytes()
    sender = Sender(data, data, rate=len(data) // 2)
    rig = Rig()
    session = LiveSession(
        source_address(f"tcp://127.0.0.1:{sender.port}"),
        [sink_address(str(tmp_path / "out.mkv"), overwrite=False)],
        CONFIG.updated({"live.retries": 2, "live.timeout": 2.0}),
        replace(rig.stages(), tracker=Tracker(), editor=Telling(rig.boom, gain=90)),
        say=lambda _: None,
    )
    with pytest.raises(InputError, match="given up"):
        session.run()
    first, second = (person for what, person in told if what == "prepare")
    assert told.index(("release", first)) < told.index(("prepare", second)) and first != second
    out_pictures, times = pictures(str(tmp_path / "out.mkv"))
    assert len(out_pictures) > 90 and max(raw(image) for image in out_pictures) < 0.002
    assert all(a < b for a, b in pairwise(times))


class Sluggish(FakeEditor):
    """Takes longer than a picture lasts, and could leave out levels."""

    levels = 3

    def use_levels(self, *, fewer: bool) -> None:
        self.fewer: list[bool] = [*getattr(self, "fewer", []), fewer]

    def edit(
        self, person_ids: Sequence[int], crops: NDArray[np.uint8], strengths: NDArray[np.float32]
    ) -> list[FakeEdited]:
        time.sleep(0.5)
        return super().edit(person_ids, crops, strengths)


def test_a_slow_machine_goes_down_the_ladder(play: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    from fluidvid.live import ladder

    monkeypatch.setattr(ladder, "STARTING", 0)
    monkeypatch.setattr(ladder, "SETTLING", 1)
    monkeypatch.setattr(ladder, "PATIENCE", 1)
    rig = Rig()
    editor = Sluggish(rig.boom, gain=90)
    caught_up: list[LiveSource] = []
    catch_up = LiveSource.catch_up

    def counted(source: LiveSource) -> None:
        caught_up.append(source)
        catch_up(source)

    monkeypatch.setattr(LiveSource, "catch_up", counted)
    report, out, lines = play(rig, CONFIG.updated({"live.latency": 0.4}), editor=editor)
    said = [line.partition(": ")[2] for line in lines if line.startswith("latency budget")]
    assert said[:5] == [
        *("editing every 2nd picture", "editing every 4th picture", "editing every 8th picture"),
        *("editing with fewer levels", "masking"),
    ]
    assert editor.fewer[:5] == [False, False, False, True, True]
    order = [rung.name for rung in ladder.rungs(edits=True, levels=3)]
    positions = [0, *map(order.index, said)]
    assert len(caught_up) == sum(a < b for a, b in pairwise(positions))
    assert report.masked_reasons["no time to edit"] > 0
    assert report.pictures_out + report.dropped == COUNT and len(out) == report.pictures_out
    assert max(raw(image) for image in out) < 0.002


@pytest.mark.parametrize(
    ("key", "value"), [("strict", True), ("media.start", "1"), ("media.end", "2"), ("media.keep_metadata", True)]
)
def test_options_that_a_stream_cannot_have(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match="live stream"):
        check_config(Config().updated({key: value}))


def test_times_are_seconds() -> None:
    assert Config().updated({"live.latency": "250ms", "live.timeout": "1m"}).live.timeout == 60
    assert Fraction(str(Config().updated({"live.latency": "250ms"}).live.latency)) == Fraction(1, 4)
    for bad in ("soon", "-1s", "nan"):
        with pytest.raises(ConfigError, match=r"live\.latency"):
            Config().updated({"live.latency": bad})
