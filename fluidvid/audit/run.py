"""The audit as a function: study the source, measure the result, judge, attack, decide."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fluidvid.audit.attacks import Attack, AttackOutcome, averaging, sharpening, try_attack
from fluidvid.audit.graders import Panel, load_panel
from fluidvid.audit.linkage import linkage
from fluidvid.audit.look import Floats
from fluidvid.audit.measure import Measured, measure_result
from fluidvid.audit.options import ATTACKS, chosen_attacks
from fluidvid.audit.privacy import Recognition, recognise, unit
from fluidvid.audit.report import AuditReport
from fluidvid.audit.steadiness import jumps, steadiness
from fluidvid.audit.study import Study, Tick, study_source
from fluidvid.audit.utility import utility
from fluidvid.audit.verdict import Limits, decide
from fluidvid.config import Config
from fluidvid.errors import ConfigError, ModelError
from fluidvid.models import ModelStore
from fluidvid.trackers.detectors.near import NearDetector
from fluidvid.video.source_file import SourceFile


def _quiet(stage: str, done: int, total: int | None) -> None:
    """Show nothing."""


@dataclass(frozen=True, eq=False)
class Auditor:
    """Networks, detector and gallery: loaded once, good for any number of audits.

    Attributes:
        models: embedded and pulled models.
        panel: recognisers and attribute networks.
        detector: the audit's own eyes on the source, the configured default of fluidvid.
        near: the same eyes in windows around known faces, for results.
        galleries: recogniser -> `(M, D)` unit embeddings of synthetic people.
        backbone: `edit.backbone` of the run that made the results, or None for the embedded prior.
    """

    models: ModelStore
    panel: Panel
    detector: Any
    near: NearDetector
    galleries: dict[str, Floats]
    backbone: str | None = None

    @classmethod
    def load(cls, recognisers: Path | None = None, *, backbone: str | Path | None = None, threads: int = 0) -> Auditor:
        """Load everything.

        Args:
            recognisers: folder with recognisers that are not shipped, as `<name>.onnx`.
            backbone: what `edit.backbone` named when the results were made; its guides cannot acquit, and the attack
                `rerun` uses it. Default: the embedded prior.
            threads: CPU threads of one run of a network; 0: as many as there are cores.

        Raises:
            ModelError: a model is missing or altered, or there is no such backbone.
            ConfigError: the folder does not exist.
        """
        from fluidvid.assembly import backbone_source, make_detector
        from fluidvid.engine.backbone import resolve_folder
        from fluidvid.engine.pseudonyms import PseudonymBank

        if recognisers is not None and not recognisers.is_dir():
            raise ConfigError(f"no folder {recognisers}: --recognisers names a folder with <recogniser>.onnx files")
        models = ModelStore()
        folder = None if backbone is None else resolve_folder(backbone_source(str(backbone), models))
        panel = load_panel(models, recognisers, folder, threads=threads)
        bank = PseudonymBank.load(models.resolve("prior") / "pseudonyms.safetensors")
        galleries = {name: table.numpy() for name, table in bank.embeddings.items()}
        galleries |= beside(recognisers, [g.name for g in panel.graders if g.name not in galleries])
        # What a result's detector had missed must not be missed again for the same reason.
        config = Config().updated({"detect.quantised": False})
        detector = make_detector(config, models, threads=threads)
        near = NearDetector(detector, long_side=config.detect.long_side)
        return cls(models, panel, detector, near, galleries, None if backbone is None else str(backbone))

    def study(
        self,
        source: Path,
        *,
        start: Fraction | None = None,
        end: Fraction | None = None,
        min_face: float = 24.0,
        tick: Tick = _quiet,
    ) -> Study:
        """Look at a source, or the part from `start` to `end` seconds; the study serves for all of its results."""
        return study_source(source, self.panel, self.detector, start=start, end=end, min_face=min_face, tick=tick)

    def audit(
        self,
        study: Study,
        result: Path,
        *,
        second: Path | None = None,
        attacks: Collection[str] = (),
        limits: Limits | None = None,
        tick: Tick = _quiet,
    ) -> AuditReport:
        """Judge a result of a studied source.

        Args:
            study: of the source.
            result: what a tool made of it.
            second: another run's result, for linkage between runs.
            attacks: some of `fluidvid.audit.options.ATTACKS`.
            limits: what the verdict tolerates.
            tick: called with stage, done and total.

        Raises:
            InputError: a file cannot be read.
            ConfigError: no such attack.
        """
        attacks = chosen_attacks(",".join(attacks))
        measured = measure_result(study, result, self.panel, self.near, tick=tick)
        other = None if second is None else measure_result(study, second, self.panel, self.near, tick=tick)
        found = [recognise(study, measured, g, self.galleries.get(g.name)) for g in self.panel.graders]
        outcomes = self._attack(study, measured, result, found, attacks, tick)
        return AuditReport(
            str(study.path),
            str(result),
            decide(study, measured, found, outcomes, limits),
            study,
            measured,
            tuple(found),
            {r.grader.name: linkage(study, measured, r, other) for r in found},
            utility(study, measured),
            steadiness(study, measured, found),
            {r.grader.name: tuple(jumps(study, measured, r)) for r in found},
            tuple(outcomes),
            tuple(self._unmeasured(attacks, outcomes, second)),
        )

    def _attack(
        self,
        study: Study,
        measured: Measured,
        result: Path,
        found: list[Recognition],
        attacks: Collection[str],
        tick: Tick,
    ) -> list[AttackOutcome]:
        from fluidvid.audit.negation import negation, rerun
        from fluidvid.audit.superresolution import superresolution

        makers: dict[str, tuple[str, Callable[[], Attack]]] = {
            "sharpen": ("the result sharpened and deconvolved", lambda: sharpening(measured)),
            "average": ("neighbouring frames averaged and deconvolved", lambda: averaging(study, measured)),
            "superresolve": (
                "the result super-resolved by the face model's own diffusion",
                lambda: superresolution(measured, self.models),
            ),
            "negate": ("guessed directions subtracted in the model's h-space", lambda: negation(measured, self.models)),
        }
        outcomes: list[AttackOutcome] = []
        for done, name in enumerate(n for n in ATTACKS if n in attacks):
            tick("attack", done, len(attacks))
            if name == "rerun":
                outcomes += rerun(
                    study, result, self.panel, self.near, found, self.galleries, tick=tick, backbone=self.backbone
                )
            else:
                words, make = makers[name]
                outcomes += try_attack(name, words, make(), study, measured, self.panel, found, self.galleries)
        return outcomes

    def _unmeasured(
        self, attacks: Collection[str], outcomes: Collection[AttackOutcome], second: Path | None
    ) -> list[str]:
        left = [name for name in ATTACKS if name not in attacks]
        texts = [f"recogniser {text}" for text in self.panel.missing]
        failed = (f"attack {o.name}: could not be tried ({o.why})" for o in outcomes if o.share is None)
        texts += dict.fromkeys(failed)
        if left:
            texts.append(f"attacks {', '.join(left)}: not asked for (--attacks {','.join(left)})")
        if second is None:
            texts.append("linkage between two runs: no second result given (--second)")
        return [*texts, "hair, clothes, gait, voice and context", "faces that the audit's own detectors do not find"]


def beside(folder: Path | None, names: list[str]) -> dict[str, Floats]:
    """Galleries `(M, D)` of recognisers that are not shipped: `<name>.gallery.npy` of `tools/audit_gallery.py`.

    Raises:
        ModelError: such a file is no table of embeddings.
    """
    found = {}
    for name in names:
        path = None if folder is None else folder / f"{name}.gallery.npy"
        if path is None or not path.is_file():
            continue
        try:
            table = np.load(path, allow_pickle=False)
        except ValueError as error:
            raise ModelError(f"{path} is unreadable ({error}): make it again with tools/audit_gallery.py") from error
        if table.ndim != 2 or not np.isfinite(table).all():
            raise ModelError(f"{path} is no table of embeddings: make it again with tools/audit_gallery.py")
        found[name] = unit(table.astype(np.float32))
    return found


def audit(
    source: str | Path,
    result: str | Path,
    *,
    recognisers: str | Path | None = None,
    second: str | Path | None = None,
    attacks: Collection[str] = (),
    backbone: str | Path | None = None,
    start: Fraction | None = None,
    end: Fraction | None = None,
    min_face: float = 24.0,
    limits: Limits | None = None,
    tick: Tick = _quiet,
) -> AuditReport:
    """Judge any tool's result against its source; see `Auditor` for many results of one source.

    Args:
        source: the original video.
        result: what a tool made of it.
        recognisers: folder with recognisers that are not shipped.
        second: another run's result, for linkage between runs.
        attacks: some of `fluidvid.audit.options.ATTACKS`; they take time.
        backbone: what `edit.backbone` named when the result was made, if not the embedded prior: a folder, a
            downloaded hub id or the name of a pulled model.
        start: skip the source's beginning, in seconds, as `anonymize --start` did.
        end: skip what lies behind it, in seconds from the source's beginning.
        min_face: smallest face, shorter side in pixels, that recognisers look at.
        limits: what the verdict tolerates.
        tick: called with stage, done and total.

    Raises:
        InputError: a file cannot be read, or changed meanwhile: each is read several times.
        ModelError: a model is missing or altered, or there is no such backbone.
        ConfigError: no such attack or folder.
    """
    other = None if second is None else Path(second)
    files = [SourceFile(path) for path in (Path(source), Path(result), other) if path is not None]
    auditor = Auditor.load(None if recognisers is None else Path(recognisers), backbone=backbone)
    study = auditor.study(Path(source), start=start, end=end, min_face=min_face, tick=tick)
    report = auditor.audit(study, Path(result), second=other, attacks=attacks, limits=limits, tick=tick)
    for file in files:
        file.check()
    return report
