"""Glasses are found where they are, in crops of any alignment and size, and an edit leaves them to the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from fluidvid.engine.cache import Known, PersonState, Provenance
from fluidvid.engine.crops import to_crops
from fluidvid.engine.editor import FluidEditor
from fluidvid.engine.glasses import Glasses
from fluidvid.engine.plan import Direction
from fluidvid.errors import ModelError
from fluidvid.geometry import FFHQ_112
from fluidvid.models import ModelStore
from tests.engine.tiny import FixedGlasses, easy_options, editor_parts, faces

ROWS = slice(28, 34)
"""Where glasses are said to be."""


@pytest.fixture(scope="module")
def embedded() -> Glasses:
    return Glasses(ModelStore().resolve("glasses"), FFHQ_112, 128).eval()


def face_with(rims: bool) -> Tensor:
    """`(1, 3, 128, 128)` a flat face with eyes, and dark round rims about them."""
    ys, xs = np.mgrid[:128, :128] + 0.5
    picture = np.full((128, 128, 3), (200.0, 160.0, 140.0))
    for x, y in FFHQ_112[:2] * 128:
        away = np.hypot(xs - x, ys - y)
        picture[away < 4] = 60
        if rims:
            picture[np.abs(away - 13) < 1.3] = 25
    if rims:
        picture[(np.abs(ys - 52) < 1.3) & (np.abs(xs - 64) < 5)] = 25
    return to_crops(picture[None].astype(np.uint8))


def test_rims_are_found_where_they_are_and_nowhere_else(embedded: Glasses) -> None:
    worn, bare = face_with(True), face_with(False)
    found, probability = embedded(worn)
    assert float(probability) > 0.9 > 0.5 > float(embedded(bare)[1])
    assert found.shape == (1, 1, 128, 128) and 0 <= float(found.min()) <= float(found.max()) <= 1
    where = (worn != bare).any(1, keepdim=True)
    assert float(found[where].mean()) > 0.6
    assert float(found[~where].mean()) < 0.05
    # Rims of 2.6 pixels, no wider: what is left to the source tells who it is.
    assert float(found.sum()) < 1.5 * float(where.sum())


def test_crops_of_another_alignment_and_size_show_the_same_rims(embedded: Glasses) -> None:
    inner = FFHQ_112 * 0.8 + 0.1  # the face four fifths as large
    wider = torch.nn.functional.interpolate(face_with(True), size=160, mode="bilinear", align_corners=False)
    wider = torch.nn.functional.pad(wider, (20, 20, 20, 20), mode="replicate")
    other = Glasses(ModelStore().resolve("glasses"), inner, 200).eval()
    found = torch.nn.functional.interpolate(other(wider)[0][..., 20:-20, 20:-20], size=128, mode="area")
    same, _ = embedded(face_with(True))
    assert float((found - same).abs().mean()) < 0.02


@pytest.mark.parametrize("content", [b"nothing", save({"other": torch.zeros(1)})])
def test_another_networks_file_is_said(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="reinstall"):
        Glasses(tmp_path / "other.safetensors", FFHQ_112, 128)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return editor_parts(tmp_path_factory.mktemp("glasses"))


def _editor(parts: dict[str, Any], glasses: Glasses | None) -> FluidEditor:
    options = easy_options(4)
    return FluidEditor(**parts, options=options, generator=torch.Generator().manual_seed(0), glasses=glasses)


def _changed(editor: FluidEditor) -> np.ndarray:
    crops = faces(3)
    assert editor.prepare(1, crops).ok
    return np.stack([np.abs(e.residual).max(2) for e in editor.edit([1, 1, 1], crops, np.ones(3, np.float32))])


@pytest.mark.parametrize("probability", [0.0, 1.0, None])
def test_an_edit_leaves_rims_to_the_source_where_glasses_are_worn(
    parts: dict[str, Any], probability: float | None
) -> None:
    changed = _changed(_editor(parts, None if probability is None else FixedGlasses(probability, ROWS)))
    assert changed[:, 34:44].max() > 1
    assert (changed[:, ROWS].max() > 1) == (probability != 1.0)


def test_a_search_does_not_count_on_the_rims(parts: dict[str, Any]) -> None:
    search = _editor(parts, FixedGlasses(1.0, ROWS)).search
    source = search.source(_editor(parts, None)._crops(faces(2)))
    values = search.space.directions(torch.randn(search.space.zero().shape)).detach()
    noise = torch.zeros(4, 8, 8)
    tried = search.apply.at(source.crops, source.landmarks, source.rims, noise, 1.0)
    edited = tried(Direction(values, noise))
    torch.testing.assert_close(edited[:, :, ROWS], source.crops[:, :, ROWS])
    assert source.rims is not None


def test_who_was_seen_with_glasses_keeps_them(parts: dict[str, Any]) -> None:
    editor = _editor(parts, FixedGlasses(0.0, ROWS))
    known = Known(editor.space.zero(), torch.zeros(4, 8, 8), None, Provenance())
    editor.store.put(1, PersonState(editor.search.direction(known), known, glasses=True))
    assert editor.prepare(1, faces(3)).ok
    state = editor.store.get(1)
    assert state is not None and state.glasses
