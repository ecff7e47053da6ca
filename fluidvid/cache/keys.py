"""The secret of a cache: from a key file or a passphrase, with the salt that makes it the secret of one cache only."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fluidvid.errors import CacheError, ConfigError

KEY_BYTES = 32
MOST_KEY_BYTES = 1 << 24
"""A device such as /dev/urandom never ends."""
SCRYPT = {"n": 1 << 16, "r": 8, "p": 1}
"""64 MB and about a quarter of a second for each guess of a passphrase."""
Kind = Literal["file", "passphrase"]


@dataclass(frozen=True)
class Secret:
    """32 bytes from which every key of a cache is derived; never shown, never stored."""

    master: bytes = field(repr=False)

    def derive(self, purpose: str) -> bytes:
        """32 bytes for one purpose: HMAC-SHA-256, so that no key tells anything about another."""
        return hmac.digest(self.master, b"fluidvid cache: " + purpose.encode(), "sha256")


@dataclass(frozen=True)
class Lock:
    """What a cache keeps in clear to know its secret again.

    Attributes:
        kind: what opens it.
        salt: 16 random bytes; another salt makes another secret, which is what `rekey` does.
        check: HMAC under the secret, tells a wrong key from a right one.
    """

    kind: Kind
    salt: bytes
    check: bytes

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        return {"kind": self.kind, "salt": self.salt.hex(), "check": self.check.hex(), "scrypt": SCRYPT}

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> Lock:
        """The reverse of `to_dict`; raises KeyError, TypeError or ValueError for anything else."""
        if tree["kind"] not in ("file", "passphrase") or tree["scrypt"] != SCRYPT:
            raise ValueError("unknown kind of lock")
        return cls(tree["kind"], bytes.fromhex(tree["salt"]), bytes.fromhex(tree["check"]))


def new_lock(kind: Kind, material: bytes) -> Lock:
    """A lock with a fresh salt for this key material."""
    salt = secrets.token_bytes(16)
    return Lock(kind, salt, _stretched(kind, salt, material).derive("check"))


def unlock(lock: Lock, material: bytes) -> Secret:
    """The secret of a cache.

    Args:
        lock: as the cache keeps it.
        material: content of the key file, or the passphrase in UTF-8.

    Raises:
        CacheError: the material is not the one the cache was made with.
    """
    secret = _stretched(lock.kind, lock.salt, material)
    if not hmac.compare_digest(secret.derive("check"), lock.check):
        what = "passphrase" if lock.kind == "passphrase" else "key file"
        raise CacheError(f"this is not the {what} of the cache: give the right one, or begin anew with purge or rekey")
    return secret


def _stretched(kind: Kind, salt: bytes, material: bytes) -> Secret:
    if kind == "passphrase":
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        return Secret(Scrypt(salt=salt, length=KEY_BYTES, **SCRYPT).derive(material))
    return Secret(hmac.digest(material, b"fluidvid cache secret" + salt, "sha256"))


def read_key_file(path: Path) -> bytes:
    """Content of a key file the user named.

    Raises:
        ConfigError: it cannot be read, is shorter than 32 bytes, or longer than 16 MB.
    """
    try:
        with path.open("rb") as file:
            material = file.read(MOST_KEY_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"key file {path} cannot be read ({error.strerror}); make one with: "
            f"head -c 32 /dev/urandom > {path} && chmod 600 {path}"
        ) from error
    if len(material) < KEY_BYTES:
        raise ConfigError(f"key file {path} has {len(material)} bytes: at least {KEY_BYTES} random ones are needed")
    if len(material) > MOST_KEY_BYTES:
        raise ConfigError(f"key file {path} does not end within {MOST_KEY_BYTES >> 20} MB: {KEY_BYTES} random bytes do")
    return material


def readable_by_others(path: Path) -> bool:
    """True if group or others may read a key file."""
    return bool(path.stat().st_mode & 0o077)


def own_key_file(cache: Path) -> Path:
    """Where a cache's own key lives: beside it, in a file of its own; beside the file itself, if `cache` is a link."""
    return Path(os.path.realpath(cache) + ".key")


def ensure_own_key(cache: Path) -> bytes:
    """Content of the cache's own key file, made (0600, complete or not at all) if it is not there.

    Raises:
        CacheError: it cannot be made, or is damaged.
    """
    path = own_key_file(cache)
    with _key_errors(path):
        if not path.exists():
            with _unnamed(path, secrets.token_bytes(KEY_BYTES)) as temporary, contextlib.suppress(FileExistsError):
                os.link(temporary, path)  # or another process was quicker: its key is the key
        material = path.read_bytes()
    if len(material) < KEY_BYTES:
        raise CacheError(f"key file {path} is damaged: restore it, or begin anew with fluidvid cache purge")
    return material


@contextlib.contextmanager
def replaced_own_key(cache: Path) -> Iterator[bytes]:
    """A new key for a cache, whose own key file it replaces if the body succeeds; otherwise the old one stays.

    Raises:
        CacheError: it cannot be written.
    """
    path, material = own_key_file(cache), secrets.token_bytes(KEY_BYTES)
    with _key_errors(path), _unnamed(path, material) as temporary:
        yield material
        temporary.replace(path)


@contextlib.contextmanager
def _unnamed(path: Path, content: bytes) -> Iterator[Path]:
    """A file beside `path` with that content, 0600, on its way to that name; gone afterwards unless it got it."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as sink:
            sink.write(content)
            sink.flush()
            os.fsync(sink.fileno())
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


@contextlib.contextmanager
def _key_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CacheError(f"key file {path} cannot be used ({error.strerror}): check folder and rights") from error


def ask_passphrase(*, confirm: bool) -> bytes:
    """A passphrase from the terminal without echo, or one line of stdin where there is no terminal.

    Raises:
        ConfigError: empty, no UTF-8, or typed differently the second time.
    """
    try:
        if sys.stdin is not None and sys.stdin.isatty():
            from getpass import getpass

            typed = getpass("Passphrase of the cache: ")
            if confirm and getpass("Once more: ") != typed:
                raise ConfigError("the passphrases differ: try again")
        else:
            typed = sys.stdin.readline().rstrip("\n") if sys.stdin is not None else ""
        material = typed.encode()
    except EOFError:  # Ctrl-D
        material = b""
    except UnicodeError:  # its words show what was typed
        raise ConfigError("the passphrase is not UTF-8 text: give another, or a key file with --key-file") from None
    if not material:
        raise ConfigError("a passphrase is needed: type one, or give one line on stdin")
    return material


def run_seed(material: bytes, source: Path | None) -> int:
    """The run's 63-bit secret from a key file: the same key and the same source give the same pseudonyms.

    The source's content is part of it, so that the first person of one video and the first of another, who are not
    the same person, do not get the same draw.

    Args:
        material: content of the key file.
        source: the video file; None for a stream of pictures.
    """
    digest = b""
    if source is not None:
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
    mixed = hmac.digest(material, b"fluidvid run seed" + digest, "sha256")
    return int.from_bytes(mixed[:8], "big") >> 1
