"""Tiny models in the real formats, so that the engine's own loading and editing code runs in milliseconds."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from diffusers import DDIMScheduler, UNet2DModel
from onnx import TensorProto, helper, numpy_helper

from fluidvid.engine.autoencoder import FaceAutoencoder, FaceAutoencoderConfig
from fluidvid.engine.backbone import Backbone, load_backbone
from fluidvid.engine.face_networks import AttributeNetworks, Recogniser, RecogniserSpec, box_window, mesh_window
from fluidvid.engine.glasses import Glasses
from fluidvid.engine.losses import LossWeights
from fluidvid.engine.optimise import OptimiseOptions
from fluidvid.engine.plan import EditPlan
from fluidvid.engine.readable import PARTS
from fluidvid.engine.search import EditorOptions
from fluidvid.engine.subspace import FreeSpace
from fluidvid.geometry import FFHQ_112

TINY_AUTOENCODER = FaceAutoencoderConfig(
    latent_channels=4,
    encoder_channels=(8, 8),
    encoder_blocks=(1, 1),
    decoder_channels=(8, 8, 8),
    decoder_blocks=(1, 1, 1),
)


def tiny_unet(channels: int = 4, side: int = 8, **changes: Any) -> UNet2DModel:
    """A UNet2DModel of two levels; weights from a fixed seed, all of them non-trivial."""
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "sample_size": side,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "attention_head_dim": 8,
    }
    return UNet2DModel(**(options | changes)).eval()


def write_backbone(
    folder: Path,
    *,
    prediction_type: str = "sample",
    card: dict[str, Any] | None = None,
    unet: UNet2DModel | None = None,
) -> Path:
    """A latent backbone folder with a 64 px crop and a FaceAutoencoder, in the embedded prior's layout."""
    torch.manual_seed(1)
    (unet or tiny_unet()).save_pretrained(folder / "unet")
    DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type=prediction_type, clip_sample=False
    ).save_pretrained(folder / "scheduler")
    FaceAutoencoder(TINY_AUTOENCODER).save_pretrained(folder / "autoencoder", torch.float32)
    content = {
        "crop_size": 64,
        "template": {"name": "ffhq-1.12", "points": FFHQ_112.tolist()},
        "edit_timesteps": [500, 300],
    }
    (folder / "fluidvid.json").write_text(json.dumps(content | (card or {})))
    return folder


def tiny_backbone(folder: Path, **options: Any) -> Backbone:
    """`write_backbone`, loaded."""
    return load_backbone(write_backbone(folder, **options))


