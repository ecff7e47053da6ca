"""`fluidvid prior evaluate`: how well a prior denoises, draws and reproduces faces it was not trained on."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from torch import Tensor

from fluidvid.assembly import backbone_source, make_detector
from fluidvid.config import Config
from fluidvid.engine.backbone import Backbone, load_backbone
from fluidvid.engine.build import load_recogniser
from fluidvid.engine.crops import to_crops, to_pictures
from fluidvid.engine.face_networks import Recogniser
from fluidvid.engine.sampling import sample
from fluidvid.engine.training.diffusion import denoising_errors
from fluidvid.errors import ConfigError
from fluidvid.models import ModelStore
from fluidvid.prior.dataset import SURE, Detect, gather

log = logging.getLogger(__name__)

JUDGES = ("identity_student", "dlib_resnet")
"""Recognisers of the round trip; the last one's space is where samples are compared."""


@dataclass(frozen=True)
class EvaluationRequest:
    """What is measured.

    Attributes:
        data: sources of faces that the prior was not trained on.
        prior: name of the manifest, folder or hub id.
        training: sources of what it was trained on; none leaves out the search for samples that are copies.
        count: unconditional samples.
        faces: faces of `data` that are looked at, spread over it.
        steps: denoising steps of a sample.
        aligned: as for training.
        seed: of the samples.
    """

    data: tuple[str, ...]
    prior: str
    training: tuple[str, ...]
    count: int
    faces: int
    steps: int
    aligned: bool | None
    seed: int


def frechet_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Between Gaussians fitted to `(N, D)` and `(M, D)` features (Heusel et al., arXiv 1706.08500).

    Biased for small N and M: compare figures of equal numbers only.
    """
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(first @ second)
    shift = a.mean(0) - b.mean(0)
    return float(shift @ shift + np.trace(first + second - 2 * np.real(root)))


def one_face_share(pictures: NDArray[np.uint8], detect: Detect) -> float:
    """Share of `(N, S, S, 3)` crops in which exactly one face is found, each on a grey ground twice as wide.

    An aligned crop leaves out what detectors expect around a face.
    """
    size = pictures.shape[1]
    ground = np.full((2 * size, 2 * size, 3), 128, np.uint8)
    found = 0
    for picture in pictures:
        shown = ground.copy()
        shown[size // 2 : size // 2 + size, size // 2 : size // 2 + size] = picture
        found += sum(face.score >= SURE for face in detect(shown)) == 1
    return found / len(pictures)


@torch.inference_mode()
def embed(recogniser: Recogniser, crops: Tensor) -> NDArray[np.float64]:
    """`(N, D)` unit embeddings of `(N, 3, S, S)` crops."""
    return torch.cat([recogniser(part).float() for part in crops.split(64)]).double().numpy()


@torch.inference_mode()
def round_trip(backbone: Backbone, crops: Tensor, judges: Sequence[Recogniser]) -> dict[str, float]:
    """Of the first stage over `(N, 3, S, S)` crops: PSNR in dB, mean cosine by each judge."""
    decoded = torch.cat([backbone.decode(backbone.encode(part)) for part in crops.split(32)])
    error = float((decoded - crops).pow(2).mean())
    figures = {"autoencoder_db": 10 * math.log10(4 / max(error, 1e-12))}
    for judge in judges:
        cosine = (embed(judge, decoded) * embed(judge, crops)).sum(1).mean()
        figures[f"autoencoder_cosine_{judge.name}"] = float(cosine)
    return figures


@torch.inference_mode()
def denoising(backbone: Backbone, crops: Tensor) -> dict[str, float]:
    """Mean squared x0 error in latents by timestep, with skips and from h alone, of `(N, 3, S, S)` crops in [-1, 1]."""
    latents = torch.cat([backbone.encode(part) for part in crops.split(32)]).float()
    found = denoising_errors(backbone.unet, backbone.schedule, latents)
    return {f"denoising_{k.rstrip('s')}{'_without_skips' if k.endswith('s') else ''}": v for k, v in found.items()}


def evaluate_prior(request: EvaluationRequest) -> dict[str, Any]:
    """All figures by name, with what they rest on.

    Raises:
        FluidvidError: pictures, prior or numbers are not as they should be.
    """
    if min(request.count, request.steps) < 2 or request.faces < 4:
        raise ConfigError("--count and --ddim must be at least 2, --faces at least 4: halves of them are compared")
    models = ModelStore()
    backbone = load_backbone(backbone_source(request.prior, models))
    judges = [load_recogniser(name, models.resolve, backbone.template) for name in JUDGES]
    detect: Detect = make_detector(Config(), models).detect

    def faces_of(sources: Sequence[str]) -> NDArray[np.uint8]:
        return gather(sources, backbone.crop_size, backbone.template, lambda: detect, request.aligned).pictures

    everything = faces_of(request.data)
    chosen = np.linspace(0, len(everything) - 1, min(request.faces, len(everything))).astype(int)
    pictures = everything[chosen]
    crops = to_crops(pictures)
    figures: dict[str, Any] = {"prior": request.prior, "faces": len(pictures), "samples": request.count}
    figures |= round_trip(backbone, crops, judges) | denoising(backbone, crops)
    log.info("drawing %d samples", request.count)
    drawn = torch.cat(list(sample(backbone, request.count, torch.Generator().manual_seed(request.seed), request.steps)))
    figures["one_face_samples"] = one_face_share(to_pictures(drawn), detect)
    figures["one_face_given"] = one_face_share(pictures, detect)
    judge = judges[-1]
    seen, given = embed(judge, drawn), embed(judge, crops)
    figures["frechet_samples"] = frechet_distance(seen, given)
    figures["frechet_halves_of_given"] = frechet_distance(given[::2], given[1::2])
    if request.training:
        known = embed(judge, to_crops(faces_of(request.training)))
        nearest = (seen @ known.T).max(1)
        figures |= {"nearest_training_mean": float(nearest.mean()), "nearest_training_max": float(nearest.max())}
        figures["nearest_training_given_mean"] = float((given @ known.T).max(1).mean())
    return figures


WORDS = {
    "autoencoder_db": "first stage: PSNR of the round trip, dB",
    **{f"autoencoder_cosine_{name}": f"first stage: identity cosine, {name}" for name in JUDGES},
    "one_face_samples": "samples in which one face is found",
    "one_face_given": "the given faces in which one face is found",
    "frechet_samples": f"Fréchet distance of samples and given faces, {JUDGES[-1]}",
    "frechet_halves_of_given": "the same between halves of the given faces",
    "nearest_training_mean": f"nearest training picture of a sample, cosine by {JUDGES[-1]}, mean",
    "nearest_training_max": "the same, most alike",
    "nearest_training_given_mean": "the same for the given faces, mean",
}


def table(figures: Mapping[str, Any]) -> str:
    """A Markdown table of `evaluate_prior`."""
    lines = [
        f"{figures['prior']}: {figures['faces']} faces, {figures['samples']} samples",
        "",
        "| figure | |",
        "|---|---|",
    ]
    for name, value in figures.items():
        if isinstance(value, float):
            words = WORDS.get(name, name.replace("denoising_", "denoising error, t = ").replace("_", " "))
            lines.append(f"| {words} | {value:.4f} |")
    return "\n".join(lines)
