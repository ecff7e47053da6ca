"""`fluidvid prior train swaps|bank`: universal directions to pseudonyms, and the prior that is shipped with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor

from fluidvid.engine.autoencoder import FaceAutoencoder
from fluidvid.engine.backbone import RUN, Backbone, load_backbone
from fluidvid.engine.build import GUIDES, RECOGNISERS, TEACHERS, h_shape, load_recogniser
from fluidvid.engine.crops import to_crops
from fluidvid.engine.face_networks import AttributeNetworks, Recogniser
from fluidvid.engine.glasses import Glasses
from fluidvid.engine.pseudonyms import PseudonymBank
from fluidvid.engine.subspace import ComponentSpace
from fluidvid.engine.training.bank import BankTraining, train_bank
from fluidvid.engine.training.directed import ReadOut
from fluidvid.engine.training.directions import bottlenecks, fit_components
from fluidvid.engine.training.runs import TrainingOptions, load_state, whole
from fluidvid.engine.training.swapping import SwapTraining, train_swaps
from fluidvid.engine.training.targets import Targets
from fluidvid.errors import ModelError
from fluidvid.models import ModelStore
from fluidvid.prior.dataset import FaceSet, gather
from fluidvid.prior.folder import read_card, write_folder
from fluidvid.prior.training import TrainingRequest, detector, start_folder, successor

JUDGE = "dlib_resnet"
"""Its embeddings of the pseudonyms are the audit's gallery: shipped, but nothing is trained with it."""
TAUGHT_BY = ("identity_student", *GUIDES)
"""Recognisers of the package that know the pseudonyms, and are asked in training: a search's guides and the student by
which the audit knows people."""
ROWS = 512
"""Pseudonyms that are shipped."""
CANDIDATES = 2048
"""Faces that may become pseudonyms, of the donors or the first source."""
SAME = 0.98
"""Cosine from which two embeddings, one of them rounded, are of one picture."""
LEVEL = 100
"""The timestep that is edited; chosen in benchmarks/PRIOR.md."""


def targets_of(crops: Tensor, nets: list[Recogniser], attributes: AttributeNetworks) -> Targets:
    """Codes, embeddings, ages and genders of `(N, 3, S, S)` crops; codes are the embeddings' leading components."""
    with torch.inference_mode():
        parts = crops.split(64)
        embeddings = {net.name: torch.cat([net(part).float() for part in parts]).clone() for net in nets}
        kept = [attributes(part) for part in parts]
    codes = []
    for table in (t for name, t in embeddings.items() if name != JUDGE):
        centred = table - table.mean(0)
        axes = torch.linalg.svd(centred, full_matrices=False)[2][: min(128, len(table) - 1)]
        codes.append(centred @ axes.T)
    joined = torch.cat(codes, 1)
    ages, males = torch.cat([a.age for a in kept]).clone(), torch.cat([a.male for a in kept]).clone()
    expressions = torch.cat([a.expression for a in kept]).clone()
    meshes = torch.cat([a.mesh for a in kept if a.mesh is not None]).clone()
    return Targets(joined / joined.std(0), embeddings, ages, males, expressions, crops, meshes)


def first_directions(backbone: Backbone, crops: Tensor, codes: Tensor, level: int) -> tuple[ComponentSpace, ReadOut]:
    """Principal components of h at one level, and the ridge regression of their coordinates on the codes."""
    h = bottlenecks(backbone, crops, (level,), torch.Generator().manual_seed(3)).clone()
    space = fit_components(h, (level,), h_shape(backbone), min(128, len(crops) - 1))
    wanted = space.coordinates_of(h - h.mean(0)).flatten(1)
    gram = codes.T @ codes / len(codes) + 0.3 * torch.eye(codes.shape[1])
    weights = torch.linalg.solve(gram, codes.T @ wanted / len(codes))
    read_out = ReadOut(codes.shape[1], 1, space.basis.shape[1])
    with torch.no_grad():
        read_out.linear.weight.copy_(weights.T)
        read_out.linear.bias.zero_()
    return space, read_out


