"""The manifest: entries are complete, files are verified, pulling is atomic and checked."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import IO, Any

import pytest

from fluidvid import models
from fluidvid.assembly import backbone_source
from fluidvid.errors import ConfigError, ModelError, OutputError
from fluidvid.models import ModelEntry, ModelFile, ModelStore, parse_manifest
from fluidvid.progress import ProgressEvent
from tests.fluidvid.commands import caller


def entry(content: bytes, *, url: str | None = None, pinned: bool = True, embedded: bool = False) -> ModelEntry:
    digest = hashlib.sha256(content).hexdigest() if pinned else None
    file = ModelFile("net.onnx", digest, len(content), url)
    return ModelEntry("net", ("detector",), "MIT", True, "a test", embedded, "nothing", (file,))


def store_of(item: ModelEntry, folder: Path) -> ModelStore:
    return ModelStore((item,), assets=folder / "assets", store=folder / "store")


def test_the_manifest_is_complete_and_its_files_verify() -> None:
    store = ModelStore()
    assert store.entries
    for item in store.entries:
        assert item.licence and item.source and item.training_data and item.roles, item.name
        if item.embedded:
            assert all(file.sha256 and file.size for file in item.files), item.name
            assert item.commercial_use, f"{item.name}: the embedded set is permissive"
            assert store.status(item).state == "ok", store.status(item).detail
    assert store.with_role("detector")


def test_every_embedded_file_is_in_the_manifest_and_in_third_party(root: Path) -> None:
    assets = root / "fluidvid" / "assets"
    listed = {file.path for item in ModelStore().entries if item.embedded for file in item.files}
    present = {p.relative_to(assets).as_posix() for p in assets.rglob("*") if p.is_file()} - {"manifest.json"}
    assert present - listed == set()
    rows = [line.strip("| ").split(" | ") for line in (root / "THIRD_PARTY.md").read_text().splitlines()]
    licences = {row[0].strip("`"): row[-1] for row in rows}
    for item in ModelStore().entries:
        if item.embedded:
            assert licences[item.name].startswith(item.licence), item.name


def test_pull_verifies_and_resolve_finds(tmp_path: Path) -> None:
    (tmp_path / "src").write_bytes(b"weights")
    store = store_of(entry(b"weights", url=(tmp_path / "src").as_uri()), tmp_path)
    with pytest.raises(ModelError, match="fluidvid models pull net"):
        store.resolve("net")
    path = store.pull("net")
    assert path.read_bytes() == b"weights" and store.resolve("net") == path


def test_pull_shows_how_far_it_is(tmp_path: Path) -> None:
    content = bytes(2**20 + 5000)
    (tmp_path / "src").write_bytes(content)
    seen: list[ProgressEvent] = []
    store_of(entry(content, url=(tmp_path / "src").as_uri()), tmp_path).pull("net", progress=seen.append)
    assert seen == [ProgressEvent("net.onnx, kB", done, 1053) for done in (1048, 1053)]


def test_a_store_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "src").write_bytes(b"weights")
    (tmp_path / "store").write_text("a file where the folder belongs")
    store = store_of(entry(b"weights", url=(tmp_path / "src").as_uri()), tmp_path)
    with pytest.raises(OutputError, match=r"net\.onnx cannot be written \(.*\): .* XDG_CACHE_HOME"):
        store.pull("net")


def test_a_full_disk_is_no_wrong_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").write_bytes(b"weights")
    usual = os.fdopen

    def full(handle: int, mode: str) -> IO[Any]:
        usual(handle, mode).close()
        return Path("/dev/full").open(mode)

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(OutputError, match="No space left on device"):
        store_of(entry(b"weights", url=(tmp_path / "src").as_uri()), tmp_path).pull("net")
    assert list((tmp_path / "store").iterdir()) == []


def test_a_source_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot fetch no/such/file: .*check the address"):
        store_of(entry(b"weights"), tmp_path).pull("net", source="no/such/file")
    assert list((tmp_path / "store").iterdir()) == []


def test_an_address_of_a_file_whose_name_is_coded(tmp_path: Path) -> None:
    source = tmp_path / "the net #1 (50%).onnx"
    source.write_bytes(b"weights")
    path = store_of(entry(b"weights"), tmp_path).pull("net", source=source.as_uri())
    assert path.read_bytes() == b"weights"


def test_a_wrong_hash_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "src").write_bytes(b"tampered")
    store = store_of(entry(b"weights", url=(tmp_path / "src").as_uri()), tmp_path)
    with pytest.raises(ModelError, match="expected"):
        store.pull("net")
    assert list((tmp_path / "store").iterdir()) == []


def test_altered_after_pull_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "src").write_bytes(b"weights")
    item = entry(b"weights", url=(tmp_path / "src").as_uri())
    path = store_of(item, tmp_path).pull("net")
    path.write_bytes(b"weightz")
    with pytest.raises(ModelError, match="altered"):
        store_of(item, tmp_path).resolve("net")
    with pytest.raises(ModelError, match="--force"):
        store_of(item, tmp_path).pull("net")
    assert store_of(item, tmp_path).pull("net", force=True).read_bytes() == b"weights"


def test_without_a_pinned_hash_one_must_be_given(tmp_path: Path) -> None:
    (tmp_path / "src").write_bytes(b"weights")
    store = store_of(entry(b"weights", pinned=False), tmp_path)
    with pytest.raises(ModelError, match="no download address"):
        store.pull("net")
    with pytest.raises(ModelError, match="--sha256"):
        store.pull("net", source=str(tmp_path / "src"))
    store.pull("net", source=str(tmp_path / "src"), sha256={"net.onnx": hashlib.sha256(b"weights").hexdigest()})
    assert store.status(store.entry("net")).state == "unpinned"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"net.onnx": "0a" * 31}, "--sha256 net.onnx=0a0a.*: 64 hexadecimal digits are needed"),
        ({"net.onnx": "0x" + "a" * 62}, "64 hexadecimal digits are needed"),
        ({"net.onnx": ""}, "64 hexadecimal digits are needed"),
        ({"0a" * 32: ""}, "--sha256 0a0a.*: model net has no such file, it has net.onnx"),
        ({"net.onnx": "0A" * 32, "met.onnx": "0a" * 32}, "--sha256 met.onnx: model net has no such file"),
    ],
)
def test_a_hash_that_is_none_is_refused_before_anything_is_fetched(
    given: dict[str, str], words: str, tmp_path: Path
) -> None:
    store = store_of(entry(b"weights", pinned=False), tmp_path)
    with pytest.raises(ConfigError, match=words):
        store.pull("net", source=str(tmp_path / "src"), sha256=given)
    assert list(tmp_path.iterdir()) == []


def test_a_hash_beside_the_pinned_one_must_be_the_same(tmp_path: Path) -> None:
    (tmp_path / "src").write_bytes(b"weights")
    store, right = store_of(entry(b"weights"), tmp_path), hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(ModelError, match=f"--sha256 net.onnx: the manifest pins {right}: leave it out"):
        store.pull("net", source=str(tmp_path / "src"), sha256={"net.onnx": "0a" * 32})
    store.pull("net", source=str(tmp_path / "src"), sha256={"net.onnx": right.upper()})


@pytest.mark.parametrize("place", ["http://you:hidden@host/net.onnx", "https://127.0.0.1:9/net.onnx?token=hidden"])
def test_messages_show_no_login_and_no_token_of_an_address(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr("urllib.request.urlopen", refused)
    with pytest.raises(ModelError, match=r"cannot fetch http.*net\.onnx") as failed:
        store_of(entry(b"weights"), tmp_path).pull("net", source=place)
    assert "hidden" not in str(failed.value)


@pytest.mark.parametrize("place", ["https://you:hidden@localhost/net.onnx", "https://localhost/a b?token=hidden"])
def test_an_address_that_cannot_be_opened_is_told_without_its_secrets(tmp_path: Path, place: str) -> None:
    with pytest.raises(ModelError, match="cannot fetch https") as failed:
        store_of(entry(b"weights"), tmp_path).pull("net", source=place)
    assert "hidden" not in str(failed.value) and failed.value.__cause__ is None


def test_only_https_and_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="only https"):
        store_of(entry(b"x", url="http://localhost/x"), tmp_path).pull("net")


def test_embedded_cannot_be_pulled_and_missing_says_reinstall(tmp_path: Path) -> None:
    store = store_of(entry(b"x", embedded=True), tmp_path)
    with pytest.raises(ModelError, match="embedded"):
        store.pull("net")
    with pytest.raises(ModelError, match="reinstall"):
        store.resolve("net")


def test_unknown_name_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="it has net"):
        store_of(entry(b"x"), tmp_path).entry("other")


@pytest.mark.parametrize("path", ["/etc/passwd", "../up.onnx"])
def test_paths_stay_below_the_store(path: str) -> None:
    tree = {
        "format": 1,
        "models": [
            {
                "name": "n",
                "roles": ["x"],
                "licence": "MIT",
                "commercial_use": True,
                "source": "s",
                "embedded": False,
                "training_data": "t",
                "files": [{"path": path, "sha256": None, "size": None}],
            }
        ],
    }
    with pytest.raises(ValueError, match="below the store"):
        parse_manifest(json.loads(json.dumps(tree)))


def test_a_backbone_is_a_folder_a_hub_id_or_a_name(tmp_path: Path) -> None:
    store = ModelStore()
    assert backbone_source(str(tmp_path), store) == tmp_path
    assert backbone_source("google/ddpm-ema-celebahq-256", store) == "google/ddpm-ema-celebahq-256"
    with pytest.raises(ModelError, match="no backbone 'nope': there is no such folder here"):
        backbone_source("nope", store)
    assert backbone_source("prior", store) == store.resolve("prior")
    with pytest.raises(ModelError, match="celebahq"):
        backbone_source("celebahq", store)
    with pytest.raises(ModelError, match="missing/folder/here"):
        backbone_source("missing/folder/here", store)


@pytest.mark.parametrize("interrupted", [False, True])
def test_files_that_were_pulled_are_not_denied(
    interrupted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first of three came, the second did not."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fetched = list[Path]()

    def fetch(origin: str, target: Path, *_: Any) -> None:
        if fetched:
            raise KeyboardInterrupt if interrupted else ModelError("cannot fetch it")
        target.parent.mkdir(parents=True)
        target.write_bytes(b"{}")
        fetched.append(target)

    monkeypatch.setattr(models, "_fetch", fetch)
    names = ("config.json", "scheduler_config.json", "diffusion_pytorch_model.bin")
    trusted = [word for name in names for word in ("--sha256", f"{name}={'0a' * 32}")]
    code, out, err = caller(capsys, "models")("pull", "ddpm-ema-celebahq-256", *trusted)
    told = err.strip().splitlines()[-1]
    assert (code, out) == (130 if interrupted else 5, "")
    assert told.endswith(f"; installed and verified before: {fetched[0]}") and "nothing was written" not in told
