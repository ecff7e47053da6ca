"""Open a cache as the configuration names it: its store, and the secret of its key file or passphrase."""

from __future__ import annotations

import os
from pathlib import Path

from fluidvid.cache.keys import (
    Kind,
    Secret,
    ask_passphrase,
    ensure_own_key,
    new_lock,
    own_key_file,
    read_key_file,
    unlock,
)
from fluidvid.cache.records import RecordStore
from fluidvid.cache.redis import RedisStore, is_url, shown
from fluidvid.cache.sqlite import SqliteStore
from fluidvid.config import CacheConfig
from fluidvid.errors import CacheError

DAY = 86400.0


def open_store(settings: CacheConfig, *, create: bool, any_age: bool = False) -> RecordStore:
    """The store that `cache.path` names.

    Args:
        settings: where it is, and its bounds.
        create: make it if it is not there.
        any_age: nothing in it has expired, whatever `cache.ttl_days` says.

    Raises:
        CacheError: it cannot be used.
    """
    assert settings.path is not None
    ttl, most = float("inf") if any_age else settings.ttl_days * DAY, int(settings.max_mb * 1e6)
    if is_url(settings.path):
        return RedisStore(settings.path, create=create, ttl=ttl, max_bytes=most)
    return SqliteStore(Path(os.path.realpath(settings.path)), create=create, ttl=ttl, max_bytes=most)


def open_secret(store: RecordStore, settings: CacheConfig) -> Secret:
    """The secret of a cache: of the key file or passphrase it was made with, or is made with now.

    Raises:
        CacheError: the wrong key, the wrong kind of key, or none.
        ConfigError: the key file the user named cannot be read, or no passphrase was given.
    """
    assert settings.path is not None
    kind: Kind = "passphrase" if settings.passphrase else "file"
    lock = store.lock()
    if lock is not None and lock.kind != kind:
        remedy = "add --cache-passphrase" if lock.kind == "passphrase" else "leave out --cache-passphrase"
        raise CacheError(f"cache {shown(settings.path)} is locked with a {_words(lock.kind)}: {remedy}")
    material = key_material(settings, fresh=lock is None)
    if lock is None:
        lock = store.lock(new_lock(kind, material))
        assert lock is not None
    return unlock(lock, material)


def _words(kind: Kind) -> str:
    return "passphrase" if kind == "passphrase" else "key file"


def key_material(settings: CacheConfig, *, fresh: bool) -> bytes:
    """What the secret is made of.

    Args:
        settings: where it comes from.
        fresh: the cache is new: its own key file may be made, a new passphrase is asked for twice.

    Raises:
        CacheError: the cache's own key file is gone.
        ConfigError: see `open_secret`.
    """
    assert settings.path is not None
    if settings.passphrase:
        return ask_passphrase(confirm=fresh)
    if settings.key_file is not None:
        return read_key_file(Path(settings.key_file))
    if is_url(settings.path):
        raise CacheError("a cache on a server has no key file of its own: add --key-file or --cache-passphrase")
    path = own_key_file(Path(settings.path))
    if not fresh and not path.exists():
        raise CacheError(
            f"{path}, the key of the cache, is gone: name the right one with --key-file, or begin anew with "
            "fluidvid cache purge"
        )
    return ensure_own_key(Path(settings.path))
