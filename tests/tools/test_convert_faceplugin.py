"""Channels that show nothing are left out of a converted network, and what it says stays."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tools.convert_faceplugin import BLOCK, DEAD, Weights, without_dead_channels

SIZE = 6


def _block(channels: int) -> tuple[list[onnx.NodeProto], Weights]:
    """A block of a MobileFaceNet: 8 channels, `channels` inside, 4 behind."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    weights = {
        "w1": drawn(channels, 8, 1, 1),
        "b1": drawn(channels),
        "s1": drawn(channels, 1, 1),
        "w2": drawn(channels, 1, 3, 3),
        "b2": drawn(channels),
        "s2": drawn(channels, 1, 1),
        "w3": drawn(4, channels, 1, 1),
        "b3": drawn(4),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"]),
        helper.make_node("PRelu", ["a", "s1"], ["b"]),
        helper.make_node("Conv", ["b", "w2", "b2"], ["c"], group=channels, pads=[1, 1, 1, 1]),
        helper.make_node("PRelu", ["c", "s2"], ["d"]),
        helper.make_node("Conv", ["d", "w3", "b3"], ["y"]),
    ]
    return nodes, weights


def _run(nodes: list[onnx.NodeProto], weights: Weights) -> np.ndarray:
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).normal(size=(1, 8, SIZE, SIZE)).astype(np.float32)
    result: np.ndarray = session.run(None, {"x": x})[0]
    return result


@pytest.mark.parametrize("dead", [20, 40])
def test_dead_channels_are_left_out_in_blocks_and_the_result_stays(dead: int) -> None:
    nodes, weights = _block(2 * BLOCK)
    half = dead // 2
    weights["w1"][:half] *= DEAD / 1e3  # nothing reaches the depthwise convolution
    weights["b1"][:half] = 0
    weights["w2"][half:dead] *= DEAD / 1e3  # it hands nothing on: only its bias is left, which matters
    before = _run(nodes, weights)
    without_dead_channels(nodes, weights)
    left = 2 * BLOCK if dead < BLOCK else BLOCK
    assert [len(weights[name]) for name in ("w1", "b1", "s1", "w2", "b2", "s2")] == [left] * 6
    assert weights["w3"].shape == (4, left, 1, 1)
    np.testing.assert_allclose(_run(nodes, weights), before, atol=1e-4)


def test_a_network_without_dead_channels_stays() -> None:
    nodes, weights = _block(BLOCK + 1)
    before = copy.deepcopy(weights)
    without_dead_channels(nodes, weights)
    for name, value in before.items():
        np.testing.assert_array_equal(weights[name], value)
