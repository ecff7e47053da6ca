"""One auditor and one study of the demo clip for all tests of the audit: the networks are the slow part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fluidvid.audit import Auditor
from fluidvid.audit.study import Study
from tests.fluidvid.audit.media import Picture, pictures_of, write


@dataclass(frozen=True, eq=False)
class Case:
    """A studied source, its pictures, and a way to write results of it."""

    source: Path
    pictures: list[Picture]
    study: Study
    folder: Path

    def boxes(self, frame: int) -> list[NDArray[np.float32]]:
        return [self.study.faces[row].box for row in self.study.rows_of(frame)]

    def result(self, name: str, make: Callable[[int, Picture], Picture]) -> Path:
        return write(self.folder / f"{name}.mp4", [make(i, p) for i, p in enumerate(self.pictures)])


@pytest.fixture(scope="session")
def auditor() -> Auditor:
    return Auditor.load()


@pytest.fixture(scope="session")
def case(auditor: Auditor, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The demo clip's first frames: one face of 50 pixels."""
    folder = tmp_path_factory.mktemp("audit")
    pictures = pictures_of(clip)
    source = write(folder / "source.mp4", pictures, crf=10)
    return Case(source, pictures_of(source), auditor.study(source), folder)
