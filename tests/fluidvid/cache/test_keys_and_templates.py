"""Keys, locks, protected templates and sealed directions: what a cache file says without its key is nothing."""

from __future__ import annotations

import hashlib
import io
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fluidvid.cache import keys
from fluidvid.cache.keys import Lock, Secret, new_lock, unlock
from fluidvid.cache.sealing import from_bytes, seal, to_bytes, unseal
from fluidvid.cache.templates import Projection
from fluidvid.engine.cache import Known, Provenance
from fluidvid.errors import CacheError, ConfigError

FILE = bytes(range(32))


def _identities(count: int, dimension: int = 256, seed: int = 0) -> NDArray[np.float32]:
    table = np.random.default_rng(seed).normal(size=(count, dimension))
    return np.asarray(table / np.linalg.norm(table, axis=1, keepdims=True), np.float32)


def test_a_lock_opens_with_its_material_only_and_survives_json() -> None:
    for kind, material, wrong in (("file", FILE, FILE[::-1]), ("passphrase", b"correct horse", b"correct hors")):
        lock = new_lock(kind, material)  # type: ignore[arg-type]
        again = Lock.from_dict(lock.to_dict())
        assert again == lock
        assert unlock(again, material) == unlock(lock, material)
        with pytest.raises(CacheError, match="key file" if kind == "file" else "passphrase"):
            unlock(lock, wrong)
        assert material.hex() not in str(lock.to_dict())


def test_same_key_file_gives_each_cache_its_own_secret() -> None:
    secret = unlock(new_lock("file", FILE), FILE)
    assert secret != unlock(new_lock("file", FILE), FILE)
    assert secret.derive("seal") != secret.derive("projection")
    assert secret.master.hex() not in repr(secret) and repr(secret.master) not in repr(secret)


@pytest.mark.parametrize(
    "tree", [{}, {"kind": "none"}, {"kind": "file", "scrypt": keys.SCRYPT, "salt": "x", "check": ""}]
)
def test_broken_lock(tree: dict[str, str]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Lock.from_dict(tree)


def test_key_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="urandom"):
        keys.read_key_file(tmp_path / "none.key")
    short = tmp_path / "short.key"
    short.write_bytes(b"secret\n")
    with pytest.raises(ConfigError, match="7 bytes"):
        keys.read_key_file(short)
    with pytest.raises(ConfigError, match="does not end"):
        keys.read_key_file(Path("/dev/zero"))
    made = keys.ensure_own_key(tmp_path / "people.cache")
    path = tmp_path / "people.cache.key"
    assert keys.ensure_own_key(tmp_path / "people.cache") == made == path.read_bytes() and len(made) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and not keys.readable_by_others(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["people.cache.key", "short.key"]
    path.chmod(0o640)
    assert keys.readable_by_others(path)
    path.write_bytes(b"")
    with pytest.raises(CacheError, match="damaged"):
        keys.ensure_own_key(tmp_path / "people.cache")


def test_run_seed_depends_on_key_and_on_the_source(tmp_path: Path) -> None:
    one, two = tmp_path / "a.mp4", tmp_path / "b.mp4"
    one.write_bytes(b"one video")
    two.write_bytes(b"another video")
    seeds = [
        keys.run_seed(FILE, one),
        keys.run_seed(FILE, two),
        keys.run_seed(FILE[::-1], one),
        keys.run_seed(FILE, None),
    ]
    assert len(set(seeds)) == 4 and all(0 <= seed < 2**63 for seed in seeds)
    two.write_bytes(b"one video")
    assert keys.run_seed(FILE, two) == seeds[0], "the content counts, not the name"


def test_passphrase_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("open sesame\nmore\n"))
    assert keys.ask_passphrase(confirm=True) == b"open sesame"
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    with pytest.raises(ConfigError, match="passphrase"):
        keys.ask_passphrase(confirm=False)


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_passphrase_that_is_no_text_is_not_shown(errors: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"open\xff\n"), encoding="utf-8", errors=errors))
    with pytest.raises(ConfigError, match="not UTF-8") as caught:
        keys.ask_passphrase(confirm=False)
    assert "xff" not in str(caught.value)


