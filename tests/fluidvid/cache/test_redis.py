"""The same store over a real Redis server, which the test starts on a socket of its own."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fluidvid.cache.keys import new_lock
from fluidvid.cache.people import open_people
from fluidvid.cache.redis import RedisStore, shown
from fluidvid.config import Config
from fluidvid.errors import CacheError
from tests.fluidvid.cache.people import BASIS, known, person
from tests.fluidvid.cache.test_sqlite import keep, record, whole
from tests.fluidvid.commands import caller

SERVER = shutil.which("redis-server")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server without persistence."""
    pytest.importorskip("redis", reason="NOT TESTED: pip install redis")
    if SERVER is None:
        pytest.skip("NOT TESTED: apt-get install redis-server")
    socket = tmp_path_factory.mktemp("redis") / "s"
    command = [SERVER, "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=socket.parent)
    deadline = time.monotonic() + 20
    while not socket.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    yield f"unix://{socket}"
    process.terminate()
    process.wait(20)


@pytest.fixture
def url(server: str, request: pytest.FixtureRequest) -> str:
    return f"{server}#{request.node.name}"


def test_records_come_back_expire_and_are_bounded(url: str) -> None:
    now = [100.0]
    most = 3 * record(1).nbytes
    store = RedisStore(url, create=True, ttl=50, max_bytes=most, clock=lambda: now[0])
    keep(store, record(1), record(2), record(3, used=90))
    assert store.records() == [record(3, used=90), record(1), record(2)]
    keep(store, record(4))
    assert {r.id for r in store.records()} == {"00000001", "00000002", "00000004"}
    assert not store.add(record(5), unless=lambda here: len(here) == 3)
    now[0] = 149.0
    store.renew("00000001", None)
    store.renew("nobody", b"x")
    now[0] = 151.0
    (left,) = store.records()
    assert (left.id, left.uses, left.used) == ("00000001", 2, 149.0) and whole(left)
    assert store.remove_expired() == 2
    assert store.remove(["00000001", "nobody"]) == 1 and store.records() == []


def test_one_lock_wins_and_restart_changes_it(url: str) -> None:
    with pytest.raises(CacheError, match="no cache"):
        RedisStore(url, create=False)
    store = RedisStore(url, create=True)
    first, second = new_lock("file", b"a" * 32), new_lock("file", b"b" * 32)
    assert store.lock() is None and store.lock(first) == first == store.lock(second)
    keep(store, record(1))
    assert store.restart(second) == 1 and store.lock() == second and store.records() == []
    store.delete()
    assert store.lock() is None


def test_a_run_under_way_writes_nothing_under_a_lock_that_was_changed_or_removed(url: str) -> None:
    locks = [new_lock("file", letter * 32) for letter in (b"a", b"b")]
    running, other = RedisStore(url, create=True), RedisStore(url, create=True)
    running.lock(locks[0])
    keep(running, record(1))
    for change in (lambda: other.restart(locks[1]), other.delete):
        change()
        for action in (
            lambda: keep(running, record(2)),
            lambda: running.renew("00000001", b"new"),
            lambda: running.records(),
        ):
            with pytest.raises(CacheError, match="was rekeyed or removed meanwhile"):
                action()
        assert RedisStore(url, create=True).records() == []
    assert other.lock(locks[1]) == locks[1]
    keep(other, record(3))


def _write_some(url: str, begin: int) -> None:
    store = RedisStore(url, create=True, clock=lambda: 100.0)
    for number in range(begin, begin + 20):
        keep(store, record(number))
        store.renew(f"{number:08x}", None)


def test_many_writers_at_once(url: str) -> None:
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_write_some, args=(url, 1000 * i)) for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [p.exitcode for p in processes] == [0] * 4
    found = RedisStore(url, create=True, clock=lambda: 100.0).records()
    assert len(found) == 80 and all(whole(r) and r.uses == 2 for r in found)


def _settings(url: str, **changes: Any) -> Any:
    return Config().updated({"cache.path": url} | {f"cache.{k}": v for k, v in changes.items()}).cache


def test_two_machines_with_one_key(url: str, tmp_path: Path) -> None:
    key = tmp_path / "secret.key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)
    one = open_people(_settings(url, key_file=str(key)), BASIS)
    assert one.run.recall(1, person(1)).known is None
    one.run.remember(1, person(1), known(1))
    other = open_people(_settings(url, key_file=str(key)), BASIS)
    assert other.run.recall(5, person(1)).known is not None and other.warnings() == []
    assert "--key-file" in open_people(_settings(url), BASIS).warnings()[0]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("people.cache", "people.cache"),
        ("redis://user:hunter2@h:1/0", "redis://h:1/0#people"),
        ("redis://:hun@ter2@h/0?password=hunter2#crew", "redis://h/0#crew"),
        ("unix:///run/s#crew", "unix:///run/s#crew"),
        ("redis://user:hunter2#x@h/0", "redis:***"),
        ("redis://:1/hunter2@h/0#crew", "redis:***"),
        ("rediss://:hunter2?@h", "rediss:***"),
        ("redis:/user:hunter2@h/0", "redis:***"),
        ("Redis://user:hunter2@h/0", "Redis:***"),
        ("http://user:hunter2@h/0", "http:***"),
    ],
)
def test_addresses_are_shown_without_the_password(path: str, told: str) -> None:
    assert shown(path) == told
    if told.endswith(":***"):
        with pytest.raises(CacheError, match="in the password %40 %23 %2F %3F") as refused:
            RedisStore(path, create=True)
        assert "hunter2" not in str(refused.value)


def test_no_message_shows_the_password(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = url.replace("unix://", "unix://default:hunter2@")
    fluidvid = caller(capsys, "cache")
    key = tmp_path / "secret.key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)
    one = open_people(_settings(url, key_file=str(key)), BASIS)
    one.run.remember(1, person(1), known(1))
    (line,) = open_people(_settings(secret, passphrase=True), BASIS).warnings()
    assert f"cache {url} is locked with a key file" in line and "hunter2" not in line
    for arguments in (("show", "nobody", "--key-file", key), ("forget", "nobody")):
        code, _, err = fluidvid(*arguments, "--cache", secret)
        assert code == 9 and url in err and "hunter2" not in err


@pytest.mark.parametrize("option", ["bogus=hunter2", "encoding=hunter2"])
def test_an_option_that_the_client_does_not_know_is_one_warning(url: str, option: str) -> None:
    (line,) = open_people(_settings(f"{url.partition('#')[0]}?{option}"), BASIS).warnings()
    assert "unknown option" in line and "without the cache" in line and "hunter2" not in line


def test_no_server_is_one_warning_without_the_password() -> None:
    pytest.importorskip("redis", reason="NOT TESTED: pip install redis")
    people = open_people(_settings("redis://user:hunter2@127.0.0.1:1/0#people"), BASIS)
    (line,) = people.warnings()
    assert "without the cache" in line and "hunter2" not in line
    assert people.run.recall(1, person(1)).known is None
