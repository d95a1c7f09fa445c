"""Writers of tiny scenes in other people's formats: the embedded solids, seen through known cameras."""

import dataclasses
import json
import math
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from autoint.scenes.data.procedural import orbit, solids
from autoint.scenes.rays import Rays

STRAIGHT = (0.0, 0.0, 0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera of the writer's own: focal lengths, principal point, size, and k1, k2, k3, p1, p2."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    lens: tuple[float, ...] = STRAIGHT

    def bend(self, x, y):
        """The forward model of the lens: pinhole position → position on the sensor, at depth 1, y down."""
        k1, k2, k3, p1, p2 = self.lens
        r2 = x**2 + y**2
        radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
        return (
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2),
            y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y,
        )

    def looks(self):
        """Unit directions (H, W, 3) in the camera's frame, +y up, along −z, by plain fixed-point iteration."""
        column, row = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        goal = np.stack([(column - self.cx) / self.fx, (row - self.cy) / self.fy])
        at = goal.copy()
        for _ in range(300):
            at += goal - np.stack(self.bend(*at))
        assert np.abs(goal - np.stack(self.bend(*at))).max() < 1e-13
        looks = np.stack([at[0], -at[1], -np.ones_like(at[0])], axis=-1)
        return looks / np.linalg.norm(looks, axis=-1, keepdims=True)

    def rays(self, pose: torch.Tensor, looks=None) -> Rays:
        """The rays of a whole image (H·W,), in float64."""
        looks = torch.from_numpy(self.looks() if looks is None else looks).reshape(-1, 3)
        directions = looks @ pose[:3, :3].double().T
        origins = pose[:3, 3].double().expand_as(directions)
        return Rays(origins, directions, *torch.tensor([2.0, 6.5]).double()[:, None].expand(2, len(looks)))


def picture(camera: Camera, pose: torch.Tensor, looks, alpha: bool) -> np.ndarray:
    """What the camera sees, exactly: straight RGBA, or RGB before white, in [0, 1]."""
    scene = solids(0, 5)
    scene = type(scene)(*(getattr(scene, f.name).double() for f in dataclasses.fields(scene)))
    rays = camera.rays(pose, looks)
    acc, rgb = scene.render(rays, torch.zeros(3).double() if alpha else torch.ones(3).double())
    if alpha:
        rgb = torch.cat([rgb / acc.clamp_min(1e-9)[:, None], acc[:, None]], dim=-1)
    return rgb.reshape(camera.height, camera.width, -1).clamp(0, 1).numpy()


def save(file: Path, image: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    options = {"quality": 97, "subsampling": 0} if file.suffix.lower() == ".jpg" else {}
    Image.fromarray(np.round(image * 255).astype(np.uint8)).save(file, **options)


def facing(count: int) -> torch.Tensor:
    """Poses (count, 4, 4) on a plane at z = 4, that look at the origin, nearly."""
    poses = torch.eye(4).repeat(count, 1, 1)
    for i in range(count):
        turn = i * math.pi * (3 - math.sqrt(5))
        place = torch.tensor([math.cos(turn), math.sin(turn)]) * 0.7 * math.sqrt((i + 0.5) / count)
        back = torch.nn.functional.normalize(torch.tensor([*(0.9 * place), 4.0]), dim=0)
        right = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]), back), dim=0)
        up = torch.linalg.cross(back, right)
        poses[i, :3] = torch.stack([right, up, back, torch.tensor([*place, 4.0])], dim=-1)
    return poses


