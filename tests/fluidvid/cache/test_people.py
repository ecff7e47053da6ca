"""From the configuration to a memory: which key opens what, and what happens when nothing does."""

from __future__ import annotations

import io
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fluidvid.assembly import run_seed
from fluidvid.cache.people import People, open_people
from fluidvid.config import CacheConfig, Config
from fluidvid.errors import ConfigError
from tests.fluidvid.cache.people import BASIS, known, person


def settings(path: Path, **changes: Any) -> CacheConfig:
    return Config().updated({f"cache.{k}": v for k, v in ({"path": str(path)} | changes).items()}).cache


def opened(path: Path, **changes: Any) -> People:
    return open_people(settings(path, **changes), BASIS)


def meet(people: People, seed: int) -> bool:
    """Meet somebody; True if they were known."""
    answer = people.run.recall(seed, person(seed))
    if answer.known is None:
        people.run.remember(seed, person(seed), known(seed))
    return answer.known is not None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "people.cache"


def test_off_by_default_and_then_nothing_is_written(tmp_path: Path) -> None:
    people = open_people(Config().cache, BASIS)
    assert people.lasting is None and not meet(people, 1)
    assert people.account() == {"returned": 0, "ambiguous": 0, "unrecognisable": 0} and people.warnings() == []
    assert list(tmp_path.iterdir()) == []


def test_what_locks_a_cache_needs_one() -> None:
    with pytest.raises(ConfigError, match="add --cache FILE"):
        open_people(CacheConfig(passphrase=True), BASIS)


def test_a_key_file_that_others_can_read_is_told_without_a_cache(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(os.urandom(32))
    for mode, told in ((0o644, 1), (0o600, 0)):
        key.chmod(mode)
        assert len(open_people(CacheConfig(key_file=str(key)), BASIS).warnings()) == told


def test_what_has_outlived_its_time_is_erased_by_a_run_that_adds_nothing(path: Path) -> None:
    first = opened(path)
    meet(first, 1)
    first.close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE entries SET used = used - 400 * 86400")
    opened(path).close()
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM entries").fetchone() == (0,)


def test_own_key_beside_the_cache(path: Path) -> None:
    first = opened(path)
    assert not meet(first, 1)
    first.close()
    second = opened(path)
    assert meet(second, 1) and second.warnings() == []
    account = second.account()
    assert (account["known"], account["new"], len(account["entries"])) == (1, 0, 1)
    second.close()
    path.with_name("people.cache.key").rename(path.with_name("elsewhere"))
    third = opened(path)
    assert third.lasting is None and not meet(third, 1)
    assert "is gone" in third.warnings()[0] and "without the cache" in third.warnings()[0]


def test_key_file_of_the_user(path: Path, tmp_path: Path) -> None:
    key = tmp_path / "secret.key"
    key.write_bytes(os.urandom(40))
    key.chmod(0o600)
    meet(opened(path, key_file=str(key)), 1)
    assert not path.with_name("people.cache.key").exists()
    assert meet(opened(path, key_file=str(key)), 1)
    other = tmp_path / "other.key"
    other.write_bytes(os.urandom(40))
    wrong = opened(path, key_file=str(other))
    assert wrong.lasting is None and "not the key file" in wrong.warnings()[-1]
    key.chmod(0o644)
    assert any("chmod 600" in line for line in opened(path, key_file=str(key)).warnings())
    with pytest.raises(ConfigError, match="urandom"):
        opened(path, key_file=str(tmp_path / "none"))


def test_passphrase(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def typing(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text + "\n"))

    typing("open sesame")
    meet(opened(path, passphrase=True), 1)
    typing("open sesame")
    assert meet(opened(path, passphrase=True), 1)
    typing("open barley")
    assert "not the passphrase" in opened(path, passphrase=True).warnings()[0]
    assert "add --cache-passphrase" in opened(path).warnings()[0]
    assert [p.name for p in path.parent.iterdir() if p.suffix == ".key"] == []


def test_read_only_folder_and_other_hopeless_places(tmp_path: Path) -> None:
    text = tmp_path / "letter.txt"
    text.write_text("Dear cache,")
    for place in (text, tmp_path, tmp_path / "none" / "people.cache", Path("/proc/people.cache")):
        people = opened(place)
        (line,) = people.warnings()
        assert line.endswith("this run goes on without the cache") and str(place) in line
        assert not meet(people, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["letter.txt"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 256 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"NOT TESTED: no tmpfs can be mounted here ({made.stderr.decode().strip()})")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_disk_that_fills_up(small_disk: Path) -> None:
    people = opened(small_disk / "people.cache")
    (small_disk / "ballast").write_bytes(bytes(150_000))
    for seed in range(200):
        meet(people, seed)
    (line,) = people.warnings()
    assert "without the cache" in line and ("full" in line or "disk I/O" in line), line
    people.close()
    (small_disk / "ballast").unlink()
    again = opened(small_disk / "people.cache")
    assert meet(again, 0) and again.warnings() == [], "what was kept before is whole"
    again.close()


def test_disk_that_is_read_only(small_disk: Path) -> None:
    path = small_disk / "people.cache"
    first = opened(path)
    meet(first, 1)
    first.close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for place in (path, small_disk / "new.cache"):
        people = opened(place)
        (line,) = people.warnings()
        assert "without the cache" in line and not meet(people, 1)


def test_run_seed(tmp_path: Path) -> None:
    source, key = tmp_path / "a.mp4", tmp_path / "k"
    source.write_bytes(b"a video")
    key.write_bytes(b"k" * 32)
    fresh = {run_seed(Config(), source) for _ in range(4)}
    assert len(fresh) == 4
    keyed = Config().updated({"cache.key_file": str(key)})
    assert run_seed(keyed, source) == run_seed(keyed, source) not in fresh
    with pytest.raises(ConfigError, match="choose one"):
        run_seed(keyed.updated({"seed": 1}), source)
