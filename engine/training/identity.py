"""Distil a small recogniser from a teacher, on faces nobody has.

The teacher labels augmented, mixed and reshaped synthetic faces; the student learns its embeddings (cosine) and how it
tells the faces of a batch apart (relational distillation, arXiv 1904.05068). Labelled faces are kept for a while and
shown about twice, mirrored or not: the teacher costs as much as the student.
"""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluidvid.engine.crops import to_crops, to_pictures
from fluidvid.engine.face_networks import Recogniser
from fluidvid.engine.precision import autocast
from fluidvid.engine.training.pictures import augment
from fluidvid.engine.training.runs import TrainingOptions, TrainingRun, follow, set_rate, warmed
from fluidvid.engine.training.student import SIDE, IdentityStudent, write_student
from fluidvid.engine.training.variety import degrade, mix, reshape_heads

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IdentityTraining(TrainingOptions):
    """Options of one run.

    Attributes:
        fresh: share of them newly made and labelled by the teacher.
        kept: labelled faces to draw from, in batches.
        mixed: share of faces that are mixtures of two.
        learning_rate: held after the warm-up, falls to nothing over the last `cooling` of the time.
        warmup: steps.
        cooling: share of the hours.
        weight_decay: of AdamW.
        relational: weight of the cosines within the batch.
        ema: decay of the average that is exported.
    """

    hours: float = 2.0
    batch: int = 32
    fresh: float = 0.5
    kept: int = 32
    mixed: float = 0.6
    learning_rate: float = 1e-3
    warmup: int = 300
    cooling: float = 0.35
    weight_decay: float = 0.01
    relational: float = 5.0
    ema: float = 0.998
    checkpoint_seconds: float = 240.0


