"""Convert the recogniser of the npm package faceplugin-face-recognition-js: the guide `faceplugin`.

    npm pack faceplugin-face-recognition-js@0.0.1 && tar xzf faceplugin-face-recognition-js-*.tgz
    python -m tools.convert_faceplugin package/model/fr_feature.onnx fluidvid/assets/faceplugin.onnx

The package's file takes one face; here a batch may have any size, and no weight changes. The result takes
`(N, 3, 112, 112)` RGB in [-1, 1], ArcFace-aligned, and gives `(N, 512)` embeddings, not normalised.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tools.recogniser_graph import convert_file, recogniser


def convert(raw: onnx.ModelProto) -> onnx.ModelProto:
    """The same network for any batch; SystemExit if it is another one."""
    *body, last = raw.graph.node
    if last.op_type != "Reshape" or {node.op_type for node in body} != {"Conv", "PRelu", "Add"}:
        raise SystemExit("convolutions, PReLUs, sums and one Reshape were expected: is this fr_feature.onnx?")
    weights = [tensor for tensor in raw.graph.initializer if tensor.name != last.input[1]]
    shape = numpy_helper.from_array(np.array([-1, 512], np.int64), last.input[1])
    reshape = helper.make_node("Reshape", list(last.input), ["embedding"])
    return recogniser("faceplugin", [*body, reshape], [*weights, shape], 512, opset=raw.opset_import[0].version)


if __name__ == "__main__":
    raise SystemExit(convert_file(__doc__, convert, "fr_feature.onnx of the package"))
