"""Training pictures as a user has them: read, aligned where they are raw, each once, some held out."""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fluidvid.engine.training.pictures import held_out_by_name, read_pictures, resized
from fluidvid.engine.training.runs import whole
from fluidvid.errors import ConfigError, InputError
from fluidvid.geometry import similarity
from fluidvid.trackers.align import crop
from fluidvid.trackers.types import Detection

log = logging.getLogger(__name__)

DUPLICATE = 12
"""Bits of 256 in which two pictures' hashes may differ and still be one picture: re-encoded copies of generated faces
differ in up to 14, the most alike portraits of two people in 15."""
FEWEST = 8
"""Faces below which there is nothing to learn."""
LARGEST_SCALE = 2.0
"""Raw faces that would have to be enlarged more are left out."""
SURE = 0.6
"""Detector's score from which a face of a raw picture is taken."""

Detect = Callable[[NDArray[np.uint8]], Sequence[Detection]]


@dataclass(frozen=True, eq=False)
class FaceSet:
    """Aligned faces to train on.

    Attributes:
        pictures: `(N, S, S, 3)` uint8 RGB.
        held_out: `(N,)` bool, never trained on.
        weights: `(N,)` float64 how often each is drawn, relative.
        sources: what they came from, with the number of faces of each.
    """

    pictures: NDArray[np.uint8]
    held_out: NDArray[np.bool_]
    weights: NDArray[np.float64]
    sources: dict[str, int]

    def save(self, path: Path) -> None:
        """Keep it, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        with whole(path, private=True) as part, part.open("wb") as file:
            names, counts = np.array(list(self.sources)), np.array(list(self.sources.values()))
            np.savez(
                file,
                pictures=self.pictures,
                held_out=self.held_out,
                weights=self.weights,
                names=names,
                counts=counts,
            )

    @classmethod
    def load(cls, path: Path) -> FaceSet:
        """What `save` kept.

        Raises:
            ConfigError: it is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as kept:
                sources = dict(zip(kept["names"].tolist(), kept["counts"].tolist(), strict=True))
                return cls(kept["pictures"], kept["held_out"], kept["weights"], sources)
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise ConfigError(f"{path} is damaged: the run cannot go on, begin it with another --out") from error


def parse_source(text: str) -> tuple[Path, float]:
    """`PATH` or `PATH=SHARE` as path and share (default 1).

    Raises:
        ConfigError: there is no path (it would be the working folder), or the share is no positive number.
        InputError: there is nothing at the path.
    """
    name, sign, number = text.rpartition("=")
    if not sign or Path(text).exists():
        name, number = text, "1"
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if not name or not 0 < share < float("inf"):
        raise ConfigError(f"{text}: DATA or DATA=SHARE with a positive number is needed, e.g. faces.zip=0.2")
    if not Path(name).exists():
        raise InputError(f"no such folder or file: {name}: check the name")
    return Path(name), share


def picture_hashes(pictures: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """`(N, 4)` difference hashes of 256 bits of `(N, S, S, 3)` pictures (N. Krawetz's dHash at 16 x 16)."""
    grey = [cv2.resize(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), (17, 16), interpolation=cv2.INTER_AREA) for p in pictures]
    small = np.stack(grey).astype(np.int16)
    return np.packbits((small[:, :, 1:] > small[:, :, :-1]).reshape(len(small), 256), axis=1).view(np.uint64)


def first_of_each(pictures: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """`(N,)` True for pictures that are no copy of an earlier one: over `DUPLICATE` bits of their hashes differ."""
    hashes = picture_hashes(pictures)
    kept = np.ones(len(hashes), bool)
    for i in range(1, len(hashes)):
        differing = np.bitwise_count(hashes[:i][kept[:i]] ^ hashes[i]).sum(1)
        kept[i] = bool((differing > DUPLICATE).all())
    return kept


def aligned_faces(
    picture: NDArray[np.uint8], detect: Detect, template: NDArray[np.float64], size: int
) -> list[NDArray[np.uint8]]:
    """Every large enough face of a raw picture as a crop on `template` (fractions of the side `size`)."""
    found = []
    for detection in detect(picture):
        if detection.score < SURE:
            continue
        try:
            matrix = similarity(detection.landmarks, template * size)
            if float(np.hypot(*matrix[0, :2])) <= LARGEST_SCALE:
                found.append(crop(picture, matrix, size))
        except ValueError:
            continue  # landmarks that coincide: no face
    return found


def gather(
    sources: Sequence[str],
    size: int,
    template: NDArray[np.float64],
    detector: Callable[[], Detect],
    aligned: bool | None = None,
) -> FaceSet:
    """Read all sources.

    Args:
        sources: folders, zips or npz files, each as `PATH` or `PATH=SHARE`: how often it is drawn from, relative to the
            others, whatever the number of its pictures.
        size: side of the aligned faces in pixels.
        template: `(5, 2)` landmarks of an aligned face in fractions of the side.
        detector: makes what finds faces in raw pictures; called only if there are any.
        aligned: whether pictures are aligned; None: those of exactly `size` x `size` are.

    Raises:
        InputError: a source is missing, damaged, without faces, or all of them together have too few.
        ConfigError: a share is no number.
    """
    places = [parse_source(text) for text in sources]
    faces: list[NDArray[np.uint8]] = []
    held_out: list[bool] = []
    owner: list[int] = []
    detect: Detect | None = None
    for number, (path, _) in enumerate(places):
        before, raw = len(faces), 0
        for name, picture in read_pictures(path):
            if not picture.size:
                raise InputError(f"{name} in {path} has no pixels: leave it out")
            is_aligned = picture.shape[:2] == (size, size) if aligned is None else aligned
            if is_aligned and picture.shape[0] != picture.shape[1]:
                raise InputError(
                    f"{name} in {path} is {picture.shape[1]} x {picture.shape[0]}: aligned faces are square"
                )
            if is_aligned:
                found = [resized(picture, size)]
            else:
                raw += 1
                detect = detect or detector()
                found = aligned_faces(picture, detect, template, size)
            faces += found
            held_out += [held_out_by_name(path, name)] * len(found)
            owner += [number] * len(found)
        log.info("%s: %d faces, %d pictures were raw", path, len(faces) - before, raw)
        if len(faces) == before:
            raise InputError(f"no face was found in the pictures of {path}: --aligned if they are aligned already")
    stack = np.stack(faces)
    kept = first_of_each(stack)
    log.info("%d of %d faces are copies of others and left out", int((~kept).sum()), len(kept))
    if kept.sum() < FEWEST:
        raise InputError(f"{int(kept.sum())} different faces are too few: at least {FEWEST} are needed")
    of, out = np.array(owner)[kept], np.array(held_out)[kept]
    if not out.any():
        out[-1] = True
    counts = np.bincount(of, minlength=len(places))
    shares = np.array([share for _, share in places])
    names = _distinct([path.absolute().name for path, _ in places])
    return FaceSet(
        stack[kept], out, (shares / np.maximum(counts, 1))[of], dict(zip(names, counts.tolist(), strict=True))
    )


def _distinct(names: Sequence[str]) -> list[str]:
    """Names as they are; the second of one name is "NAME (2)"."""
    return [name if name not in names[:i] else f"{name} ({names[: i + 1].count(name)})" for i, name in enumerate(names)]
