"""Figures of a prior: each on cases where the answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fluidvid.engine.crops import to_crops
from fluidvid.prior.evaluation import denoising, frechet_distance, one_face_share, round_trip, table
from fluidvid.trackers.types import Detection
from tests.engine.tiny import faces, tiny_backbone, tiny_recogniser


def test_the_frechet_distance_of_known_gaussians() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(0, 1, (4000, 3))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + np.array([2.0, 0, 0])) == pytest.approx(4, abs=1e-6)
    # Standard deviations 1 and 3 in each of three dimensions: 3 (3 - 1)^2.
    assert frechet_distance(a, 3 * a) == pytest.approx(12, rel=0.1)


def test_only_exactly_one_sure_face_counts() -> None:
    pictures = np.zeros((4, 32, 32, 3), np.uint8)
    pictures[:, :, :, 0] = np.arange(4)[:, None, None]
    shapes = set()

    def detect(picture: NDArray[np.uint8]) -> Sequence[Detection]:
        shapes.add(picture.shape)
        number = int(picture[32, 32, 0])
        scores = {0: [], 1: [0.9], 2: [0.9, 0.9], 3: [0.9, 0.3]}[number]
        return [Detection(np.zeros(4, np.float32), s, np.zeros((5, 2), np.float32)) for s in scores]

    assert one_face_share(pictures, detect) == 0.5
    assert shapes == {(64, 64, 3)}


def test_a_first_stage_is_judged_by_its_round_trip(tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path)
    crops, judge = to_crops(faces(5)), tiny_recogniser(tmp_path)
    figures = round_trip(backbone, crops, [judge])
    with torch.inference_mode():
        error = (backbone.decode(backbone.encode(crops)) - crops).pow(2).mean()
    assert figures["autoencoder_db"] == pytest.approx(float(10 * torch.log10(4 / error)), rel=1e-4)
    assert figures["autoencoder_cosine_tiny"] < 1


def test_denoising_is_measured_at_four_levels_two_ways(tmp_path: Path) -> None:
    figures = denoising(tiny_backbone(tmp_path), to_crops(faces(5)))
    assert set(figures) == {f"denoising_{t}{s}" for t in (100, 300, 500, 700) for s in ("", "_without_skips")}


def test_the_table_names_every_figure() -> None:
    text = table({"prior": "p", "faces": 3, "samples": 2, "autoencoder_db": 31.0, "denoising_300_without_skips": 0.5})
    assert "p: 3 faces, 2 samples" in text
    assert "| first stage: PSNR of the round trip, dB | 31.0000 |" in text
    assert "| denoising error, t = 300 without skips | 0.5000 |" in text
