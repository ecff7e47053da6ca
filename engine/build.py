"""Assemble a `FluidEditor` from a backbone folder and named face networks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.numpy import load_file

from fluidvid.engine.backbone import Backbone, load_backbone
from fluidvid.engine.editor import FluidEditor
from fluidvid.engine.face_networks import AttributeNetworks, Recogniser, RecogniserSpec
from fluidvid.engine.geodesic import Geometry
from fluidvid.engine.glasses import Glasses
from fluidvid.engine.memory import IDENTIFIED_BY, PersonMemory
from fluidvid.engine.plan import EditPlan
from fluidvid.engine.precision import reduced_precision
from fluidvid.engine.pseudonyms import PseudonymBank
from fluidvid.engine.search import EditorOptions
from fluidvid.engine.subspace import ComponentSpace, DirectionSpace, FreeSpace
from fluidvid.errors import ModelError

Resolve = Callable[[str], Path]
"""Manifest name to a verified file or folder; raises ModelError with the remedy."""


@dataclass(frozen=True)
class Calibration:
    """Input alignment of a known recogniser and its cosine threshold at 1 % false accepts, after any centring."""

    threshold: float
    template: str = "arcface"
    size: int = 112
    centred: bool = False


# Thresholds: pairs of different people, real ones for all but the centred ones (sface's is what the clips of
# benchmarks/identity.py give, the students' a little below that, faceplugin's what 16 of the people there give),
# synthetic faces for these.
RECOGNISERS = {
    "identity_student": Calibration(0.45),
    "identity_student_2": Calibration(0.37),
    "identity_student_3": Calibration(0.48),
    "edgeface_xs": Calibration(0.20),
    "mobilefacenet_ms1m": Calibration(0.26),
    "faceplugin": Calibration(0.25),
    "sface": Calibration(0.30),
    "dlib_resnet": Calibration(0.52, "dlib", 150, centred=True),
    "faceres": Calibration(0.33, centred=True),
}
TEACHERS = {"mobileface": Calibration(0.37), "sirius": Calibration(0.53)}
"""What taught the second and third student (tools/): for training, nothing else asks for them."""

GUIDES = ("faceplugin", "identity_student_2", "identity_student_3", "faceres", "sface")
"""What a search is guided by: the first watches every frame, too; the last two are the dearest."""


def load_recogniser(name: str, resolve: Resolve, template: np.ndarray) -> Recogniser:
    """A recogniser of `RECOGNISERS` or `TEACHERS` by its manifest name, seen from crops of `template` `(5, 2)`.

    Raises:
        ModelError: unknown name, or its file is missing.
    """
    everybody = RECOGNISERS | TEACHERS
    if name not in everybody:
        raise ModelError(f"no recogniser {name!r}: known are {', '.join(everybody)}")
    known = everybody[name]
    mean = load_file(resolve("identity_means"))[name] if known.centred else None
    spec = RecogniserSpec(name, resolve(name), known.threshold, known.template, known.size, mean)
    return Recogniser(spec, template).eval()


def choose_device(device: str) -> torch.device:
    """The torch device: "auto" is CUDA, then MPS, then the CPU; anything else is taken at its word.

    Raises:
        ModelError: the device was named and is not there.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    wanted = torch.device(device)
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(wanted.type, False):
        raise ModelError(f"device {device} is not available to torch here: use --device cpu, or see 'fluidvid doctor'")
    return wanted


def edit_plan(
    backbone: Backbone, timesteps: Sequence[int] | None, geometry: Geometry, inversion_steps: int
) -> EditPlan:
    """The backbone's own levels unless others are asked for.

    Raises:
        ModelError: a level is beyond the model's last timestep.
    """
    levels = tuple(sorted(timesteps or backbone.edit_timesteps, reverse=True))
    last = len(backbone.schedule.alphas_cumprod)
    if levels[0] >= last:
        raise ModelError(f"timestep {levels[0]} is beyond this model's {last}: choose smaller edit.timesteps")
    skips = bool(backbone.card.get("edit_skips", True))
    # Inversion begins above the highest edited level, where there is still noise to take away.
    return EditPlan(levels, skips, geometry, inversion_steps, min(last - 1, levels[0] + 100))


def h_shape(backbone: Backbone) -> tuple[int, int, int]:
    """`(C, h, w)` of the bottleneck, found by running it once."""
    with torch.inference_mode():
        z = backbone.encode(torch.zeros(1, 3, backbone.crop_size, backbone.crop_size))
        h = backbone.unet.encode(z, torch.zeros(1, dtype=torch.long, device=z.device)).h
    return h.shape[1], h.shape[2], h.shape[3]


def direction_space(backbone: Backbone, folder: Path, plan: EditPlan) -> DirectionSpace:
    """The backbone's principal components if it ships them for these levels, else free coordinates."""
    shape = h_shape(backbone)
    components = folder / "hspace.safetensors"
    if components.exists():
        return ComponentSpace.load(components, shape).select(plan.timesteps)
    scales = []
    with torch.inference_mode():
        z = backbone.encode(torch.zeros(1, 3, backbone.crop_size, backbone.crop_size))
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(z)
        for t in plan.timesteps:
            ts = torch.full((1,), t, device=z.device)
            scales.append(float(backbone.unet.encode(backbone.schedule.add_noise(z, noise, ts), ts).h.float().std()))
    return FreeSpace((len(plan.timesteps), *shape), torch.tensor(scales))


