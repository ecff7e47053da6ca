"""Sound from inputs that tell little about it: whatever it is, it must not cost an output."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.packet import Packet

from fluidvid.live.addresses import sink_address, source_address
from fluidvid.live.connection import Connection, Lost
from fluidvid.live.encoding import Coded, LiveEncoder
from fluidvid.live.sinks import open_sink
from fluidvid.live.source import LiveSource
from tests.fluidvid.video.media_files import Recipe, build

SIZE = (176, 144)


def listened(source: Path) -> tuple[bytes, list[Coded], list[str]]:
    """A file read to its end: how the outputs are told of its streams, its sound, and what was said."""
    described: list[bytes] = []
    heard: list[Coded] = []
    said: list[str] = []

    def began(size: tuple[int, int], rate: Fraction, sound: Any, header: bytes, _: object) -> None:
        described.append(LiveEncoder(size, rate, key_interval=1.0).description(sound, header))

    reading = LiveSource(
        source_address(str(source)),
        transport="tcp",
        timeout=2,
        retries=1,
        behind=20.0,
        say=said.append,
        began=began,
        heard=heard.append,
    )
    reading.start()
    for stretch in reading.stretches():
        list(stretch)
    reading.close()
    return described[0], heard, said


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_aac_reaches_every_kind_of_file(clip: Path, tmp_path: Path, suffix: str) -> None:
    """Packets of MPEG-TS tell about themselves (ADTS); those of Matroska do not, and mp4 wants to know beforehand."""
    source = build(tmp_path / f"in{suffix}", clip, Recipe(pts=range(0, 18 * 1001, 1001), audio=["aac"]))
    description, heard, _ = listened(source)
    assert len(heard) > 2
    encoder = LiveEncoder(SIZE, Fraction(30), key_interval=1.0)
    picture = av.VideoFrame(*SIZE, "yuv420p")
    picture.pts = 0
    first = encoder.encode(picture, arrived=0.0)
    for target in ("out.mp4", "out.mov", "out.mkv", "out.flv", "out.ts"):
        sink = open_sink(
            sink_address(f"{tmp_path}/{target}", overwrite=False), description, transport="tcp", segment=60.0
        )
        for packet in (*first, *heard):
            sink.write(packet)
        sink.close()
        assert not sink.notes
        with av.open(str(tmp_path / target)) as made:
            loud = [np.abs(frame.to_ndarray()).max() for frame in made.decode(audio=0)]
        # An encoder's first frame fades in.
        assert len(loud) == len(heard) and min(loud[2:]) > 0.5, target


def silent(path: Path) -> Path:
    """A camera without a microphone that announces sound all the same."""
    with av.open(str(path), "w") as out:
        video, _ = out.add_stream("libx264", rate=25), out.add_stream("aac", rate=8000, layout="mono")
        assert isinstance(video, av.VideoStream)
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        for _ in range(10):
            out.mux(video.encode(av.VideoFrame(*SIZE, "yuv420p")))
        out.mux(video.encode(None))
    return path


def test_sound_that_is_announced_and_never_comes(tmp_path: Path) -> None:
    """Nothing is known of it, which no muxer would take."""
    description, heard, said = listened(silent(tmp_path / "in.ts"))
    assert heard == [] and any("its sound cannot be copied: published without sound" in line for line in said)
    sink = open_sink(sink_address(f"{tmp_path}/out.mp4", overwrite=False), description, transport="tcp", segment=60.0)
    sink.close()


def test_a_packet_of_sound_without_its_header_is_damaged(clip: Path, tmp_path: Path) -> None:
    source = build(tmp_path / "in.ts", clip, Recipe(pts=range(0, 18 * 1001, 1001), audio=["aac"]))
    with Connection(source_address(str(source)), transport="tcp", timeout=2) as connection:
        assert connection.header and connection.sound is not None
        garbled = Packet(bytes(20))
        assert connection._heard(garbled) == [] and connection.corrupt == 1
        sounds = 0
        with pytest.raises(Lost, match="the file ended"):
            for item in connection.items():
                sounds += isinstance(item, Packet)
        assert sounds > 2 and connection.corrupt == 1
