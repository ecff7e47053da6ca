"""Run a frozen ONNX network as a torch module, so that gradients flow through it to its input.

onnx2torch would pull in torchvision; the face networks need some forty operators of opset 11-17, interpreted here.
Operator semantics: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from fluidvid.errors import ModelError

Attributes = dict[str, Any]
Operator = Callable[..., Any]


def _symmetric_pads(pads: Sequence[int]) -> tuple[list[int], bool]:
    """ONNX's `[begin..., end...]` as torch's reversed pairs, and whether begin equals end."""
    half = len(pads) // 2
    pairs = [value for axis in reversed(range(half)) for value in (pads[axis], pads[axis + half])]
    return pairs, list(pads[:half]) == list(pads[half:])


def _spatial_pads(x: Tensor, attributes: Attributes, kernel: Sequence[int]) -> list[int]:
    auto = attributes.get("auto_pad", b"NOTSET")
    if auto in (b"NOTSET", b"VALID"):
        return list(attributes.get("pads", [0] * (2 * len(kernel))))
    strides = attributes.get("strides", [1] * len(kernel))
    begin, end = [], []
    for size, k, s in zip(x.shape[2:], kernel, strides, strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        small, large = total // 2, total - total // 2
        begin.append(small if auto == b"SAME_UPPER" else large)
        end.append(large if auto == b"SAME_UPPER" else small)
    return begin + end


def _conv(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    pads = _spatial_pads(x, a, weight.shape[2:])
    pairs, symmetric = _symmetric_pads(pads)
    padding = list(pads[: len(pads) // 2])
    if not symmetric:
        x, padding = F.pad(x, pairs), [0] * (len(pads) // 2)
    strides, dilation, groups = a.get("strides", [1, 1]), a.get("dilations", [1, 1]), a.get("group", 1)
    if groups > 1 and max(strides) > 1 and x.requires_grad and x.device.type == "cpu":
        # In bfloat16 oneDNN takes twenty times as long for the gradient.
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(x.float(), weight, bias, strides, padding, dilation, groups).to(x.dtype)
    return F.conv2d(x, weight, bias, strides, padding, dilation, groups)


def _conv_transpose(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    pads = a.get("pads", [0, 0, 0, 0])
    if list(pads[:2]) != list(pads[2:]):
        raise ModelError("an ONNX ConvTranspose with uneven padding is not supported: export with even padding")
    extra = a.get("output_padding", [0, 0])
    return F.conv_transpose2d(x, weight, bias, a.get("strides", [1, 1]), pads[:2], extra, a.get("group", 1))


def _max_pool(a: Attributes, x: Tensor) -> Tensor:
    kernel = a["kernel_shape"]
    pairs, _ = _symmetric_pads(_spatial_pads(x, a, kernel))
    x = F.pad(x, pairs, value=float("-inf")) if any(pairs) else x
    return F.max_pool2d(x, kernel, a.get("strides", [1, 1]), ceil_mode=bool(a.get("ceil_mode", 0)))


def _average_pool(a: Attributes, x: Tensor) -> Tensor:
    kernel, strides = a["kernel_shape"], a.get("strides", [1, 1])
    pairs, _ = _symmetric_pads(_spatial_pads(x, a, kernel))
    ceil = bool(a.get("ceil_mode", 0))
    if not any(pairs):
        return F.avg_pool2d(x, kernel, strides, ceil_mode=ceil, count_include_pad=False)
    total = F.avg_pool2d(F.pad(x, pairs), kernel, strides, ceil_mode=ceil)
    if a.get("count_include_pad", 0):
        return total
    return total / F.avg_pool2d(F.pad(torch.ones_like(x[:1, :1]), pairs), kernel, strides, ceil_mode=ceil)


def _pad(a: Attributes, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, *_: Any) -> Tensor:
    amounts = a["pads"] if pads is None else pads.tolist()
    mode = {b"constant": "constant", b"reflect": "reflect", b"edge": "replicate"}[a.get("mode", b"constant")]
    pairs = _symmetric_pads(amounts)[0]
    fill = float(value) if value is not None and value.numel() else float(a.get("value", 0.0))
    if mode != "constant":
        return F.pad(x, pairs[:4], mode=mode)
    return F.pad(x, pairs, value=fill)


def _resize(a: Attributes, x: Tensor, *inputs: Tensor | None) -> Tensor:
    scales, sizes = (list(inputs) + [None] * 3)[1:3]
    if sizes is not None and sizes.numel():
        size = [int(v) for v in sizes.tolist()[2:]]
    elif scales is not None:
        size = [int(n * float(s)) for n, s in zip(x.shape[2:], scales.tolist()[2:], strict=True)]
    else:
        raise ModelError("an ONNX Resize without scales or sizes is malformed: export the model again")
    mode = {b"nearest": "nearest", b"linear": "bilinear", b"cubic": "bicubic"}[a.get("mode", b"nearest")]
    if mode == "nearest":
        return F.interpolate(x, size=size, mode=mode)
    corners = a.get("coordinate_transformation_mode", b"half_pixel") == b"align_corners"
    return F.interpolate(x, size=size, mode=mode, align_corners=corners)


def _reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    target = [x.shape[i] if n == 0 and not a.get("allowzero") else int(n) for i, n in enumerate(shape.tolist())]
    return x.reshape(target)


def _slice(a: Attributes, x: Tensor, *inputs: Tensor | None) -> Tensor:
    if inputs:
        given = [None if t is None else t.tolist() for t in inputs] + [None] * (4 - len(inputs))
        starts, ends, axes, steps = given
        if starts is None or ends is None:
            raise ModelError("an ONNX Slice without starts or ends is malformed: export the model again")
    else:
        starts, ends, axes, steps = a["starts"], a["ends"], a.get("axes"), None
    axes = axes if axes is not None else list(range(len(starts)))
    index: list[slice] = [slice(None)] * x.ndim
    for i, axis in enumerate(axes):
        step = 1 if steps is None else steps[i]
        if step < 1:
            raise ModelError("an ONNX Slice with a negative step is not supported: export the model without it")
        limit = 2**31 - 2
        index[axis] = slice(starts[i], None if ends[i] >= limit else ends[i], step)
    return x[tuple(index)]


def _reduce(function: Callable[..., Tensor]) -> Operator:
    def apply(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        over = a.get("axes") if axes is None else axes.tolist()
        keep = bool(a.get("keepdims", 1))
        return function(x, tuple(range(x.ndim)) if over is None else tuple(over), keep)

    return apply


def _split(a: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = a.get("axis", 0)
    parts = a.get("split") if sizes is None else sizes.tolist()
    if parts is None:
        count = a["num_outputs"]
        return tuple(x.tensor_split(count, axis))
    return tuple(x.split(parts, axis))


def _axes(a: Attributes, axes: Tensor | None) -> list[int] | None:
    return a.get("axes") if axes is None else [int(v) for v in axes.tolist()]


def _squeeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    over = _axes(a, axes)
    return x.squeeze() if over is None else x.squeeze(tuple(over))


def _unsqueeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    over = _axes(a, axes) or []
    for axis in sorted(v % (x.ndim + len(over)) for v in over):
        x = x.unsqueeze(axis)
    return x


def _gemm(a: Attributes, x: Tensor, y: Tensor, c: Tensor | None = None) -> Tensor:
    x = x.t() if a.get("transA") else x
    y = y.t() if a.get("transB") else y
    out: Tensor = a.get("alpha", 1.0) * (x @ y)
    return out if c is None else out + a.get("beta", 1.0) * c


def _batch_norm(a: Attributes, x: Tensor, s: Tensor, b: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return F.batch_norm(x, mean, var, s, b, eps=a.get("epsilon", 1e-5))


def _gather(a: Attributes, x: Tensor, index: Tensor) -> Tensor:
    axis = a.get("axis", 0)
    picked = x.index_select(axis, index.reshape(-1) % x.shape[axis])
    return picked.reshape(x.shape[:axis] + index.shape + x.shape[axis + 1 :])


def _layer_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.layer_norm(x, x.shape[a.get("axis", -1) % x.ndim :], scale, bias, a.get("epsilon", 1e-5))


def _clip(a: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    lower = a.get("min") if low is None else float(low)
    upper = a.get("max") if high is None else float(high)
    if lower is None or upper is None or not x.is_floating_point():
        return x.clamp(lower, upper)
    return F.hardtanh(x, lower, upper)  # the same, and its gradient is one kernel in place of four


class _ChannelPRelu(torch.autograd.Function):
    """PReLU with a frozen slope per channel, of a gradient without branches: torch's own takes seven times as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return F.prelu(x, slope)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> Any:
        x, slope = ctx.saved_tensors
        positive = torch.ops.aten.threshold_backward(above[0], x, 0.0)  # the gradient of a ReLU
        return torch.lerp(positive, above[0], slope.reshape(-1, *[1] * (x.ndim - 2))), None


