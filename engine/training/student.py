"""A small identity network to be distilled: residual 3x3 convolutions without norms, read from and written to ONNX.

Without batch statistics nothing has to be folded at export, and the exported file can be trained on.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import cast

import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from fluidvid.engine.onnx_module import read_graph
from fluidvid.engine.training.runs import whole
from fluidvid.errors import ModelError

SIDE = 112
SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    "deep": ((40, 80, 160), (2, 2, 4), 384),
    "wide": ((48, 96, 192), (1, 1, 1), 256),
}
"""Widths, blocks and head of the students that are shipped: the first one's, and the second one's, half as dear."""


class Block(nn.Module):
    """`PReLU(x + conv(PReLU(conv(x))))`; a new one passes everything on unchanged."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(width, width, 3, padding=1)
        self.inner = nn.PReLU(width)
        self.b = nn.Conv2d(width, width, 3, padding=1)
        self.outer = nn.PReLU(width, init=1.0)
        nn.init.kaiming_normal_(self.a.weight, a=0.25)
        nn.init.zeros_(self.b.weight)
        for conv in (self.a, self.b):
            nn.init.zeros_(cast(Tensor, conv.bias))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.outer(x + self.b(self.inner(self.a(x)))))


class Stage(nn.Module):
    """A convolution of stride 2, then blocks."""

    def __init__(self, before: int, width: int, blocks: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(before, width, 3, stride=2, padding=1)
        self.activation = nn.PReLU(width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.blocks(self.activation(self.down(x))))


class IdentityStudent(nn.Module):
    """`(N, 3, 112, 112)` ArcFace-aligned RGB in [-1, 1] to `(N, embedding)` unit vectors.

    Args:
        widths: channels at 28, 14 and 7 cells a side.
        blocks: residual blocks at each of them.
        head: channels that are pooled, each by its own 7 x 7 weights.
        embedding: size of the result.
    """

    def __init__(
        self,
        widths: Sequence[int] = (40, 80, 160),
        blocks: Sequence[int] = (2, 2, 4),
        head: int = 384,
        embedding: int = 128,
    ) -> None:
        super().__init__()
        before = (12, *widths[:-1])
        self.stages = nn.Sequential(*(Stage(*shape) for shape in zip(before, widths, blocks, strict=True)))
        self.head, self.activation = nn.Conv2d(widths[-1], head, 1), nn.PReLU(head)
        self.pool = nn.Conv2d(head, head, SIDE // 2 ** (1 + len(widths)), groups=head)
        self.project = nn.Linear(head, embedding)

    def forward(self, crops: Tensor) -> Tensor:
        x = self.stages(F.pixel_unshuffle(crops, 2))
        return F.normalize(self.project(self.pool(self.activation(self.head(x))).flatten(1)).float(), dim=1)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Residual blocks per stage."""
        return tuple(len(cast(Stage, stage).blocks) for stage in self.stages)


def read_student(path: Path) -> IdentityStudent:
    """An exported student as a network that can be trained on.

    Raises:
        ModelError: unreadable, or another architecture.
    """
    graph = read_graph(path)
    values = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    # The exporter keeps equal tensors once.
    values |= {n.output[0]: values[n.input[0]] for n in graph.node if n.op_type == "Identity" and n.input[0] in values}
    weights = [values[name] for n in graph.node if n.op_type in ("Conv", "PRelu", "Gemm") for name in n.input[1:]]
    convs = [n for n in graph.node if n.op_type == "Conv"]
    strides = [next((list(a.ints) for a in n.attribute if a.name == "strides"), [1, 1])[0] for n in convs]
    starts = [i for i, s in enumerate(strides) if s == 2] + [len(convs) - 2]
    try:
        widths = [len(values[convs[i].input[1]]) for i in starts[:-1]]
        blocks = [(after - i - 1) // 2 for i, after in pairwise(starts)]
        student = IdentityStudent(widths, blocks, len(values[convs[-1].input[1]]), len(weights[-1]))
        with torch.no_grad():
            for parameter, value in zip(student.parameters(), weights, strict=True):
                parameter.copy_(value.reshape(parameter.shape))
    except (IndexError, RuntimeError, ValueError, KeyError) as error:
        raise ModelError(f"{path} is not an identity student of this architecture: begin without one") from error
    return student


def write_student(student: IdentityStudent, path: Path) -> None:
    """Export to ONNX (opset 17, dynamic batch, `input` to `embedding`), whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with whole(path) as part, warnings.catch_warnings():
        # The exporter that needs no further package is deprecated, and says so in several ways.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            student,
            (torch.zeros(1, 3, SIDE, SIDE),),
            str(part),
            input_names=["input"],
            output_names=["embedding"],
            dynamic_axes={"input": {0: "n"}, "embedding": {0: "n"}},
            opset_version=17,
            dynamo=False,
        )
