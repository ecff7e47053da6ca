"""Where a stream comes from and where it goes: what kind of address it is, and how to show it without its secrets."""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass, field
from os.path import realpath
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from fluidvid.errors import ConfigError, InputError, OutputError
from fluidvid.video.containers import target_for
from fluidvid.video.target_file import TargetFile, write_error

SourceKind = Literal["rtsp", "rtmp", "http", "mpegts", "device", "file"]
SinkKind = Literal["rtsp", "rtmp", "hls", "mpegts", "file", "segments", "preview"]

_SOURCES: dict[str, SourceKind] = {
    **{"rtsp": "rtsp", "rtsps": "rtsp", "rtmp": "rtmp", "rtmps": "rtmp", "http": "http", "https": "http"},
    **{"udp": "mpegts", "tcp": "mpegts"},
}
_SINKS: dict[str, SinkKind] = {
    **{"rtsp": "rtsp", "rtsps": "rtsp", "rtmp": "rtmp", "rtmps": "rtmp", "udp": "mpegts", "tcp": "mpegts"}
}
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_MISTYPED = re.compile(r"^[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_URL = re.compile(
    r"""([^:]+)://
    (?:([^/?#]*[:@][^?#]*|[^/?#]*|[^/?#]*:(?!\d*/).*)@)?  # also one with a / ? or # that should be %2F, %3F or %23
    ([^/?#]*)([^?#]*)(?:\?([^#]*))?""",
    re.VERBOSE,
)
"""Scheme, login, host, path and query. `urlsplit` shows part of such a login, and names it in its errors."""
_LOGIN = re.compile(r"([a-z][a-z0-9+.-]*:/{1,2}|(?=[^\s@]*:))[^\s'\"]*@", re.IGNORECASE)
_KEY = re.compile(r"(rtmps?:/{1,2}[^\s/]+/[^\s'\"]*/)[^\s/'\"]*[^\s/:'\"]", re.IGNORECASE)
_VALUES = re.compile(r"([?&][^=&\s]+=)[^&\s'\"]*")
_NAMED = re.compile(
    r"((?:user(?:name)?|usr|password|passwd|pwd|pass|token|key)=)([^\s'\"]*?)(?=[&;_/][a-z]+=|[\s'\"]|$)", re.IGNORECASE
)
"""Logins as some cameras take them in the path: `/user=admin&password=...`, `/user=admin_password=..._channel=1`."""
_PART = re.compile(r"%0?\d*d")
WIDEST = 20
"""Digits of the number of a part."""
_PREVIEW = re.compile(r"preview(:\d{1,5})?")


@dataclass(frozen=True)
class Address:
    """A source or target as named by the user.

    Attributes:
        url: with its secrets; never shown, not even by `repr`.
        kind: what it is.
        shown: without login, in the path either, values of the query, and RTMP's stream key.
        secrets: texts that must not be shown.
    """

    url: str = field(repr=False)
    kind: SourceKind | SinkKind
    shown: str
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def pattern(self) -> Path | None:
        """What parts are named after, with `%d` in it: of a file in parts, or of a playlist; None: there are none."""
        if self.kind == "hls":
            return Path(self.url).with_name(f"{Path(self.url).stem}%d.ts")  # FFmpeg's own way
        return Path(self.url) if self.kind == "segments" else None

    @property
    def port(self) -> int:
        """Of a preview; 0: any free one."""
        return int(self.url.partition(":")[2] or 0) if self.kind == "preview" else 0

    @property
    def host(self) -> str:
        """The server's name or number; empty: there is none."""
        found = _URL.match(self.url)
        return "" if found is None else re.sub(r":\d*$", "", found.group(3)).strip("[]")

    def covers(self, path: Path) -> bool:
        """True if `path` is this file or playlist, or may be one of its parts, whether it is there or not."""
        if self.kind not in ("file", "segments", "hls"):
            return False
        names = (path, Path(realpath(path)))  # Path.resolve raises at a loop of links
        pattern = self.pattern
        return realpath(self.url) == realpath(path) or (
            pattern is not None and any(_is_part(n, pattern) for n in names)
        )

    def meets(self, other: Address) -> bool:
        """True if both may write the same file or playlist, or one of its parts, or publish to the same place."""
        return self.url == other.url or any(
            one.covers(path) for one, another in ((self, other), (other, self)) for path in another._written()
        )

    def _written(self) -> list[Path]:
        """What is named, and one of its parts."""
        pattern = self.pattern
        first = [] if pattern is None else [pattern.with_name(part_name(pattern.name, 0))]
        return [Path(self.url), *first]

    def clean(self, text: str) -> str:
        """One line of `text`, an error's for instance, without this address's secrets."""
        text = " ".join(text.split()).replace(self.url, self.shown)
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return redacted(text)


