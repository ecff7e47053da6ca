"""What converters of recognisers share: the graph they end in, and their command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper, version_converter

OPSET = 17


def recogniser(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto],
    values: int,
    given: str = "input",
    opset: int = OPSET,
) -> onnx.ModelProto:
    """A checked network from `given` `(n, 3, 112, 112)` to `embedding` `(n, values)`, both float32.

    Nodes of an older `opset` become those of `OPSET`.
    """
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(given, TensorProto.FLOAT, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", values])],
        weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset <= OPSET else 10
    )
    if opset < OPSET:
        model = version_converter.convert_version(model, OPSET)
    onnx.checker.check_model(model)
    return model


def convert_file(doc: str | None, convert: Callable[[onnx.ModelProto], onnx.ModelProto], raw: str) -> int:
    """Command line of a converter of ONNX files; `raw` says which file it takes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help=raw)
    parser.add_argument("out", type=Path)
    files = parser.parse_args()
    onnx.save(convert(onnx.load(files.raw)), files.out)
    return 0
