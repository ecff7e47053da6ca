"""Joined recordings: the picture goes on behind a seam, and the sound stays in step with it."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest

from fluidvid.video import VideoReader, seams
from fluidvid.video.opening import WRAP
from fluidvid.video.seams import SteadyClock
from tests.fluidvid.video.media_files import RATE, Recipe, build, rewrite, see

BASE = Fraction(1, 90_000)
FRAME = 3000
PART = 30


def part(path: Path, clip: Path, begin: int, frames_between: str = "0", count: int = PART) -> Path:
    """A second, or `count` pictures, of a broadcast whose clock begins at `begin` seconds."""
    pts = [begin * 90_000 + n * FRAME for n in range(count)]
    return build(path, clip, Recipe(time_base=BASE, pts=pts, audio=["aac"], options={"bf": frames_between}))


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(p.read_bytes() for p in parts))
    return path


@pytest.mark.parametrize("begins", [(10, 2, 2), (100, 2, 2)], ids=["back", "so far back that FFmpeg adds a turn"])
@pytest.mark.parametrize("frames_between", ["0", "2"])
@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_picture_and_sound_go_on_behind_a_seam(
    clip: Path, tmp_path: Path, begins: tuple[int, ...], frames_between: str, suffix: str
) -> None:
    parts = [part(tmp_path / f"{n}.ts", clip, begin, frames_between) for n, begin in enumerate(begins)]
    report, _ = rewrite(joined(tmp_path / "in.ts", *parts), tmp_path / f"out{suffix}")
    after = see(tmp_path / f"out{suffix}")
    assert len(after.times) == len(parts) * PART
    assert {b - a for a, b in pairwise(after.times)} == {FRAME * BASE}
    heard = [time for time, _ in after.of("audio")[0].packets]
    for number, before in enumerate(map(see, parts)):
        moved = after.times[number * PART] - before.times[0]
        sound = [time for time, _ in before.of("audio")[0].packets]
        mine, heard = heard[: len(sound)], heard[len(sound) :]
        # Sound begins before the picture and ends behind it: the first packets of a part overlap the last ones'.
        for was, became in list(zip(sound, mine, strict=True))[3:]:
            assert was is not None and became is not None
            assert abs(became - was - moved) <= Fraction(1, RATE)
    assert heard == []
    told = [line for line in report.warnings if "clock jumps back" in line]
    assert len(told) == 1 and told[0].count(" s,") == 2


@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_nothing_is_lost_before_the_clock_begins_anew(clip: Path, tmp_path: Path, suffix: str) -> None:
    """FFmpeg gives the pictures of up to a minute before that times below zero, where MP4 hides them."""
    times = [int(WRAP / BASE) + (n - PART) * FRAME for n in range(2 * PART)]
    source = build(tmp_path / "in.ts", clip, Recipe(time_base=BASE, pts=times, audio=["aac"]))
    rewrite(source, tmp_path / f"out{suffix}")
    before, after = see(source), see(tmp_path / f"out{suffix}")
    moved = WRAP if suffix == ".mp4" else 0
    assert before.times[0] == -1
    assert after.times == tuple(time + moved for time in before.times)
    assert len(after.of("audio")[0].packets) == len(before.of("audio")[0].packets)
    rewrite(source, tmp_path / "cut.mp4", start=Fraction(1, 2), end=Fraction(3, 2))
    assert len(see(tmp_path / "cut.mp4").times) == PART


def test_a_cut_behind_a_seam_is_found(clip: Path, tmp_path: Path) -> None:
    source = joined(tmp_path / "in.ts", *(part(tmp_path / f"{n}.ts", clip, 5) for n in range(3)))
    rewrite(source, tmp_path / "out.ts", start=Fraction(3, 2), end=Fraction(5, 2))
    after = see(tmp_path / "out.ts")
    assert len(after.times) == PART
    assert {b - a for a, b in pairwise(after.times)} == {FRAME * BASE}
    heard = [time for time, _ in after.of("audio")[0].packets if time is not None]
    assert 0 <= heard[0] < Fraction(1, 5) and Fraction(4, 5) < heard[-1] < 1


@pytest.mark.parametrize("frames_between", ["0", "2"])
@pytest.mark.parametrize("count", [4, 9, 14])
def test_recordings_of_less_than_half_a_second_go_on_one_behind_the_other(
    clip: Path, tmp_path: Path, count: int, frames_between: str
) -> None:
    """The clock jumps back by less than what passes for unsteady: to where the recording began."""
    parts = [part(tmp_path / f"{n}.ts", clip, 5, frames_between, count) for n in range(3)]
    report, _ = rewrite(joined(tmp_path / "in.ts", *parts), tmp_path / "out.ts")
    after = see(tmp_path / "out.ts")
    assert len(after.times) == 3 * count
    assert {b - a for a, b in pairwise(after.times)} == {FRAME * BASE}
    heard = [time for time, _ in after.of("audio")[0].packets if time is not None]
    assert len(heard) == sum(len(see(p).of("audio")[0].packets) for p in parts)
    length = 3 * count * FRAME * BASE
    assert abs(heard[-1] - heard[0] - length) < Fraction(1, 10), "the sound keeps in step"
    assert [line.count(" s,") for line in report.warnings if "clock jumps back" in line] == [2]


@pytest.mark.parametrize(
    ("where", "time"),
    [(5, 12_345), (5, 900_000 + 3 * FRAME), (2, 900_000), (2, 900_000 - FRAME)],
    ids=["far back", "a little", "to the beginning", "a little before it"],
)
def test_a_single_damaged_time_is_no_seam(clip: Path, tmp_path: Path, where: int, time: int) -> None:
    source = part(tmp_path / "in.ts", clip, 10)
    with VideoReader(source) as reader:
        clock = SteadyClock(reader.info)
    packets = []
    for n in range(10):
        packet: av.Packet[Any] = av.Packet(b"picture")
        packet.pts = packet.dts = 900_000 + n * FRAME if n != where else time
        packet.time_base, packet.duration = BASE, FRAME
        packets.append(packet)
    moved = [p.pts for p in clock.steady(packets)]
    assert moved[where] in (900_000 + where * FRAME, time)
    assert [pts for n, pts in enumerate(moved) if n != where] == [900_000 + n * FRAME for n in range(10) if n != where]
    assert clock.warnings == []


@pytest.mark.parametrize(
    ("pts", "dts"),
    [(1882, 7360), (1882, None), (None, 7360), (11, None), (None, 11)],
    ids=["both", "showing", "decoding", "showing by a second", "decoding by a second"],
)
def test_a_single_time_far_ahead_is_taken_off(clip: Path, tmp_path: Path, pts: int | None, dts: int | None) -> None:
    """All that follows would stand behind it, half an hour late and without its sound."""
    source = part(tmp_path / "in.ts", clip, 10)
    with VideoReader(source) as reader:
        clock = SteadyClock(reader.info)
    packets = []
    for n, place in enumerate([1, 0, 3, 2, 5, 4, 7, 6]):
        packet: av.Packet[Any] = av.Packet(b"picture")
        packet.pts, packet.dts = 900_000 + place * FRAME, 900_000 + (n - 1) * FRAME
        packet.time_base, packet.duration = BASE, FRAME
        packets.append(packet)
    due = [(p.pts, p.dts) for p in packets]
    due[4] = (None, None)
    packets[4].pts = packets[4].pts if pts is None else pts * 90_000
    packets[4].dts = packets[4].dts if dts is None else dts * 90_000
    assert [(p.pts, p.dts) for p in clock.steady(packets)] == due
    assert clock.warnings == []


def test_a_picture_whose_time_is_damaged_stays_in_its_place(clip: Path, tmp_path: Path) -> None:
    source = part(tmp_path / "in.ts", clip, 10)
    before = see(source)
    content = bytearray(source.read_bytes())
    stamp = _pes_time(int(before.times[9] / BASE))
    assert content.count(stamp) == 1
    at = content.index(stamp)
    content[at : at + 5] = _pes_time(1882 * 90_000)
    source.write_bytes(content)
    report, _ = rewrite(source, tmp_path / "out.ts")
    assert see(tmp_path / "out.ts").times == before.times
    assert not any("clock jumps back" in line for line in report.warnings)


@pytest.mark.parametrize("gap", [1, 600])
def test_a_clock_that_stays_ahead_is_believed(clip: Path, tmp_path: Path, gap: int) -> None:
    source = joined(tmp_path / "in.ts", part(tmp_path / "1.ts", clip, 5), part(tmp_path / "2.ts", clip, 6 + gap))
    before = see(source)
    rewrite(source, tmp_path / "out.ts")
    assert see(tmp_path / "out.ts").times == before.times


def _pes_time(ticks: int) -> bytes:
    """A time of showing that stands alone in a picture's header in a transport stream (ISO/IEC 13818-1, 2.4.3.6)."""
    high, middle, low = ticks >> 30 & 7, ticks >> 15 & 0x7FFF, ticks & 0x7FFF
    return bytes([0x21 | high << 1, *(middle << 1 | 1).to_bytes(2, "big"), *(low << 1 | 1).to_bytes(2, "big")])


