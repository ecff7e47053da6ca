"""Training pictures as users have them."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fluidvid.errors import ConfigError, FluidvidError, InputError
from fluidvid.geometry import FFHQ_112
from fluidvid.prior.dataset import FaceSet, first_of_each, gather, parse_source
from fluidvid.trackers.types import Detection
from tests.fluidvid.prior.faces import write_faces


def no_detector() -> Any:
    raise AssertionError("aligned pictures need no detector")


def test_folder_zip_and_npz_give_the_same_faces(tmp_path: Path) -> None:
    written = write_faces(tmp_path / "folder", 10)
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        for path in sorted((tmp_path / "folder").iterdir()):
            archive.write(path, path.name)
    np.savez(tmp_path / "faces.npz", some=written[:4], more=written[4:])
    for name in ("folder", "faces.zip", "faces.npz"):
        found = gather([str(tmp_path / name)], 64, FFHQ_112, no_detector)
        np.testing.assert_array_equal(found.pictures, written)
        assert found.sources == {name: 10}
        assert 1 <= found.held_out.sum() < 10


def test_copies_are_kept_once(tmp_path: Path) -> None:
    written = write_faces(tmp_path / "a", 9)
    (tmp_path / "b").mkdir()
    for index in range(9):  # the same again, compressed hard and a little brighter
        picture = np.clip(written[index].astype(int) + 6, 0, 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "b" / f"{index}.jpg"), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 50])
    found = gather([str(tmp_path / "a"), str(tmp_path / "b")], 64, FFHQ_112, no_detector)
    assert found.sources == {"a": 9, "b": 0}
    np.testing.assert_array_equal(found.pictures, written)
    assert first_of_each(written).all()


def test_shares_are_of_sources_not_of_pictures(tmp_path: Path) -> None:
    write_faces(tmp_path / "many", 12)
    write_faces(tmp_path / "few", 3, seed=1)
    found = gather([str(tmp_path / "many"), f"{tmp_path / 'few'}=0.5"], 64, FFHQ_112, no_detector)
    assert found.weights[:12].sum() == pytest.approx(1.0)
    assert found.weights[12:].sum() == pytest.approx(0.5)


@pytest.mark.parametrize("text", ["=0", "=-1", "=many", "=inf", "=nan"])
def test_a_share_is_a_positive_number(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="DATA=SHARE"):
        parse_source(str(tmp_path) + text)


def test_raw_pictures_are_aligned(tmp_path: Path) -> None:
    """A face that stands turned in a large picture comes out upright, on the template."""
    upright = write_faces(tmp_path / "upright", 8, 128)
    (tmp_path / "raw").mkdir()
    angle, scale, offset = 0.3, 1.5, np.array([150.0, 40.0])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.hstack([turn, offset[:, None]])
    for index, face in enumerate(upright):
        raw = cv2.warpAffine(face, matrix, (400, 320), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        cv2.imwrite(str(tmp_path / "raw" / f"{index:03d}.png"), raw[..., ::-1])
    points = (FFHQ_112 * 128) @ turn.T + offset
    seen = []

    def detector() -> Callable[[Any], list[Detection]]:
        def detect(picture: Any) -> list[Detection]:
            seen.append(picture.shape)
            good = Detection(np.zeros(4, np.float32), 0.9, points.astype(np.float32))
            unsure = Detection(np.zeros(4, np.float32), 0.4, points.astype(np.float32))
            tiny = Detection(np.zeros(4, np.float32), 0.9, (FFHQ_112 * 20).astype(np.float32))
            return [good, unsure, tiny]

        return detect

    found = gather([str(tmp_path / "raw")], 128, FFHQ_112, detector)
    assert seen == [(320, 400, 3)] * 8
    assert found.sources == {"raw": 8}
    inner = np.s_[:, 16:112, 16:112]
    error = np.abs(found.pictures[inner].astype(int) - upright[inner].astype(int)).mean()
    assert error < 3


def test_a_set_is_kept_and_read_again(tmp_path: Path) -> None:
    write_faces(tmp_path / "a", 9)
    found = gather([str(tmp_path / "a")], 64, FFHQ_112, no_detector)
    found.save(tmp_path / "set.npz")
    again = FaceSet.load(tmp_path / "set.npz")
    np.testing.assert_array_equal(again.pictures, found.pictures)
    np.testing.assert_array_equal(again.held_out, found.held_out)
    np.testing.assert_array_equal(again.weights, found.weights)
    assert again.sources == found.sources
    content = (tmp_path / "set.npz").read_bytes()
    for damaged in (b"", content[:100], content.replace(b"held_out", b"hold_out")):
        (tmp_path / "set.npz").write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"set\.npz is damaged"):
            FaceSet.load(tmp_path / "set.npz")


def test_sources_of_one_name_are_counted_apart(tmp_path: Path) -> None:
    write_faces(tmp_path / "mine" / "faces", 9)
    write_faces(tmp_path / "yours" / "faces", 11, seed=1)
    found = gather([str(tmp_path / whose / "faces") for whose in ("mine", "yours")], 64, FFHQ_112, no_detector)
    assert found.sources == {"faces": 9, "faces (2)": 11}


def _nothing(folder: Path) -> None:
    folder.mkdir()


def _few(folder: Path) -> None:
    write_faces(folder, 3)


def _damaged(folder: Path) -> None:
    write_faces(folder, 9)
    (folder / "x.png").write_bytes(b"no picture")


def _text(folder: Path) -> None:
    folder.write_text("a text")


def _oblong(folder: Path) -> None:
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.zeros((40, 60, 3), np.uint8))


def _bad_sum(path: Path) -> None:
    """A zip one of whose entries has another content than its CRC says."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"some picture")
    path.write_bytes(path.read_bytes().replace(b"some picture", b"same picture"))


