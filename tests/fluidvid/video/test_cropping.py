"""What a header crops away does not come back."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from fluidvid.errors import InputError
from fluidvid.video import VideoReader
from fluidvid.video.cropping import Crop, Cropper
from tests.fluidvid.video.media_files import Recipe, build, give_pixel_crop, planes, rewrite, see

COUNT = range(0, 4004, 1001)
WIDE, HIGH, RIGHT, DOWN = 121, 97, (-7, 2), (3, 2)
"""Of a clean aperture: its size, and its centre from that of 176 x 144 pixels."""
APERTURE = Crop(left=24, top=25, right=31, bottom=22)


def give_aperture(path: Path, entry: bytes) -> None:
    """Add a `clap` box to the description of the only track."""
    box = struct.pack(">I4s8i", 40, b"clap", WIDE, 1, HIGH, 1, *RIGHT, *DOWN)
    data, at = path.read_bytes(), 0
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", entry):
        at = data.index(name, at) - 4
        size = int.from_bytes(data[at : at + 4], "big")
        data = data[:at] + (size + len(box)).to_bytes(4, "big") + data[at + 4 :]
        end, at = at + size, at + 8
    path.write_bytes(data[:end] + box + data[end:])


def check(source: Path, target: Path, crop: Crop) -> None:
    report, reader = rewrite(source, target, codec="ffv1")
    assert reader.info.crop == crop
    assert any("crops the picture" in line for line in report.warnings)
    for before, after in zip(planes(source), planes(target), strict=True):
        for index, (a, b) in enumerate(zip(before, after, strict=True)):
            right, down = (before[0].shape[1] // a.shape[1], before[0].shape[0] // a.shape[0]) if index else (1, 1)
            wide, high = crop.size(before[0].shape[1], before[0].shape[0])
            assert b.shape == (-(-high // down), -(-wide // right))
            rows, columns = a[crop.top // down :], slice(crop.left // right, None)
            assert np.array_equal(rows[: b.shape[0], columns][:, : b.shape[1]], b)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "yuv444p"])
@pytest.mark.parametrize(
    ("side", "crop"),
    [
        (b"\x54\xcc", Crop(left=46)),
        (b"\x54\xbb", Crop(top=31)),
        (b"\x54\xdd", Crop(right=5)),
        (b"\x54\xaa", Crop(bottom=64)),
    ],
    ids=["left", "top", "right", "bottom"],
)
def test_matroska(clip: Path, tmp_path: Path, pix_fmt: str, side: bytes, crop: Crop) -> None:
    source = build(tmp_path / "in.mkv", clip, Recipe(pix_fmt=pix_fmt, pts=COUNT))
    give_pixel_crop(source, side, max(crop.left, crop.top, crop.right, crop.bottom))
    check(source, tmp_path / "out.mkv", crop)


@pytest.mark.parametrize(
    ("name", "recipe", "entry"),
    [
        ("in.mp4", Recipe(pts=COUNT), b"avc1"),
        ("in.mov", Recipe("v210", "yuv422p10le", pts=COUNT), b"v210"),  # Matroska does not hold it
    ],
)
def test_a_clean_aperture(clip: Path, tmp_path: Path, name: str, recipe: Recipe, entry: bytes) -> None:
    source = build(tmp_path / name, clip, recipe)
    give_aperture(source, entry)
    check(source, tmp_path / "out.mkv", APERTURE)


def test_a_turned_picture_is_cropped_before_it_is_turned(clip: Path, tmp_path: Path) -> None:
    source = build(tmp_path / "in.mp4", clip, Recipe(turn=90, size=(144, 176), pts=COUNT))
    give_aperture(source, b"avc1")
    with VideoReader(source) as reader:
        shapes = {frame.rgb().shape for frame in reader}
    assert shapes == {(WIDE, HIGH, 3)}
    rewrite(source, tmp_path / "out.ts")
    assert (see(tmp_path / "out.ts").size, see(tmp_path / "out.ts").rotation) == ((HIGH, WIDE), 0)


def test_a_header_that_leaves_nothing_is_refused(clip: Path, tmp_path: Path) -> None:
    source = build(tmp_path / "in.mkv", clip, Recipe(pts=COUNT))
    give_pixel_crop(source, b"\x54\xcc", 176)
    with pytest.raises(InputError):
        VideoReader(source)


def test_nothing_is_cropped_where_no_header_says_so(clip: Path, tmp_path: Path) -> None:
    with VideoReader(build(tmp_path / "in.mkv", clip, Recipe(pts=COUNT))) as reader:
        assert reader.info.crop == Crop()
        assert reader.warnings == []


def test_pictures_may_change_their_size() -> None:
    cropper = Cropper(Crop(left=4, bottom=6))
    for width, height in ((64, 48), (32, 32), (64, 48)):
        picture = av.VideoFrame.from_ndarray(np.zeros((height, width, 3), np.uint8))
        picture.pts, picture.time_base = 0, Fraction(1, 25)
        rest = cropper.cut(picture)
        assert (rest.width, rest.height) == (width - 4, height - 6)