def read_out_of(codes: Tensor, coordinates: Tensor) -> ReadOut:
    """The map from codes `(n, D)` that comes nearest to their coordinates `(n, L, K)`."""
    n, levels, components = coordinates.shape
    seen = torch.cat([codes, codes.new_ones(n, 1)], 1).double()
    gram = seen.T @ seen / n + 1e-3 * torch.eye(seen.shape[1]).double()
    weights = torch.linalg.solve(gram, seen.T @ coordinates.flatten(1).double() / n).float()
    read_out = ReadOut(codes.shape[1], levels, components)
    with torch.no_grad():
        read_out.linear.weight.copy_(weights[:-1].T)
        read_out.linear.bias.copy_(weights[-1])
    return read_out


def known_directions(
    folder: Path, shape: tuple[int, int, int], targets: Targets
) -> tuple[ComponentSpace, ReadOut] | None:
    """Components and read-out of a prior, if half or more of the people it has directions to are among the targets."""
    places = folder / "pseudonyms.safetensors", folder / "hspace.safetensors"
    if not all(place.exists() for place in places):
        return None
    bank = PseudonymBank.load(places[0])
    if bank.coordinates is None:
        return None
    if not bank.embeddings.keys() <= targets.embeddings.keys():
        return None
    alike = torch.stack([targets.embeddings[name] @ table.T for name, table in bank.embeddings.items()]).amin(0)
    nearest, rows = alike.max(1)
    known = nearest >= SAME
    if 2 * int(known.sum()) < len(bank.ages):
        return None
    return ComponentSpace.load(places[1], shape), read_out_of(targets.codes[known], bank.coordinates[rows[known]])


@dataclass(frozen=True, eq=False)
class _Directions:
    """Where the training of directions begins.

    Attributes:
        run: the run's folder.
        start: folder of the prior.
        card: of the prior.
        backbone: it.
        nets: recognisers, whose embeddings say who a target is.
        attributes: with the mesh.
        faces: the people to edit.
        targets: the people to become.
        space: components of h.
        read_out: from the targets' codes to coordinates.
    """

    run: Path
    start: Path
    card: dict[str, Any]
    backbone: Backbone
    nets: list[Recogniser]
    attributes: AttributeNetworks
    faces: FaceSet
    targets: Targets
    space: ComponentSpace
    read_out: ReadOut

    def train(
        self, by: Callable[..., None], space: ComponentSpace, recognisers: list[Recogniser], options: TrainingOptions
    ) -> None:
        """Call `train_swaps` or `train_bank`."""
        faces = self.faces
        chances = faces.weights * ~faces.held_out
        by(
            self.backbone,
            space,
            self.read_out,
            self.targets,
            recognisers,
            self.attributes,
            faces.pictures,
            chances,
            self.run,
            options,
        )


def _begin(request: TrainingRequest, kind: str, models: ModelStore) -> _Directions:
    """Read the faces and label the targets; a prior whose directions lead to the same people goes on from them.

    Raises:
        FluidvidError: pictures, start, teacher or folder are not as they should be.
    """
    taught = {file.stem: file for file in request.teachers}
    fit = [name for name in (*RECOGNISERS, *TEACHERS) if name != JUDGE]
    for name, file in taught.items():
        if not file.is_file() or name not in fit:
            raise ModelError(
                f"--teacher {file}: the ONNX file of a recogniser is needed, by a name of {', '.join(fit)}"
            )

    def resolve(name: str) -> Path:
        return taught[name] if name in taught else models.resolve(name)

    start = start_folder(request.start, models)
    card = read_card(start)
    backbone = load_backbone(start)
    names = list(dict.fromkeys((*taught, *TAUGHT_BY, JUDGE)))
    nets = [load_recogniser(name, resolve, backbone.template) for name in names]
    attributes = AttributeNetworks(
        resolve("landmark68"),
        resolve("expression"),
        resolve("age_gender"),
        resolve("facemesh468"),
        backbone.template,
    ).eval()
    labels = request.out / RUN / "targets.pt"
    donors = None if labels.exists() else _donors(request, backbone)  # read before anything is written
    run, faces = request.open(kind, backbone.crop_size, backbone.template)
    if labels.exists():
        targets = Targets(**torch.load(labels, weights_only=True))
    else:
        targets = targets_of(_first(faces) if donors is None else donors, nets, attributes)
        with whole(labels, private=True) as part:
            torch.save(vars(targets) | {"embeddings": dict(targets.embeddings)}, part)
    known = known_directions(start, h_shape(backbone), targets)
    space, read_out = known or first_directions(backbone, targets.pictures, targets.codes, LEVEL)
    before = 0 if known is None else int(card.get("figures", {}).get(f"{kind}_steps", 0))
    guides = list(card.get("guides", []))
    if kind == "bank" or taught:
        guides = list(dict.fromkeys([*guides, *(n for n in names if n != JUDGE)]))
    (run / "begun.json").write_text(json.dumps({"guides": guides, f"{kind}_steps": before}))
    return _Directions(run, start, card, backbone, nets, attributes, faces, targets, space, read_out)


