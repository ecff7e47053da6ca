"""Of the donors a prior has directions to, keep those that it makes other people of: `fluidvid prior train swaps`.

    python tools/keep_donors.py FACES.zip donors.npz kept.npz [pseudonyms.safetensors]

Ten faces of like age, gender, expression and pose are edited to every donor, as the bank has the direction. A donor's
score is how much the guides still see of the person (means, each in shares of its threshold), and half as much how far
the edit is from the donor's face bent to theirs and how much the expression changes, each in standard deviations over
the donors. `KEPT` of the forty most like it in age and gender stay: few are left out for being old or a child. The last
file, if one is named, becomes the prior's bank, of which only those are drawn, and which all guides know.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fluidvid.engine.build import build_editor
from fluidvid.engine.composite import face_region
from fluidvid.engine.crops import to_crops
from fluidvid.engine.plan import Direction
from fluidvid.engine.pseudonyms import Person, PseudonymBank
from fluidvid.engine.training.swaps import swapped
from fluidvid.models import ModelStore
from fluidvid.prior.bank import SAME, targets_of
from fluidvid.prior.dataset import gather
from fluidvid.prior.training import detector

FACES, EDITED, LIKE = 400, 10, 40
KEPT = 0.6


def of_like(values: NDArray[np.float64], bank: PseudonymBank) -> NDArray[np.bool_]:
    """`(N,)` which of `(N,)` values are among the `KEPT` lowest of those of like age and gender."""
    people = (Person(age, male) for age, male in zip(bank.ages.tolist(), bank.males.tolist(), strict=True))
    near = torch.stack([bank.misfit(person) for person in people]).argsort(1)[:, :LIKE].numpy()
    lower: NDArray[np.bool_] = (values[near] < values[:, None]).mean(1) < KEPT
    return lower


@torch.inference_mode()
def main(source: str, donors: str, out: str, pseudonyms: str | None = None) -> None:
    store = ModelStore()
    editor = build_editor(backbone=store.resolve("prior"), resolve=store.resolve, seed=0)
    search, attributes, bank = editor.search, editor.attributes, editor.bank
    assert bank is not None and bank.coordinates is not None
    pictures = gather((donors,), editor.crop_size, editor.template, detector, None).pictures
    faces = gather((source,), editor.crop_size, editor.template, detector, None).pictures
    some = np.random.default_rng(0).choice(len(faces), FACES, replace=False)
    targets = targets_of(to_crops(pictures), editor.guides, attributes)
    crops = to_crops(faces[some])
    kept = attributes(crops, mesh=True)
    assert kept.mesh is not None
    misfit = targets.misfit(kept)
    embeddings = {guide.name: guide(crops) for guide in editor.guides}
    name = editor.guides[0].name
    alike, rows = (bank.embeddings[name] @ targets.embeddings[name].T).max(1)
    noise = torch.randn(search.apply.backbone.encode(crops[:1]).shape[1:], generator=torch.Generator().manual_seed(0))
    figures = []
    for number, row in enumerate(rows.tolist()):
        chosen = misfit[:, row].argsort()[:EDITED]
        x, landmarks = crops[chosen], kept.landmarks[chosen]
        region = face_region(landmarks, editor.crop_size)
        start = bank.start(number)
        assert start is not None
        direction = Direction(search.space.directions(start), noise)
        edited = search.apply.at(x, landmarks, None, noise, 1.0)(direction)
        donor, mesh = (t[row].expand(len(x), *t.shape[1:]) for t in (targets.pictures, targets.meshes))
        wanted = swapped(x, landmarks.float(), kept.mesh[chosen].float(), region, donor, mesh)
        cosines = ((g(edited) * embeddings[g.name][chosen]).sum(1).mean() / g.threshold for g in editor.guides)
        seen = [float(cosine) for cosine in cosines]
        off = float((region * (edited - wanted).abs()).sum() / (3 * region.sum()))
        moved = float((attributes.expression(edited) - kept.expression[chosen]).pow(2).sum(1).mean())
        figures.append((np.mean(seen), off, moved))
    table = np.array(figures)
    score = ((table - table.mean(0)) / table.std(0)).clip(-np.inf, 3) @ (1, 0.5, 0.5)
    best = of_like(score, bank) & (alike >= SAME).numpy()
    np.savez(out, faces=pictures[rows.numpy()[best]])
    if pseudonyms is not None:
        known = {guide.name: targets.embeddings[guide.name][rows] for guide in editor.guides} | bank.embeddings
        replace(bank, embeddings=known, drawn=torch.from_numpy(best)).save(Path(pseudonyms))
    means = ", ".join(f"{a:.3f} ({b:.3f})" for a, b in zip(table[best].mean(0), table.mean(0), strict=True))
    sys.stderr.write(f"{best.sum()} of {len(best)} in {Path(out)}; seen, off, expression of those (of all): {means}\n")


if __name__ == "__main__":
    main(*sys.argv[1:5])