def test_first_packets_without_decoding_times_are_no_seam(clip: Path, tmp_path: Path) -> None:
    """Their times of showing are ahead of the next one's of decoding."""
    source = part(tmp_path / "in.ts", clip, 10)
    with VideoReader(source) as reader:
        clock = SteadyClock(reader.info)
    shown = [2, 0, 1, 5, 3, 4]
    packets: list[av.Packet[Any]] = []
    for n, place in enumerate(shown):
        packet: av.Packet[Any] = av.Packet(b"picture")
        packet.pts = 900_000 + place * FRAME
        if n >= 1:
            packet.dts = 900_000 + (n - 2) * FRAME
        packet.time_base, packet.duration = BASE, FRAME
        packets.append(packet)
    assert [p.pts for p in clock.steady(packets)] == [900_000 + place * FRAME for place in shown]
    assert clock.warnings == []


def test_sound_that_jumps_by_itself_is_kept(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture's clock rules: sound waits for its seam, but not for ever."""
    monkeypatch.setattr(seams, "_PATIENCE", Fraction(1, 4))
    source = part(tmp_path / "in.ts", clip, 10)
    with VideoReader(source) as reader:
        clock = SteadyClock(reader.info)

    def jumping() -> Iterator[av.Packet[Any]]:
        with av.open(str(source)) as container:
            for packet in container.demux():
                if packet.pts is not None and packet.dts is not None:
                    back = 180_000 if packet.stream.type == "audio" and packet.pts > 10.4 * 90_000 else 0
                    packet.pts, packet.dts = packet.pts - back, packet.dts - back
                    yield packet

    given = [(p.stream.type, p.pts) for p in jumping()]
    seen = [(p.stream.type, p.pts) for p in clock.steady(jumping())]
    assert seen != given, "nothing waited"
    for kind in ("video", "audio"):
        assert [pts for k, pts in seen if k == kind] == [pts for k, pts in given if k == kind]
    assert clock.warnings == []
