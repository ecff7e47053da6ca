"""`fluidvid cache list | show | forget | purge | rekey`."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fluidvid.config import CacheConfig, Config
from fluidvid.errors import CacheError, ConfigError
from fluidvid.stdout import put

if TYPE_CHECKING:
    from fluidvid.cache.records import Record

cache_app = typer.Typer(
    no_args_is_help=True,
    help="The cache of `anonymize --cache`: who is remembered, forget, purge, change the key. An entry holds an "
    "encrypted template and direction of one person, no picture and no embedding; without its key it says nothing but "
    "times, numbers of uses and sizes. Losing it loses only continuity.",
)

_Cache = Annotated[str, typer.Option("--cache", metavar="FILE|URL", help="the cache")]
_Key = Annotated[str | None, typer.Option("--key-file", metavar="FILE", help="its key, if it is not FILE.key")]
_Passphrase = Annotated[bool, typer.Option("--cache-passphrase", help="it is locked with a passphrase")]
_Json = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]


def _settings(
    cache: str, key_file: str | None = None, passphrase: bool = False, ttl: float | None = None
) -> CacheConfig:
    if key_file is not None and passphrase:
        raise ConfigError("--key-file and --cache-passphrase: a cache has one of them, leave out the other")
    changes: dict[str, Any] = {"cache.path": cache, "cache.key_file": key_file, "cache.passphrase": passphrase}
    if ttl is not None:
        changes["cache.ttl_days"] = ttl
    settings = Config().updated(changes).cache
    if settings.path is None:
        raise ConfigError(f"--cache {cache}: name the cache's file or address")
    return settings


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _row(record: Record) -> dict[str, Any]:
    return {
        "entry": record.id,
        "created": _when(record.created),
        "used": _when(record.used),
        "runs": record.uses,
        "bytes": len(record.template) + len(record.sealed),
        "basis": record.basis[:12],
    }


@cache_app.command("list")
def cache_list(cache: _Cache, as_json: _Json = False) -> None:
    """List entries of any age: times, sizes and the digest of model and parameters. Needs no key."""
    from fluidvid.cache.opening import open_store

    with closing(open_store(_settings(cache), create=False, any_age=True)) as store:
        rows = [_row(record) for record in store.records()]
    if as_json:
        put(json.dumps({"entries": rows}))
        return
    for row in rows:
        put(
            f"{row['entry']}  last used {row['used']}, in {row['runs']} runs, {row['bytes']} bytes, "
            f"basis {row['basis']}"
        )


@cache_app.command("show")
def cache_show(
    track: Annotated[str, typer.Argument(metavar="ENTRY", help="entry, from `cache list` or a run's report")],
    cache: _Cache,
    key_file: _Key = None,
    passphrase: _Passphrase = False,
    as_json: _Json = False,
) -> None:
    """Show how an entry was found and verified. Needs the key. No direction, template or pseudonym is shown."""
    from fluidvid.cache.opening import open_secret, open_store
    from fluidvid.cache.redis import shown
    from fluidvid.cache.sealing import from_bytes, unseal

    settings = _settings(cache, key_file, passphrase)
    with closing(open_store(settings, create=False, any_age=True)) as store:
        record = next((r for r in store.records() if r.id == track), None)
        if record is None:
            raise CacheError(f"no entry {track} in {shown(cache)}: see fluidvid cache list")
        secret = open_secret(store, settings)
        try:
            place = f"{record.id}|{record.basis}|direction"
            made = from_bytes(unseal(secret.derive("seal"), record.sealed, place)).provenance
        except ValueError as error:
            raise CacheError(f"entry {track}: {error}; remove it with fluidvid cache forget {track}") from error
    told = _row(record) | {
        "basis": made.basis,
        "steps": made.steps,
        "key frames": list(made.frames),
        "verified": {name: round(value, 4) for name, value in made.figures.items()},
    }
    if as_json:
        put(json.dumps(told))
        return
    for name, value in told.items():
        put(f"{name:12} {value}")


@cache_app.command("forget")
def cache_forget(
    tracks: Annotated[list[str], typer.Argument(metavar="ENTRY", help="entries, from `cache list` or a report")],
    cache: _Cache,
) -> None:
    """Remove entries; the file keeps no trace of them. The person gets another face next time. Needs no key."""
    from fluidvid.cache.opening import open_store
    from fluidvid.cache.redis import shown

    with closing(open_store(_settings(cache), create=False, any_age=True)) as store:
        missing = sorted(set(tracks) - {record.id for record in store.records()})
        store.remove(tracks)
    if missing:
        others = "" if len(missing) == len(set(tracks)) else "; the others were removed"
        raise CacheError(f"not in {shown(cache)}: {', '.join(missing)}{others}; see fluidvid cache list")


@cache_app.command("purge")
def cache_purge(
    cache: _Cache,
    expired: Annotated[bool, typer.Option("--expired", help="only what --ttl-days says is too old")] = False,
    ttl: Annotated[
        float | None,
        typer.Option("--ttl-days", metavar="DAYS", help="with --expired: entries last used longer ago are removed"),
    ] = None,
) -> None:
    """Delete the cache and its own key file, also a damaged one; or only expired entries. Needs no key.

    A run that uses it at this moment goes on without it, and says so. The cache does not keep how long its entries
    live: every run says so by `cache.ttl_days`.
    """
    if expired != (ttl is not None):
        missing = "--expired: add --ttl-days DAYS, the cache.ttl_days of your runs"
        raise ConfigError(
            missing if expired else "--ttl-days: add --expired, or leave it out to delete the whole cache"
        )
    from fluidvid.cache.keys import own_key_file
    from fluidvid.cache.opening import open_store
    from fluidvid.cache.redis import RedisStore, is_url
    from fluidvid.cache.sqlite import delete_files

    if is_url(cache) and not expired:
        with closing(RedisStore(cache, create=False)) as server:
            server.delete()
        return
    if expired:
        with closing(open_store(_settings(cache, ttl=ttl), create=False)) as store:
            store.remove_expired()
        return
    delete_files(Path(cache), own_key_file(Path(cache)))


def _delete(key: Path | None) -> None:
    try:
        if key is not None:
            key.unlink(missing_ok=True)
    except OSError as error:
        raise CacheError(f"{key} cannot be deleted ({error.strerror}): check its rights") from error


def _same_file(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


@cache_app.command("rekey")
def cache_rekey(
    cache: _Cache,
    key_file: Annotated[
        str | None, typer.Option("--key-file", metavar="FILE", help="lock it with this key; default: a new FILE.key")
    ] = None,
    passphrase: Annotated[bool, typer.Option("--cache-passphrase", help="lock it with a passphrase")] = False,
) -> None:
    """Give the cache a new secret, of the key file or passphrase named here (default: a new own key file).

    Templates cannot be carried over, because nothing is kept to make new ones from: all entries are removed, and
    copies of the old file match nobody any more who is cached from now on. Does not need the old key.
    """
    from fluidvid.cache.keys import new_lock, own_key_file, replaced_own_key
    from fluidvid.cache.opening import key_material, open_store
    from fluidvid.cache.redis import is_url

    settings = _settings(cache, key_file, passphrase)
    if key_file is not None and not is_url(cache) and _same_file(Path(cache), Path(key_file)):
        raise ConfigError(f"--key-file {key_file} is the cache itself, which changes: name another file")
    with closing(open_store(settings, create=False)) as store:
        own = None if is_url(cache) else own_key_file(Path(cache))
        if own is not None and key_file is not None and _same_file(own, Path(key_file)):
            own = None
        if own is not None and key_file is None and not passphrase:
            with replaced_own_key(Path(cache)) as material:
                store.restart(new_lock("file", material))
            return
        material = key_material(settings, fresh=True)
        store.restart(new_lock("passphrase" if passphrase else "file", material))
        _delete(own)
