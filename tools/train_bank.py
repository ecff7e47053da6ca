"""Third phase of the embedded prior on this machine: universal directions and a decoding half that obeys them.

    python tools/train_bank.py PICTURES.zip[=SHARE] ... --guide NET.onnx --out FOLDER [--hours 1.0] [--threads 1]
    python tools/train_bank.py --export FOLDER --prior NEW_PRIOR

The first form trains (`fluidvid.engine.training.bank`) from the embedded prior, resumes what is in FOLDER, and can be
killed at any time. The second writes a backbone folder with what FOLDER holds. Pictures are aligned synthetic faces;
people to become are drawn from the first archive. `--guide` is a recogniser for training only (ArcFace alignment), by a
name of `fluidvid.engine.build.RECOGNISERS`: it is written into the prior's `guides`, so that no audit takes it for
independent.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel

from fluidvid.engine.backbone import Backbone, load_backbone, weight_digest
from fluidvid.engine.build import h_shape, load_recogniser
from fluidvid.engine.face_networks import AttributeNetworks, Recogniser
from fluidvid.engine.pseudonyms import PseudonymBank
from fluidvid.engine.subspace import ComponentSpace
from fluidvid.engine.training.bank import BankTraining, ReadOut, Targets, train_bank
from fluidvid.engine.training.directions import bottlenecks, fit_components
from fluidvid.engine.training.pictures import load_pictures, to_crops
from fluidvid.models import ModelStore

GUIDES = ("identity_student", "faceres")
"""Guides of the search; the pseudonyms' embeddings are shipped."""
JUDGE = "dlib_resnet"
"""Its embeddings of the pseudonyms are the audit's gallery: shipped, but nothing is trained with it."""
ROWS = 512
"""Pseudonyms that are shipped."""


def targets_of(crops: torch.Tensor, nets: list[Recogniser], attributes: AttributeNetworks) -> Targets:
    """Codes, embeddings, ages and genders of `(N, 3, S, S)` crops; codes are the embeddings' leading components."""
    with torch.inference_mode():
        parts = crops.split(64)
        embeddings = {net.name: torch.cat([net(part).float() for part in parts]).clone() for net in nets}
        kept = [attributes(part, mesh=False) for part in parts]
    codes = []
    for table in (t for name, t in embeddings.items() if name != JUDGE):
        centred = table - table.mean(0)
        axes = torch.linalg.svd(centred, full_matrices=False)[2][:128]
        codes.append(centred @ axes.T)
    joined = torch.cat(codes, 1)
    ages, males = torch.cat([a.age for a in kept]).clone(), torch.cat([a.male for a in kept]).clone()
    return Targets(joined / joined.std(0), embeddings, ages, males)


def start(backbone: Backbone, crops: torch.Tensor, codes: torch.Tensor, level: int) -> tuple[ComponentSpace, ReadOut]:
    """Principal components of h at one level, and the ridge regression of their coordinates on the codes."""
    h = bottlenecks(backbone, crops, (level,), torch.Generator().manual_seed(3)).clone()
    space = fit_components(h, (level,), h_shape(backbone), 128)
    wanted = space.coordinates_of(h - h.mean(0)).flatten(1)
    gram = codes.T @ codes / len(codes) + 0.3 * torch.eye(codes.shape[1])
    weights = torch.linalg.solve(gram, codes.T @ wanted / len(codes))
    read_out = ReadOut(codes.shape[1], 1, 128)
    with torch.no_grad():
        read_out.linear.weight.copy_(weights.T)
        read_out.linear.bias.zero_()
    return space, read_out


def train(options: argparse.Namespace) -> None:
    """Train or go on training into `options.out`."""
    store = ModelStore()
    guide = Path(options.guide)

    def resolve(name: str) -> Path:
        return guide if name == guide.stem else store.resolve(name)

    options.out.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(store.resolve("prior"))
    names = list(dict.fromkeys((guide.stem, *GUIDES, JUDGE)))
    nets = [load_recogniser(name, resolve, backbone.template) for name in names]
    attributes = AttributeNetworks(
        *(resolve(name) for name in ("landmark68", "expression", "age_gender", "facemesh468")), backbone.template
    )
    pictures, held_out, chances, first = [], [], [], 0
    for position, source in enumerate(options.pictures):
        path, _, share = source.partition("=")
        found, out = load_pictures([Path(path)])
        first = first or len(found)
        pictures.append(found)
        held_out.append(out)
        chances.append(np.full(len(found), float(share or (1.0 if position == 0 else 0.2)) / len(found)))
    everything, kept = np.concatenate(pictures), ~np.concatenate(held_out)
    rows = np.flatnonzero(kept[:first])[:2048]
    known = options.out / "targets.pt"
    if known.exists():
        targets = Targets(**torch.load(known, weights_only=True))
    else:
        targets = targets_of(to_crops(everything[rows]), nets, attributes)
        torch.save(vars(targets) | {"embeddings": dict(targets.embeddings)}, known)
    space, read_out = start(backbone, to_crops(everything[rows]), targets.codes, options.level)
    # faceres costs as much as all others together: it guides the search, not the training.
    train_bank(
        backbone,
        space,
        read_out,
        targets,
        [net for net in nets if net.name not in ("faceres", JUDGE)],
        attributes,
        everything,
        np.concatenate(chances) * kept,
        options.out,
        BankTraining(hours=options.hours, seed=options.seed),
    )
    (options.out / "guides.json").write_text(json.dumps([n for n in names if n != JUDGE]))


def export(source: Path, prior: Path) -> None:
    """Write the embedded prior with the U-Net, components and universal directions of a run as a new folder."""
    targets, coordinates = torch.load(source / "targets.pt", weights_only=True), torch.load(source / "coordinates.pt")
    shutil.copytree(ModelStore().resolve("prior"), prior)
    UNet2DModel.from_pretrained(source / "unet").half().save_pretrained(prior / "unet")
    shutil.copy(source / "hspace.safetensors", prior / "hspace.safetensors")
    tables = {name: targets["embeddings"][name][:ROWS] for name in (*GUIDES, JUDGE)}
    bank = PseudonymBank(tables, targets["ages"][:ROWS], targets["males"][:ROWS], coordinates[:ROWS])
    bank.save(prior / "pseudonyms.safetensors")
    card = json.loads((prior / "fluidvid.json").read_text())
    levels = ComponentSpace.levels(source / "hspace.safetensors")
    card |= {"edit_timesteps": list(levels), "edit_skips": True, "sha256": weight_digest(prior)}
    card.pop("refine_timesteps", None)
    steps = torch.load(source / "state.pt", weights_only=False)["step"]
    card["figures"] = {k: v for k, v in card.get("figures", {}).items() if k.endswith("_steps")} | {"bank_steps": steps}
    card["guides"] = json.loads((source / "guides.json").read_text())
    (prior / "fluidvid.json").write_text(json.dumps(card, indent=1) + "\n")


def main() -> int:
    """Train or export."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pictures", nargs="*", metavar="PICTURES[=SHARE]")
    parser.add_argument("--guide", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--level", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--export", type=Path, metavar="FOLDER")
    parser.add_argument("--prior", type=Path, metavar="NEW_PRIOR")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.export and options.prior:
        export(options.export, options.prior)
    elif options.pictures and options.guide and options.out:
        train(options)
    else:
        parser.error("give PICTURES, --guide and --out, or --export and --prior")
    return 0


if __name__ == "__main__":
    sys.exit(main())
