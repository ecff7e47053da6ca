"""Open the memory of a run and, if one is asked for, the cache behind it. Trouble with the cache is a warning."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fluidvid.cache.keys import readable_by_others
from fluidvid.cache.lasting import CacheMemory
from fluidvid.cache.opening import open_secret, open_store
from fluidvid.cache.records import RecordStore
from fluidvid.config import CacheConfig
from fluidvid.engine.memory import RunMemory
from fluidvid.errors import CacheError, ConfigError


@dataclass(eq=False)
class People:
    """The memory of a run and what the report says of it.

    Attributes:
        run: what the editor asks.
        lasting: the cache, or None.
        troubles: lines for the report that came up before there was a cache.
    """

    run: RunMemory
    lasting: CacheMemory | None = None
    troubles: list[str] = field(default_factory=list)

    def account(self) -> dict[str, Any]:
        """Counts over people: `returned` within the run, `ambiguous`, `unrecognisable`; with a cache also `known`,
        `new`, `renewed`, `damaged`, and `entries`: the cache entry by person.
        """
        found: dict[str, Any] = {name: self.run.counts[name] for name in ("returned", "ambiguous", "unrecognisable")}
        if self.lasting is not None:
            found |= {name: self.lasting.counts[name] for name in ("known", "new", "renewed", "damaged")}
            found["entries"] = {str(person): entry for person, entry in sorted(self.lasting.entries.items())}
        return found

    def warnings(self) -> list[str]:
        """One line for each trouble."""
        return self.troubles + (self.lasting.warnings if self.lasting is not None else [])

    def close(self) -> None:
        """Let go of the cache."""
        if self.lasting is not None:
            self.lasting.close()


def open_people(settings: CacheConfig, basis: str) -> People:
    """The memory of a run.

    Args:
        settings: the section `cache`.
        basis: digest of model and parameters.

    Raises:
        ConfigError: the key file the user named cannot be read, or no passphrase was given.
    """
    troubles: list[str] = []
    key = None if settings.key_file is None else Path(settings.key_file)
    if key is not None and key.exists() and readable_by_others(key):
        troubles.append(f"key file {settings.key_file} can be read by others: chmod 600 {settings.key_file}")
    if settings.path is None:
        if settings.passphrase:
            raise ConfigError("--cache-passphrase locks a cache: add --cache FILE")
        return People(RunMemory(), None, troubles)
    store: RecordStore | None = None
    try:
        store = open_store(settings, create=True)
        secret = open_secret(store, settings)
        store.remove_expired()
    except CacheError as error:
        if store is not None:
            store.close()
        return People(RunMemory(), None, [*troubles, f"{error}; this run goes on without the cache"])
    if getattr(store, "loose", False):
        troubles.append(f"cache {settings.path} could be read by others: now only by its owner")
    lasting = CacheMemory(store, secret, basis)
    return People(RunMemory(lasting), lasting, troubles)