def write_blender(folder: Path, camera: Camera) -> dict[str, torch.Tensor]:
    """Write RGBA views with a suffix or without, and return the poses of every split."""
    looks, poses = camera.looks(), {"train": orbit(30, 0.0), "val": orbit(2, 1.0), "test": orbit(3, 2.0)}
    for split, of_split in poses.items():
        frames = []
        for i, pose in enumerate(of_split):
            save(folder / split / f"r_{i}.png", picture(camera, pose, looks, alpha=True))
            frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": pose.tolist()})
        contents = {"camera_angle_x": 2 * math.atan(0.5 * camera.width / camera.fx), "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(contents))
    return poses


def write_llff(folder: Path, camera: Camera, poses: torch.Tensor, bounds=(2.8, 5.5)) -> None:
    """Write opaque views in ``images`` (twice the size) and ``images_2``, and poses_bounds.npy."""
    looks, rows = camera.looks(), []
    for i, pose in enumerate(poses):
        image = picture(camera, pose, looks, alpha=False)
        save(folder / "images_2" / f"IMG_{i:03d}.png", image)
        save(folder / "images" / f"IMG_{i:03d}.JPG", image.repeat(2, axis=0).repeat(2, axis=1))
        right, up, back, place = pose[:3].numpy().T
        hwf = np.array([2 * camera.height, 2 * camera.width, 2 * camera.fx])
        rows.append([*np.stack([-up, right, back, place, hwf], axis=1).flatten(), *bounds])
    np.save(folder / "poses_bounds.npy", np.array(rows, dtype=np.float64))


def write_deepvoxels(folder: Path, camera: Camera, poses: torch.Tensor) -> None:
    """Write opaque views with OpenCV's poses, all in one folder."""
    looks = camera.looks()
    (folder / "pose").mkdir(parents=True)
    for i, pose in enumerate(poses):
        save(folder / "rgb" / f"{i:06d}.png", picture(camera, pose, looks, alpha=False))
        numbers = pose.numpy() * np.array([1, -1, -1, 1])
        (folder / "pose" / f"{i:06d}.txt").write_text(" ".join(f"{n:.9f}" for n in numbers.flatten()))
    lines = [
        f"{camera.fx} {camera.cx} {camera.cy} 0.",
        "0. 0. 0.",
        "0.",
        "1.",
        f"{camera.height:.1f} {camera.width:.1f}",
    ]
    (folder / "intrinsics.txt").write_text("\n".join(lines) + "\n")


def write_transforms(folder: Path, cameras: list[Camera], poses: torch.Tensor, missing=()) -> None:
    """Write JPEGs through lenses, the first camera at the top of transforms.json, the others in their frames."""
    looks, frames = [camera.looks() for camera in cameras], []
    for i, pose in enumerate(poses):
        which = i % len(cameras)
        name = f"images/frame_{i:05d}.jpg"
        if i not in missing:
            save(folder / name, picture(cameras[which], pose, looks[which], alpha=False))
        own = {} if which == 0 else keys_of(cameras[which])
        frames.append({"file_path": name, "transform_matrix": pose.tolist(), **own})
    contents = {**keys_of(cameras[0]), "camera_model": "OPENCV", "aabb_scale": 1, "frames": frames[::-1]}
    (folder / "transforms.json").write_text(json.dumps(contents))


def keys_of(camera: Camera) -> dict[str, float]:
    """A camera as transforms.json writes it, for images of twice the size."""
    keys = {"fl_x": camera.fx, "fl_y": camera.fy, "cx": camera.cx, "cy": camera.cy}
    size = {"w": 2 * camera.width, "h": 2 * camera.height}
    return (
        {k: 2 * v for k, v in keys.items()} | size | dict(zip(("k1", "k2", "k3", "p1", "p2"), camera.lens, strict=True))
    )


def texture(seed: int, size: int = 256) -> np.ndarray:
    """Colours (size, size, 3) with detail at every scale, for what photos are matched by."""
    rng = np.random.default_rng(seed)
    out = np.zeros((size, size, 3))
    for octave in (4, 8, 16, 32, 64):
        grid = Image.fromarray(rng.integers(0, 256, (octave, octave, 3), dtype=np.uint8))
        out += np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC), dtype=float) / 255
    out -= out.min()
    return out / out.max()


def table_top(camera: Camera, pose: torch.Tensor, looks, textures) -> np.ndarray:
    """What the camera sees of a textured box, [−½, ½]³, on a textured disc of radius 1.4 before grey: (H, W, 3)."""
    rays = camera.rays(pose, looks)
    origins, directions = rays.origins.numpy(), rays.directions.numpy()
    color, nearest = np.full((len(origins), 3), 0.8), np.full(len(origins), np.inf)
    for axis, side, skin in [
        *((a, s, textures[2 * a + (s > 0)]) for a in range(3) for s in (-0.5, 0.5)),
        (2, -0.5001, textures[6]),
    ]:
        others = [a for a in range(3) if a != axis]
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (side - origins[:, axis]) / directions[:, axis]
            at = origins + t[:, None] * directions
        u, v = at[:, others[0]], at[:, others[1]]
        disc = side < -0.5
        inside = (u**2 + v**2 < 1.4**2) if disc else (np.abs(u) <= 0.5) & (np.abs(v) <= 0.5)
        front = inside & (t > 0) & (t < nearest)
        reach = 1.4 if disc else 0.5
        row, column = (np.clip((w / (2 * reach) + 0.5) * len(skin), 0, len(skin) - 1.001) for w in (u[front], v[front]))
        r, c = row.astype(int), column.astype(int)
        fr, fc = (row - r)[:, None], (column - c)[:, None]
        rows = [skin[r + i, c] * (1 - fc) + skin[r + i, c + 1] * fc for i in (0, 1)]
        color[front] = rows[0] * (1 - fr) + rows[1] * fr
        nearest[front] = t[front]
    return color.reshape(camera.height, camera.width, 3)