def redacted(text: str) -> str:
    """The text with logins, stream keys and the query's values struck out of every URL in it, mistyped ones, too."""
    text = _LOGIN.sub(r"\1***@", text)  # first: a password may look like any of the others
    for secret in (_KEY, _NAMED, _VALUES):
        text = secret.sub(r"\1***", text)
    return text


def is_live(address: str) -> bool:
    """True for URLs, `@FILE`s that hold one, and devices: what `fluidvid anonymize` hands over to the live pipeline.

    So are mistyped ones, such as `rtsp:/user:password@camera`: it knows how to show them.
    """
    if _SCHEME.match(address) is not None or address.startswith("@") or _is_device(address):
        return True
    return _MISTYPED.match(address) is not None and not Path(address).parent.is_dir()


def source_address(text: str) -> Address:
    """What IN names.

    Raises:
        ConfigError: an unknown scheme.
        InputError: no such file.
    """
    scheme = _SCHEME.match(text)
    if scheme is not None:
        kind = _SOURCES.get(scheme.group()[:-3].lower())
        if kind is None:
            raise ConfigError(f"cannot read {redacted(text)}: give one of {', '.join(_SOURCES)}://, a device or a file")
        return _address(text, kind)
    if _is_device(text):
        return Address(text, "device", text)
    if not Path(text).is_file():
        if Path(text).exists():
            raise InputError(
                f"{redacted(text)} is neither a file nor a video device: name one, or an address such as tcp://HOST:PORT"
            )
        raise InputError(f"no such file or device: {redacted(text)}")
    return Address(text, "file", text)


def sink_address(text: str, *, overwrite: bool) -> Address:
    """What an OUT names.

    Args:
        text: a URL; a folder (ending in `/`) or a playlist `.m3u8` for HLS; a file name, with `%05d` in it for one
            that is cut into parts; `preview` or `preview:PORT` for a page of this machine.
        overwrite: existing files may be replaced, parts moved aside.

    Raises:
        ConfigError: an unknown scheme, or no such port.
        OutputError: unknown or unfit ending, no such folder, or existing files.
    """
    if _PREVIEW.fullmatch(text):
        if int(text.partition(":")[2] or 1) not in range(1, 65536):
            raise ConfigError(f"{text}: a port is a number from 1 to 65535")
        return Address(text, "preview", text)
    scheme = _SCHEME.match(text)
    if scheme is not None:
        kind = _SINKS.get(scheme.group()[:-3].lower())
        if kind is None:
            raise ConfigError(
                f"cannot publish to {redacted(text)}: give one of {', '.join(_SINKS)}://, a file or preview"
            )
        return _address(text, kind)
    try:
        return _place(text, overwrite)
    except OutputError as error:  # it may be a mistyped address
        raise OutputError(redacted(str(error))) from None
    except PermissionError as error:  # nobody may look into its folder
        raise OutputError(redacted(str(write_error(Path(text), error)))) from None


