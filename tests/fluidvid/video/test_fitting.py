"""Pictures that change their size, shape or turn within a file keep their proportions: squeezed faces are missed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from numpy.typing import NDArray

from fluidvid.live.shaping import Shaper
from fluidvid.video import VideoReader
from fluidvid.video.orientation import Orientation
from tests.fluidvid.video.media_files import Recipe, build

COUNT = 12
FEW = range(0, COUNT * 3000, 3000)
PAL = Fraction(1, 25)


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def seen(path: Path) -> tuple[list[NDArray[np.uint8]], list[str]]:
    with VideoReader(path) as reader:
        shown = [frame.rgb() for frame in reader]
    return shown, reader.warnings


def turned(source: Path, target: Path) -> Path:
    """H.264 whose first picture says that all are to be turned by a quarter counter-clockwise."""
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        video = container.streams.video[0]
        copy = out.add_stream_from_template(video)
        tell = BitStreamFilterContext("h264_metadata=display_orientation=insert:rotate=90", video)
        for packet in container.demux(video):
            made: Packet[Any]
            for made in tell.filter(packet if packet.size else None):
                made.stream = copy
                out.mux(made)
    return target


def bright(picture: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Rows and columns of what is no black bar."""
    lit = picture.max(axis=2) > 40
    rows, columns = np.flatnonzero(lit.mean(axis=1) > 0.1), np.flatnonzero(lit.mean(axis=0) > 0.1)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def test_a_portrait_after_a_landscape_is_not_squeezed(clip: Path, tmp_path: Path) -> None:
    wide = build(tmp_path / "a.ts", clip, Recipe(pts=FEW, size=(176, 144)))
    high = build(tmp_path / "b.ts", clip, Recipe(pts=FEW, size=(72, 144)))
    shown, warnings = seen(joined(tmp_path / "in.ts", wide, high))
    assert len(shown) == 2 * COUNT
    assert {picture.shape for picture in shown} == {(144, 176, 3)}
    rows, columns = bright(shown[-1])
    assert rows.stop - rows.start == pytest.approx(144, abs=4)
    assert columns.stop - columns.start == pytest.approx(72, abs=4)
    assert any("changes its size" in warning for warning in warnings)


def test_pixels_of_another_shape_are_not_squeezed(clip: Path, tmp_path: Path) -> None:
    """A broadcast that goes over from 16:9 to 4:3 and keeps its number of pixels."""
    options = {"x264-params": "bframes=0"}
    wide = build(tmp_path / "a.ts", clip, Recipe(pts=FEW, sar=Fraction(64, 45), options=options))
    high = build(tmp_path / "b.ts", clip, Recipe(pts=FEW, sar=Fraction(16, 15), options=options))
    shown, _ = seen(joined(tmp_path / "in.ts", wide, high))
    _, columns = bright(shown[-1])
    assert columns.stop - columns.start == pytest.approx(176 * 3 / 4, abs=4)


@pytest.mark.parametrize("size", [(144, 144), (176, 144)])
def test_pictures_that_are_to_be_turned_from_then_on_are_turned(
    clip: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    """The stream tells it with key frames, and the decoder with no other picture."""
    upright = build(tmp_path / "a.ts", clip, Recipe(pts=FEW, size=size, options={"crf": "12"}))
    sideways = turned(
        build(tmp_path / "b.ts", clip, Recipe(pts=FEW, size=size, turn=90, options={"crf": "12"})), tmp_path / "c.ts"
    )
    shown, _ = seen(joined(tmp_path / "in.ts", upright, sideways))
    assert len(shown) == 2 * COUNT
    for before, after in zip(shown[:COUNT], shown[COUNT:], strict=True):
        assert np.abs(before.astype(int) - after.astype(int)).mean() < 6
    shown, _ = seen(joined(tmp_path / "in2.ts", sideways, upright))
    if size[0] != size[1]:  # else nothing says that they are upright again
        for before, after in zip(shown[COUNT:], shown[:COUNT], strict=True):
            assert np.abs(before.astype(int) - after.astype(int)).mean() < 6


def test_a_live_picture_stays_turned_until_the_next_key_frame(clip: Path, tmp_path: Path) -> None:
    source = turned(build(tmp_path / "a.ts", clip, Recipe(pts=FEW, turn=90)), tmp_path / "b.ts")
    shaper = Shaper()
    with av.open(str(source)) as container:
        shaped = [shaper.shape(picture).to_ndarray(format="rgb24").astype(int) for picture in container.decode(video=0)]
    assert len(shaped) == COUNT
    assert all(np.abs(picture - shaped[0]).mean() < 15 for picture in shaped)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_way_back_undoes_the_turn(turns: int, mirrored: bool) -> None:
    rgb = np.zeros((6, 8, 3), np.uint8)
    rgb[:2, :3] = 200
    orientation = Orientation(turns, mirrored)
    graph = av.filter.Graph()
    names = [graph.add(*step) for step in (*orientation.filters(), *orientation.back())]
    picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
    source = graph.add_buffer(width=8, height=6, format=picture.format, time_base=PAL)
    graph.link_nodes(source, *names, graph.add("buffersink"))
    graph.configure()
    graph.push(picture)
    back = graph.pull()
    assert isinstance(back, av.VideoFrame)
    assert np.array_equal(back.to_ndarray(), rgb)