def basis_of(model: Backbone, plan: EditPlan, options: EditorOptions, networks: Sequence[str], resolve: Resolve) -> str:
    """Hex SHA-256 over everything that gives a direction its meaning and a person's identity its coordinates.

    That is the model's weights and card, its components and pseudonyms, the levels and geometry of the edit, how it is
    applied and judged, and the networks that are asked. The budget of the search is not part of it: what was found with
    another one is verified again before it is used.
    """

    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    beside = [model.folder / name for name in ("hspace.safetensors", "pseudonyms.safetensors")]
    content = {
        # 1: detail of the source stayed where little changed; 2: eyes and mouth were edited; 3: strength was length;
        # 4: results had more contrast and colour than their sources; 5: glasses were edited, and skin beside the mouth
        # grew dark.
        "format": 6,
        "weights": model.digest,
        "card": model.card,
        "template": np.round(model.template, 6).tolist(),
        "crop_size": model.crop_size,
        "beside": [digest(path) if path.exists() else None for path in beside],
        "plan": asdict(plan),
        "applied": [options.path, options.strength, list(options.boosts), options.optimise.gaze],
        "judged": [options.accept, options.landmark_limit],
        "networks": {name: digest(resolve(name)) for name in networks},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def build_editor(
    *,
    backbone: str | Path,
    resolve: Resolve,
    editor: Literal["difference", "inversion"] = "difference",
    geometry: Geometry = "linear",
    strength: float | None = None,
    timesteps: Sequence[int] | None = None,
    iterations: int | None = None,
    searches: int | None = None,
    gaze: bool | None = None,
    glasses: bool = True,
    inversion_steps: int = 12,
    between: float = 0.0,
    device: str = "auto",
    seed: int,
    guides: Sequence[str] = GUIDES,
    verifiers: Sequence[str] = ("dlib_resnet",),
    options: EditorOptions | None = None,
    memory: Callable[[str], PersonMemory] | None = None,
) -> FluidEditor:
    """Load everything `FluidEditor` needs.

    Args:
        backbone: folder in diffusers' layout or hub id that was downloaded before.
        resolve: finds the face networks by name.
        editor: "difference" or "inversion".
        geometry: "linear" or "geodesic".
        strength: see `EditorOptions`; None takes the options' own.
        timesteps: edit levels; None takes the backbone's own.
        iterations: optimisation steps of a search; None takes the options' own.
        searches: see `EditorOptions`; None takes the options' own.
        gaze: see `OptimiseOptions`; None takes the options' own.
        glasses: leave rims to the source.
        inversion_steps: K of the inversion editor.
        between: see `EditorOptions`.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        seed: the run's secret.
        guides: recognisers to optimise against, see `GUIDES`.
        verifiers: recognisers that only judge.
        options: everything else.
        memory: makes what recognises people who return, from the digest of `basis_of`.

    Raises:
        ModelError: something is missing, altered or does not fit together.
    """
    if set(guides) & set(verifiers):
        raise ModelError("a recogniser cannot guide and verify: choose different guides and verifiers")
    where = choose_device(device)
    model = load_backbone(backbone, device=where, reduced=reduced_precision(where))
    plan = edit_plan(model, timesteps, geometry, inversion_steps)
    space = direction_space(model, model.folder, plan)
    attributes = AttributeNetworks(
        resolve("landmark68"), resolve("expression"), resolve("age_gender"), resolve("facemesh468"), model.template
    )
    bank_file = model.folder / "pseudonyms.safetensors"
    bank = PseudonymBank.load(bank_file) if bank_file.exists() else None
    chosen = replace(options or EditorOptions(), path=editor, between=between)
    if strength is not None:
        chosen = replace(chosen, strength=strength)
    if iterations is not None:
        chosen = replace(chosen, optimise=replace(chosen.optimise, steps=iterations))
    if searches is not None:
        chosen = replace(chosen, searches=searches)
    if gaze is not None:
        chosen = replace(chosen, optimise=replace(chosen.optimise, gaze=gaze))
    rims = Glasses(resolve("glasses"), model.template, model.crop_size).eval().to(where) if glasses else None
    networks = (*guides, *verifiers, *(("glasses",) if glasses else ()))
    basis = basis_of(model, plan, chosen, networks, resolve)
    return FluidEditor(
        model,
        plan,
        space,
        [load_recogniser(name, resolve, model.template).to(where) for name in guides],
        [load_recogniser(name, resolve, model.template).to(where) for name in verifiers],
        attributes.to(where),
        bank,
        chosen,
        torch.Generator().manual_seed(seed),
        glasses=rims,
        memory=memory(basis) if memory is not None else None,
        basis=basis,
        identified_by=IDENTIFIED_BY,
    )
