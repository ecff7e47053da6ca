"""Pixels: what was not edited reaches the encoder unchanged; rotation, aspect, depth and colours stay."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from fluidvid.video import Frame, VideoReader
from fluidvid.video.ebml import SEGMENT, TRACKS, display_size, elements, set_display_size, within
from fluidvid.video.encoders import hdr_parameters
from tests.fluidvid.video.media_files import Recipe, build, pictures, planes, rewrite, see

BOX = (33, 21, 90, 77)
FORMATS = ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p10le", "gray"]


def _painted(frame: Frame) -> tuple[NDArray[np.uint8], Sequence[tuple[int, int, int, int]]] | None:
    """Odd frames get a box, and a change outside it that must not be taken over."""
    if frame.index % 2 == 0:
        return None
    rgb = frame.rgb().copy()
    rgb[BOX[1] : BOX[3], BOX[0] : BOX[2]] = (200, 30, 90)
    rgb[100:, 120:] = 0
    return rgb, [BOX]


@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_pixels_outside_the_regions_reach_the_encoder_exactly(clip: Path, tmp_path: Path, pix_fmt: str) -> None:
    source = build(tmp_path / "in.mkv", clip, Recipe(pix_fmt=pix_fmt, pts=range(0, 6006, 1001)))
    rewrite(source, tmp_path / "out.mkv", _painted, codec="ffv1")
    before, after = planes(source), planes(tmp_path / "out.mkv")
    assert len(after) == len(before) == 6
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        for index, (a, b) in enumerate(zip(old, new, strict=True)):
            if number % 2 == 0:
                assert np.array_equal(a, b)
                continue
            right, down = (old[0].shape[1] // a.shape[1], old[0].shape[0] // a.shape[0]) if index else (1, 1)
            touched = np.zeros(a.shape, bool)
            touched[BOX[1] // down : -(-BOX[3] // down), BOX[0] // right : -(-BOX[2] // right)] = True
            assert np.array_equal(a[~touched], b[~touched])
            assert (a[touched] != b[touched]).mean() > 0.9
    with VideoReader(tmp_path / "out.mkv") as reader:
        shown = [frame.rgb()[BOX[1] + 2 : BOX[3] - 2, BOX[0] + 2 : BOX[2] - 2] for frame in reader][1]
    if pix_fmt != "gray":
        assert np.abs(shown.astype(int) - (200, 30, 90)).max() <= 4


@pytest.mark.parametrize("turn", [90, 180, 270])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_rotated_pictures_are_upright_before_and_after(clip: Path, tmp_path: Path, turn: int, suffix: str) -> None:
    source = build(tmp_path / "in.mp4", clip, Recipe(turn=turn, pts=range(0, 4004, 1001)))
    sizes: list[tuple[int, ...]] = []

    def paint(frame: Frame) -> tuple[NDArray[np.uint8], Sequence[tuple[int, int, int, int]]]:
        error = np.abs(frame.rgb().astype(int) - pictures(clip)[frame.index]).mean()
        assert error < 6, "the reader's picture is not upright"
        sizes.append(frame.rgb().shape)
        rgb = frame.rgb().copy()
        rgb[0:40, 0:60] = (255, 0, 0)
        return rgb, [(0, 0, 60, 40)]

    report, _ = rewrite(source, tmp_path / f"out{suffix}", paint)
    assert set(sizes) == {(144, 176, 3)}
    with VideoReader(tmp_path / f"out{suffix}") as reader:
        assert (reader.info.width, reader.info.height) == (176, 144)
        corner = next(iter(reader)).rgb()[4:36, 4:56].reshape(-1, 3).mean(axis=0)
    assert corner[0] > 230
    assert corner[1:].max() < 25
    assert see(tmp_path / f"out{suffix}").rotation == (0 if suffix == ".ts" else turn)
    assert any("turned upright" in w for w in report.warnings) == (suffix == ".ts")


def test_odd_sizes_and_full_chroma_stay(clip: Path, tmp_path: Path) -> None:
    source = build(tmp_path / "in.mp4", clip, Recipe(pix_fmt="yuv444p", size=(161, 121), pts=range(0, 4004, 1001)))
    rewrite(source, tmp_path / "out.mp4", _painted)
    after = see(tmp_path / "out.mp4")
    assert (after.size, after.pix_fmt, after.codec) == ((161, 121), "yuv444p", "h264")


def test_odd_sizes_with_halved_chroma_work(clip: Path, tmp_path: Path) -> None:
    source = build(tmp_path / "in.mkv", clip, Recipe("ffv1", size=(161, 121), pts=range(0, 4004, 1001)))
    report, _ = rewrite(source, tmp_path / "out.mp4", _painted, codec="h264")
    after = see(tmp_path / "out.mp4")
    assert after.size == (161, 121)
    assert any("yuv444p" in warning for warning in report.warnings)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sample_aspect_ratio_stays(clip: Path, tmp_path: Path, suffix: str) -> None:
    source = build(tmp_path / f"in{suffix}", clip, Recipe(sar=Fraction(16, 11), pts=range(0, 4004, 1001)))
    rewrite(source, tmp_path / f"out{suffix}")
    assert see(source).sar == see(tmp_path / f"out{suffix}").sar == Fraction(16, 11)


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".webm", "vp9"), (".webm", "vp8"), (".mkv", "vp9"), (".mkv", "ffv1"), (".mkv", "prores")]
)
@pytest.mark.parametrize("keep", [False, True])
def test_sample_aspect_ratio_stays_where_the_codec_has_none(
    clip: Path, tmp_path: Path, suffix: str, codec: str, keep: bool
) -> None:
    """The header is changed after the fact: all that follows it is where it was."""
    sound = ["libopus"] if suffix == ".webm" else ["aac"]
    tags = {"title": "t" * 300}
    recipe = Recipe(sar=Fraction(16, 11), audio=sound, attachment=True, tags=tags, pts=range(0, 90 * 1001, 1001))
    source, target = build(tmp_path / "in.mkv", clip, recipe), tmp_path / f"out{suffix}"
    report, _ = rewrite(source, target, codec=codec, keep_metadata=keep)
    after = see(target)
    assert (after.sar, len(after.times)) == (Fraction(16, 11), 90)
    assert after.of("audio")[0].hashes == see(source).of("audio")[0].hashes
    assert ("t" * 300 in after.tags.values()) == keep
    assert not any("pixels" in line for line in report.warnings)
    with av.open(str(target)) as result:
        result.seek(round(2.9 * av.time_base))
        first = next(p for p in result.demux(video=0))
    assert first.pts is not None
    assert first.is_keyframe
    parts = {name: end - len(body) for name, body, end in elements(within(target.read_bytes(), SEGMENT))}
    told = {}
    for _, entry, _ in elements(within(target.read_bytes(), SEGMENT, 0x114D9B74)):
        told[int.from_bytes(within(entry, 0x53AB), "big")] = int.from_bytes(within(entry, 0x53AC), "big")
    assert TRACKS in told
    assert all(2 <= parts[name] - place <= 12 for name, place in told.items()), "positions of headers are right"


@pytest.mark.parametrize(
    ("size", "sar", "shown"),
    [
        ((720, 576), Fraction(64, 45), (1024, 576)),
        ((720, 480), Fraction(32, 27), (720, 405)),
        ((720, 480), Fraction(8, 9), (640, 480)),
        ((176, 144), Fraction(40, 33), (213, 144)),
    ],
)
def test_display_sizes(size: tuple[int, int], sar: Fraction, shown: tuple[int, int]) -> None:
    assert display_size(*size, sar) == shown


def test_headers_of_another_kind_are_left_alone(tmp_path: Path) -> None:
    content = bytes.fromhex("1a45dfa380 18538067 85 4dbb8200ec")
    (tmp_path / "out.mkv").write_bytes(content)
    assert not set_display_size(tmp_path / "out.mkv", (64, 48))
    assert (tmp_path / "out.mkv").read_bytes() == content


def test_a_shape_of_pixels_that_is_lost_is_said(clip: Path, tmp_path: Path) -> None:
    source = build(tmp_path / "in.mkv", clip, Recipe(sar=Fraction(16, 11), pts=range(0, 4004, 1001)))
    report, _ = rewrite(source, tmp_path / "out.avi", codec="ffv1")
    assert any("16:11" in line for line in report.warnings)


HDR = (1, 9, 16, 9)
SD = (1, 5, 6, 5)
FULL = (2, 1, 1, 1)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "colour"),
    [("libx265", "yuv420p10le", HDR), ("libx264", "yuv420p", SD), ("libx264", "yuv420p", FULL)],
    ids=["hdr10", "pal", "full"],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_depth_and_colour_tags_stay(
    clip: Path, tmp_path: Path, suffix: str, codec: str, pix_fmt: str, colour: tuple[int, int, int, int]
) -> None:
    recipe = Recipe(codec, pix_fmt, colour=colour, pts=range(0, 4004, 1001))
    source = build(tmp_path / f"in{suffix}", clip, recipe)
    rewrite(source, tmp_path / f"out{suffix}", _painted)
    before, after = see(source), see(tmp_path / f"out{suffix}")
    assert before.colour == colour
    assert after.colour == colour
    assert (after.codec, after.pix_fmt) == (before.codec, before.pix_fmt)


MASTERED = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"


def test_hdr_mastering_data_stay(clip: Path, tmp_path: Path) -> None:
    options = {"x265-params": f"log-level=none:hdr10=1:master-display={MASTERED}:max-cll=1000,400"}
    recipe = Recipe("libx265", "yuv420p10le", colour=HDR, pts=range(0, 4004, 1001), options=options)
    source = build(tmp_path / "in.mkv", clip, recipe)
    with VideoReader(source) as reader:
        told = reader.info.hdr
    assert hdr_parameters(told) == [f"master-display={MASTERED}", "max-cll=1000,400"]
    rewrite(source, tmp_path / "out.mkv", _painted)
    with VideoReader(tmp_path / "out.mkv") as reader:
        assert reader.info.hdr == told


def test_hdr_mastering_data_that_are_lost_are_reported(clip: Path, tmp_path: Path) -> None:
    options = {"x265-params": f"log-level=none:hdr10=1:master-display={MASTERED}"}
    recipe = Recipe("libx265", "yuv420p10le", colour=HDR, pts=range(0, 4004, 1001), options=options)
    source = build(tmp_path / "in.mkv", clip, recipe)
    report, _ = rewrite(source, tmp_path / "out.mkv", codec="h264")
    assert any("HDR mastering data" in line for line in report.warnings)


@pytest.mark.parametrize("codec", ["png", "qtrle"])
def test_colours_stored_as_rgb_are_tagged_as_what_they_become(clip: Path, tmp_path: Path, codec: str) -> None:
    """Else every player would read Y, Cb, Cr as green, blue and red."""
    source = build(tmp_path / "in.mov", clip, Recipe(codec, "rgb24", pts=range(0, 3003, 1001)))
    rewrite(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        picture = next(container.decode(video=0))
    assert picture.format.name in ("yuv444p", "yuvj444p")
    assert (picture.colorspace, picture.color_range) == (6, 2 if codec == "png" else 1)
    with VideoReader(source) as reader, VideoReader(tmp_path / "out.mp4") as result:
        before, after = (next(iter(file)).rgb().astype(int) for file in (reader, result))
    assert np.abs(before - after).mean() < 6


def test_colours_of_a_palette_stay(clip: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.mov"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("png", rate=25, options={"pred": "none"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "pal8"
        indices = np.repeat(np.arange(64, dtype=np.uint8)[None], 48, axis=0)
        for shift in range(3):
            palette = np.full((256, 4), 255, np.uint8)  # alpha, red, green, blue
            palette[:32, 1:], palette[32:64, 1:] = (255, 0, 85 * shift), (0, 170, 255)
            picture = av.VideoFrame.from_ndarray((indices, palette), format="pal8")  # type: ignore[arg-type]
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    report, _ = rewrite(source, tmp_path / "out.mkv", codec="ffv1")
    with VideoReader(source) as reader, VideoReader(tmp_path / "out.mkv") as result:
        before, after = ([frame.rgb() for frame in file] for file in (reader, result))
    assert np.ptp(before[0].astype(int), axis=2).min() > 100, "the source has colours"
    np.testing.assert_array_equal(np.stack(before), np.stack(after))
    assert not any("lost" in line for line in report.warnings)


def test_limited_range_goes_into_mjpeg(clip: Path, tmp_path: Path) -> None:
    source = build(tmp_path / "in.mp4", clip, Recipe(pts=range(0, 3003, 1001)))
    rewrite(source, tmp_path / "out.mkv", codec="mjpeg")
    with VideoReader(source) as reader, VideoReader(tmp_path / "out.mkv") as result:
        before, after = (next(iter(file)).rgb().astype(int) for file in (reader, result))
    assert np.abs(before - after).mean() < 3


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        *((".mpg", "mpeg2video"), (".mkv", "mpeg1video"), (".mkv", "mpeg4"), (".mp4", "mpeg4")),
        *((".webm", "vp8"), (".mov", "prores"), (".avi", "ffv1"), (".avi", "utvideo")),
    ],
)
@pytest.mark.parametrize(("stored", "pix_fmt"), [("ffv1", "yuv420p"), ("mjpeg", "yuvj422p")])
def test_full_range_is_converted_where_nothing_would_say_it(
    clip: Path, tmp_path: Path, suffix: str, codec: str, stored: str, pix_fmt: str
) -> None:
    source = build(tmp_path / "in.mkv", clip, Recipe(stored, pix_fmt, colour=FULL, pts=range(0, 3003, 1001)))
    report, _ = rewrite(source, tmp_path / f"out{suffix}", codec=codec)
    with VideoReader(source) as reader, VideoReader(tmp_path / f"out{suffix}") as result:
        assert (reader.info.color_range, result.info.color_range in (0, 1)) == (2, True)
        before, after = (next(iter(file)).rgb().astype(int) for file in (reader, result))
    assert np.abs(before - after).mean() < 3
    assert any("limited range" in line for line in report.warnings)
    if codec in ("ffv1", "utvideo"):
        luma = planes(source)[0][0] * (219 / 255) + 16
        assert np.abs(planes(tmp_path / f"out{suffix}")[0][0] - luma).max() <= 1


@pytest.mark.parametrize("pix_fmt", ["rgba", "ya8"])
def test_lost_transparency_is_said(clip: Path, tmp_path: Path, pix_fmt: str) -> None:
    source = build(tmp_path / "in.mov", clip, Recipe("png", pix_fmt, pts=range(0, 3003, 1001)))
    report, _ = rewrite(source, tmp_path / "out.mkv", codec="ffv1")
    assert any("transparency is lost" in line for line in report.warnings)


@pytest.mark.parametrize(
    ("suffix", "codec", "pix_fmt"),
    [(".mkv", "ffv1", "yuva420p"), (".mov", "prores_ks", "yuva444p10le"), (".avi", "utvideo", "gbrap")],
)
def test_no_outline_stays_in_the_transparency_of_a_region(
    clip: Path, tmp_path: Path, suffix: str, codec: str, pix_fmt: str
) -> None:
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    with av.open(str(source), "w") as out:
        stream: Any = out.add_stream(codec, rate=25, width=176, height=144, pix_fmt=pix_fmt)
        outline = np.dstack([pictures(clip)[0], pictures(clip)[0][..., 1]])
        for _ in range(2):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(outline, format="rgba")))
        out.mux(stream.encode(None))
    report, _ = rewrite(source, target, _painted)
    before, after = ([picture[3] for picture in planes(path)] for path in (source, target))
    inside = np.zeros(before[0].shape, bool)
    inside[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    assert np.unique(after[1][inside]).tolist() == [after[1].max()]
    assert after[1].max() in (255, 4095) and np.unique(before[1][inside]).size > 50
    assert np.array_equal(before[0], after[0]) and np.array_equal(before[1][~inside], after[1][~inside])
    assert any("faces are opaque" in line for line in report.warnings)


@pytest.mark.parametrize(
    ("tag", "value", "words"),
    [("alpha_mode", "1", "transparency"), ("stereo_mode", "left_right", "two views"), ("stereo_mode", "mono", "")],
)
def test_transparency_and_second_views_are_lost_with_a_word(
    clip: Path, tmp_path: Path, tag: str, value: str, words: str
) -> None:
    first = build(tmp_path / "first.mkv", clip, Recipe("libvpx-vp9", pts=range(0, 3003, 1001)))
    with av.open(str(first)) as container, av.open(str(tmp_path / "in.webm"), "w") as out:
        stream = out.add_stream_from_template(container.streams.video[0])
        stream.metadata[tag] = value
        for packet in container.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    report, _ = rewrite(tmp_path / "in.webm", tmp_path / "out.mkv", codec="h264")
    assert any(words in line for line in report.warnings) if words else report.warnings == ()


def test_a_projection_is_lost_with_a_word(clip: Path, tmp_path: Path) -> None:
    """Google's Spherical Video V1: XML in a box of the track."""
    data = build(tmp_path / "first.mp4", clip, Recipe(pts=range(0, 3003, 1001))).read_bytes()
    told = {"Spherical": "true", "Stitched": "true", "StitchingSoftware": "x", "ProjectionType": "equirectangular"}
    words = "".join(f"<GSpherical:{name}>{value}</GSpherical:{name}>" for name, value in told.items())
    xml = (
        bytes.fromhex("ffcc8263f8554a938814587a02521fdd") + f"<rdf:SphericalVideo>{words}</rdf:SphericalVideo>".encode()
    )
    box = (len(xml) + 8).to_bytes(4, "big") + b"uuid" + xml
    for name in (b"moov", b"trak"):
        at = data.rindex(name) - 4
        end = at + int.from_bytes(data[at : at + 4], "big")
        data = data[:at] + (end - at + len(box)).to_bytes(4, "big") + data[at + 4 :]
    source = tmp_path / "in.mp4"
    source.write_bytes(data[:end] + box + data[end:])
    report, _ = rewrite(source, tmp_path / "out.mp4")
    assert any("360-degree" in line for line in report.warnings)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_hevc_of_a_few_pictures_keeps_its_times(clip: Path, tmp_path: Path, count: int) -> None:
    source = build(
        tmp_path / "in.mkv", clip, Recipe(time_base=Fraction(1, 1000), pts=range(800, 800 + 100 * count, 100))
    )
    rewrite(source, tmp_path / "out.mkv", codec="hevc")
    with av.open(str(tmp_path / "out.mkv")) as container:
        packets = [(p.pts or 0, p.dts or 0) for p in container.demux(video=0) if p.size]
    assert sorted(pts for pts, _ in packets) == list(range(800, 800 + 100 * count, 100))
    assert all(abs(dts) < 10_000 for _, dts in packets)