def test_ctrl_d_is_no_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", ended)
    with pytest.raises(ConfigError, match="passphrase is needed"):
        keys.ask_passphrase(confirm=False)


def test_templates_keep_cosines_under_one_key_and_nothing_under_two() -> None:
    table = _identities(60)
    table[30:] = 0.7 * table[:30] + np.sqrt(1 - 0.49) * _identities(30, seed=1)
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    raw = table @ table.T
    key, other = Projection(b"k" * 32, 256), Projection(b"l" * 32, 256)
    templates = [key.protect(row) for row in table]
    assert {len(t) for t in templates} == {256}
    same = np.stack([key.cosines(t, templates) for t in templates])
    assert np.abs(same - raw).max() < 0.17 and np.abs(same - raw).mean() < 0.04
    strange = np.stack([key.cosines(other.protect(row), templates) for row in table])
    assert abs(np.corrcoef(strange.ravel(), raw.ravel())[0, 1]) < 0.06
    assert np.abs(np.diag(strange)).max() < 0.2, "not even one's own template"


def test_templates_follow_from_key_and_identity_alone() -> None:
    """Written out without numpy: no library's generator or version may change what a template is."""
    identity = [i - 31.5 for i in range(64)]
    stream = hashlib.shake_256(bytes(32) + b"|64|16").digest(64 * 16 // 8)
    signs = [1 if stream[i // 8] >> (7 - i % 8) & 1 else -1 for i in range(64 * 16)]
    sums = [sum(signs[row * 64 + i] * identity[i] for i in range(64)) for row in range(16)]
    expected = int("".join("1" if total >= 0 else "0" for total in sums), 2).to_bytes(2, "big")
    assert Projection(bytes(32), 64, bits=16).protect(np.array(identity, np.float32)) == expected
    with pytest.raises(ValueError, match="multiple of 8"):
        Projection(bytes(32), 64, bits=12)


def test_no_templates_to_compare_with() -> None:
    projection = Projection(b"k", 8, 16)
    assert projection.cosines(projection.protect(np.ones(8, np.float32)), []).shape == (0,)


@given(st.binary(max_size=200), st.integers(0, 10_000))
def test_sealed_bytes_open_in_their_place_only_and_show_every_change(content: bytes, where: int) -> None:
    key = Secret(FILE).derive("seal")
    sealed = seal(key, content, "a|basis|direction")
    assert unseal(key, sealed, "a|basis|direction") == content
    assert len(content) < 8 or content not in sealed
    for changed, place, used in (
        (sealed, "b|basis|direction", key),
        (sealed, "a|basis|direction", FILE),
        (sealed[:-1], "a|basis|direction", key),
        (bytes(b ^ (i == where % len(sealed)) for i, b in enumerate(sealed)), "a|basis|direction", key),
        (b"", "a|basis|direction", key),
    ):
        with pytest.raises(ValueError, match="damaged"):
            unseal(used, changed, place)


def test_directions_survive_as_bytes() -> None:
    made = Provenance("ab" * 32, 25, (3, 14, 15), {"guide.x": 0.12, "landmark_error": 0.03})
    known = Known(torch.randn(2, 7), torch.randn(4, 3, 3), 17, made, 1.3)
    again = from_bytes(to_bytes(known))
    torch.testing.assert_close(again.coordinates, known.coordinates, rtol=0, atol=0)
    torch.testing.assert_close(again.noise, known.noise, rtol=0, atol=0)
    assert (again.pseudonym, again.provenance, again.boost) == (17, made, 1.3)
    assert from_bytes(to_bytes(Known(torch.ones(1), torch.ones(1), None, made))).pseudonym is None


@pytest.mark.parametrize(
    "content", [b"", b"no file", to_bytes(Known(torch.ones(1), torch.ones(1), 1, Provenance()))[:-1]]
)
def test_other_bytes_are_no_direction(content: bytes) -> None:
    with pytest.raises(ValueError, match="not a cached direction"):
        from_bytes(content)