def _prelu(_: Attributes, x: Tensor, slope: Tensor) -> Tensor:
    if slope.numel() == x.shape[1] and slope.shape[1 - x.ndim :] == (x.shape[1], *[1] * (x.ndim - 2)):
        result: Tensor = _ChannelPRelu.apply(x, slope.flatten().to(x.dtype))  # type: ignore[no-untyped-call]
        return result
    return torch.where(x >= 0, x, x * slope)


def _cast(a: Attributes, x: Tensor) -> Tensor:
    dtypes = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float32, 11: torch.float32}
    return x.to(dtypes[a["to"]])


def _expand(_: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, torch.Size(int(n) for n in shape.tolist())))


def _l2(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.sqrt((x * x).sum(axes, keepdim=keep) + 1e-24)


def _dequantised(a: Attributes, codes: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    axis, block = a.get("axis", 1), a.get("block_size", 0)

    def spread(values: Tensor) -> Tensor:
        if block:
            return values.repeat_interleave(block, axis).narrow(axis, 0, codes.shape[axis])
        return values.reshape([-1 if n == axis else 1 for n in range(codes.ndim)])

    shifted = codes.float() if zero is None else codes.float() - spread(zero.float())
    return shifted * spread(scale)


OPERATORS: dict[str, Operator] = {
    "Add": lambda a, x, y: x + y,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda a, *xs: torch.cat(xs, a["axis"]),
    "Constant": lambda a: a["value"],
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DequantizeLinear": _dequantised,
    "Div": lambda a, x, y: x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc"),
    "Dropout": lambda a, x, *_: x,
    "Erf": lambda a, x: torch.erf(x),
    "Expand": _expand,
    "Flatten": lambda a, x: x.reshape(int(np.prod(x.shape[: a.get("axis", 1)])), -1),
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda a, x: x.mean((2, 3), keepdim=True),
    "Identity": lambda a, x: x,
    "InstanceNormalization": lambda a, x, s, b: F.instance_norm(x, weight=s, bias=b, eps=a.get("epsilon", 1e-5)),
    "LayerNormalization": _layer_norm,
    "MatMul": lambda a, x, y: x @ y,
    "MaxPool": _max_pool,
    "Mul": lambda a, x, y: x * y,
    "Pad": _pad,
    "PRelu": _prelu,
    "Pow": lambda a, x, y: x**y,
    "ReduceL2": _reduce(_l2),
    "ReduceMean": _reduce(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceSum": _reduce(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "Relu": lambda a, x: F.relu(x),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": lambda a, x: torch.tensor(x.shape, dtype=torch.int64),
    "Sigmoid": lambda a, x: torch.sigmoid(x),
    "Slice": _slice,
    "Softmax": lambda a, x: torch.softmax(x, a.get("axis", -1)),
    "Split": _split,
    "Sqrt": lambda a, x: torch.sqrt(x),
    "Squeeze": _squeeze,
    "Sub": lambda a, x, y: x - y,
    "Tanh": lambda a, x: torch.tanh(x),
    "Transpose": lambda a, x: x.permute(a.get("perm", list(reversed(range(x.ndim))))),
    "Unsqueeze": _unsqueeze,
}


def _attributes(node: onnx.NodeProto) -> Attributes:
    values: Attributes = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, onnx.TensorProto):
            value = torch.from_numpy(numpy_helper.to_array(value).copy())
        values[attribute.name] = value
    return values


def read_graph(path: Path) -> Any:
    """The graph of an ONNX file.

    Raises:
        ModelError: the file is unreadable.
    """
    try:
        return onnx.load(str(path)).graph
    except Exception as error:  # onnx raises protobuf's own classes
        raise ModelError(f"{path} is not a readable ONNX file: {error}; run 'fluidvid models verify'") from error


class OnnxModule(nn.Module):
    """A frozen ONNX graph of one input as a differentiable module.

    `forward(x)` takes the graph's input and returns a dict from output name to tensor; `taps` names inner tensors that
    are returned as well, `activations` are candidates. Weights are float32 buffers, never
    trained; integer constants stay on the CPU, where shapes are computed.

    Raises:
        ModelError: the file is unreadable, has several inputs, or uses an operator that is not in `OPERATORS`.
    """

    def __init__(self, path: Path, taps: Sequence[str] = ()) -> None:
        super().__init__()
        graph = read_graph(path)
        missing = sorted({node.op_type for node in graph.node} - OPERATORS.keys())
        if missing:
            raise ModelError(f"{path} uses ONNX operators without a torch form here: {', '.join(missing)}")
        self._constants: dict[str, Tensor] = {}
        weights = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
        inputs = [i.name for i in graph.input if i.name not in weights]
        if len(inputs) != 1:
            raise ModelError(f"{path} has {len(inputs)} inputs, one is expected")
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            if node.op_type == "DequantizeLinear" and all(name in weights for name in node.input):  # once for all
                weights[node.output[0]] = _dequantised(_attributes(node), *(weights[name] for name in node.input))
            else:
                nodes.append(node)
        used = {name for node in nodes for name in node.input}
        self._buffer_of: dict[str, str] = {}
        for index, (name, value) in enumerate(weights.items()):
            if value.is_floating_point() and value.ndim > 0 and name in used:
                value = value.float()
                if value.ndim == 4:  # as oneDNN likes them best, see `forward`
                    value = value.contiguous(memory_format=torch.channels_last)
                self._buffer_of[name] = f"w{index}"
                self.register_buffer(f"w{index}", value, persistent=False)
            elif name in used:
                self._constants[name] = value
        self.input_name = inputs[0]
        self.output_names = (*(o.name for o in graph.output), *taps)
        self.activations = tuple(n.output[0] for n in nodes if n.op_type in ("Relu", "PRelu"))
        self._nodes = [(OPERATORS[n.op_type], list(n.input), list(n.output), _attributes(n)) for n in nodes]
        self._last_use = {name: k for k, (_, ins, _, _) in enumerate(self._nodes) for name in ins}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        values: dict[str, Any] = {self.input_name: x}

        def value_of(name: str) -> Any:
            if not name:
                return None
            if name in values:
                return values[name]
            return getattr(self, self._buffer_of[name]) if name in self._buffer_of else self._constants[name]

        for position, (operator, inputs, outputs, attributes) in enumerate(self._nodes):
            result = operator(attributes, *(value_of(name) for name in inputs))
            for name, value in zip(outputs, result if isinstance(result, tuple) else (result,), strict=False):
                values[name] = value
            for name in inputs:  # free what is not needed any more
                if self._last_use.get(name) == position and name not in self.output_names and name != self.input_name:
                    values.pop(name, None)
        return {name: values[name] for name in self.output_names}
