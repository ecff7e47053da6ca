"""Frozen face networks seen from the backbone's crop: recognisers, landmarkers, expression, age and gender.

Every network wants its own alignment. Crops are already aligned to the backbone's template, so each network's view of
them is one fixed similarity, applied differentiably.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fluidvid.engine.onnx_module import OnnxModule
from fluidvid.geometry import ARCFACE_112, invert, similarity

Points = NDArray[np.float64]

DLIB = np.array([(47.549, 46.599), (100.476, 46.599), (74.013, 76.563), (50.415, 103.023), (97.610, 103.023)]) / 150
"""dlib's 150 px chip in fractions of the side."""


def _square(centre: tuple[float, float], side: float) -> NDArray[np.float64]:
    """Matrix from unit crop coordinates to unit coordinates of a square window of the crop."""
    return np.array([[1 / side, 0, 0.5 - centre[0] / side], [0, 1 / side, 0.5 - centre[1] / side]])


def box_window(template: Points) -> NDArray[np.float64]:
    """The window that a detector's face box (times 1.15, square) covers, for box-cropped networks: see `View`.

    Args:
        template: `(5, 2)` landmarks of the crops in fractions of the side.
    """
    eyes, mouth = template[:2].mean(0), template[3:].mean(0)
    reach = float(np.linalg.norm(mouth - eyes))
    centre = (eyes + mouth) / 2
    return _square((float(centre[0]), float(centre[1] - 0.05 * reach)), 2.65 * reach)


def mesh_window(template: Points) -> NDArray[np.float64]:
    """The facemesh window: centred on the five points, side 3.5 times the eyes-mouth distance. See `box_window`."""
    reach = float(np.linalg.norm(template[3:].mean(0) - template[:2].mean(0)))
    eye = float(np.linalg.norm(template[1] - template[0]))
    centre = template.mean(0)
    return _square((float(centre[0]), float(centre[1])), 3.5 * max(reach, 0.9 * eye))


class View(nn.Module):
    """Differentiable resampling of crops into a network's own window.

    Args:
        matrix: `(2, 3)` from unit crop coordinates to unit window coordinates (0..1, pixel edges).
        size: side of the window in pixels.
    """

    theta: Tensor
    grid: Tensor

    def __init__(self, matrix: NDArray[np.float64], size: int) -> None:
        super().__init__()
        inverse = invert(matrix)
        # Unit coordinates u and grid coordinates g = 2u - 1: g_crop = A g_window + (A 1 + 2 b - 1).
        a, b = inverse[:, :2], inverse[:, 2]
        theta = np.hstack([a, (a @ np.ones(2) + 2 * b - 1)[:, None]])
        self.register_buffer("theta", torch.from_numpy(theta).float(), persistent=False)
        # Made once: at every call it takes more than three times as long as sampling.
        grid = F.affine_grid(self.theta[None], [1, 3, size, size], align_corners=False)
        self.register_buffer("grid", grid, persistent=False)
        self.inverse = inverse

    def forward(self, crops: Tensor) -> Tensor:
        """`(N, 3, S, S)` in [-1, 1] to `(N, 3, size, size)`; beyond the crop's edge the border is repeated."""
        grid = self.grid.expand(len(crops), -1, -1, -1)
        return F.grid_sample(crops.float(), grid, padding_mode="border", align_corners=False)

    def back(self, points: Tensor) -> Tensor:
        """`(N, K, 2)` points in unit window coordinates to unit crop coordinates."""
        matrix = torch.as_tensor(self.inverse, dtype=points.dtype, device=points.device)
        return points @ matrix[:, :2].T + matrix[:, 2]


@dataclass(frozen=True)
class RecogniserSpec:
    """What a recogniser's file does not say.

    Attributes:
        name: as in the manifest.
        path: ONNX file whose input is RGB in [-1, 1].
        template: "arcface" or "dlib".
        size: input side in pixels.
        threshold: cosine (after centring) at 1 % false accepts, measured on pairs of different people.
        mean: `(D,)` mean embedding of many faces, subtracted before normalising, or None.
    """

    name: str
    path: Path
    threshold: float
    template: str = "arcface"
    size: int = 112
    mean: NDArray[np.float32] | None = None


