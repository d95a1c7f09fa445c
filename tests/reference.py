"""Slow, obvious twins of what the library does fast."""

import math

import torch


def derivative(field, x, tangent):
    """∂field/∂x · tangent, one point and one output at a time, by reverse-mode autograd."""
    rows = []
    for point, direction in zip(x, tangent.expand_as(x), strict=True):
        y = point.clone() if point.requires_grad else point.clone().requires_grad_()
        rows.append(torch.stack([(slope(value, y) * direction).sum() for value in field(y[None])[0]]))
    return torch.stack(rows)


def slope(value, y):
    """The gradient of one number, which is zero where it does not depend on y."""
    if not value.requires_grad:
        return torch.zeros_like(y)
    return torch.autograd.grad(value, y, create_graph=True, materialize_grads=True)[0]


def composite(density, rgb, edges, background):
    """One ray, eq. 16 and 17 as they are printed: density (N,), rgb (N, 3), edges (N+1,)."""
    color, passed, acc = [0.0, 0.0, 0.0], 0.0, 0.0
    for i in range(len(density)):
        thickness = float(density[i]) * float(edges[i + 1] - edges[i])
        weight = math.exp(-passed) * (1 - math.exp(-thickness))
        color = [c + weight * float(k) for c, k in zip(color, rgb[i], strict=True)]
        acc += weight
        passed += thickness
    return [c + (1 - acc) * float(b) for c, b in zip(color, background, strict=True)], acc


def mean_over(field, left, right, nodes=64):
    """The mean of ``field(t)`` over [left, right] by Gauss-Legendre."""
    import numpy as np

    x, w = np.polynomial.legendre.leggauss(nodes)
    t = torch.as_tensor((x + 1) / 2) * (right - left) + left
    return (field(t) * torch.as_tensor(w / 2)[:, None]).sum(0)


def rays_hitting(lower, upper, origin, direction, near, far, steps=20001):
    """The part of [near, far] inside a box, found by walking."""
    t = torch.linspace(near, far, steps, dtype=torch.float64)
    points = origin + t[:, None] * direction
    inside = ((points >= lower) & (points <= upper)).all(-1)
    return (float(t[inside][0]), float(t[inside][-1])) if inside.any() else None
