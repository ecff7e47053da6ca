"""Convert the recogniser of the npm package faceplugin-face-recognition-js: the guide `faceplugin`.

    npm pack faceplugin-face-recognition-js@0.0.1 && tar xzf faceplugin-face-recognition-js-*.tgz
    python tools/convert_faceplugin.py package/model/fr_feature.onnx fluidvid/assets/faceplugin.onnx

The package's file takes one face; here a batch may have any size, and no weight changes. The result takes
`(N, 3, 112, 112)` RGB in [-1, 1], ArcFace-aligned, and gives `(N, 512)` embeddings, not normalised.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter


def convert(raw: onnx.ModelProto) -> onnx.ModelProto:
    """The same network for any batch; SystemExit if it is another one."""
    *body, last = raw.graph.node
    if last.op_type != "Reshape" or {node.op_type for node in body} != {"Conv", "PRelu", "Add"}:
        raise SystemExit("convolutions, PReLUs, sums and one Reshape were expected: is this fr_feature.onnx?")
    weights = [tensor for tensor in raw.graph.initializer if tensor.name != last.input[1]]
    shape = numpy_helper.from_array(np.array([-1, 512], np.int64), last.input[1])
    graph = helper.make_graph(
        [*body, helper.make_node("Reshape", list(last.input), ["embedding"])],
        "faceplugin",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 512])],
        [*weights, shape],
    )
    model = helper.make_model(graph, opset_imports=raw.opset_import, ir_version=8)
    model = version_converter.convert_version(model, 17)
    onnx.checker.check_model(model)
    return model


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="fr_feature.onnx of the package")
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    onnx.save(convert(onnx.load(given.raw)), given.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