@pytest.mark.parametrize(("suffix", "tag"), [(".mp4", "hvc1"), (".mov", "hvc1"), (".mkv", None)])
def test_hevc_is_tagged_so_that_apples_players_show_it(
    clip: Path, tmp_path: Path, suffix: str, tag: str | None
) -> None:
    source = build(tmp_path / "in.mkv", clip, Recipe(pts=range(0, 3003, 1001)))
    rewrite(source, tmp_path / f"out{suffix}", codec="hevc")
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        assert tag in (None, container.streams.video[0].codec_context.codec_tag)
        assert len(list(container.decode(video=0))) == 3


@pytest.mark.parametrize("codec", ["h264", "mpeg2video", "hevc", "ffv1"])
def test_closed_captions_stay_or_are_said_to_be_lost(clip: Path, tmp_path: Path, codec: str) -> None:
    """CEA-608 as ATSC A/53 puts it into the pictures of H.264."""
    options = {"x264-params": "bframes=0:sliced-threads=0:slices=1:repeat-headers=1"}
    first = build(tmp_path / "in.h264", clip, Recipe(pts=range(0, 8 * 1001, 1001), options=options))
    words = b"\xb5\x00\x31GA94\x03\x41\xff\xfc\x94\x2c\xff"
    message = b"\x00\x00\x01\x06\x04" + bytes([len(words)]) + words + b"\x80"
    units = first.read_bytes().split(b"\x00\x00\x01")
    told = [(message if unit and unit[0] & 31 in (1, 5) else b"") + b"\x00\x00\x01" + unit for unit in units[1:]]
    first.write_bytes(b"".join(told))
    with VideoReader(first) as reader:
        assert reader.info.captions
    report, _ = rewrite(first, tmp_path / "out.mkv", codec=codec)
    with VideoReader(tmp_path / "out.mkv") as reader:
        kept = reader.info.captions
    assert kept is (codec in ("h264", "mpeg2video"))
    assert any("closed captions" in warning for warning in report.warnings) is not kept