def _save(
    path: Path, nodes: list[Any], weights: dict[str, np.ndarray], side: int, outputs: dict[str, list[Any]]
) -> Path:
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, side, side])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def embedding_net(path: Path, seed: int = 0, side: int = 112, width: int = 8) -> Path:
    """An identity network: 16 px patches, a ReLU, a linear read-out."""
    rng = np.random.default_rng(seed)
    cells = (side // 16) ** 2
    weights = {
        "w": rng.normal(0, 0.05, (6, 3, 16, 16)).astype(np.float32),
        "v": rng.normal(0, 0.2, (6 * cells, width)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["a"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "v"], ["embedding"]),
    ]
    return _save(path, nodes, weights, side, {"embedding": ["n", width]})


def face68() -> np.ndarray:
    """`(68, 2)` landmarks of a schematic aligned face in fractions of the side, in the order of the 68 points."""

    def arc(
        centre: tuple[float, float], radii: tuple[float, float], count: int, begin: float, end: float
    ) -> np.ndarray:
        angle = np.linspace(begin, end, count) * np.pi
        return np.stack([centre[0] + radii[0] * np.cos(angle), centre[1] + radii[1] * np.sin(angle)], 1)

    brows = [arc((x, 0.37), (0.1, 0.04), 5, 1, 2) for x in (0.362, 0.638)]
    bridge = np.stack([np.full(4, 0.5), np.linspace(0.42, 0.56, 4)], 1)
    nostrils = np.stack([np.linspace(0.45, 0.55, 5), np.full(5, 0.6)], 1)
    eyes = [arc((x, 0.42), (0.055, 0.02), 6, 1, 2.67) for x in (0.362, 0.638)]
    lips = [arc((0.5, 0.707), (0.12, 0.05), 12, 1, 2.83), arc((0.5, 0.707), (0.09, 0.015), 8, 1, 2.75)]
    return np.concatenate([arc((0.5, 0.42), (0.3, 0.48), 17, 1, 0), *brows, bridge, nostrils, *eyes, *lips])


def _read_out(
    path: Path,
    side: int,
    heads: dict[str, tuple[list[int], str | None]],
    seed: int,
    bias: dict[str, np.ndarray] | None = None,
) -> Path:
    """Linear heads on the mean colours of 16 px patches; `None` or the name of a final activation.

    A head with a `bias` of its own gives that, but for a trace of the picture.
    """
    rng = np.random.default_rng(seed)
    cells = 3 * (side // 16) ** 2
    nodes = [
        helper.make_node("AveragePool", ["input"], ["a"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["a"], ["b"]),
    ]
    weights: dict[str, np.ndarray] = {}
    outputs: dict[str, list[Any]] = {}
    for name, (shape, activation) in heads.items():
        count = int(np.prod(shape)) if shape else 1
        weights[f"w_{name}"] = rng.normal(0, 0.02, (cells, count)).astype(np.float32)
        weights[f"b_{name}"] = rng.uniform(0.3, 0.7, count).astype(np.float32)
        if bias and name in bias:
            weights[f"w_{name}"] *= 0.02
            weights[f"b_{name}"] = bias[name].reshape(-1).astype(np.float32)
        weights[f"s_{name}"] = np.array([-1, *shape], np.int64)
        nodes.append(helper.make_node("MatMul", ["b", f"w_{name}"], [f"m_{name}"]))
        nodes.append(helper.make_node("Add", [f"m_{name}", f"b_{name}"], [f"n_{name}"]))
        last = f"n_{name}"
        if activation:
            nodes.append(helper.make_node(activation, [last], [f"o_{name}"], axis=-1))
            last = f"o_{name}"
        nodes.append(helper.make_node("Reshape", [last, f"s_{name}"], [name]))
        outputs[name] = ["n", *shape]
    return _save(path, nodes, weights, side, outputs)


def tiny_recogniser(folder: Path, name: str = "tiny", seed: int = 0, threshold: float = 0.5) -> Recogniser:
    """A recogniser on `embedding_net`."""
    path = embedding_net(folder / f"{name}.onnx", seed)
    return Recogniser(RecogniserSpec(name, path, threshold), FFHQ_112).eval()


def face_mesh() -> np.ndarray:
    """`(468, 2)` mesh of the schematic face, in fractions of the side: eyes and mouth, all else in the middle."""
    mesh = np.full((468, 2), 0.5)
    for of68, of468 in PARTS:
        mesh[list(of468)] = face68()[of68].mean(0)
    return mesh


def tiny_attributes(folder: Path) -> AttributeNetworks:
    """Landmarks, mesh, expression, age and gender as linear read-outs; both landmarkers see a schematic face."""
    window, around = box_window(FFHQ_112), mesh_window(FFHQ_112)
    landmarks = {"landmarks": face68() @ window[:, :2].T + window[:, 2]}
    mesh = {"mesh": np.pad(face_mesh() @ around[:, :2].T + around[:, 2], ((0, 0), (0, 1)))}
    return AttributeNetworks(
        _read_out(folder / "landmark68.onnx", 112, {"landmarks": ([68, 2], None)}, 1, landmarks),
        _read_out(folder / "expression.onnx", 112, {"probabilities": ([7], "Softmax")}, 2),
        _read_out(folder / "age_gender.onnx", 112, {"age": ([], None), "gender": ([2], "Softmax")}, 3),
        _read_out(folder / "mesh.onnx", 192, {"mesh": ([468, 3], None), "score": ([1], None)}, 4, mesh),
        FFHQ_112,
    ).eval()


class FixedGlasses(Glasses):
    """Sees rims in some rows of every crop, worn with the same probability by everybody."""

    def __init__(self, probability: float, rows: slice) -> None:
        torch.nn.Module.__init__(self)
        self.probability, self.rows = probability, rows

    def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`(N, 1, S, S)`, 1 in the rows, and `(N,)`."""
        found = torch.zeros_like(crops[:, :1])
        found[:, :, self.rows] = 1
        return found, torch.full((len(crops),), self.probability)


def editor_parts(folder: Path) -> dict[str, Any]:
    """What a `FluidEditor` is made of, without a bank."""
    return {
        "backbone": load_backbone(write_backbone(folder)),
        "plan": EditPlan((500,), False),
        "space": FreeSpace((1, 16, 4, 4), torch.full((1,), 20.0)),
        "guides": [tiny_recogniser(folder, "guide", 1)],
        "verifiers": [tiny_recogniser(folder, "verifier", 2)],
        "attributes": tiny_attributes(folder),
        "bank": None,
    }


def easy_options(steps: int) -> EditorOptions:
    """The tiny networks are random, so what they call landmarks and colour means nothing: only identity counts."""
    weights = LossWeights(5, *[0] * (len(fields(LossWeights)) - 1))
    return EditorOptions(
        optimise=OptimiseOptions(steps=steps, learning_rate=0.5, margin=0.5, weights=weights),
        key_crops=2,
        accept=3.0,
        frame_limit=3.0,
        landmark_limit=10.0,
        searches=1,
        attempts=1,
    )


def faces(count: int, side: int = 64, seed: int = 0) -> np.ndarray:
    """Smooth random pictures `(N, side, side, 3)` uint8."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (count, 3, 8, 8)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=side, mode="bicubic").clamp(0, 255)
    return smooth.permute(0, 2, 3, 1).numpy().astype(np.uint8)
