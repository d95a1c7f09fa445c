"""From a shape to what a network is trained on, in a cube of side 2 about the origin."""

from __future__ import annotations

import functools

import numpy as np
import torch
from scipy.spatial import cKDTree

from autoint.surfaces import cleaning, orienting
from autoint.surfaces.losses import REACH, Samples
from autoint.surfaces.shapes import AbstractShape

NEIGHBOURS = 50
PART = 20_000
"""Points whose neighbours are looked for; others look around as far as the nearest of these."""
MOST_DISAGREEMENT, MOST_MIXED = 0.1, 0.01
"""Of normals of neighbours: of given ones, and of estimated ones, of which more disagree where sheets touch."""
ESTIMATED = 0.2
"""How much estimated normals weigh at first."""
NEAR = 0.1
POOL = 2**18
"""Points that are labelled inside or outside."""


def on_surface(shape: AbstractShape, count: int | None, normals: bool, noise: float, seed: int) -> Samples:
    """Return points on a shape, in units of half its cube's side.

    Normals that are not given, or not wanted, are estimated; and so are their signs where they mean nothing.

    Args:
        shape: what is sampled.
        count: of the points; None takes all of a cloud, and 10,000 of others.
        normals: whether to take normals, where there are some.
        noise: standard deviation of the points' error, as a share of the cube's side.
        seed: of the choice.
    """
    points, slopes = shape.sample(count, seed)
    x = (points - shape.center) / shape.half
    if noise:
        x = x + 2 * noise * np.random.default_rng([seed, 1]).standard_normal(x.shape)
    part = x if len(x) <= PART else x[np.random.default_rng(seed).choice(len(x), PART, replace=False)]
    near = cKDTree(part)
    spread = near.query(part, k=[min(NEIGHBOURS, len(part) - 1) + 1])[0]
    if part is not x:
        spread = spread[near.query(x)[1]]
    known, trust, oriented = slopes if normals else None, 1.0, True
    if known is None or cleaning.disagreement(x, known) >= MOST_DISAGREEMENT:
        estimated = orienting.outward(x, seed)
        if cleaning.disagreement(x, estimated) >= MOST_MIXED:
            oriented = known is None
        elif known is None:
            known, trust = estimated, ESTIMATED
        else:
            known = known * np.where((known * estimated).sum(1, keepdims=True) < 0, -1.0, 1.0)
    row = functools.partial(torch.as_tensor, dtype=torch.float32)
    return Samples(row(x), None if known is None else row(known), row(spread), oriented=oriented, trust=trust)


def labelled(shape: AbstractShape, seed: int) -> Samples:
    """Return points inside and outside of a closed shape: a half anywhere, a half near its surface."""
    rng = np.random.default_rng([seed, 2])
    near, _ = shape.sample(POOL // 2, seed)
    near = (near - shape.center) / shape.half + NEAR * rng.standard_normal((len(near), 3)) * rng.random((len(near), 1))
    x = np.concatenate([near, REACH * (2 * rng.random((POOL // 2, 3)) - 1)])
    inside = shape.inside(x * shape.half + shape.center)
    assert inside is not None
    return Samples(torch.as_tensor(x, dtype=torch.float32), None, None, torch.as_tensor(inside.astype(np.float32)))
