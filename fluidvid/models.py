"""The model manifest: what is embedded, what may be pulled, under which licence; every file is verified by SHA-256.

Nothing here touches the network except `pull`, which runs only on an explicit command.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse
from urllib.request import url2pathname

from fluidvid.errors import ConfigError, ModelError, OutputError
from fluidvid.progress import ProgressCallback, ProgressEvent, silent

_CHUNK = 1 << 20


@dataclass(frozen=True)
class ModelFile:
    """One file of a model: `path` below the store, `sha256` (None: not pinned by us), `size` in bytes, `url`."""

    path: str
    sha256: str | None
    size: int | None
    url: str | None = None


@dataclass(frozen=True)
class ModelEntry:
    """One line of the manifest.

    Attributes:
        name: what `resolve` and `models pull` take.
        roles: detector, identity-guide, identity-verifier, landmarks, expression, age-gender, backbone, ...
        licence: SPDX id or plain words.
        commercial_use: whether the licence allows it.
        source: where it comes from, in words.
        embedded: True if it is inside the wheel.
        training_data: what is known of it.
        files: one file, or all files of a folder.
    """

    name: str
    roles: tuple[str, ...]
    licence: str
    commercial_use: bool
    source: str
    embedded: bool
    training_data: str
    files: tuple[ModelFile, ...]

    @property
    def folder(self) -> bool:
        """True if the model is a folder (named like the entry), not a single file."""
        return any("/" in file.path for file in self.files)

    @property
    def size(self) -> int | None:
        """Bytes in all, None if a file's size is not known."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)


@dataclass(frozen=True)
class ModelStatus:
    """Where an entry stands: state is `ok`, `absent`, `altered` or `unpinned` (present, no hash to compare)."""

    entry: ModelEntry
    state: str
    path: Path | None
    detail: str = ""


def default_store() -> Path:
    """Folder of pulled models: `$XDG_CACHE_HOME/fluidvid/models` or `~/.cache/fluidvid/models`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fluidvid" / "models"


def _assets() -> Path:
    return Path(str(resources.files("fluidvid") / "assets"))


@cache
def _manifest() -> tuple[ModelEntry, ...]:
    path = _assets() / "manifest.json"
    try:
        return parse_manifest(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the model manifest {path} is unreadable ({error}): reinstall fluidvid") from error


def parse_manifest(tree: dict[str, Any]) -> tuple[ModelEntry, ...]:
    """Entries of a manifest's JSON tree; raises KeyError, TypeError or ValueError if it is malformed."""
    if tree["format"] != 1:
        raise ValueError(f"format 1 is needed, got {tree['format']!r}")
    entries = []
    for item in tree["models"]:
        files = tuple(ModelFile(**file) for file in item["files"])
        if not files or any(Path(f.path).is_absolute() or ".." in Path(f.path).parts for f in files):
            raise ValueError(f"{item['name']}: files must be named below the store")
        entries.append(ModelEntry(**{**item, "roles": tuple(item["roles"]), "files": files}))
    if len({entry.name for entry in entries}) != len(entries):
        raise ValueError("names must be unique")
    return tuple(entries)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class ModelStore:
    """Finds, verifies and fetches the models of a manifest.

    Args:
        entries: the manifest; default: the package's.
        assets: folder of embedded files; default: the package's.
        store: folder of pulled files; default: `default_store()`.
    """

    def __init__(
        self,
        entries: tuple[ModelEntry, ...] | None = None,
        *,
        assets: Path | None = None,
        store: Path | None = None,
    ) -> None:
        self.entries = _manifest() if entries is None else entries
        self.assets = assets or _assets()
        self.store = store or default_store()
        self._verified: dict[str, Path] = {}

    def entry(self, name: str) -> ModelEntry:
        """The entry of that name.

        Raises:
            ModelError: there is none.
        """
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise ModelError(f"no model {name!r} in the manifest: it has {', '.join(e.name for e in self.entries)}")

    def with_role(self, role: str) -> tuple[ModelEntry, ...]:
        """All entries that play `role`, in the manifest's order."""
        return tuple(entry for entry in self.entries if role in entry.roles)

    def location(self, entry: ModelEntry) -> Path:
        """Where the entry's file, or its folder, is or would be."""
        root = self.assets if entry.embedded else self.store
        return root / (Path(entry.files[0].path).parts[0] if entry.folder else entry.files[0].path)

    def status(self, entry: ModelEntry) -> ModelStatus:
        """Check presence and hashes of all files of one entry.

        Raises:
            ModelError: a file cannot be read.
        """
        root = self.assets if entry.embedded else self.store
        unpinned = False
        for file in entry.files:
            path = root / file.path
            try:
                there = path.is_file()
                found = sha256_of(path) if there and file.sha256 is not None else ""
            except OSError as error:
                raise ModelError(
                    f"{path} cannot be read ({error.strerror}): give this user the right to read it, or reinstall "
                    "fluidvid"
                ) from error
            if not there:
                return ModelStatus(entry, "absent", None, f"{path} does not exist")
            if file.sha256 is None:
                unpinned = True
            elif found != file.sha256:
                return ModelStatus(entry, "altered", path, f"{path}: SHA-256 {found}, expected {file.sha256}")
        return ModelStatus(entry, "unpinned" if unpinned else "ok", self.location(entry))

    def resolve(self, name: str) -> Path:
        """Path of the model's file or folder, verified once per store object.

        Raises:
            ModelError: unknown, absent (with the command that fetches it) or altered.
        """
        if name not in self._verified:
            entry = self.entry(name)
            status = self.status(entry)
            if status.state == "absent":
                remedy = "reinstall fluidvid" if entry.embedded else f"run: fluidvid models pull {name}"
                raise ModelError(f"model {name} is not there ({status.detail}): {remedy}")
            if status.state == "altered":
                remedy = "reinstall fluidvid" if entry.embedded else f"run: fluidvid models pull {name} --force"
                raise ModelError(f"model {name} was altered ({status.detail}): {remedy}")
            self._verified[name] = self.location(entry)
        return self._verified[name]

    def pull(
        self,
        name: str,
        *,
        source: str | None = None,
        sha256: Mapping[str, str] | None = None,
        force: bool = False,
        progress: ProgressCallback = silent,
    ) -> Path:
        """Fetch an opt-in model into the store, verified before it gets its name.

        Args:
            name: the manifest's name.
            source: local file or URL instead of the manifest's; for a model of several files a local folder.
            sha256: hashes you trust by file name, needed where the manifest pins none.
            force: replace a file that is already there.
            progress: called while bytes arrive; a stage is a file, a unit a kilobyte.

        Raises:
            ConfigError: what was given is no hash, or of no file of this model.
            ModelError: embedded, no source, no hash to check against, the source cannot be read, or a wrong hash.
            OutputError: the store cannot be written.
        """
        entry = self.entry(name)
        if entry.embedded:
            raise ModelError(f"model {name} is embedded in fluidvid: there is nothing to pull")
        given = _checked(entry, sha256 or {})
        for file in entry.files:
            target = self.store / file.path
            base = Path(file.path).name
            expected = file.sha256 or given.get(base)
            origin = str(Path(source) / base) if source and Path(source).is_dir() else source or file.url
            with _store_errors(target):
                if target.is_file() and not force:
                    if expected is None or sha256_of(target) == expected:
                        continue
                    raise ModelError(f"{target} exists and differs: add --force to replace it")
            if origin is None:
                raise ModelError(f"model {name} has no download address: get it from {entry.source}, then --from FILE")
            if expected is None:
                bases = [Path(f.path).name for f in entry.files if f.sha256 is None]
                unknown = [b for b in bases if b not in given]
                flags = " ".join(f"--sha256 {b}=HEX" for b in unknown)
                raise ModelError(
                    f"the manifest pins no SHA-256 for {', '.join(unknown)}: give those you trust with {flags}"
                )
            with _store_errors(target):
                _fetch(origin, target, expected, progress)
        self._verified.pop(name, None)
        return self.location(entry)


