"""Who judges a result, and who had a hand in making it: the one place where that is known.

A recogniser that an edit was optimised against is fooled first, and says nothing good about a result that counts. Its
accusation counts all the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from fluidvid.audit.sessions import fast_attributes, fast_recogniser
from fluidvid.engine.build import RECOGNISERS, load_recogniser
from fluidvid.engine.face_networks import AttributeNetworks, Recogniser
from fluidvid.errors import ModelError
from fluidvid.geometry import FFHQ_112
from fluidvid.models import ModelStore, sha256_of


class Part(StrEnum):
    """What a recogniser had to do with the edit."""

    GUIDE = "guide"
    VERIFIER = "verifier"
    INDEPENDENT = "independent"


WORDS = {
    Part.GUIDE: "fluidvid optimises against it: it may accuse, it cannot acquit",
    Part.VERIFIER: "fluidvid's verifier: it selects edits, none is optimised against it",
    Part.INDEPENDENT: "took no part in the edit",
}


@dataclass(frozen=True)
class Grader:
    """One recogniser of the audit.

    Attributes:
        name: as in the manifest.
        part: what it had to do with the edit.
        calibrated: cosine at 1 % false accepts, measured on many pairs of different people beforehand.
    """

    name: str
    part: Part
    calibrated: float

    @property
    def may_acquit(self) -> bool:
        """Whether a verdict may rest on it."""
        return self.part is not Part.GUIDE


def guides_of(models: ModelStore, backbone: Path | None = None) -> tuple[str, ...]:
    """Recognisers that guided an edit, in training or at run time.

    The manifest names them by the role `identity-guide`; the key `guides` of a backbone's `fluidvid.json` adds its own.

    Args:
        models: the manifest.
        backbone: folder of the backbone; default: the embedded prior.

    Raises:
        ModelError: the backbone's card is unreadable.
    """
    card = (backbone or models.resolve("prior")) / "fluidvid.json"
    try:
        named = json.loads(card.read_text(encoding="utf-8")).get("guides", []) if card.exists() else []
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{card} is unreadable ({error}): reinstall fluidvid or fix the backbone") from error
    return tuple(dict.fromkeys([*(e.name for e in models.with_role("identity-guide")), *map(str, named)]))


def part_of(name: str, guides: Sequence[str], models: ModelStore) -> Part:
    """What the recogniser `name` had to do with an edit guided by `guides`."""
    if name in guides:
        return Part.GUIDE
    return Part.VERIFIER if "identity-verifier" in models.entry(name).roles else Part.INDEPENDENT


@dataclass(frozen=True, eq=False)
class Panel:
    """All networks that look at source and result.

    Attributes:
        graders: in the order of `recognisers`.
        recognisers: identity networks that see crops of the template `FFHQ_112`.
        attributes: landmarks, expression, age and gender, of the same crops.
        missing: recognisers that were not at hand, each with what to do.
    """

    graders: tuple[Grader, ...]
    recognisers: tuple[Recogniser, ...]
    attributes: AttributeNetworks
    missing: tuple[str, ...]


def load_panel(
    models: ModelStore,
    folder: Path | None = None,
    backbone: Path | None = None,
    only: Sequence[str] | None = None,
    threads: int = 0,
) -> Panel:
    """Load every recogniser that is at hand.

    Args:
        models: embedded and pulled models.
        folder: where further recognisers lie as `<name>.onnx`, compared with the manifest's SHA-256.
        backbone: of the edit, for its guides; default: the embedded prior.
        only: names to restrict the panel to.
        threads: CPU threads of one run of a network; 0: as many as there are cores.

    Raises:
        ModelError: a recogniser is altered, or none is left.
    """
    guides = guides_of(models, backbone)
    graders, networks, missing = [], [], []
    files: dict[str, Path] = {}

    def resolve(wanted: str) -> Path:
        return files[wanted] if wanted in files else models.resolve(wanted)

    for name in RECOGNISERS:
        if only is not None and name not in only:
            continue
        path = _find(name, models, folder)
        if path is None:
            missing.append(f"{name}: not shipped; put {name}.onnx into a folder and give --recognisers FOLDER")
            continue
        files[name] = path
        networks.append(fast_recogniser(load_recogniser(name, resolve, FFHQ_112), threads))
        graders.append(Grader(name, part_of(name, guides, models), RECOGNISERS[name].threshold))
    if not graders:
        raise ModelError(f"no recogniser to audit with: known are {', '.join(RECOGNISERS)}")
    paths = (models.resolve("landmark68"), models.resolve("expression"), models.resolve("age_gender"))
    attributes = fast_attributes(AttributeNetworks(*paths, None, FFHQ_112), *paths, threads)
    return Panel(tuple(graders), tuple(networks), attributes.eval(), tuple(missing))


def _find(name: str, models: ModelStore, folder: Path | None) -> Path | None:
    entry = models.entry(name)
    given = None if folder is None else folder / f"{name}.onnx"
    if given is not None and given.is_file():
        expected = entry.files[0].sha256
        if expected is not None and sha256_of(given) != expected:
            raise ModelError(f"{given} is not the {name} of the manifest (SHA-256 differs): get it from {entry.source}")
        return given
    if entry.embedded or models.status(entry).state in ("ok", "altered"):
        return models.resolve(name)
    return None