def _bad_stream(path: Path) -> None:
    """A zip one of whose entries cannot be decompressed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(100))
        info = archive.getinfo("a.png")
    content = bytearray(path.read_bytes())
    begin = info.header_offset + 30 + len(info.filename)
    content[begin : begin + info.compress_size] = b"\xff" * info.compress_size
    path.write_bytes(content)


def _bad_array(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, x=np.full((1, 8, 8, 3), 77, np.uint8))
    path.write_bytes(path.read_bytes().replace(b"\x4d\x4d\x4d", b"\x4e\x4d\x4d"))


def _dangling(folder: Path) -> None:
    write_faces(folder, 9)
    (folder / "x.png").symlink_to("nothing.png")


def _pipe(folder: Path) -> None:
    write_faces(folder, 9)
    os.mkfifo(folder / "x.png")


def _too_large(folder: Path) -> None:
    """A header of 60,000 x 60,000 pixels, which OpenCV refuses by an exception."""
    write_faces(folder, 1)
    (picture,) = folder.iterdir()
    content = bytearray(picture.read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    picture.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_bad_sum, r"a\.png in .* cannot be read \(Bad CRC"),
        (_bad_stream, r"a\.png in .* cannot be read \(Error -3"),
        (_dangling, r"x\.png in .* cannot be read \(No such file"),
        (_pipe, r"x\.png in .* is no file"),
        (_too_large, r"is no picture"),
        (lambda _: None, "no such folder or file"),
        (_nothing, "holds no pictures"),
        (_few, "3 different faces are too few"),
        (_damaged, r"x\.png .* is no picture"),
        (_text, "neither a folder nor a zip or npz"),
        (_oblong, "60 x 40: aligned faces are square"),
    ],
)
def test_bad_sources_are_named_in_one_line(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    make(tmp_path / "data")
    with pytest.raises(InputError, match=words) as caught:
        gather([str(tmp_path / "data")], 64, FFHQ_112, no_detector, aligned=True)
    assert isinstance(caught.value, FluidvidError)
    assert "\n" not in str(caught.value)


def test_what_macos_adds_and_folders_are_no_pictures(tmp_path: Path) -> None:
    written = write_faces(tmp_path / "folder", 10)
    (tmp_path / "folder" / "album.png").mkdir()
    (tmp_path / "folder" / "._000.png").write_bytes(b"attributes")
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        for path in sorted((tmp_path / "folder").iterdir()):
            archive.write(path, path.name)
        archive.writestr("__MACOSX/000.png", b"attributes")
    for name in ("folder", "faces.zip"):
        found = gather([str(tmp_path / name)], 64, FFHQ_112, no_detector)
        np.testing.assert_array_equal(found.pictures, written)


def test_a_damaged_npz_is_refused(tmp_path: Path) -> None:
    _bad_array(tmp_path / "a.npz")
    with pytest.raises(InputError, match="cannot be read"):
        gather([str(tmp_path / "a.npz")], 64, FFHQ_112, no_detector)
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("a.png", b"a picture")
    with pytest.raises(InputError, match=r"is needed"):
        gather([str(tmp_path / "b.npz")], 64, FFHQ_112, no_detector)
    for header in (
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (9" + b"9" * 15 + b", 8, 8, 3)}",
        b"{'descr': '|u1",
    ):
        with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
            archive.writestr(
                "a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + bytes(64)
            )
        with pytest.raises(InputError, match="cannot be read"):
            gather([str(tmp_path / "c.npz")], 64, FFHQ_112, no_detector)


@pytest.mark.parametrize("aligned", [None, True])
def test_pictures_without_pixels_are_refused(aligned: bool | None, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((9, 0, 0, 3), np.uint8))
    with pytest.raises(InputError, match=r"x/0 in .* has no pixels"):
        gather([str(tmp_path / "x.npz")], 64, FFHQ_112, no_detector, aligned=aligned)


def test_an_npz_of_something_else_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((9, 64, 64, 3), np.float32))
    with pytest.raises(InputError, match=r"x in .* is float32 \(9, 64, 64, 3\)"):
        gather([str(tmp_path / "a.npz")], 64, FFHQ_112, no_detector)
