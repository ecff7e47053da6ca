"""A crop is readable where two landmarkers agree; what cannot be read is not searched on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fluidvid.engine.editor import UNREADABLE, FluidEditor
from fluidvid.engine.face_networks import AttributeNetworks
from fluidvid.engine.readable import beside, disagreement, readable, turned
from fluidvid.engine.search import Source
from tests.engine.tiny import easy_options, editor_parts, face68, face_mesh, faces, tiny_attributes


def test_disagreement_is_in_eye_distances_whatever_the_faces_size() -> None:
    points, mesh = (torch.from_numpy(p[None]).float() for p in (face68(), face_mesh()))
    assert float(disagreement(points, mesh)) == pytest.approx(0, abs=1e-6)
    between = float((points[:, 36:42].mean(1) - points[:, 42:48].mean(1)).norm())
    aside = torch.tensor([0.3 * between, 0.0])
    assert float(disagreement(points, mesh + aside)) == pytest.approx(0.3, rel=1e-4)
    assert float(disagreement(points / 3, (mesh + aside) / 3)) == pytest.approx(0.3, rel=1e-4)


def test_how_far_a_head_is_turned_is_in_jaw_widths_whatever_its_size_and_tilt() -> None:
    ahead = torch.from_numpy(face68()).float()
    aside, gone = ahead.clone(), torch.full((68, 2), torch.nan)
    aside[30, 0] -= 0.12  # the jaw is .6 wide
    angle = torch.tensor(0.4)
    tilt = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).reshape(2, 2)
    points = torch.stack([ahead, aside, 0.3 * aside @ tilt, gone])
    assert turned(points).tolist() == pytest.approx([0, 0.2, 0.2, float("nan")], abs=1e-5, nan_ok=True)


def test_a_face_beside_its_turned_head_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = tiny_attributes(tmp_path)
    ahead = torch.from_numpy(face68()).float()
    aside = ahead.clone()
    aside[30, 0] += 0.12
    gone = torch.full((68, 2), torch.nan)
    eyes = 0.276
    before = torch.stack([ahead, aside, aside, gone, aside])
    after = torch.stack([ahead + 0.3 * eyes, aside + 0.05 * eyes, aside + 0.15 * eyes, aside, gone])
    asked: list[int] = []

    def landmarks(crops: torch.Tensor) -> torch.Tensor:
        asked.append(len(crops))
        return after[1:]

    monkeypatch.setattr(attributes, "landmarks", landmarks)
    found = beside(attributes, before, torch.zeros(5, 3, 64, 64))
    assert found.tolist() == [False, False, True, True, True] and asked == [4]
    assert beside(attributes, before[:1], torch.zeros(1, 3, 64, 64)).tolist() == [False] and asked == [4]


def _blind(monkeypatch: pytest.MonkeyPatch, attributes: AttributeNetworks) -> None:
    """The mesh is placed wrongly on dark crops."""
    mesh = attributes.mesh

    def wrong(crops: torch.Tensor) -> torch.Tensor:
        dark = (crops.mean((1, 2, 3)) < -0.9).float().reshape(-1, 1, 1)
        return mesh(crops) + 0.2 * dark

    monkeypatch.setattr(attributes, "mesh", wrong)


def test_the_face_that_both_landmarkers_see_is_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = tiny_attributes(tmp_path)
    crops = torch.zeros(3, 3, 64, 64)
    crops[1] = -1
    landmarks = attributes.landmarks(crops)
    assert readable(attributes, crops, landmarks).tolist() == [True, True, True]
    _blind(monkeypatch, attributes)
    assert readable(attributes, crops, landmarks).tolist() == [True, False, True]
    monkeypatch.setattr(attributes, "mesh468", None)  # without a second landmarker nobody can tell
    assert readable(attributes, crops, landmarks).tolist() == [True, True, True]


def test_what_cannot_be_read_is_left_out_and_where_most_cannot_nothing_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = editor_parts(tmp_path)
    _blind(monkeypatch, parts["attributes"])
    editor = FluidEditor(**parts, options=easy_options(25), generator=torch.Generator().manual_seed(0))
    crops = faces(5)
    crops[[0, 3]] = 0
    seen: list[int] = []
    find = editor.search.find

    def counted(source: Source, *rest: Any) -> Any:
        seen.append(len(source.crops))
        return find(source, *rest)

    monkeypatch.setattr(editor.search, "find", counted)
    found = editor.prepare(1, crops, frames=[4, 5, 6, 7, 8])
    assert found.ok and seen == [3]
    state = editor.store.get(1)
    assert state is not None and state.known.provenance.frames == (5, 6, 8)
    crops[1] = 0
    hidden = editor.prepare(2, crops)
    assert not hidden.ok and hidden.reason == UNREADABLE
    assert hidden.figures["readable"] == pytest.approx(0.4)
    assert seen == [3] and editor.store.get(2) is None
    assert not editor.edit([2], crops[2:3], np.ones(1, np.float32))[0].ok
