"""Measures of change on pictures whose change is known."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fluidvid.audit.attacks import deconvolved
from fluidvid.audit.pictures import LARGEST_PSNR, encoding, face_change, luma, outside, psnr, untouched, warp_errors
from tests.fluidvid.audit.media import pictures_of

BOX = np.array([58, 36, 107, 98], np.float32)


@pytest.fixture(scope="module")
def pictures(clip: Path) -> list[NDArray[np.float32]]:
    return [luma(p) for p in pictures_of(clip, 2)]


def test_psnr() -> None:
    a = np.zeros((4, 4), np.float32)
    assert psnr(a, a) == LARGEST_PSNR
    assert psnr(a, a + 25.5) == pytest.approx(20.0)
    assert math.isnan(psnr(a[:0], a[:0]))


def test_change_of_a_face(pictures: list[NDArray[np.float32]]) -> None:
    here = pictures[0]
    same = face_change(here, here, BOX)
    assert same[0] == LARGEST_PSNR and same[1] == pytest.approx(1.0, abs=1e-5)
    assert untouched(*same, around=LARGEST_PSNR)
    grey = here.copy()
    grey[30:110, 50:120] = 128
    masked = face_change(here, grey, BOX)
    assert masked[1] == 0 and not untouched(*masked, around=40)
    smooth = face_change(here, cv2.GaussianBlur(here, (0, 0), 6).astype(np.float32), BOX)
    assert smooth[1] < 0.6 and not untouched(*smooth, around=40)
    assert all(math.isnan(v) for v in face_change(here, here, np.array([-50, -50, -10, -10])))


def test_a_hard_encode_is_still_the_source(pictures: list[NDArray[np.float32]]) -> None:
    noisy = pictures[0] + np.random.default_rng(0).normal(0, 10, pictures[0].shape).astype(np.float32)
    around = outside(pictures[0], noisy, [BOX])
    inside, detail = face_change(pictures[0], noisy, BOX)
    assert 26 < around < 30 and untouched(inside, detail, around)


def test_a_mask_beside_the_face_is_no_encoding(pictures: list[NDArray[np.float32]]) -> None:
    small = [np.array([80, 60, 100, 84], np.float32)]
    noisy = pictures[0] + np.random.default_rng(0).normal(0, 3, pictures[0].shape).astype(np.float32)
    plain = encoding(pictures[0], noisy, small)
    assert abs(plain - outside(pictures[0], noisy, small)) < 1
    noisy[96:144, :48] = 255 - noisy[96:144, :48].mean()  # a false alarm's
    assert outside(pictures[0], noisy, small) < plain - 3
    assert abs(encoding(pictures[0], noisy, small) - plain) < 1
    assert math.isnan(encoding(pictures[0], noisy, [np.array([0, 0, 176, 144], np.float32)]))


def test_outside_ignores_the_face(pictures: list[NDArray[np.float32]]) -> None:
    masked = pictures[0].copy()
    masked[36:98, 58:107] = 0
    assert outside(pictures[0], masked, [BOX]) == LARGEST_PSNR
    assert outside(pictures[0], masked, []) < 30
    assert math.isnan(outside(pictures[0], masked, [np.array([0, 0, 176, 144], np.float32)]))


def test_warp_error_sees_flicker(pictures: list[NDArray[np.float32]]) -> None:
    a, b = pictures
    ours, theirs = warp_errors((a, a), (b, b), BOX)
    assert ours == theirs < 6
    _, brighter = warp_errors((a, a), (b, b + 20), BOX)
    assert brighter > theirs + 10
    assert all(math.isnan(v) for v in warp_errors((a, a), (b, b), np.array([0, 0, 5, 5])))


def test_deconvolution_brings_detail_back(clip: Path) -> None:
    face = pictures_of(clip, 1)[0][30:110, 45:125]
    crop = np.asarray(cv2.resize(face, (128, 128), interpolation=cv2.INTER_CUBIC), np.uint8)
    soft = np.asarray(cv2.GaussianBlur(crop, (0, 0), 3.0), np.uint8)
    sharp = deconvolved(soft, 3.0)
    assert psnr(luma(sharp), luma(crop)) > psnr(luma(soft), luma(crop)) + 1