def _place(text: str, overwrite: bool) -> Address:
    """The file, file in parts or HLS folder that an OUT names."""
    path = Path(text)
    if text.endswith("/") or path.suffix == ".m3u8" or path.is_dir():
        folder = path if path.suffix != ".m3u8" else path.parent
        if not folder.parent.is_dir():
            raise OutputError(f"folder {folder.parent} does not exist: create it first")
        playlist = folder / "index.m3u8" if path.suffix != ".m3u8" else path
        _check_writable((folder if folder.is_dir() else folder.parent) / playlist.name)
        return _free(Address(str(playlist), "hls", str(playlist)), overwrite)
    if any(int(width) > WIDEST for width in re.findall(r"%0?(\d+)d", path.name)):
        raise OutputError(f"cannot publish to {path}: numbers of at most {WIDEST} digits are needed, as in %05d")
    if target_for(path).video != "h264":  # AVI and MPEG-PS could take it, and lose the times of pictures
        raise OutputError(
            f"cannot publish to {path}: {path.suffix} cannot keep h264 with the times of live pictures; "
            "use .mkv, .mp4 or .ts"
        )
    if not path.parent.is_dir():
        raise OutputError(f"folder {path.parent} does not exist: create it first")
    _check_writable(path)
    return _free(Address(text, "segments" if _PART.search(path.name) else "file", text), overwrite)


def _check_writable(path: Path) -> None:
    """Raise OutputError at the start, not at the first picture, if no file can be made beside `path`."""
    TargetFile(path, overwrite=True).remove()


def part_name(pattern: str, number: int) -> str:
    """File name of a part: the number in the place of `%05d`."""
    return _PART.sub(lambda found: found.group() % number, pattern)


def parts(pattern: Path, ending: str = "") -> dict[Path, int]:
    """What stands under the name of a file in parts, or of a playlist's, with its number.

    Args:
        pattern: `Address.pattern`.
        ending: what is added to the names of parts that are not complete, to find those.
    """
    found = {}
    for path in sorted(pattern.parent.glob("*")):
        if path.name.endswith(ending) and (number := _part_number(path.name.removesuffix(ending), pattern)) is not None:
            found[path] = number
    return found


def _is_part(path: Path, pattern: Path) -> bool:
    return realpath(path.parent) == realpath(pattern.parent) and _part_number(path.name, pattern) is not None


def _part_number(name: str, pattern: Path) -> int | None:
    """The number in the place of `%05d`; None: this is no part's name."""
    numbered = r"(\d+)".join(re.escape(piece) for piece in _PART.split(pattern.name))
    found = re.fullmatch(numbered, name)
    return None if found is None else int(found.group(1))


def _free(address: Address, overwrite: bool) -> Address:
    """The address, if nothing stands there, or may be replaced."""
    path, pattern = Path(address.url), address.pattern
    older = [] if pattern is None else list(parts(pattern))
    if not overwrite and path.exists():
        raise OutputError(f"{path} exists: add --overwrite to replace it")
    if not overwrite and older:
        raise OutputError(f"{older[0]} exists: add --overwrite to move the older parts aside")
    return address


def _is_device(text: str) -> bool:
    try:
        return stat.S_ISCHR(Path(text).stat().st_mode)
    except OSError:
        return False


def _address(url: str, kind: SourceKind | SinkKind) -> Address:
    found = _URL.match(url)
    assert found is not None
    scheme, login, host, path, query = found.groups("")
    secrets = [login, *login.split(":", 1)[1:]] if login else []
    secrets += [named.group(2) for named in _NAMED.finditer(path)]
    if kind == "rtmp" and path.count("/") > 1:  # rtmp://host/application/KEY
        path, _, key = path.rpartition("/")
        secrets.append(key)
        path += "/***"
    path = _NAMED.sub(r"\1***", path)
    shown = f"{scheme}://{'***@' if login else ''}{host}{path}"
    if query:
        secrets += [value for item in query.split("&") if (value := item.partition("=")[2])]
        shown += "?***"
    known = {form for secret in secrets for form in (secret, unquote(secret)) if len(form) > 2}
    return Address(url, kind, shown, tuple(sorted(known, key=len, reverse=True)))
