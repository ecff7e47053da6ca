"""Linear and tangent-based (geodesic) displacement of h, and arcs in time.

h is flattened per sample; the sphere has its radius r = |h|. Exponential map, logarithm and parallel transport on
the sphere: Absil, Mahony, Sepulchre, "Optimization Algorithms on Matrix Manifolds", ch. 5.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Geometry = Literal["linear", "geodesic"]
_TINY = 1e-12
MAX_ANGLE = math.pi / 2
"""Bound of the geodesic step, in radians: past a quarter turn h has nothing left of the source."""


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))


def _norm(a: Tensor) -> Tensor:
    return _dot(a, a).clamp_min(0).sqrt()


def tangent(point: Tensor, vector: Tensor) -> Tensor:
    """The part of `vector` that is tangent to the sphere at `point`; both `(N, ...)`. Zero where the point is zero."""
    return vector - _dot(point, vector) / _dot(point, point).clamp_min(_TINY) * point


def exp_map(point: Tensor, velocity: Tensor, max_angle: float = math.pi) -> Tensor:
    """Follow the great circle from `point` along tangent `velocity` for |velocity| of arc length.

    Args:
        point: `(N, ...)`, any norms r > 0.
        velocity: `(N, ...)`, tangent at `point`.
        max_angle: the angle |velocity| / r is clipped here, radians.

    Returns:
        `(N, ...)` with the norms of `point`. A zero velocity returns the point.
    """
    radius = _norm(point).clamp_min(_TINY)
    # The small constant keeps the gradient finite at zero velocity, where sin(a) / a = 1.
    angle = (_dot(velocity, velocity) / radius**2 + 1e-20).sqrt()
    bounded = angle.clamp_max(max_angle)
    return torch.cos(bounded) * point + torch.sin(bounded) / angle * velocity


def log_map(point: Tensor, target: Tensor) -> Tensor:
    """Tangent velocity at `point` that `exp_map` carries to `target` scaled to |point|.

    Equal directions give zero. Antipodal ones have no unique arc: a fixed orthogonal direction is used, of length pi r.

    Args:
        point: `(N, ...)`, any norms r > 0.
        target: `(N, ...)`, any norms.

    Returns:
        `(N, ...)`.
    """
    radius = _norm(point)
    goal = target / _norm(target).clamp_min(_TINY) * radius
    # The angle from the two chords is accurate near 0 and near pi, where acos is not (Kahan).
    angle = 2 * torch.atan2(_norm(goal - point), _norm(goal + point))
    v = tangent(point, goal)
    length = _norm(v)
    flat = point.flatten(1)
    axis = torch.zeros_like(flat).scatter_(1, flat.abs().argmin(1, keepdim=True), 1.0).reshape(point.shape)
    fallback = tangent(point, axis)
    unit = torch.where(length > 1e-6 * radius, v / length.clamp_min(_TINY), fallback / _norm(fallback).clamp_min(_TINY))
    return angle * radius * unit


def displace(h: Tensor, direction: Tensor, strength: Tensor | float = 1.0, geometry: Geometry = "linear") -> Tensor:
    """Move h along an identity direction.

    Args:
        h: `(N, C, h, w)` bottleneck activations.
        direction: `(N | 1, C, h, w)` displacement in the units of h.
        strength: scalar or `(N,)`, 0 = unchanged, 1 = the optimised step.
        geometry: "linear": h + s D. "geodesic": the tangent part of D at h through the exponential map, |h| kept.

    Returns:
        `(N, C, h, w)`.
    """
    s = torch.as_tensor(strength, dtype=h.dtype, device=h.device).reshape(-1, *[1] * (h.ndim - 1))
    direction = direction.expand(h.shape)
    if geometry == "linear":
        return h + s * direction
    return exp_map(h, s * tangent(h, direction), MAX_ANGLE)


def interpolate(old: Tensor, new: Tensor, fraction: float) -> Tensor:
    """Spherical interpolation between two directions of any norms, `(N, ...)`; norms change linearly.

    `fraction` 0 gives `old`, 1 gives `new`. Where one of them is zero the path is the straight one.
    """
    a, b = _norm(old), _norm(new)
    arc = exp_map(old, fraction * log_map(old, new)) / a.clamp_min(_TINY)
    linear = (1 - fraction) * old + fraction * new
    return torch.where((a > _TINY) & (b > _TINY), arc * ((1 - fraction) * a + fraction * b), linear)
