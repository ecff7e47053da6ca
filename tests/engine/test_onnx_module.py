"""The ONNX interpreter against onnxruntime: single operators, the embedded networks, and gradients."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from fluidvid.engine.onnx_module import OnnxModule
from fluidvid.errors import ModelError

RNG = np.random.default_rng(0)
F32 = np.float32


def _model(path: Path, nodes: list[Any], weights: dict[str, np.ndarray], outputs: int = 1, opset: int = 17) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None) for i in range(outputs)],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9 if opset < 21 else 10),
        path,
    )
    return path


def _i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


CASES: dict[str, tuple[str, dict[str, np.ndarray], dict[str, Any]]] = {
    "conv-uneven-pads": (
        "Conv",
        {"w": RNG.normal(size=(4, 3, 3, 3)).astype(F32)},
        {"pads": [0, 1, 1, 2], "strides": [2, 2]},
    ),
    "conv-same": (
        "Conv",
        {"w": RNG.normal(size=(4, 3, 3, 3)).astype(F32)},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ),
    "conv-group": ("Conv", {"w": RNG.normal(size=(3, 1, 3, 3)).astype(F32)}, {"group": 3, "dilations": [2, 2]}),
    "conv-transpose": ("ConvTranspose", {"w": RNG.normal(size=(3, 2, 2, 2)).astype(F32)}, {"strides": [2, 2]}),
    "max-pool": ("MaxPool", {}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    "average-pool": ("AveragePool", {}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "average-pool-counted": ("AveragePool", {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    "pad-reflect": ("Pad", {"p": _i64(0, 0, 1, 2, 0, 0, 2, 1)}, {"mode": "reflect"}),
    "pad-constant": ("Pad", {"p": _i64(0, 0, 1, 2, 0, 0, 2, 1), "v": np.array(3, F32)}, {}),
    "clip": ("Clip", {"a": np.array(-0.5, F32), "b": np.array(0.5, F32)}, {}),
    "prelu": ("PRelu", {"s": RNG.normal(size=(3, 1, 1)).astype(F32)}, {}),
    "prelu-rows": ("PRelu", {"s": RNG.normal(size=(8, 1)).astype(F32)}, {}),
    "reduce-l2": ("ReduceL2", {}, {"axes": [1], "keepdims": 1}),
    "reduce-mean": ("ReduceMean", {}, {"axes": [2, 3], "keepdims": 0}),
    "reshape": ("Reshape", {"s": _i64(0, -1, 4)}, {}),
    "slice": ("Slice", {"a": _i64(1), "b": _i64(2**40), "c": _i64(2), "d": _i64(2)}, {}),
    "softmax": ("Softmax", {}, {"axis": 1}),
    "transpose": ("Transpose", {}, {"perm": [0, 2, 3, 1]}),
    "instance-norm": ("InstanceNormalization", {"s": np.ones(3, F32) * 2, "b": np.ones(3, F32)}, {}),
    "layer-norm": (
        "LayerNormalization",
        {"s": RNG.normal(size=8).astype(F32), "b": RNG.normal(size=8).astype(F32)},
        {},
    ),
    "batch-norm": ("BatchNormalization", {n: RNG.uniform(0.5, 1.5, 3).astype(F32) for n in "sbmv"}, {}),
    "resize-linear": (
        "Resize",
        {"r": np.array([], F32), "s": np.array([1, 1, 2, 2], F32)},
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    ),
    "resize-nearest": (
        "Resize",
        {"r": np.array([], F32), "s": np.array([1, 1, 2, 2], F32)},
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    "global-pool": ("GlobalAveragePool", {}, {}),
    "flatten": ("Flatten", {}, {"axis": 2}),
    "gather": ("Gather", {"i": _i64(2, -1, 0)}, {"axis": 2}),
    "expand": ("Expand", {"s": _i64(4, 1, 3, 1, 1)}, {}),
    "squeeze-axis": ("Unsqueeze", {"a": _i64(1)}, {}),
    "tanh": ("Tanh", {}, {}),
    "erf": ("Erf", {}, {}),
    "sigmoid": ("Sigmoid", {}, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_operator_equals_onnxruntime(name: str, tmp_path: Path) -> None:
    kind, weights, attributes = CASES[name]
    path = _model(tmp_path / "m.onnx", [helper.make_node(kind, ["x", *weights], ["y0"], **attributes)], weights)
    x = RNG.normal(size=(2, 3, 8, 8)).astype(F32)
    expected = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    got = OnnxModule(path)(torch.from_numpy(x))["y0"].numpy()
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_split_has_several_outputs(tmp_path: Path) -> None:
    node = helper.make_node("Split", ["x", "n"], ["y0", "y1"], axis=1)
    path = _model(tmp_path / "m.onnx", [node], {"n": _i64(1, 2)}, outputs=2)
    x = torch.randn(2, 3, 4, 4)
    out = OnnxModule(path)(x)
    torch.testing.assert_close(out["y0"], x[:, :1])
    torch.testing.assert_close(out["y1"], x[:, 1:])


@pytest.mark.parametrize(
    ("shape", "scales", "attributes"),
    [((4, 3, 3, 3), (4,), {"axis": 0}), ((4, 6, 1, 1), (4, 2, 1, 1), {"axis": 1, "block_size": 3})],
)
def test_weights_in_eight_bits(
    shape: tuple[int, ...], scales: tuple[int, ...], attributes: dict[str, Any], tmp_path: Path
) -> None:
    """A scale and a zero per row, and per block of each row; codes are not kept beside what they stand for."""
    weights: dict[str, np.ndarray] = {
        "codes": RNG.integers(-128, 128, shape).astype(np.int8),
        "scales": RNG.uniform(0.01, 0.1, scales).astype(F32),
        "zeros": RNG.integers(-20, 20, scales).astype(np.int8),
    }
    nodes = [
        helper.make_node("DequantizeLinear", list(weights), ["w"], **attributes),
        helper.make_node("Conv", ["x", "w"], ["y0"]),
    ]
    path = _model(tmp_path / "m.onnx", nodes, weights, opset=21)
    x = RNG.normal(size=(2, shape[1], 8, 8)).astype(F32)
    expected = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    module = OnnxModule(path)
    np.testing.assert_allclose(module(torch.from_numpy(x))["y0"].numpy(), expected, rtol=1e-4, atol=1e-4)
    assert [tuple(b.shape) for b in module.buffers()] == [shape]


EMBEDDED = {
    "identity_student": 112,
    "faceplugin": 112,
    "sface": 112,
    "dlib_resnet": 150,
    "faceres": 112,
    "landmark68": 112,
    "expression": 112,
    "age_gender": 112,
    "facemesh468": 192,
}


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_networks_equal_onnxruntime_and_have_gradients(name: str) -> None:
    path = Path(str(resources.files("fluidvid") / "assets" / f"{name}.onnx"))
    x = torch.rand(2, 3, EMBEDDED[name], EMBEDDED[name], generator=torch.Generator().manual_seed(0)) * 2 - 1
    module = OnnxModule(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = dict(zip(module.output_names, session.run(None, {module.input_name: x.numpy()}), strict=True))
    out = module(x.requires_grad_())
    first = module.output_names[0]
    for key, value in expected.items():
        if key == "score":  # a logit of noise: huge, and compared relatively above
            continue
        scale = max(1.0, float(np.abs(value).max()))
        assert float(np.abs(out[key].detach().numpy() - value).max()) < 1e-4 * scale
    (gradient,) = torch.autograd.grad(out[first].pow(2).sum(), x)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


def test_inner_tensors_can_be_tapped(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["inner"]), helper.make_node("Tanh", ["inner"], ["y0"])]
    out = OnnxModule(_model(tmp_path / "m.onnx", nodes, {}), taps=("inner",))(torch.tensor([[-1.0, 2.0]]))
    assert out["inner"].tolist() == [[0.0, 2.0]]


def test_unknown_operator_and_foreign_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Hardmax"):
        OnnxModule(_model(tmp_path / "m.onnx", [helper.make_node("Hardmax", ["x"], ["y0"])], {}))
    (tmp_path / "junk.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"junk\.onnx"):
        OnnxModule(tmp_path / "junk.onnx")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_a_slope_per_channel_is_torch_s_own(tmp_path: Path, dtype: torch.dtype) -> None:
    slope = RNG.normal(size=(5, 1, 1)).astype(F32)
    path = _model(tmp_path / "m.onnx", [helper.make_node("PRelu", ["x", "s"], ["y0"])], {"s": slope})
    x = torch.randn(2, 5, 6, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[0, 0, 0, 0] = 0.0  # there the slope counts, as torch has it
    above = torch.randn(2, 5, 6, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    one = OnnxModule(path)(ours)["y0"]
    other = torch.nn.functional.prelu(theirs, torch.from_numpy(slope).flatten().to(dtype))
    assert torch.equal(one, other)
    found = [torch.autograd.grad(y, leaf, above)[0] for y, leaf in ((one, ours), (other, theirs))]
    torch.testing.assert_close(found[0], found[1], rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_depthwise_convolutions_do_not_depend_on_the_precision(tmp_path: Path, stride: int) -> None:
    weights = {"w": RNG.normal(size=(8, 1, 3, 3)).astype(F32), "b": RNG.normal(size=8).astype(F32)}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y0"], group=8, strides=[stride] * 2, pads=[1, 1, 1, 1])
    module = OnnxModule(_model(tmp_path / "m.onnx", [node], weights))
    x = torch.randn(1, 8, 9, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    plain = module(x)["y0"]
    with torch.autocast("cpu", torch.bfloat16):
        reduced = module(x.bfloat16())["y0"]
    assert reduced.dtype == torch.bfloat16
    torch.testing.assert_close(reduced.float(), plain, rtol=0.05, atol=0.05)
    found = [torch.autograd.grad(y.float().pow(2).sum(), x)[0] for y in (plain, reduced)]
    torch.testing.assert_close(found[1], found[0], rtol=0.05, atol=0.5)
