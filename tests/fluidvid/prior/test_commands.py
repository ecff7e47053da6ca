"""`fluidvid prior ...` as users meet it: tiny networks in the real formats, the shipped recognisers."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file

from fluidvid.engine import build_editor
from fluidvid.engine.backbone import load_backbone, weight_digest
from fluidvid.engine.build import edit_plan, h_shape
from fluidvid.engine.pseudonyms import PseudonymBank
from fluidvid.engine.subspace import ComponentSpace
from fluidvid.models import ModelStore
from fluidvid.prior.bank import TAUGHT_BY
from fluidvid.prior.training import TrainingRequest
from tests.engine.tiny import embedding_net, faces, write_backbone
from tests.fluidvid.commands import Fluidvid, caller
from tests.fluidvid.prior.faces import write_faces


@pytest.fixture
def fluidvid(capsys: pytest.CaptureFixture[str]) -> Fluidvid:
    return caller(capsys, "prior")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_faces(tmp_path / "data", 12)
    return tmp_path / "data"


@pytest.fixture
def seed_prior(tmp_path: Path) -> Path:
    return write_backbone(tmp_path / "seed", card={"edit_timesteps": [300], "figures": {"unet_steps": 5}})


def losses(out: Path) -> dict[int, float]:
    with (out / "run" / "log.csv").open() as file:
        return {int(row["step"]): float(row.get("loss") or row["picture"]) for row in csv.DictReader(file)}


def card(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "fluidvid.json").read_text())
    return content


def test_the_parts_of_a_prior_are_trained_one_after_another(
    fluidvid: Fluidvid, data: Path, seed_prior: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    common = ("--steps", 2, "--batch", 4, "--quiet")
    code, _, err = fluidvid("train", "autoencoder", data, "--start", seed_prior, "--out", first, *common)
    assert (code, err) == (0, "")
    before, after = (load_file(f / "autoencoder" / "model.safetensors") for f in (seed_prior, first))
    assert any(not torch.equal(before[k].half(), after[k]) for k in before)
    assert not (first / "unet").exists()
    # Without a U-Net nothing can be continued.
    code, _, err = fluidvid("train", "diffusion", data, "--start", first, "--out", second, *common)
    assert code == 5
    assert "--fresh begins one" in err
    code, out, _ = fluidvid("train", "diffusion", data, "--start", first, "--fresh", "--out", second, *common, "--json")
    assert code == 0
    assert json.loads(out)["figures"] == {"steps": 2.0}
    backbone = load_backbone(second)
    assert backbone.crop_size == 64
    assert backbone.card["figures"] == {"unet_steps": 2}
    assert "12 faces of data" in backbone.card["training_data"]
    assert backbone.card["sha256"] == weight_digest(second)
    # The result does not depend on what the run keeps to go on.
    assert list((second / "run").rglob("*.safetensors"))
    shutil.copytree(second, tmp_path / "copy", ignore=shutil.ignore_patterns("run"))
    assert load_backbone(tmp_path / "copy").digest == backbone.digest
    assert "12 faces of data" in (second / "README.md").read_text()
    same = load_file(second / "autoencoder" / "model.safetensors")
    assert all(torch.equal(same[k], after[k]) for k in after)


def test_train_save_load_edit_changes_nothing_but_the_weights(
    fluidvid: Fluidvid, data: Path, seed_prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    code, _, _ = fluidvid("train", "diffusion", data, "--start", seed_prior, "--out", out, "--steps", 2, "--batch", 4)
    assert code == 0
    old, new = card(seed_prior), card(out)
    assert {k: new[k] for k in ("crop_size", "template", "edit_timesteps")} == {
        k: old[k] for k in ("crop_size", "template", "edit_timesteps")
    }
    assert new["figures"] == {"unet_steps": 7}
    unets = [UNet2DModel.from_pretrained(f / "unet", low_cpu_mem_usage=False) for f in (seed_prior, out)]
    ours = [{k: v for k, v in unet.config.items() if not k.startswith("_")} for unet in unets]
    assert ours[0] == ours[1]
    assert "_name_or_path" not in json.loads((out / "unet" / "config.json").read_text())
    states = [unet.state_dict() for unet in unets]
    assert states[0].keys() == states[1].keys()
    assert any(not torch.equal(states[0][k].half(), states[1][k].half()) for k in states[0])
    a, b = load_backbone(seed_prior), load_backbone(out)
    assert a.schedule.prediction_type == b.schedule.prediction_type
    torch.testing.assert_close(a.schedule.alphas_cumprod, b.schedule.alphas_cumprod)
    assert edit_plan(a, None, "linear", 4) == edit_plan(b, None, "linear", 4)
    # With the old weights put back, and free coordinates as before, the new folder edits exactly like the old one.
    grafted = tmp_path / "grafted"
    shutil.copytree(out, grafted, ignore=shutil.ignore_patterns("run", "hspace.safetensors"))
    for name in ("unet/diffusion_pytorch_model.safetensors", "autoencoder/model.safetensors"):
        shutil.copy(seed_prior / name, grafted / name)
    (grafted / "fluidvid.json").write_text(json.dumps({k: v for k, v in new.items() if k != "sha256"}))
    pictures = faces(2)  # they show none
    monkeypatch.setattr("fluidvid.engine.editor.readable", lambda _, x, landmarks: torch.ones(len(x), dtype=torch.bool))
    figures = []
    for folder in (seed_prior, grafted, out):
        editor = build_editor(backbone=folder, resolve=ModelStore().resolve, seed=3, iterations=1, device="cpu")
        figures.append(editor.prepare(1, pictures).figures)
    assert figures[0]
    assert figures[1] == figures[0]
    assert figures[2] != figures[0]


def test_a_bank_becomes_part_of_a_prior(fluidvid: Fluidvid, data: Path, seed_prior: Path, tmp_path: Path) -> None:
    guide, out = ModelStore().resolve("identity_student"), tmp_path / "out"
    common = ("train", "bank", data, "--start", seed_prior, "--out", out, "--teacher", guide, "--batch", 4, "--quiet")
    assert fluidvid(*common, "--steps", 1)[0] == 0
    code, _, err = fluidvid(*common, "--steps", 2, "--resume")
    assert (code, err) == (0, "")
    backbone = load_backbone(out)
    assert backbone.edit_timesteps == (100,)
    assert backbone.card["figures"] == {"unet_steps": 5, "bank_steps": 2}
    assert backbone.card["guides"] == list(TAUGHT_BY)
    trained = int((~np.load(out / "run" / "faces.npz")["held_out"]).sum())
    bank = PseudonymBank.load(out / "pseudonyms.safetensors")
    assert bank.embeddings.keys() == {*TAUGHT_BY, "dlib_resnet"}
    assert bank.coordinates is not None
    assert bank.coordinates.shape == (trained, 1, trained - 1)
    space = ComponentSpace.load(out / "hspace.safetensors", h_shape(backbone))
    assert space.timesteps == (100,)
    assert space.basis.shape[1] == trained - 1
    # A prior that has directions to these people goes on from them.
    bank.coordinates = torch.randn(bank.coordinates.shape, generator=torch.Generator().manual_seed(1))
    bank.save(out / "pseudonyms.safetensors")
    card = json.loads((out / "fluidvid.json").read_text())
    (out / "fluidvid.json").write_text(json.dumps({k: v for k, v in card.items() if k != "sha256"}))
    known = torch.einsum("nlk,lkd->nd", bank.coordinates, space.basis)
    further = tmp_path / "further"
    common = ("train", "bank", data, "--start", out, "--out", further, "--teacher", guide, "--batch", 4, "--quiet")
    assert fluidvid(*common, "--steps", 1)[0] == 0
    bank = PseudonymBank.load(further / "pseudonyms.safetensors")
    assert bank.coordinates is not None
    basis = ComponentSpace.load(further / "hspace.safetensors", h_shape(backbone)).basis
    gone_on = torch.einsum("nlk,lkd->nd", bank.coordinates, basis)
    assert float(torch.cosine_similarity(gone_on, known).min()) > 0.95
    assert load_backbone(further).card["figures"] == {"unet_steps": 5, "bank_steps": 3}


def test_swaps_go_before_a_bank_and_it_goes_on_from_them(
    fluidvid: Fluidvid, data: Path, seed_prior: Path, tmp_path: Path
) -> None:
    out, further = tmp_path / "out", tmp_path / "further"
    common = ("--start", seed_prior, "--out", out, "--donors", data, "--batch", 4, "--quiet")
    assert fluidvid("train", "swaps", data, *common, "--steps", 1)[0] == 0
    code, _, err = fluidvid("train", "swaps", data, *common, "--steps", 2, "--resume")
    assert (code, err) == (0, "")
    backbone = load_backbone(out)
    assert backbone.edit_timesteps == (100,)
    assert backbone.card["figures"] == {"unet_steps": 5, "swaps_steps": 2}
    assert backbone.card["guides"] == []  # no recogniser took part
    bank = PseudonymBank.load(out / "pseudonyms.safetensors")
    code, _, err = fluidvid("train", "swaps", data, *common[:-4], data / "no", "--batch", 4, "--steps", 3, "--resume")
    assert code == 2
    assert "donors" in err
    guide = ModelStore().resolve("identity_student")
    bank_options = ("--start", out, "--out", further, "--teacher", guide, "--donors", data, "--batch", 4, "--quiet")
    assert fluidvid("train", "bank", data, *bank_options, "--steps", 1)[0] == 0
    backbone = load_backbone(further)
    assert backbone.edit_timesteps == (100,)
    assert backbone.card["figures"] == {"unet_steps": 5, "swaps_steps": 2, "bank_steps": 1}
    assert backbone.card["guides"] == list(TAUGHT_BY)
    again = PseudonymBank.load(further / "pseudonyms.safetensors")
    torch.testing.assert_close(again.embeddings, bank.embeddings)  # the same people


@pytest.mark.parametrize("kind", ["autoencoder", "diffusion", pytest.param("identity", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_to_the_same_loss(
    kind: str, fluidvid: Fluidvid, data: Path, seed_prior: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    begin: tuple[str | Path, ...] = ("--start", seed_prior)
    if kind == "identity":
        begin = ("--aligned", "--fresh", "--teacher", embedding_net(tmp_path / "teacher.onnx"))
    # So many hours that the learning rate does not depend on how fast this machine is.
    common = ("train", kind, data, *begin, "--batch", 4, "--hours", 10000, "--checkpoint", 0, "--quiet")
    code, _, err = fluidvid(*common, "--out", whole, "--steps", 6)
    assert (code, err) == (0, "")
    command = [sys.executable, "-m", "fluidvid", "prior", *map(str, common), "--out", str(killed)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 120
        while not (killed / "run" / "log.csv").exists() or len(losses(killed)) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    reached = torch.load(killed / "run" / "state.pt", weights_only=True)["step"]
    last = max(reached + 1, 6)
    code, _, err = fluidvid(*common, "--out", killed, "--resume", "--steps", last)
    assert (code, err) == (0, "")
    if last > 6:  # the machine was faster than the signal
        assert fluidvid(*common, "--out", whole, "--resume", "--steps", last)[0] == 0
    assert losses(killed)[last] == pytest.approx(losses(whole)[last], rel=1e-5)


def test_the_student_replaces_the_shipped_one(fluidvid: Fluidvid, data: Path, tmp_path: Path) -> None:
    teacher = embedding_net(tmp_path / "teacher.onnx", width=128)
    out = tmp_path / "out"
    code, _, err = fluidvid(
        "train", "identity", data, "--aligned", "--teacher", teacher, "--out", out,
        "--steps", 2, "--batch", 4, "--quiet",
    )  # fmt: skip
    assert (code, err) == (0, "")
    sessions = [
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for path in (ModelStore().resolve("identity_student"), out / "identity_student.onnx")
    ]
    assert [s.get_inputs()[0].name for s in sessions] == ["input", "input"]
    assert [s.get_outputs()[0].name for s in sessions] == ["embedding", "embedding"]
    x = np.random.default_rng(0).uniform(-1, 1, (3, 3, 112, 112)).astype(np.float32)
    before, after = (s.run(None, {"input": x})[0] for s in sessions)
    assert before.shape == after.shape == (3, 128)
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, atol=1e-5)
    assert 0 < np.abs(before - after).max() < 0.2  # it goes on from the shipped one


def test_a_run_is_neither_overwritten_nor_mixed_up(
    fluidvid: Fluidvid, data: Path, seed_prior: Path, tmp_path: Path
) -> None:
    common = ("train", "diffusion", data, "--start", seed_prior, "--out", tmp_path / "out", "--batch", 4, "--quiet")
    code, _, err = fluidvid(*common, "--steps", 1, "--resume")
    assert code == 2
    assert "holds no run to resume" in err
    # What came to nothing is in nobody's way.
    assert fluidvid("train", "diffusion", "absent", *common[3:], "--steps", 1)[0] == 3
    assert fluidvid(*common, "--steps", 1)[0] == 0
    code, _, err = fluidvid(*common, "--steps", 2)
    assert code == 2
    assert "--resume goes on with it" in err
    code, _, err = fluidvid(*common, "--steps", 2, "--resume", "--seed", 4)
    assert code == 2
    assert "had seed 0, not 4" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("train", "diffusion", "absent", "--out", "o"), 3, "no such folder or file: absent"),
        (("train", "diffusion", "data", "--out", "o", "--hours", "0"), 2, "--hours and --steps must be positive"),
        (("train", "diffusion", "data", "--out", "o", "--hours", "nan"), 2, "--hours and --steps must be positive"),
        (("train", "diffusion", "data", "--out", "o", "--checkpoint", "nan"), 2, "--checkpoint must be a number"),
        (("train", "diffusion", "data", "--out", "o", "--threads", "9" * 12), 2, "--threads 999999999999: a number"),
        (("train", "diffusion", "", "--out", "o"), 2, "DATA=SHARE"),
        (("train", "diffusion", "data", "--out", "o", "--batch", "1"), 2, "--batch 1"),
        (("train", "diffusion", "data", "--out", "o", "--start", "nothing"), 5, "nothing"),
        (("train", "identity", "data", "--out", "o", "--teacher", "no.onnx"), 5, "no teacher at no.onnx"),
        (("train", "bank", "data", "--out", "o", "--teacher", "no.onnx"), 5, "--teacher no.onnx"),
        (
            ("train", "identity", "data", "--out", "o", "--teacher", "TEACHER", "--fresh", "--shape", "tall"),
            2,
            "--shape tall: one of deep, wide is needed",
        ),
        (("sample", "--out", "o", "--count", "0"), 2, "--count and --ddim must be positive"),
        (("sample", "--out", "o", "--count", "9" * 12), 2, "--count 999999999999: at most 1000000"),
        (("sample", "--out", "o", "--prior", "nothing"), 5, "nothing"),
        (("sample", "--out", "o", "--seed", str(2**64)), 2, "from 0 to 9223372036854775807"),
        (("train", "diffusion", "data", "--out", "o", "--seed", "-1"), 2, "from 0 to 9223372036854775807"),
        (("evaluate", "absent"), 3, "no such folder or file: absent"),
        (("evaluate", "data", "--faces", "3"), 2, "--faces at least 4"),
    ],
)
def test_wrong_use_is_one_line_and_an_exit_code(
    arguments: tuple[str, ...],
    code: int,
    words: str,
    fluidvid: Fluidvid,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    teacher = ModelStore().resolve("identity_student")
    found, out, err = fluidvid(*(teacher if a == "TEACHER" else a for a in arguments))
    assert found == code
    assert words in err
    assert (out, len(err.splitlines())) == ("", 1)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        *((kind, "DATA") for kind in ("autoencoder", "diffusion", "identity", "swaps", "bank")),
        *((kind, "--donors") for kind in ("swaps", "bank")),
    ],
)
def test_a_training_that_fails_at_its_pictures_leaves_nothing(
    kind: str, wrong: str, fluidvid: Fluidvid, data: Path, seed_prior: Path, tmp_path: Path
) -> None:
    write_faces(tmp_path / "few", 2)
    source: tuple[str | Path, ...] = (tmp_path / "few",) if wrong == "DATA" else (data, "--donors", tmp_path / "few")
    out = tmp_path / "new" / "out"
    begin: tuple[str | Path, ...] = () if kind == "identity" else ("--start", seed_prior)
    if kind in ("identity", "bank"):
        begin += ("--teacher", ModelStore().resolve("identity_student"))
    code, _, err = fluidvid("train", kind, *source, *begin, "--aligned", "--out", out, "--steps", 1, "--quiet")
    assert code == 3 and "2 different faces are too few" in err
    assert not out.parent.exists()


def test_a_training_that_fails_as_it_begins_leaves_what_was_there(
    fluidvid: Fluidvid, data: Path, seed_prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "out" / "run").mkdir(parents=True)
    (tmp_path / "out" / "run" / "notes").touch()
    monkeypatch.setattr(np, "savez", full)
    code, _, err = fluidvid("train", "diffusion", data, "--start", seed_prior, "--out", tmp_path / "out", "--quiet")
    assert code == 4 and "faces.npz cannot be written" in err
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["run", "notes"]


def test_a_start_whose_weights_are_cut_short_is_one_line(
    fluidvid: Fluidvid, data: Path, seed_prior: Path, tmp_path: Path
) -> None:
    for weights in (seed_prior / "unet").glob("*.safetensors"):
        os.truncate(weights, 1000)
    code, _, err = fluidvid("train", "diffusion", data, "--start", seed_prior, "--out", tmp_path / "out", "--quiet")
    assert code == 5 and "cannot be read" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_new_run_replaces_nothing(fluidvid: Fluidvid, data: Path, seed_prior: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("my notes")
    for out, name in ((tmp_path, "README.md"), (seed_prior, "fluidvid.json")):
        before = sorted(out.rglob("*"))
        code, _, err = fluidvid("train", "diffusion", data, "--start", seed_prior, "--out", out, "--steps", 1)
        assert code == 4 and f"{name} exists" in err and len(err.splitlines()) == 1
        assert sorted(out.rglob("*")) == before


def test_samples_are_one_picture_each_and_follow_the_seed(fluidvid: Fluidvid, seed_prior: Path, tmp_path: Path) -> None:
    for name, seed, count in (("a", 1, 3), ("b", 1, 2), ("c", 2, 2)):
        code, _, _ = fluidvid(
            "sample", "--prior", seed_prior, "--count", count, "--seed", seed, "--out", tmp_path / name, "--ddim", 3
        )
        assert code == 0
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["000000.png", "000001.png", "000002.png"]
    pictures = {n: [np.asarray(cv2.imread(str(p))) for p in sorted((tmp_path / n).iterdir())] for n in "abc"}
    assert pictures["a"][0].shape == (64, 64, 3)
    for index in range(2):
        np.testing.assert_array_equal(pictures["a"][index], pictures["b"][index])
        assert not np.array_equal(pictures["a"][index], pictures["c"][index])
    assert not np.array_equal(pictures["a"][0], pictures["a"][1])
    code, _, err = fluidvid("sample", "--prior", seed_prior, "--out", tmp_path / "a", "--ddim", 3)
    assert code == 4
    assert "000000.png exists already" in err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "000000.tmp").symlink_to("/dev/full")
    code, _, err = fluidvid("sample", "--prior", seed_prior, "--out", tmp_path / "full", "--ddim", 3)
    assert code == 4 and "No space left" in err
    assert list((tmp_path / "full").iterdir()) == []


@pytest.mark.parametrize("begun", [False, True])
def test_an_interrupted_training_promises_no_run_that_is_not_there(
    fluidvid: Fluidvid, data: Path, seed_prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    def interrupted(request: TrainingRequest, _: ModelStore) -> dict[str, float]:
        if begun:
            (request.out / "run").mkdir(parents=True)
            (request.out / "run" / "run.json").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("fluidvid.prior.training.run_autoencoder", interrupted)
    code, _, err = fluidvid("train", "autoencoder", data, "--start", seed_prior, "--out", tmp_path / "out")
    assert code == 130 and ("--resume goes on" in err) is begun and ("nothing was written" in err) is not begun


@pytest.mark.parametrize("named", [False, True])
def test_interrupted_samples_are_not_denied(
    fluidvid: Fluidvid, seed_prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """A signal before the third sample has its name, or just behind that."""
    replace = Path.replace

    def interrupted(part: Path, path: Path) -> Path:
        if path.name == "000002.png" and not named:
            raise KeyboardInterrupt
        done = replace(part, path)
        if path.name == "000002.png":
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(Path, "replace", interrupted)
    arguments = ("--prior", seed_prior, "--count", 3, "--out", tmp_path / "a", "--ddim", 3)
    code, _, err = fluidvid("sample", *arguments)
    written = ["000000.png", "000001.png", "000002.png"][: 3 if named else 2]
    assert code == 130 and f"{len(written)} of 3 samples were written" in err and "nothing was written" not in err
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == written


def test_embeddings_are_kept_whole_or_not_at_all(
    fluidvid: Fluidvid, data: Path, seed_prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Any, table: Any) -> None:
        Path(getattr(file, "name", file)).write_bytes(b"\x93NUMPY")
        raise OSError(28, "No space left on device")

    command = ("train", "diffusion", data, "--start", seed_prior, "--out", tmp_path / "out", "--batch", 4, "--quiet")
    with monkeypatch.context() as patched:
        patched.setattr(np, "save", full)
        code, _, err = fluidvid(*command, "--steps", 1)
    assert code == 4 and "No space left on device" in err
    assert sorted(path.name for path in (tmp_path / "out" / "run").iterdir()) == ["faces.npz", "run.json"]
    for steps in (1, 2):
        code, _, err = fluidvid(*command, "--steps", steps, "--resume")
        assert (code, err) == (0, "")
        assert not (tmp_path / "out" / "run" / "embeddings.npy").exists()


def test_what_shows_faces_or_tells_whose_they_are_is_private(
    fluidvid: Fluidvid, data: Path, seed_prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: dict[str, int] = {}

    def kept(*given: Any) -> dict[str, float]:
        run = given[-2]
        modes.update({path.name: stat.S_IMODE(path.stat().st_mode) for path in run.iterdir()})
        raise FloatingPointError("the loss became nan")

    common = ("--start", seed_prior, "--batch", 4, "--steps", 1, "--quiet")
    assert fluidvid("train", "swaps", data, *common, "--out", tmp_path / "swaps")[0] == 0
    run = tmp_path / "swaps" / "run"
    for name in ("faces.npz", "state.pt", "targets.pt"):
        assert stat.S_IMODE((run / name).stat().st_mode) == 0o600, name
    monkeypatch.setattr("fluidvid.prior.training.train_diffusion", kept)
    assert fluidvid("train", "diffusion", data, *common, "--out", tmp_path / "diffusion")[0] == 1
    assert modes["embeddings.npy"] == 0o600


def test_four_faces_are_enough_for_an_evaluation(fluidvid: Fluidvid, data: Path, seed_prior: Path) -> None:
    arguments = ("evaluate", data, "--prior", seed_prior, "--count", 2, "--ddim", 2, "--faces", 4, "--quiet", "--json")
    code, out, _ = fluidvid(*arguments)
    assert code == 0
    figures = json.loads(out)
    assert figures["faces"] == 4 and np.isfinite(figures["frechet_halves_of_given"])


def test_the_evaluation_is_a_table_or_json(fluidvid: Fluidvid, data: Path, seed_prior: Path) -> None:
    arguments = ("evaluate", data, "--prior", seed_prior, "--training", data, "--count", 4, "--ddim", 3, "--quiet")
    code, out, _ = fluidvid(*arguments, "--json")
    assert code == 0
    figures = json.loads(out)
    assert (figures["faces"], figures["samples"]) == (12, 4)
    for t in (100, 300, 500, 700):
        assert figures[f"denoising_{t}"] > 0
        assert figures[f"denoising_{t}_without_skips"] != figures[f"denoising_{t}"]
    # What was given is what it was "trained" on: every given face is found there.
    assert figures["nearest_training_given_mean"] == pytest.approx(1.0, abs=1e-5)
    assert figures["nearest_training_max"] < 1
    assert 0 <= figures["one_face_samples"] <= 1
    code, out, _ = fluidvid(*arguments)
    assert code == 0
    assert f"| first stage: PSNR of the round trip, dB | {figures['autoencoder_db']:.4f} |" in out