@dataclass(eq=False)
class LabelledFaces:
    """Faces in the teacher's view with its embeddings; some are replaced at every draw.

    Attributes:
        teacher: labels whole crops of the pictures' template, or what `teacher.view` makes of them.
        pictures: `(N, S, S, 3)` uint8 aligned faces.
        weights: `(N,)` sampling weights, 0 for what is held out.
        mixed: share of mixtures.
        rng: chooses pictures and how they are degraded.
        generator: everything else.
    """

    teacher: Recogniser
    pictures: NDArray[np.uint8]
    weights: NDArray[np.float64]
    mixed: float
    rng: np.random.Generator
    generator: torch.Generator
    faces: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, SIDE, SIDE, 3), np.uint8))
    labels: Tensor = field(default_factory=lambda: torch.empty(0))
    cursor: int = 0

    def __post_init__(self) -> None:
        self.weights = self.weights / self.weights.sum()

    def make(self, count: int) -> tuple[NDArray[np.uint8], Tensor]:
        """`(count, 112, 112, 3)` uint8 new faces and their `(count, D)` unit embeddings."""
        rows = self.rng.choice(len(self.pictures), (2, count), p=self.weights)
        crops, others = (augment(to_crops(self.pictures[r]), self.generator) for r in rows)
        mixed = torch.rand(count, generator=self.generator) < self.mixed
        crops = torch.where(mixed[:, None, None, None], mix(crops, others, self.generator), crops)
        views = reshape_heads(crops, self.teacher.view.theta, SIDE, self.generator)
        clean = to_pictures(views)
        faces = np.stack([degrade(f, self.rng, clean[i - 1]) for i, f in enumerate(clean)])
        with torch.inference_mode(), autocast():
            labels = self.teacher.embed(to_crops(faces))
        return faces, labels.float().clone()

    def fill(self, count: int) -> None:
        """Make `count` faces to draw from."""
        made = [self.make(len(part)) for part in np.array_split(np.arange(count), math.ceil(count / 64))]
        self.faces, self.labels = np.concatenate([f for f, _ in made]), torch.cat([e for _, e in made])

    def draw(self, count: int, fresh: int) -> tuple[Tensor, Tensor]:
        """`(count, 3, 112, 112)` in [-1, 1] and `(count, D)`, after `fresh` of the kept ones were replaced."""
        slots = (self.cursor + np.arange(fresh)) % len(self.faces)
        self.faces[slots], self.labels[slots] = self.make(fresh)
        self.cursor += fresh
        rows = self.rng.choice(len(self.faces), count, replace=False)
        x = to_crops(self.faces[rows])
        mirrored = torch.rand(count, generator=self.generator) < 0.5
        return torch.where(mirrored[:, None, None, None], x.flip(3), x), self.labels[rows]

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        kept = {"faces": torch.from_numpy(self.faces), "labels": self.labels, "cursor": self.cursor}
        return kept | {"rng": self.rng.bit_generator.state, "generator": self.generator.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.faces, self.labels, self.cursor = state["faces"].numpy(), state["labels"], state["cursor"]
        self.rng.bit_generator.state = state["rng"]
        self.generator.set_state(state["generator"])


def distillation_loss(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """One minus the mean cosine of `(N, D)` unit vectors, and the mean square difference of their Gram matrices."""
    gram = (student @ student.T - teacher @ teacher.T).pow(2)
    return 1 - (student * teacher).sum(1).mean(), gram.sum() / (len(student) * (len(student) - 1))


@torch.inference_mode()
def agreement(student: IdentityStudent, crops: Tensor, labels: Tensor) -> dict[str, float]:
    """On `(N, 3, 112, 112)`: mean cosine to the teacher, and correlation of both networks' cosines between faces."""
    found = torch.cat([student(part) for part in crops.split(64)])
    above = torch.triu_indices(len(crops), len(crops), 1)
    pairs = torch.stack([(e @ e.T)[above[0], above[1]] for e in (found, labels)])
    return {"cosine": float((found * labels).sum(1).mean()), "correlation": float(torch.corrcoef(pairs)[0, 1])}


def train_identity(
    student: IdentityStudent,
    teacher: Recogniser,
    pictures: NDArray[np.uint8],
    held_out: NDArray[np.bool_],
    weights: NDArray[np.float64],
    out: Path,
    options: IdentityTraining,
) -> dict[str, float]:
    """Train in place, exporting the average to `out/identity_student.onnx` at every checkpoint.

    Args:
        student: where to begin.
        teacher: a recogniser seen from crops of the pictures' template.
        pictures: `(N, S, S, 3)` uint8 aligned faces.
        held_out: `(N,)` bool, never trained on.
        weights: `(N,)` sampling weights.
        out: folder of state, log and result. A run that was killed goes on from there.
        options: everything else; the same when going on.

    Returns:
        The last figures on what was held out.

    Raises:
        FloatingPointError: the loss is no number any more.
    """
    run = TrainingRun(out, options)
    ema = copy.deepcopy(student).requires_grad_(False)
    optimiser = torch.optim.AdamW(
        student.parameters(), lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=options.weight_decay
    )
    kept = np.where(held_out, 0.0, weights)
    generator = torch.Generator().manual_seed(options.seed)
    source = LabelledFaces(teacher, pictures, kept, options.mixed, np.random.default_rng(options.seed), generator)
    # What is held out is judged with the same faces and labels at every checkpoint.
    judge = LabelledFaces(
        teacher,
        pictures[held_out],
        np.ones(int(held_out.sum())),
        0.0,
        np.random.default_rng(1),
        torch.Generator().manual_seed(1),
    )
    judge.fill(256)
    if (state := run.resume()) is not None:
        student.load_state_dict(state["student"])
        ema.load_state_dict(state["ema"])
        optimiser.load_state_dict(state["optimiser"])
        source.restore(state["source"])
    else:
        source.fill(options.kept * options.batch)
    figures = agreement(ema, to_crops(judge.faces), judge.labels)
    log.info("start at step %d: %s", run.step, figures)
    for progress in run.loop():
        rate = options.learning_rate * min(warmed(run.step, options.warmup), (1 - progress) / options.cooling)
        set_rate(optimiser, rate)
        x, labels = source.draw(options.batch, math.ceil(options.fresh * options.batch))
        with autocast():
            found = student(x.contiguous(memory_format=torch.channels_last))
        cosine, gram = distillation_loss(found, labels)
        loss = cosine + options.relational * gram
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        run.check_finite(loss.item())
        optimiser.step()
        run.made({"loss": cosine.item(), "relational": gram.item()})
        follow(ema.parameters(), student.parameters(), options.ema, run.step)
        if run.due:
            figures = agreement(ema, to_crops(judge.faces), judge.labels)
            row = {"step": run.step, "faces": run.step * options.batch, "hours": run.hours, "lr": rate} | run.means()
            row |= {f"held_out_{name}": value for name, value in figures.items()}
            state = {"student": student.state_dict(), "ema": ema.state_dict(), "optimiser": optimiser.state_dict()}
            run.checkpoint(row, state | {"source": source.state()})
            write_student(ema, out / "identity_student.onnx")
    return figures
