"""The runs of `fluidvid prior train`: from pictures and a start to a folder the engine can load.

Every run keeps its state in `out/run` and writes its result into `out` when it ends. A run that goes on with no
more hours or steps than it had makes one step more and ends.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel
from numpy.typing import NDArray
from torch import Tensor

from fluidvid.engine.autoencoder import FaceAutoencoder
from fluidvid.engine.backbone import load_backbone
from fluidvid.engine.build import h_shape, load_recogniser
from fluidvid.engine.crops import to_crops
from fluidvid.engine.face_networks import Recogniser, RecogniserSpec
from fluidvid.engine.precision import autocast
from fluidvid.engine.training.autoencoder import AutoencoderTraining, FaceFeatures, train_autoencoder
from fluidvid.engine.training.diffusion import DiffusionTraining, new_scheduler, new_unet, train_diffusion
from fluidvid.engine.training.directions import bottlenecks, fit_components
from fluidvid.engine.training.identity import IdentityTraining, train_identity
from fluidvid.engine.training.runs import load_state, whole
from fluidvid.engine.training.student import SHAPES, IdentityStudent, read_student
from fluidvid.errors import ConfigError, ModelError
from fluidvid.models import ModelStore
from fluidvid.prior.dataset import FaceSet, gather
from fluidvid.prior.folder import KEPT, read_card, write_folder
from fluidvid.prior.runs import RunFacts, open_run

log = logging.getLogger(__name__)

STUDENT = "identity_student"
COMPONENTS, FITTED = 128, 2048
"""Components of h that are kept per level, and faces they are fitted to."""


@dataclass(frozen=True)
class TrainingRequest:
    """What all kinds of training are told.

    Attributes:
        data: sources of pictures, `PATH` or `PATH=SHARE`.
        out: folder of the result and of the run.
        start: where the weights begin: a name of the manifest, a folder, or for the recogniser a file.
        fresh: take the shapes from `start`, but begin with new weights.
        resume: go on with the run in `out`.
        hours: length of the run in all, over every resumption.
        steps: stop after so many in all, or None.
        batch: faces a step, or None for the kind's own.
        checkpoint: seconds between checkpoints, or None for the kind's own.
        aligned: whether pictures are aligned; None: those of the crop's size are.
        seed: of everything random.
        teachers: ONNX files of recognisers to learn from.
        donors: `PATH` of the people to become, where they are not the first source's.
        licence: of the result, as the owner of the pictures decides.
        shape: of a recogniser with new weights, one of `fluidvid.engine.training.student.SHAPES`.
    """

    data: tuple[str, ...]
    out: Path
    start: str
    fresh: bool = False
    resume: bool = False
    hours: float = 1.0
    steps: int | None = None
    batch: int | None = None
    checkpoint: float | None = None
    aligned: bool | None = None
    seed: int = 0
    teachers: tuple[Path, ...] = ()
    donors: str | None = None
    licence: str | None = None
    shape: str = "deep"

    def open(self, kind: str, size: int, template: NDArray[np.float64]) -> tuple[Path, FaceSet]:
        """The run's folder, and its faces: read and aligned once, a run that goes on takes those it began with.

        Args:
            kind: of training.
            size: side of the aligned faces in pixels.
            template: `(5, 2)` landmarks of an aligned face in fractions of the side.

        Raises:
            FluidvidError: see `open_run` and `gather`; nothing is left of a run that would have begun.
        """
        teacher = ", ".join(map(str, self.teachers)) or None
        facts = RunFacts(kind, self.data, None if self.fresh else self.start, teacher, self.seed, self.donors)
        with open_run(self.out, facts, resume=self.resume) as run:
            kept = run / "faces.npz"
            if kept.exists():
                return run, FaceSet.load(kept)
            faces = gather(self.data, size, template, detector, self.aligned)
            faces.save(kept)
            return run, faces

    def options(self) -> dict[str, Any]:
        """Options that all kinds of training share."""
        given: dict[str, Any] = {"hours": self.hours, "steps": self.steps, "seed": self.seed}
        own = {"batch": self.batch, "checkpoint_seconds": self.checkpoint}
        return given | {name: value for name, value in own.items() if value is not None}


def start_folder(start: str, models: ModelStore) -> Path:
    """The folder a prior begins with.

    Raises:
        ModelError: it is neither a folder nor a name of the manifest.
    """
    return Path(start) if Path(start).is_dir() else models.resolve(start)


def detector() -> Any:
    """What finds the faces of raw pictures; loaded where there are some."""
    from fluidvid.assembly import make_detector
    from fluidvid.config import Config

    return make_detector(Config(), ModelStore()).detect


def successor(
    card: dict[str, Any], request: TrainingRequest, faces: FaceSet, figures: dict[str, Any]
) -> dict[str, Any]:
    """The card of what was made from a folder with `card`."""
    # New weights were guided by nobody.
    new = {key: card[key] for key in KEPT if key in card and not (request.fresh and key == "guides")}
    trained = ", ".join(f"{count} faces of {name}" for name, count in faces.sources.items())
    if not request.fresh and "training_data" in card:
        trained = f"{card['training_data']}; then {trained}"
    old = {} if request.fresh else card.get("figures", {})
    new |= {"training_data": trained, "figures": {**old, **figures}}
    # Never inherited: it depends on whose faces were added.
    return new | ({"licence": request.licence} if request.licence else {})


def _steps(run: Path) -> int:
    state = load_state(run)
    return 0 if state is None else int(state["step"])


def run_autoencoder(request: TrainingRequest, models: ModelStore) -> dict[str, float]:
    """Train a first stage: `out/autoencoder` and a card; the U-Net has to be trained anew on its latents.

    Raises:
        FluidvidError: pictures, start or folder are not as they should be.
    """
    start = start_folder(request.start, models)
    card = read_card(start)
    template = np.array(card["template"]["points"])
    model = FaceAutoencoder.from_pretrained(start / "autoencoder")
    run, faces = request.open("autoencoder", int(card["crop_size"]), template)
    torch.manual_seed(request.seed)
    if request.fresh:
        model = FaceAutoencoder(model.config)
    model.requires_grad_(True)
    features = FaceFeatures(load_recogniser(STUDENT, models.resolve, template))
    options = AutoencoderTraining(**request.options())
    figures = train_autoencoder(model, faces.pictures, faces.held_out, features, run, options)
    rounded = {f"autoencoder_{name}": round(value, 4) for name, value in figures.items()}
    result = successor(card, request, faces, {"autoencoder_steps": _steps(run), **rounded})
    write_folder(request.out, result, autoencoder=FaceAutoencoder.from_pretrained(run / "autoencoder"))
    return figures


@torch.inference_mode()
def _encoded(autoencoder: FaceAutoencoder, pictures: NDArray[np.uint8]) -> Tensor:
    return torch.cat([autoencoder.encode(part) for part in to_crops(pictures).split(32)]).clone()


@torch.inference_mode()
def _embeddings(recogniser: Recogniser, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    found = []
    for part in torch.from_numpy(pictures).split(64):
        with autocast():
            found.append(recogniser(to_crops(part)).float().numpy())
    return np.concatenate(found)


def run_diffusion(request: TrainingRequest, models: ModelStore) -> dict[str, float]:
    """Train the U-Net on the latents of `start`'s first stage, and fit the components of its h.

    Raises:
        FluidvidError: pictures, start or folder are not as they should be.
    """
    start = start_folder(request.start, models)
    card = read_card(start)
    template, size = np.array(card["template"]["points"]), int(card["crop_size"])
    autoencoder = FaceAutoencoder.from_pretrained(start / "autoencoder").requires_grad_(False)
    torch.manual_seed(request.seed)
    if request.fresh:
        unet = new_unet(autoencoder.config.latent_channels, size // autoencoder.config.spatial_factor)
    elif not (start / "unet").is_dir():
        raise ModelError(f"{start} has no U-Net to go on with: --fresh begins one on its latents")
    else:
        try:
            unet = UNet2DModel.from_pretrained(start / "unet", low_cpu_mem_usage=False)
        except (OSError, ValueError) as error:
            raise ModelError(f"the U-Net in {start} cannot be read ({error}): get the folder again") from error
        if DDIMScheduler.from_pretrained(start / "scheduler").config["prediction_type"] != "sample":
            raise ModelError(f"the U-Net in {start} does not predict samples: --fresh begins one that does")
    run, faces = request.open("diffusion", size, template)
    known = run / "embeddings.npy"
    if not known.exists():
        embeddings = _embeddings(load_recogniser(STUDENT, models.resolve, template), faces.pictures)
        with whole(known, private=True) as part, part.open("wb") as file:
            np.save(file, embeddings)
    validation = {"held_out": _encoded(autoencoder, faces.pictures[faces.held_out][:128])}
    options = DiffusionTraining(**request.options())
    train_diffusion(
        unet,
        autoencoder,
        faces.pictures,
        faces.held_out,
        faces.weights,
        np.load(known),
        validation,
        run,
        options,
    )
    trained = UNet2DModel.from_pretrained(run / "unet", low_cpu_mem_usage=False)
    result = successor(card, request, faces, {})
    before = 0 if request.fresh else int(card.get("figures", {}).get("unet_steps", 0))
    result["figures"] = {"unet_steps": before + _steps(run)}
    # Loaded once without components, to fit them to the weights as they are written.
    write_folder(request.out, result, autoencoder=autoencoder, unet=trained, scheduler=new_scheduler())
    backbone = load_backbone(request.out)
    shown = to_crops(faces.pictures[~faces.held_out][:FITTED])
    h = bottlenecks(backbone, shown, backbone.edit_timesteps, torch.Generator().manual_seed(request.seed))
    components = fit_components(h.clone(), backbone.edit_timesteps, h_shape(backbone), min(COMPONENTS, len(shown) - 1))
    components.save(run / "hspace.safetensors")
    write_folder(
        request.out,
        result,
        autoencoder=autoencoder,
        unet=trained,
        scheduler=new_scheduler(),
        components=run / "hspace.safetensors",
    )
    known.unlink()  # biometric data, and made again where the run goes on
    return {"steps": float(_steps(run))}


def run_identity(request: TrainingRequest, models: ModelStore) -> dict[str, float]:
    """Distil a recogniser into `out/identity_student.onnx`.

    Raises:
        FluidvidError: pictures, start, teacher or folder are not as they should be.
    """
    card = read_card(models.resolve("prior"))
    template = np.array(card["template"]["points"])
    (taught_by,) = request.teachers
    if not taught_by.is_file():
        raise ModelError(f"no teacher at {taught_by}: --teacher names the ONNX file of an ArcFace-aligned recogniser")
    teacher = Recogniser(RecogniserSpec(taught_by.stem, taught_by, 0.0), template).eval()
    torch.manual_seed(request.seed)
    width = teacher.embed(torch.zeros(1, 3, teacher.spec.size, teacher.spec.size)).shape[1]
    if request.fresh:
        if request.shape not in SHAPES:
            raise ConfigError(f"--shape {request.shape}: one of {', '.join(SHAPES)} is needed")
        student = IdentityStudent(*SHAPES[request.shape], width)
    else:
        begin = Path(request.start) if Path(request.start).is_file() else models.resolve(request.start)
        student = read_student(begin)
        if student.project.out_features != width:
            raise ModelError(
                f"{begin} gives {student.project.out_features} values, the teacher {width}: begin with --fresh"
            )
    run, faces = request.open("identity", int(card["crop_size"]), template)
    options = IdentityTraining(**request.options())
    figures = train_identity(student, teacher, faces.pictures, faces.held_out, faces.weights, run, options)
    (request.out / "identity_student.onnx").write_bytes((run / "identity_student.onnx").read_bytes())
    return figures