def around(count: int, distance: float = 3.2) -> torch.Tensor:
    """Poses (count, 4, 4) on two rings around the origin, from above."""
    from autoint.scenes.camera_paths import look_at

    turn = 2 * math.pi * torch.arange(count, dtype=torch.float64) / count
    up = torch.where(torch.arange(count) % 2 == 0, 0.35, 0.75).double()
    out = torch.stack([up.cos() * turn.cos(), up.cos() * turn.sin(), up.sin()], dim=-1)
    return look_at(distance * out, torch.zeros(3).double(), torch.tensor([0.0, 0.0, 1.0]).double()).float()


def write_photos(folder: Path, camera: Camera, poses: torch.Tensor) -> None:
    """Write photos of the table top as JPEGs, each pixel the mean of four rays, and nothing else."""
    double = Camera(
        2 * camera.fx, 2 * camera.fy, 2 * camera.cx, 2 * camera.cy, 2 * camera.width, 2 * camera.height, camera.lens
    )
    looks, textures = double.looks(), [texture(seed) for seed in range(7)]
    for i, pose in enumerate(poses):
        image = table_top(double, pose, looks, textures)
        image = image.reshape(camera.height, 2, camera.width, 2, 3).mean((1, 3))
        save(folder / f"IMG_{i:03d}.jpg", image)


def write_colmap(folder: Path, cameras: list[Camera], poses: torch.Tensor, form: str, points: np.ndarray) -> None:
    """Write PNGs of the embedded solids, in ``images`` at twice the size and in ``images_2``, and a COLMAP model.

    Cameras are OPENCV's, in turn; each point is seen by the first three images.
    """
    model, looks = folder / "sparse" / "0", [camera.looks() for camera in cameras]
    model.mkdir(parents=True)
    rows = []
    for i, pose in enumerate(poses):
        which = i % len(cameras)
        image = picture(cameras[which], pose, looks[which], alpha=False)
        save(folder / "images_2" / f"IMG_{i:03d}.png", image)
        save(folder / "images" / f"IMG_{i:03d}.png", image.repeat(2, axis=0).repeat(2, axis=1))
        turn = pose[:3, :3].double().numpy() @ np.diag([1, -1, -1])
        x, y, z, w = Rotation.from_matrix(turn.T).as_quat()
        rows.append((i + 1, (w, x, y, z, *(-turn.T @ pose[:3, 3].double().numpy())), which + 1, f"IMG_{i:03d}.png"))
    lenses = [
        (
            k + 1,
            2 * c.width,
            2 * c.height,
            (*(2 * v for v in (c.fx, c.fy, c.cx, c.cy)), *(c.lens[j] for j in (0, 1, 3, 4))),
        )
        for k, c in enumerate(cameras)
    ]
    if form == "txt":
        lines = ["# a comment", *(f"{n} OPENCV {w} {h} {' '.join(map(repr, p))}" for n, w, h, p in lenses)]
        (model / "cameras.txt").write_text("\n".join(lines) + "\n")
        seen = " ".join(f"1.5 2.5 {k + 1}" for k in range(len(points)))
        lines = [f"{n} {' '.join(map(repr, map(float, p)))} {c} {name}\n{seen * (n <= 3)}" for n, p, c, name in rows]
        (model / "images.txt").write_text("# a comment\n" + "\n".join(lines) + "\n")
        lines = [
            f"{k + 1} {x!r} {y!r} {z!r} 1 2 3 0.5 1 {k} 2 {k} 3 {k}" for k, (x, y, z) in enumerate(points.tolist())
        ]
        (model / "points3D.txt").write_text("\n".join(lines) + "\n")
        return
    packed = struct.pack("<Q", len(lenses)) + b"".join(struct.pack("<iiQQ8d", n, 4, w, h, *p) for n, w, h, p in lenses)
    (model / "cameras.bin").write_bytes(packed)
    packed = struct.pack("<Q", len(rows))
    for n, p, c, name in rows:
        packed += struct.pack("<i7di", n, *p, c) + name.encode() + b"\0"
        seen = [struct.pack("<ddq", 1.5, 2.5, k + 1) for k in range(len(points) * (n <= 3))]
        packed += struct.pack("<Q", len(seen)) + b"".join(seen)
    (model / "images.bin").write_bytes(packed)
    packed = struct.pack("<Q", len(points))
    for k, p in enumerate(points.tolist()):
        packed += struct.pack("<Q3d3BdQ6i", k + 1, *p, 1, 2, 3, 0.5, 3, 1, k, 2, k, 3, k)
    (model / "points3D.bin").write_bytes(packed)


def aligned(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances of points (P, 3) after the best similarity (Umeyama 1991), and its rotation times scale (3, 3)."""
    a, b = ours - ours.mean(0), theirs - theirs.mean(0)
    u, s, vh = np.linalg.svd(b.T @ a)
    flip = np.diag([1, 1, np.sign(np.linalg.det(u @ vh))])
    turn = u @ flip @ vh * (s * np.diag(flip)).sum() / (a**2).sum()
    return np.linalg.norm(a @ turn.T - b, axis=1), turn
