"""Networks run by onnxruntime say what the engine's differentiable ones say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fluidvid.audit import Auditor
from fluidvid.audit.run import beside
from fluidvid.engine.build import load_recogniser
from fluidvid.engine.crops import to_crops
from fluidvid.engine.face_networks import AttributeNetworks
from fluidvid.errors import ModelError
from fluidvid.geometry import FFHQ_112


@pytest.fixture(scope="module")
def crops() -> torch.Tensor:
    return to_crops(np.random.default_rng(0).integers(0, 255, (2, 128, 128, 3)).astype(np.uint8))


def test_recognisers_agree(auditor: Auditor, crops: torch.Tensor) -> None:
    for fast in auditor.panel.recognisers:
        plain = load_recogniser(fast.name, auditor.models.resolve, FFHQ_112)
        with torch.inference_mode():
            assert torch.allclose(fast(crops), plain(crops), atol=1e-4), fast.name
        assert type(fast.net) is not type(plain.net)


def test_attributes_agree(auditor: Auditor, crops: torch.Tensor) -> None:
    landmark68, expression, age = (auditor.models.resolve(n) for n in ("landmark68", "expression", "age_gender"))
    with torch.inference_mode():
        plain = AttributeNetworks(landmark68, expression, age, None, FFHQ_112)(crops, mesh=False)
        fast = auditor.panel.attributes(crops, mesh=False)
    assert torch.allclose(fast.landmarks, plain.landmarks, atol=1e-4)
    assert torch.allclose(fast.expression, plain.expression, atol=1e-4)
    assert torch.allclose(fast.age, plain.age, atol=1e-2) and torch.allclose(fast.male, plain.male, atol=1e-4)


def test_galleries_beside_recognisers(tmp_path: Path) -> None:
    np.save(tmp_path / "edgeface_xs.gallery.npy", np.array([[3.0, 4.0], [0.0, 2.0]], np.float16))
    found = beside(tmp_path, ["edgeface_xs", "mobilefacenet_ms1m"])
    assert list(found) == ["edgeface_xs"] and np.allclose(found["edgeface_xs"], [[0.6, 0.8], [0.0, 1.0]], atol=1e-3)
    assert beside(None, ["edgeface_xs"]) == {}
    np.save(tmp_path / "edgeface_xs.gallery.npy", np.zeros(3, np.float16))
    with pytest.raises(ModelError, match="no table"):
        beside(tmp_path, ["edgeface_xs"])
    (tmp_path / "edgeface_xs.gallery.npy").write_text("text")
    with pytest.raises(ModelError, match="unreadable"):
        beside(tmp_path, ["edgeface_xs"])
