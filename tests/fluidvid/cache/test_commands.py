"""`fluidvid cache ...` as users meet it."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest

from fluidvid.cache.people import open_people
from fluidvid.cache.sqlite import SqliteStore
from fluidvid.config import Config
from fluidvid.errors import CacheError
from tests.fluidvid.cache.people import BASIS, known, person
from tests.fluidvid.commands import Fluidvid, caller


@pytest.fixture
def fluidvid(capsys: pytest.CaptureFixture[str]) -> Fluidvid:
    return caller(capsys, "cache")


def met(path: Path, *seeds: int, **changes: str) -> list[str]:
    """A run that met these people; entry by person."""
    settings = Config().updated({"cache.path": str(path)} | {f"cache.{k}": v for k, v in changes.items()}).cache
    people = open_people(settings, BASIS)
    for seed in seeds:
        if people.run.recall(seed, person(seed)).known is None:
            people.run.remember(seed, person(seed), known(seed))
    assert people.warnings() == []
    entries = people.account()["entries"]
    people.close()
    return [entries[str(seed)] for seed in seeds]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "people.cache"


def test_list_and_show(cache: Path, fluidvid: Fluidvid) -> None:
    one, two = met(cache, 1, 2)
    code, out, _ = fluidvid("list", "--cache", cache)
    assert code == 0 and out.count("\n") == 2 and one in out and two in out and BASIS[:12] in out
    rows = json.loads(fluidvid("list", "--cache", cache, "--json")[1])["entries"]
    assert {row["entry"] for row in rows} == {one, two} and all(row["runs"] == 1 for row in rows)
    code, out, _ = fluidvid("show", two, "--cache", cache, "--json")
    shown = json.loads(out)
    assert code == 0 and (shown["steps"], shown["key frames"], shown["verified"]) == (25, [1, 2], {"v": 0.1})
    assert fluidvid("show", one, "--cache", cache)[1].startswith("entry")
    code, out, err = fluidvid("show", "nobody", "--cache", cache)
    assert (code, out) == (9, "") and "cache list" in err and err.count("\n") == 1


def test_list_needs_no_key_and_show_does(cache: Path, fluidvid: Fluidvid) -> None:
    (one,) = met(cache, 1)
    cache.with_name("people.cache.key").unlink()
    assert fluidvid("list", "--cache", cache)[0] == 0
    code, _, err = fluidvid("show", one, "--cache", cache)
    assert code == 9 and "is gone" in err


def test_forget(cache: Path, fluidvid: Fluidvid) -> None:
    one, two = met(cache, 1, 2)
    assert fluidvid("forget", one, "--cache", cache) == (0, "", "")
    assert met(cache, 2) == [two] and met(cache, 1) != [one]
    code, _, err = fluidvid("forget", two, "nobody", "--cache", cache)
    assert code == 9 and "others were removed" in err
    assert two not in fluidvid("list", "--cache", cache)[1]


def test_purge_takes_everything_even_when_damaged(cache: Path, fluidvid: Fluidvid) -> None:
    met(cache, 1)
    content = bytearray(cache.read_bytes())
    content[4096:8192] = os.urandom(4096)
    cache.write_bytes(content)
    assert fluidvid("purge", "--cache", cache) == (0, "", "")
    assert list(cache.parent.iterdir()) == []
    code, _, err = fluidvid("purge", "--cache", cache)
    assert code == 9 and err.count("\n") == 1


def test_purge_leaves_other_files_alone(tmp_path: Path, fluidvid: Fluidvid) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear cache, " * 20)
    database, key = tmp_path / "history", tmp_path / "history.key"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    empty = tmp_path / "empty"
    for path in (key, empty):
        path.touch()
    for path in (letter, database, empty):
        assert fluidvid("purge", "--cache", path)[0] == 9 and path.exists()
    assert key.exists()


def test_purge_of_a_link_deletes_what_it_leads_to(tmp_path: Path, fluidvid: Fluidvid) -> None:
    real, link = tmp_path / "real.cache", tmp_path / "people.cache"
    (one,) = met(real, 1)
    link.symlink_to(real)
    assert met(link, 1) == [one]
    assert fluidvid("purge", "--cache", link) == (0, "", "")
    assert list(tmp_path.iterdir()) == [link]
    met(link, 1)
    assert link.is_symlink() and real.exists()


def test_purge_of_a_pipe_does_not_wait_for_its_writer(tmp_path: Path, fluidvid: Fluidvid) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code, _, err = fluidvid("purge", "--cache", pipe)
    assert code == 9 and "not a file" in err and pipe.exists()


def aged(cache: Path, entry: str, days: int) -> None:
    """The entry was last used so many days ago."""
    with sqlite3.connect(cache) as connection:
        connection.execute("UPDATE entries SET used = used - ? WHERE id = ?", (days * 86400, entry))
    connection.close()


def test_purge_expired(cache: Path, fluidvid: Fluidvid) -> None:
    one, two = met(cache, 1, 2)
    aged(cache, one, 40)
    for arguments, words in ((["--expired"], "add --ttl-days"), (["--ttl-days", "39"], "add --expired")):
        code, _, err = fluidvid("purge", *arguments, "--cache", cache)
        assert code == 2 and words in err
    assert fluidvid("purge", "--expired", "--ttl-days", "365", "--cache", cache)[0] == 0
    assert one in fluidvid("list", "--cache", cache)[1]
    assert fluidvid("purge", "--expired", "--ttl-days", "39", "--cache", cache)[0] == 0
    listed = fluidvid("list", "--cache", cache)[1]
    assert one not in listed and two in listed


def test_entries_of_any_age_are_listed_shown_and_forgotten(cache: Path, fluidvid: Fluidvid) -> None:
    (one,) = met(cache, 1)
    aged(cache, one, 4000)
    listed = fluidvid("list", "--cache", cache)[1]
    assert one in listed and "last used" in listed and "expire" not in listed
    code, out, _ = fluidvid("show", one, "--cache", cache, "--json")
    assert code == 0 and "expires" not in json.loads(out)
    assert fluidvid("forget", one, "--cache", cache) == (0, "", "")
    assert fluidvid("list", "--cache", cache)[1] == ""


def test_rekey_makes_old_entries_useless(cache: Path, fluidvid: Fluidvid, tmp_path: Path) -> None:
    (one,) = met(cache, 1)
    stolen = tmp_path / "stolen.cache"
    stolen.write_bytes(cache.read_bytes())
    assert fluidvid("rekey", "--cache", cache) == (0, "", "")
    assert fluidvid("list", "--cache", cache)[1] == ""
    stolen.with_name("stolen.cache.key").write_bytes(cache.with_name("people.cache.key").read_bytes())
    code, _, err = fluidvid("show", one, "--cache", stolen)
    assert code == 9 and "not the key file" in err
    assert met(cache, 1) != [one]


def test_rekey_that_fails_leaves_cache_and_key(
    cache: Path, fluidvid: Fluidvid, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = met(cache, 1)

    def full(*_: object) -> int:
        raise CacheError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "restart", full)
        code, _, err = fluidvid("rekey", "--cache", cache)
    assert code == 9 and "full" in err
    assert fluidvid("show", one, "--cache", cache)[0] == 0 and met(cache, 1) == [one]
    assert {path.name for path in cache.parent.iterdir()} == {"people.cache", "people.cache.key"}


@pytest.mark.parametrize(("command", "what"), [("rekey", "rekeyed or removed"), ("purge", "purged or replaced")])
def test_a_run_under_way_goes_on_without_the_cache_when_it_is_rekeyed_or_purged(
    cache: Path, fluidvid: Fluidvid, command: str, what: str
) -> None:
    """What it kept under the old key nobody could read, and the copies that were to become useless could."""
    met(cache, 1)
    settings = Config().updated({"cache.path": str(cache)}).cache
    runs = [open_people(settings, BASIS) for _ in range(3)]
    assert runs[0].run.recall(1, person(1)).known is not None
    assert fluidvid(command, "--cache", cache) == (0, "", "")
    runs[0].run.remember(1, person(1), known(9))  # renewed
    runs[1].run.remember(2, person(2), known(2))
    assert runs[2].run.recall(3, person(3)).known is None
    for people in runs:
        (line,) = people.warnings()
        assert f"was {what} meanwhile" in line and "goes on without the cache" in line
        people.close()
    if command == "purge":
        assert not list(cache.parent.iterdir()), "nothing of what was purged comes back"
    else:
        assert fluidvid("list", "--cache", cache)[1] == ""
    assert met(cache, 1, 2) == met(cache, 1, 2)


def test_rekey_to_a_key_file_of_ones_own(cache: Path, fluidvid: Fluidvid, tmp_path: Path) -> None:
    met(cache, 1)
    key = tmp_path / "secret.key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)
    assert fluidvid("rekey", "--cache", cache, "--key-file", key)[0] == 0
    assert not cache.with_name("people.cache.key").exists()
    assert met(cache, 1, key_file=str(key)) == met(cache, 1, key_file=str(key))


def test_rekey_keeps_the_key_it_is_given(cache: Path, fluidvid: Fluidvid) -> None:
    met(cache, 1)
    key = cache.with_name("people.cache.key")
    content = key.read_bytes()
    link = cache.with_name("link")
    link.symlink_to(key)
    for given in (key, link):
        assert fluidvid("rekey", "--cache", cache, "--key-file", given) == (0, "", "")
        assert key.read_bytes() == content
    assert met(cache, 1) == met(cache, 1)


def test_rekey_refuses_the_cache_as_its_key(cache: Path, fluidvid: Fluidvid) -> None:
    met(cache, 1)
    code, _, err = fluidvid("rekey", "--cache", cache, "--key-file", cache)
    assert code == 2 and "the cache itself" in err
    assert met(cache, 1) == met(cache, 1)


def test_the_word_none_names_no_cache(fluidvid: Fluidvid) -> None:
    for arguments in (["list"], ["forget", "x"], ["rekey"], ["show", "x"]):
        code, out, err = fluidvid(*arguments, "--cache", "none")
        assert (code, out, err.count("\n")) == (2, "", 1) and "--cache none" in err


def test_a_cache_has_a_key_file_or_a_passphrase(cache: Path, fluidvid: Fluidvid) -> None:
    (one,) = met(cache, 1)
    both = ("--cache", cache, "--key-file", cache.with_name("people.cache.key"), "--cache-passphrase")
    for command in (["rekey"], ["show", one]):
        code, out, err = fluidvid(*command, *both)
        assert (code, out, err.count("\n")) == (2, "", 1) and "leave out the other" in err
    assert one in fluidvid("list", "--cache", cache)[1]


def test_no_such_cache_in_one_line(tmp_path: Path, fluidvid: Fluidvid) -> None:
    for arguments in (["list"], ["forget", "x"], ["purge"], ["rekey"], ["show", "x"]):
        code, out, err = fluidvid(*arguments, "--cache", tmp_path / "none.cache")
        assert (code, out, err.count("\n")) == (9, "", 1), arguments
    assert list(tmp_path.iterdir()) == []
