"""Attempts to undo an edit with fluidvid itself: its model and its bank are public, only the direction is not."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fluidvid.audit.attacks import Attack, AttackOutcome
from fluidvid.audit.graders import Panel
from fluidvid.audit.look import Crops
from fluidvid.audit.measure import Measured, measure_result
from fluidvid.audit.privacy import Recognition, recognise
from fluidvid.audit.statistics import not_measured
from fluidvid.audit.study import Study, Tick
from fluidvid.config import Config
from fluidvid.engine.crops import to_crops, to_pictures
from fluidvid.errors import FluidvidError
from fluidvid.models import ModelStore
from fluidvid.trackers.detectors.near import NearDetector

STRENGTHS = (0.5, 1.0, 2.0)
NEAREST = 2
"""Pseudonyms tried per face: the bank's rows that look most like the edited face."""
RANDOM = 2
"""Random directions tried, added and subtracted."""
SEED = 20511700
"""The attacker's own randomness, fixed so that audits agree; it has nothing to do with any run's secret."""


def negation(measured: Measured, models: ModelStore) -> Attack:
    """Walk back along guessed directions in the embedded prior's h-space, at several strengths.

    The face's likely pseudonym is looked up in the public bank; its universal direction is subtracted, and random
    directions of the space are added and subtracted.

    Args:
        measured: the result's kept crops.
        models: where the prior is.
    """
    from fluidvid.engine.backbone import load_backbone
    from fluidvid.engine.build import direction_space, edit_plan, load_recogniser
    from fluidvid.engine.difference import DifferenceEditor
    from fluidvid.engine.pseudonyms import PseudonymBank
    from fluidvid.geometry import FFHQ_112

    backbone = load_backbone(models.resolve("prior"))
    plan = edit_plan(backbone, None, "linear", 12)
    space = direction_space(backbone, backbone.folder, plan)
    editor = DifferenceEditor(backbone, plan)
    bank = PseudonymBank.load(backbone.folder / "pseudonyms.safetensors")
    name = next(iter(bank.embeddings))
    reader = load_recogniser(name, models.resolve, FFHQ_112)
    generator = torch.Generator().manual_seed(SEED)
    draws = [torch.randn(space.zero().shape, generator=generator) for _ in range(RANDOM)]

    @torch.inference_mode()
    def attack(rows: list[int]) -> list[Crops]:
        crops = torch.stack([to_crops(measured.kept[r][1][None])[0] for r in rows])
        z = backbone.encode(crops)
        noise = torch.randn(z.shape[1:], generator=torch.Generator().manual_seed(SEED)).expand_as(z)
        steps: list[Tensor] = []
        if bank.coordinates is not None and bank.coordinates.shape[1:] == space.zero().shape:
            nearest = (reader(crops) @ bank.embeddings[name].T).topk(NEAREST, dim=1).indices
            for k in range(NEAREST):
                back = torch.stack([-space.directions(bank.coordinates[row]) for row in nearest[:, k]])
                steps += [strength * back for strength in STRENGTHS]
        for draw in draws:
            direction = space.directions(draw).expand(len(rows), *space.directions(draw).shape)
            steps += [direction, -direction]
        return [_applied(editor, backbone, crops, z, noise, values) for values in steps]

    return attack


def _applied(editor: Any, backbone: Any, crops: Tensor, z: Tensor, noise: Tensor, values: Tensor) -> Crops:
    """`(N, S, S, 3)` uint8 crops moved by `(N, L, C, h, w)` displacements."""
    before, after = editor(z, values, noise, torch.ones(len(z)))
    return to_pictures(crops + backbone.decode(after) - backbone.decode(before))


Anonymise = Callable[[Path, Path, Config], Any]


def rerun(
    study: Study,
    result: Path,
    panel: Panel,
    near: NearDetector,
    recognitions: list[Recognition],
    galleries: dict[str, Any],
    *,
    tick: Tick,
    backbone: str | None = None,
    anonymise: Anonymise | None = None,
) -> list[AttackOutcome]:
    """Run fluidvid on its own output and see whether the second edit leads back.

    Args:
        study: of the source.
        result: the file under audit.
        panel: the networks.
        near: the study's detector, in windows around known faces.
        recognitions: of the result, for thresholds and the shares before.
        galleries: recogniser -> `(M, D)` synthetic embeddings.
        tick: called with stage, done and total.
        backbone: `edit.backbone` of the second run; default: the embedded prior.
        anonymise: for tests; default `fluidvid.anonymize`.
    """
    words = "fluidvid run once more on the result"
    config = Config(seed=SEED)
    if study.length is not None:
        config = config.updated({"media.end": f"{float(study.length):.6f}"})
    if backbone is not None:
        config = config.updated({"edit.backbone": backbone})
    with tempfile.TemporaryDirectory(prefix="fluidvid-audit-") as folder:
        again = Path(folder) / "again.mkv"  # holds what any other container holds
        try:
            (anonymise or _anonymise)(result, again, config)
            second = measure_result(study, again, panel, near, tick=tick)
        except FluidvidError as error:
            return [AttackOutcome("rerun", "all", words, None, why=str(error))]
    outcomes = []
    for first in recognitions:
        after = recognise(study, second, first.grader, galleries.get(first.grader.name))
        share, before = (r.figures["reidentified_at_1_percent"] for r in (after, first))
        cosines = [r.figures.get("cosine_to_template", not_measured("")).value for r in (after, first)]
        name, at = first.grader.name, first.loose.value
        outcomes.append(
            AttackOutcome("rerun", name, words, share.value, before.value, share.count, at, share.why, *cosines)
        )
    return outcomes


def _anonymise(source: Path, target: Path, config: Config) -> None:
    from fluidvid.api import anonymize

    anonymize(source, target, config=config)