class Recogniser(nn.Module):
    """An identity network: `forward(crops) -> (N, D)` unit embeddings."""

    mean: Tensor

    def __init__(self, spec: RecogniserSpec, template: Points) -> None:
        super().__init__()
        self.spec, self.name, self.threshold = spec, spec.name, spec.threshold
        target = DLIB if spec.template == "dlib" else ARCFACE_112
        self.view = View(similarity(template, target), spec.size)
        self.net = OnnxModule(spec.path)
        mean = np.zeros(1, np.float32) if spec.mean is None else spec.mean
        self.register_buffer("mean", torch.from_numpy(np.asarray(mean, np.float32)), persistent=False)
        self.requires_grad_(False)

    def forward(self, crops: Tensor) -> Tensor:
        return self.embed(self.view(crops))

    def embed(self, windows: Tensor) -> Tensor:
        """`(N, 3, size, size)` pictures in the network's own alignment to `(N, D)` unit embeddings."""
        embedding = self.net(windows)["embedding" if "embedding" in self.net.output_names else self.net.output_names[0]]
        # Centring acts on the unit sphere, so that the network's own scale does not matter.
        return F.normalize(F.normalize(embedding.float(), dim=1) - self.mean, dim=1)


@dataclass(frozen=True, eq=False)
class Attributes:
    """What should stay: per crop.

    Attributes:
        landmarks: `(N, 68, 2)` in unit crop coordinates.
        mesh: `(N, 468, 2)` in unit crop coordinates, or None without the mesh network.
        expression: `(N, 7)` probabilities.
        age: `(N,)` years.
        male: `(N,)` probability.
    """

    landmarks: Tensor
    mesh: Tensor | None
    expression: Tensor
    age: Tensor
    male: Tensor

    def __getitem__(self, crops: slice) -> Attributes:
        """Those of some of the crops."""
        mesh = None if self.mesh is None else self.mesh[crops]
        return Attributes(self.landmarks[crops], mesh, self.expression[crops], self.age[crops], self.male[crops])

    def repeat(self, times: int) -> Attributes:
        """The same for the crops repeated `times` one after another."""
        return Attributes(
            self.landmarks.repeat(times, 1, 1),
            None if self.mesh is None else self.mesh.repeat(times, 1, 1),
            self.expression.repeat(times, 1),
            self.age.repeat(times),
            self.male.repeat(times),
        )


class AttributeNetworks(nn.Module):
    """The landmarkers and the expression, age and gender networks, all from the same crops."""

    def __init__(
        self, landmark68: Path, expression: Path, age_gender: Path, mesh468: Path | None, template: Points
    ) -> None:
        super().__init__()
        self.box = View(box_window(template), 112)
        self.landmark68, self.expression_net = OnnxModule(landmark68), OnnxModule(expression)
        self.age_gender = OnnxModule(age_gender)
        self.mesh468 = OnnxModule(mesh468) if mesh468 is not None else None
        self.mesh_view = View(mesh_window(template), 192)
        self.requires_grad_(False)

    def landmarks(self, crops: Tensor) -> Tensor:
        """`(N, 68, 2)` landmarks in unit crop coordinates."""
        return self.box.back(self.landmark68(self.box(crops))["landmarks"])

    def expression(self, crops: Tensor) -> Tensor:
        """`(N, 7)` probabilities."""
        probabilities: Tensor = self.expression_net(self.box(crops))["probabilities"]
        return probabilities

    def mesh(self, crops: Tensor) -> Tensor:
        """`(N, 468, 2)` mesh in unit crop coordinates; only where there is a mesh network."""
        return self.solid_mesh(crops)[..., :2]

    def solid_mesh(self, crops: Tensor) -> Tensor:
        """`(N, 468, 3)` the same with the depth, away from the camera, in sides of the crop."""
        assert self.mesh468 is not None
        found = self.mesh468(self.mesh_view(crops))["mesh"]
        side = float(np.sqrt(np.linalg.det(self.mesh_view.inverse[:, :2])))
        return torch.cat([self.mesh_view.back(found[..., :2]), side * found[..., 2:]], -1)

    def ages(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """`(N,)` years, and `(N,)` probabilities of a man."""
        return self._ages(self.box(crops))

    def _ages(self, window: Tensor) -> tuple[Tensor, Tensor]:
        found = self.age_gender(window)
        return found["age"].reshape(-1), found["gender"][:, 0]

    def forward(self, crops: Tensor, mesh: bool = True) -> Attributes:
        window = self.box(crops)
        landmarks = self.box.back(self.landmark68(window)["landmarks"])
        ages, males = self._ages(window)
        points = self.mesh(crops) if mesh and self.mesh468 is not None else None
        return Attributes(
            landmarks,
            points,
            self.expression_net(window)["probabilities"],
            ages,
            males,
        )


def cosines(recognisers: Sequence[Recogniser], a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Cosine of each pair of crops `(N, 3, S, S)`, per recogniser `(N,)`."""
    return {r.name: (r(a) * r(b)).sum(1) for r in recognisers}
