"""Geodesics in float64: exp(log) = id, norms kept, degenerate inputs defined, gradients finite."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fluidvid.engine.geodesic import (
    MAX_ANGLE,
    displace,
    exp_map,
    interpolate,
    log_map,
    tangent,
)


def _random(seed: int, n: int = 3) -> torch.Tensor:
    return torch.randn(n, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _norms(x: torch.Tensor) -> torch.Tensor:
    norms: torch.Tensor = x.flatten(1).norm(dim=1)
    return norms


@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 3.0))
@settings(max_examples=40, deadline=None)
def test_exp_keeps_the_norm_and_log_inverts_it(seed: int, scale: float) -> None:
    h = 5 * _random(seed)
    v = tangent(h, _random(seed + 1))
    v = v / _norms(v).reshape(-1, 1, 1, 1) * _norms(h).reshape(-1, 1, 1, 1) * min(scale, 3.0)
    moved = exp_map(h, v)
    torch.testing.assert_close(_norms(moved), _norms(h))
    torch.testing.assert_close(log_map(h, moved), v, atol=1e-9, rtol=1e-7)


def test_exp_is_the_rotation_of_the_plane() -> None:
    h, d = np.array([3.0, 0.0]), np.array([1.0, 2.0])
    angle = 0.5 * 2.0 / 3.0  # only the tangent part (0, 2) counts
    expected = 3.0 * np.array([math.cos(angle), math.sin(angle)])
    got = displace(torch.from_numpy(h).reshape(1, 2, 1, 1), torch.from_numpy(d).reshape(1, 2, 1, 1), 0.5, "geodesic")
    np.testing.assert_allclose(got.flatten().numpy(), expected, atol=1e-12)


def test_linear_is_addition_with_a_strength_per_sample() -> None:
    h, d = _random(0), _random(1, 1)
    strength = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(displace(h, d, strength), h + strength.reshape(-1, 1, 1, 1) * d)


def test_angle_is_bounded() -> None:
    h = _random(0)
    moved = displace(h, 1e6 * _random(1), 1.0, "geodesic")
    cosine = (h * moved).flatten(1).sum(1) / _norms(h) ** 2
    assert (cosine >= math.cos(MAX_ANGLE) - 1e-9).all()


def test_degenerate_inputs_are_defined() -> None:
    h = _random(0)
    zero = torch.zeros_like(h)
    torch.testing.assert_close(exp_map(h, zero), h)
    torch.testing.assert_close(log_map(h, 2 * h), zero, atol=1e-9, rtol=0)
    antipodal = log_map(h, -h)
    torch.testing.assert_close(_norms(antipodal), math.pi * _norms(h))
    torch.testing.assert_close(exp_map(h, antipodal), -h, atol=1e-9, rtol=0)
    assert torch.isfinite(displace(zero, _random(1), 1.0, "geodesic")).all()


@pytest.mark.parametrize("geometry", ["linear", "geodesic"])
def test_gradient_is_finite_and_alive_at_zero_direction(geometry: str) -> None:
    d = torch.zeros(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    (displace(_random(0), d, 1.0, geometry) * _random(5)).sum().backward()  # type: ignore[arg-type]
    assert d.grad is not None
    assert torch.isfinite(d.grad).all()
    assert d.grad.abs().max() > 1e-3


def test_interpolation_is_an_arc_without_jumps() -> None:
    a, b = _random(0, 1), 2 * _random(1, 1)
    torch.testing.assert_close(interpolate(a, b, 0.0), a)
    torch.testing.assert_close(interpolate(a, b, 1.0), b)
    path = [interpolate(a, b, k / 20) for k in range(21)]
    steps = [float((q - p).norm()) for p, q in pairwise(path)]
    assert max(steps) < 1.6 * min(steps)
    torch.testing.assert_close(_norms(path[10]), (_norms(a) + _norms(b)) / 2)
    torch.testing.assert_close(interpolate(torch.zeros_like(a), b, 0.5), b / 2)
