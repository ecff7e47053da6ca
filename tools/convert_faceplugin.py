"""Convert the recogniser of the npm package faceplugin-face-recognition-js: the guide `faceplugin`.

    npm pack faceplugin-face-recognition-js@0.0.1 && tar xzf faceplugin-face-recognition-js-*.tgz
    python -m tools.convert_faceplugin package/model/fr_feature.onnx fluidvid/assets/faceplugin.onnx

The package's file takes one face; here a batch may have any size. Its training has left a quarter of the channels
without an effect (weights of 1e-9 and less, many too small for a processor's fast arithmetic): they are left out, and
embeddings stay as they are to 1e-6. The result takes `(N, 3, 112, 112)` RGB in [-1, 1], ArcFace-aligned, and gives
`(N, 512)` embeddings, not normalised.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tools.recogniser_graph import convert_file, recogniser

DEAD = 1e-6
"""Weights and biases of which no picture notices anything; those that matter are larger by orders."""

BLOCK = 32
"""Channels that processors take at once: so many, or a multiple, stay."""

Weights = dict[str, NDArray[np.float32]]


def without_dead_channels(nodes: list[onnx.NodeProto], weights: Weights) -> None:
    """Leave out, in place, the channels of depthwise convolutions that are the same whatever the picture shows.

    The channel goes from the convolution before the depthwise one, from this and both PReLUs, and from the convolution
    behind; what it always was is added to the latter's biases.
    """
    takers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            takers.setdefault(name, []).append(node)
    for before in nodes:
        chain = [before]
        while len(chain) < 5 and len(takers.get(chain[-1].output[0], [])) == 1:
            chain += takers[chain[-1].output[0]]
        if [node.op_type for node in chain] != ["Conv", "PRelu", "Conv", "PRelu", "Conv"]:
            continue
        (w1, b1), (slope1,), (w2, b2), (slope2,), (w3, b3) = (node.input[1:] for node in chain)
        depthwise = weights[w2].shape[1] == 1 and len(weights[w2]) == weights[w3].shape[1]
        if not depthwise or weights[w3].shape[2:] != (1, 1):
            continue
        blind = np.abs(weights[w1]).max((1, 2, 3)) + np.abs(weights[b1]) < DEAD
        dead = blind | (np.abs(weights[w2]).max((1, 2, 3)) < DEAD)
        always = weights[b2] * np.where(weights[b2] > 0, 1, weights[slope2].ravel())
        weights[b3] = weights[b3] + weights[w3][:, dead, 0, 0] @ always[dead]
        for name in (w1, b1, slope1, w2, b2, slope2):
            weights[name] = np.where(dead.reshape(-1, *[1] * (weights[name].ndim - 1)), 0, weights[name])
        dead[np.flatnonzero(dead)[: -int((~dead).sum()) % BLOCK]] = False
        for name in (w1, b1, slope1, w2, b2, slope2):
            weights[name] = weights[name][~dead]
        weights[w3] = weights[w3][:, ~dead]
        for attribute in chain[2].attribute:
            if attribute.name == "group":
                attribute.i = int((~dead).sum())


def convert(raw: onnx.ModelProto) -> onnx.ModelProto:
    """The same network for any batch; SystemExit if it is another one."""
    *body, last = raw.graph.node
    if last.op_type != "Reshape" or {node.op_type for node in body} != {"Conv", "PRelu", "Add"}:
        raise SystemExit("convolutions, PReLUs, sums and one Reshape were expected: is this fr_feature.onnx?")
    weights = {t.name: numpy_helper.to_array(t) for t in raw.graph.initializer if t.name != last.input[1]}
    without_dead_channels(body, weights)
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    tensors.append(numpy_helper.from_array(np.array([-1, 512], np.int64), last.input[1]))
    reshape = helper.make_node("Reshape", list(last.input), ["embedding"])
    return recogniser("faceplugin", [*body, reshape], tensors, 512, opset=raw.opset_import[0].version)


if __name__ == "__main__":
    raise SystemExit(convert_file(__doc__, convert, "fr_feature.onnx of the package"))