def _donors(request: TrainingRequest, backbone: Backbone) -> Tensor | None:
    """`(N, 3, S, S)` pictures of the people to become; None: they are of the first source."""
    if request.donors is None:
        return None
    pictures = gather((request.donors,), backbone.crop_size, backbone.template, detector, request.aligned).pictures
    return to_crops(pictures[:CANDIDATES])


def _first(faces: FaceSet) -> Tensor:
    """`(N, 3, S, S)` faces of the first source that are not held out."""
    first = next(iter(faces.sources.values()))
    return to_crops(faces.pictures[np.flatnonzero(~faces.held_out[:first])[:CANDIDATES]])


def run_swaps(request: TrainingRequest, models: ModelStore) -> dict[str, float]:
    """Teach the decoding half of a complete prior to draw the donors' faces, and a direction to each of them.

    With teachers they and the guides of the search are asked, too.

    Raises:
        FluidvidError: pictures, start or folder are not as they should be.
    """
    begun = _begin(request, "swaps", models)
    recognisers = [net for net in begun.nets if net.name != JUDGE] if request.teachers else []
    space = replace(begun.space, timesteps=(LEVEL,))
    glasses = Glasses(models.resolve("glasses"), begun.backbone.template, begun.backbone.crop_size).eval()
    begun.train(partial(train_swaps, glasses=glasses), space, recognisers, SwapTraining(**request.options()))
    return _finish(request, begun)


def run_bank(request: TrainingRequest, models: ModelStore) -> dict[str, float]:
    """Train directions from a complete prior, with `request.teachers` as guides of the training only.

    Their files are named like recognisers of `fluidvid.engine.build`; the card lists them among the
    guides, so that no audit takes them for independent.

    Raises:
        FluidvidError: pictures, start, teacher or folder are not as they should be.
    """
    begun = _begin(request, "bank", models)
    # faceres costs as much as all others together: it guides the search, not the training.
    recognisers = [net for net in begun.nets if net.name not in ("faceres", JUDGE)]
    begun.train(train_bank, begun.space, recognisers, BankTraining(**request.options()))
    return _finish(request, begun)


def _finish(request: TrainingRequest, begun: _Directions) -> dict[str, float]:
    return write_bank(request, begun.run, begun.start, successor(begun.card, request, begun.faces, {}))


def write_bank(request: TrainingRequest, run: Path, start: Path, card: dict[str, object]) -> dict[str, float]:
    """Write the prior with the U-Net, components and universal directions of a run."""
    targets = torch.load(run / "targets.pt", weights_only=True)
    coordinates = torch.load(run / "coordinates.pt", weights_only=True)
    tables = {name: targets["embeddings"][name][:ROWS] for name in (*TAUGHT_BY, JUDGE)}
    bank = PseudonymBank(tables, targets["ages"][:ROWS], targets["males"][:ROWS], coordinates[:ROWS])
    bank.save(run / "pseudonyms.safetensors")
    unet = UNet2DModel.from_pretrained(run / "unet", low_cpu_mem_usage=False)
    levels = ComponentSpace.levels(run / "hspace.safetensors")
    state = load_state(run)
    begun = json.loads((run / "begun.json").read_text())
    steps = 0 if state is None else int(state["step"])
    figures = {name: value for name, value in read_card(start).get("figures", {}).items() if name.endswith("_steps")}
    figures |= {name: before + steps for name, before in begun.items() if name.endswith("_steps")}
    new = {**card, "edit_timesteps": list(levels), "edit_skips": True, "figures": figures}
    new["guides"] = begun["guides"]
    write_folder(
        request.out,
        new,
        autoencoder=FaceAutoencoder.from_pretrained(start / "autoencoder"),
        unet=unet,
        scheduler=DDIMScheduler.from_pretrained(start / "scheduler"),
        components=run / "hspace.safetensors",
        pseudonyms=run / "pseudonyms.safetensors",
    )
    return {"steps": float(steps)}