def _checked(entry: ModelEntry, given: Mapping[str, str]) -> dict[str, str]:
    """Hashes by file name as they are compared."""
    pinned = {Path(file.path).name: file.sha256 for file in entry.files}
    for name, text in given.items():
        if name not in pinned:
            raise ConfigError(f"--sha256 {name}: model {entry.name} has no such file, it has {', '.join(pinned)}")
        if not re.fullmatch("[0-9a-fA-F]{64}", text):
            raise ConfigError(f"--sha256 {name}={text}: 64 hexadecimal digits are needed, as sha256sum prints them")
        if (expected := pinned[name]) and text.lower() != expected:
            raise ModelError(f"--sha256 {name}: the manifest pins {expected}: leave it out")
    return {name: text.lower() for name, text in given.items()}


@contextmanager
def _store_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{target} cannot be written ({error.strerror or error}): make room there, change its permissions, or set "
            "XDG_CACHE_HOME to another folder"
        ) from error


def _open(origin: str) -> tuple[BinaryIO, int | None]:
    scheme = urlparse(origin).scheme
    if scheme == "https":
        request = urllib.request.Request(origin, headers={"User-Agent": "fluidvid"})
        response = urllib.request.urlopen(request, timeout=60)
        length = response.headers.get("Content-Length")
        return response, int(length) if length else None
    if scheme in ("", "file"):
        path = Path(url2pathname(urlparse(origin).path) if scheme else origin)  # %20 is a space
        return path.open("rb"), path.stat().st_size
    raise ModelError(f"cannot fetch {_shown(origin)}: only https addresses and local files are accepted")


def _shown(origin: str) -> str:
    """An address without its login or token: messages reach logs."""
    from fluidvid.live.addresses import redacted

    return redacted(origin)


def _chunks(origin: str) -> Iterator[tuple[bytes, int | None]]:
    """The bytes of an address or file, each time with their number in all, if it is known."""
    try:
        stream, total = _open(origin)
        with stream:
            while chunk := stream.read(_CHUNK):
                yield chunk, total
    except OSError as error:
        raise ModelError(f"cannot fetch {_shown(origin)}: {error}; check the address and try again") from error
    except (HTTPException, ValueError) as error:  # their words may hold a login or token of the address
        kind = type(error).__name__
        raise ModelError(f"cannot fetch {_shown(origin)}: {kind}; check the address and try again") from None


def _fetch(origin: str, target: Path, expected: str, progress: ProgressCallback) -> None:
    """Copy `origin` to a temporary file beside `target`, verify it, then rename."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    digest = hashlib.sha256()
    try:
        with os.fdopen(handle, "wb") as sink:
            for chunk, total in _chunks(origin):
                sink.write(chunk)
                digest.update(chunk)
                kilobytes = None if total is None else total // 1000
                progress(ProgressEvent(f"{target.name}, kB", sink.tell() // 1000, kilobytes))
        if digest.hexdigest() != expected:
            raise ModelError(
                f"{_shown(origin)} has SHA-256 {digest.hexdigest()}, expected {expected}: it was not installed"
            )
        Path(temporary).replace(target)
    finally:
        Path(temporary).unlink(missing_ok=True)
