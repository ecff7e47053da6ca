"""Training pictures: aligned faces from zips or folders, held out by name, augmented towards real footage."""

from __future__ import annotations

import contextlib
import hashlib
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fluidvid.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def read_pictures(source: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Every picture of a folder, a zip or an npz, in the order of their names.

    Args:
        source: a folder (searched in full) or zip of picture files, or an npz of `(N, H, W, 3)` uint8 RGB arrays.

    Yields:
        A name below the source, and `(H, W, 3)` uint8 RGB.

    Raises:
        InputError: the source is of no such kind, holds no pictures, or one of them is damaged.
    """
    count = 0
    for name, content in _contents(source):
        picture = content
        if isinstance(content, bytes):
            read = None
            with contextlib.suppress(cv2.error):  # a header of more pixels than OpenCV takes
                read = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB) if content else None
            if read is None:
                raise InputError(f"{name} in {source} is no picture: remove it or copy it again")
            picture = np.asarray(read, np.uint8)
        count += 1
        yield name, picture
    if not count:
        raise InputError(f"{source} holds no pictures ({', '.join(SUFFIXES)}): give a folder, zip or npz of faces")


@contextlib.contextmanager
def _read_errors(what: str) -> Iterator[None]:
    """What reading a file or an archive's entry raises is an InputError; RuntimeError is zipfile's for passwords."""
    try:
        yield
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{what} cannot be read ({reason}): remove it or copy it again") from error


def _names_picture(name: str) -> bool:
    """Whether a path below a source ends like a picture and is none of the companions macOS adds to every file."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith("._") and "__MACOSX" not in path.parts


def _contents(source: Path) -> Iterator[tuple[str, Any]]:
    """Names with the bytes of picture files, or with arrays."""
    if source.is_dir():
        for path in sorted(p for p in source.rglob("*") if not p.is_dir()):
            name = path.relative_to(source).as_posix()
            if _names_picture(name):
                if path.exists() and not path.is_file():
                    raise InputError(f"{name} in {source} is no file: remove it")
                with _read_errors(f"{name} in {source}"):
                    content = path.read_bytes()
                yield name, content
        return
    if not zipfile.is_zipfile(source):
        raise InputError(f"{source} is neither a folder nor a zip or npz of pictures: check the name")
    if source.suffix == ".npz":
        try:
            with _read_errors(str(source)), np.load(source, allow_pickle=False) as arrays:
                for key in arrays.files:
                    stack = np.asarray(arrays[key])  # another kind of file comes as bytes
                    if stack.ndim != 4 or stack.shape[3] != 3 or stack.dtype != np.uint8:
                        raise InputError(
                            f"{key} in {source} is {stack.dtype} {stack.shape}: (N, H, W, 3) uint8 RGB is needed"
                        )
                    yield from ((f"{key}/{i}", picture) for i, picture in enumerate(stack))
        except (ValueError, MemoryError, tokenize.TokenError) as error:  # also of a header that is damaged
            raise InputError(f"{source} cannot be read ({error}): save plain uint8 arrays") from error
        return
    with _read_errors(str(source)):
        archive = zipfile.ZipFile(source)
    with archive:
        for name in sorted(n for n in archive.namelist() if not n.endswith("/") and _names_picture(n)):
            with _read_errors(f"{name} in {source}"):
                content = archive.read(name)
            yield name, content


def held_out_by_name(source: Path, name: str) -> bool:
    """Whether a picture is kept from training: 2 %, by a hash of its name."""
    return hashlib.sha256(f"{Path(source).name}/{name}".encode()).digest()[0] < 5


def resized(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """`(size, size, 3)`, area-filtered when shrinking."""
    if picture.shape[:2] == (size, size):
        return picture
    how = cv2.INTER_AREA if picture.shape[0] > size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (size, size), interpolation=how), np.uint8)


def augment(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Imitate real footage: mirror, light, colour, small affine, horizontal squeeze of a half, blur, noise.

    A third of the faces are turned far or lit badly: that is where footage leaves what studio portraits show.

    Args:
        crops: `(N, 3, S, S)` float in [-1, 1].
        generator: source of every random number.

    Returns:
        `(N, 3, S, S)` float in [-1, 1], same dtype.
    """
    n = len(crops)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(n, *shape).uniform_(low, high, generator=generator)

    mirror = torch.rand(n, generator=generator) < 0.5
    crops = torch.where(mirror[:, None, None, None], crops.flip(3), crops)
    angle, scale = uniform(-0.14, 0.14), torch.exp(uniform(-0.1, 0.1))
    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = torch.cos(angle) * scale, -torch.sin(angle) * scale
    matrix[:, 1, 0], matrix[:, 1, 1] = torch.sin(angle) * scale, torch.cos(angle) * scale
    matrix[:, :, 2] = uniform(-0.06, 0.06, 2)
    grid = F.affine_grid(matrix, list(crops.shape), align_corners=False)
    # A smooth bend of x that widens one half of the face and narrows the other: the first order of a turned head.
    hard = torch.rand(n, 2, generator=generator) < 0.33
    bend = (uniform(-0.12, 0.12) * (1 + 1.6 * hard[:, 0]))[:, None, None]
    x = grid[..., 0]
    grid = torch.stack([x + bend * (1 - x.clamp(-1, 1) ** 2), grid[..., 1]], -1)
    crops = F.grid_sample(crops, grid, padding_mode="reflection", align_corners=False)
    v = (crops + 1) / 2
    badly = 1 + hard[:, 1].float()
    v = v.clamp(1e-4, 1) ** torch.exp(uniform(-0.35, 0.35) * badly)[:, None, None, None]
    grey = v.mean(1, keepdim=True)
    v = grey + (v - grey) * uniform(0.6, 1.25)[:, None, None, None]
    v = v * uniform(0.75, 1.2)[:, None, None, None] * uniform(0.93, 1.07, 3)[:, :, None, None]
    slope = uniform(-0.15, 0.15, 2) * (1 + hard[:, 1:].float())
    axis = torch.linspace(-1, 1, v.shape[-1])
    v = v * (1 + slope[:, 0, None, None, None] * axis[None, None, None] + slope[:, 1, None, None, None] * axis[:, None])
    soften = torch.rand(n, generator=generator) < 0.3
    half = F.interpolate(F.avg_pool2d(v, 2), scale_factor=2.0, mode="bilinear", align_corners=False)
    v = torch.where(soften[:, None, None, None], half, v)
    v = v + torch.randn(v.shape, generator=generator) * (uniform(0, 0.02).clamp_min(0.0))[:, None, None, None]
    return v.clamp(0, 1) * 2 - 1
