"""Poses of untrusted origin: rigid motions, in float64, with a word on what looks wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from autoint.files import reading

EXACT, NEARLY = 1e-4, 1e-2
"""Largest entries of |RRᵀ − I| that rounding explains, and that the nearest rotation mends."""
FORM = "give a 4x4 camera-to-world matrix"


def poses_of(frames: Sequence[dict[str, Any]], file: Any) -> Tensor:
    """Return the camera-to-world matrices (V, 4, 4) of the frames of a transforms file, checked and in float32."""
    places = [frame.get("where", f"{file}: frames[{i}]") for i, frame in enumerate(frames)]
    where = [f"{place}.transform_matrix" for place in places]
    matrices = reading.gathered(lambda i: _matrix(frames[i], where[i]), range(len(frames)))
    return rigid(matrices, where).float()


def _matrix(frame: dict[str, Any], where: str) -> Tensor:
    if "transform_matrix" not in frame:
        raise ValueError(f"{where} is missing; {FORM}")
    rows = frame["transform_matrix"]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) for row in rows):
        raise ValueError(f"{where} is not a matrix of numbers; {FORM}")
    lengths = [len(row) for row in rows]
    if len(set(lengths)) > 1:
        raise ValueError(f"{where} is not a matrix of numbers, its rows have {lengths} of them; {FORM}")
    if len(rows) not in (3, 4) or lengths[0] != 4:
        raise ValueError(f"{where} has shape ({len(rows)}, {lengths[0]}); {FORM}")
    for r, row in enumerate(rows):
        for c, value in enumerate(row):
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise ValueError(f"{where}[{r}][{c}]={value!r:.80}: not a matrix of numbers; {FORM}")
    return torch.tensor([[float(v) for v in row] for row in [*rows, [0, 0, 0, 1]][:4]], dtype=torch.float64)


def rigid(matrices: Sequence[Tensor], where: Sequence[str]) -> Tensor:
    """Return matrices, each (4, 4), as rigid motions (V, 4, 4) in float64.

    Rotations that are off by more than rounding are replaced by the nearest ones, which is said; more is refused.
    Poses that stand there twice are named.
    """
    poses = torch.stack([matrix.double() for matrix in matrices])
    reading.gathered(lambda i: _check(poses[i], where[i]), (~_good(poses)).nonzero().flatten().tolist())
    gaps = _gaps(poses)
    off = gaps > EXACT
    if off.any():
        worst = int(gaps.argmax())
        reading.warn(
            f"{where[worst]}: |RRᵀ−I| up to {float(gaps[worst]):.2g}, more than rounding, as in {int(off.sum())} of "
            f"{len(poses)} poses; the nearest rotations are taken"
        )
        u, _, vh = torch.linalg.svd(poses[off, :3, :3])
        poses[off, :3, :3] = u @ vh
    warn_of_twins(poses, where)
    return poses


def _gaps(poses: Tensor) -> Tensor:
    rotations = poses[..., :3, :3]
    return (rotations @ rotations.mT - torch.eye(3, dtype=poses.dtype)).abs().amax((-2, -1))


def _good(poses: Tensor) -> Tensor:
    """Whether nothing is wrong with poses (V, 4, 4), all at once: one by one, many thousands take minutes; (V,)."""
    last = (poses[:, 3] - torch.tensor([0.0, 0.0, 0.0, 1.0])).abs().amax(-1) <= 1e-6
    small = (poses.abs() < 1e12).all(-1).all(-1)
    rotations = torch.where(small[:, None, None], poses[:, :3, :3], 0)
    return small & last & (torch.linalg.det(rotations) >= 0) & (_gaps(rotations) <= NEARLY)


def _check(pose: Tensor, where: str) -> None:
    """Refuse what is no rigid motion (4, 4), saying why."""
    if not (pose.abs() < 1e12).all():
        r, c = (~(pose.abs() < 1e12)).nonzero()[0].tolist()
        raise ValueError(f"{where}[{r}][{c}]={float(pose[r, c])}: NaN or infinity or beyond all sizes; {FORM}")
    gap, det = float(_gaps(pose)), float(torch.linalg.det(pose[:3, :3]))
    if det < 0:
        raise ValueError(f"{where}: not a rotation, but mirrored (its determinant is {det:.3g}); negate one axis")
    if gap > NEARLY:
        scale = det ** (1 / 3)
        scaled = torch.cat([pose[:, :3] / max(scale, 1e-30), pose[:, 3:]], dim=1)
        if float(_gaps(scaled)) <= NEARLY:
            raise ValueError(f"{where}: not a rotation, it contains the scale {scale:.4g}; divide the rotation by it")
        raise ValueError(f"{where}: not a rotation (|RRᵀ−I| up to {gap:.2g}, determinant {det:.2g}); restore the pose")
    if float((pose[3] - torch.tensor([0.0, 0.0, 0.0, 1.0])).abs().max()) > 1e-6:
        raise ValueError(f"{where}: its last row is {pose[3].tolist()}; it must be 0, 0, 0, 1")


def warn_of_twins(poses: Tensor, where: Sequence[str], others: Tensor | None = None, whose: str = "") -> None:
    """Warn of poses that stand among themselves twice, or, where they are given, also among ``others``."""
    known: dict[bytes, str] = {}
    if others is not None:
        known = {key: f"pose {i} of {whose}" for i, key in enumerate(_keys(others))}
    twins = []
    for key, place in zip(_keys(poses), where, strict=True):
        if key in known:
            twins.append(f"{place} is the same pose as {known[key]}")
        elif others is None:
            known[key] = place
    if twins:
        more = f", and {len(twins) - 3} more" if len(twins) > 3 else ""
        seen = "" if others is None else ", so that what is tested was seen in training"
        reading.warn(f"{'; '.join(twins[:3])}{more}{seen}; check the file")


def _keys(poses: Tensor) -> list[bytes]:
    rounded = ((poses[:, :3].double() * 1e6).round() + 0.0).flatten(1).numpy()  # + 0 makes −0 a 0
    return [row.tobytes() for row in rounded]
