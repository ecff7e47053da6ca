"""The student: its file, what is made for it to learn from, and that it learns."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fluidvid.engine.onnx_module import OnnxModule
from fluidvid.engine.training.identity import IdentityTraining, LabelledFaces, distillation_loss, train_identity
from fluidvid.engine.training.student import SHAPES, IdentityStudent, read_student, write_student
from fluidvid.engine.training.variety import degrade, mix, reshape_heads
from fluidvid.errors import ModelError
from tests.engine.tiny import embedding_net, faces, tiny_recogniser

TINY = {"widths": (8, 8, 8), "blocks": (1, 1, 1), "head": 16, "embedding": 8}


def _student(seed: int = 0) -> IdentityStudent:
    torch.manual_seed(seed)
    student = IdentityStudent(**TINY)  # type: ignore[arg-type]
    with torch.no_grad():  # nothing may hide behind initial zeros
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return student


@pytest.fixture
def crops() -> torch.Tensor:
    return torch.rand(3, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def pictures() -> NDArray[np.uint8]:
    return faces(12, 64)


@torch.inference_mode()
def test_a_student_is_written_and_read_back(tmp_path: Path, crops: torch.Tensor) -> None:
    student = _student()
    write_student(student, tmp_path / "s.onnx")
    again = read_student(tmp_path / "s.onnx")
    assert again.blocks == (1, 1, 1)
    expected = student(crops)
    assert expected.shape == (3, 8)
    torch.testing.assert_close(expected.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(again(crops), expected)
    torch.testing.assert_close(OnnxModule(tmp_path / "s.onnx")(crops)["embedding"], expected, atol=1e-5, rtol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == ["s.onnx"]


@torch.inference_mode()
@pytest.mark.parametrize("shape", SHAPES)
def test_new_students_of_all_shapes_are_read_back(shape: str, tmp_path: Path, crops: torch.Tensor) -> None:
    student = IdentityStudent(*SHAPES[shape], 8)
    write_student(student, tmp_path / "s.onnx")  # weights of new blocks are equal: the exporter keeps them once
    torch.testing.assert_close(read_student(tmp_path / "s.onnx")(crops), student(crops))


def test_another_network_is_no_student(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not an identity student"):
        read_student(embedding_net(tmp_path / "other.onnx"))
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(ModelError, match="not a readable ONNX file"):
        read_student(tmp_path / "text.onnx")


def test_mixtures_lie_between_two_faces() -> None:
    a, b = torch.full((64, 3, 32, 32), -1.0), torch.ones(64, 3, 32, 32)
    made = mix(a, b, torch.Generator().manual_seed(0))
    assert made.min() >= -1
    assert made.max() <= 1
    spread = made.std((1, 2, 3))
    assert spread.min() < 0.05  # some are even fades
    assert spread.max() > 0.7  # some are patchworks


def test_heads_are_reshaped_within_bounds() -> None:
    ramp = torch.linspace(-1, 1, 64).expand(8, 3, 64, 64)
    identity = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    still = reshape_heads(ramp, identity, 64, torch.Generator().manual_seed(0), most=0.0)
    torch.testing.assert_close(still, ramp, atol=1e-5, rtol=1e-5)
    moved = reshape_heads(ramp, identity, 64, torch.Generator().manual_seed(0), most=0.05)
    change = (moved - ramp)[..., 8:-8, 8:-8].abs()
    assert change.amax((1, 2, 3)).min() > 1e-4
    assert change.max() < 0.4


def test_footage_is_degraded_in_many_ways_and_repeatably(pictures: NDArray[np.uint8]) -> None:
    def made() -> list[NDArray[np.uint8]]:
        rng = np.random.default_rng(0)
        return [degrade(pictures[0], rng, pictures[1]) for _ in range(60)]

    first, second = made(), made()
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(p.shape == pictures[0].shape and p.dtype == np.uint8 for p in first)
    assert len({p.tobytes() for p in first}) > 40
    assert any(np.array_equal(p[..., 0], p[..., 2]) for p in first)  # grey
    assert any(np.array_equal(p, pictures[0]) for p in first)  # and some are left alone


def test_nothing_is_lost_for_a_perfect_student() -> None:
    e = torch.nn.functional.normalize(torch.randn(6, 4), dim=1)
    cosine, gram = distillation_loss(e, e)
    assert float(cosine) == pytest.approx(0, abs=1e-6)
    assert float(gram) == pytest.approx(0, abs=1e-6)
    # A rotation of the whole space tells the same faces apart, elsewhere.
    turn = torch.linalg.qr(torch.randn(4, 4)).Q
    cosine, gram = distillation_loss(e @ turn, e)
    assert float(cosine) > 0.1
    assert float(gram) == pytest.approx(0, abs=1e-6)


def test_held_out_faces_are_not_shown(tmp_path: Path, pictures: NDArray[np.uint8]) -> None:
    """Pictures that may not be drawn are white: no face that is made may be."""
    pictures = np.minimum(pictures, 150)
    pictures[8:] = 255
    weights = (np.arange(12) < 8).astype(float)
    generator = torch.Generator().manual_seed(0)
    source = LabelledFaces(tiny_recogniser(tmp_path), pictures, weights, 0.5, np.random.default_rng(0), generator)
    source.fill(24)
    x, labels = source.draw(8, 4)
    assert x.shape == (8, 3, 112, 112)
    torch.testing.assert_close(labels.norm(dim=1), torch.ones(8), atol=1e-2, rtol=1e-2)
    assert source.faces.mean((1, 2, 3)).max() < 230


def test_the_student_learns(tmp_path: Path, pictures: NDArray[np.uint8]) -> None:
    teacher, held_out = tiny_recogniser(tmp_path), np.arange(12) >= 10
    begin = _student()
    figures = {}
    for steps in (1, 40):
        student = copy.deepcopy(begin)
        options = IdentityTraining(hours=100, steps=steps, batch=8, warmup=5, ema=0.8, learning_rate=3e-3)
        out = tmp_path / str(steps)
        figures[steps] = train_identity(student, teacher, pictures, held_out, np.ones(12), out, options)
        assert (out / "identity_student.onnx").exists()
        assert not (out / "state.tmp").exists()
    assert figures[40]["cosine"] > figures[1]["cosine"] + 0.1
