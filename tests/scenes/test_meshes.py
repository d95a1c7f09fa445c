"""Meshes of scenes: of a ball of known density, and of runs from the command line."""

import numpy as np
import pytest
import torch

from autoint.scenes import meshes
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.volume import AbstractVolume

trimesh = pytest.importorskip("trimesh")


class Ball(AbstractVolume):
    """Density falls from 40 in the middle of a shell about 0.7 to 0; the colour is where it is looked at from."""

    nets, evaluations, fit = (), 0, ""

    def radiance(self, points, directions, length):
        return self.dense * torch.sigmoid((0.7 - points.norm(dim=-1)) / 0.02), 0.5 - 0.5 * directions

    def render(self, rays, edges, background):
        raise NotImplementedError

    renderings = render


def ball(dense):
    volume = Ball(Occupancy(torch.full((3,), -1.0), torch.tensor([1.0, 1.0, 1.5])))
    volume.dense = dense
    return volume


def test_a_ball_s_surface_and_colours_are_found():
    mesh, told = meshes.mesh_of(ball(40.0), 60)
    assert 5 < float(told.split()[1]) < 20  # at most half of 40
    assert mesh.watertight
    assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(0.73, abs=0.02)  # where the shell has that density
    outward = mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True)
    assert (mesh.normals * outward).sum(axis=1).min() > 0.95
    assert np.allclose(mesh.colors, 0.5 + 0.5 * outward, atol=0.15)


def test_fog_has_no_surface():
    with pytest.raises(ValueError, match="no ray is half absorbed"):
        meshes.mesh_of(ball(0.1), 30)


@pytest.mark.parametrize("model", ["section_means", "potential", "nerf"])
def test_a_run_s_mesh_is_exported_by_its_command(model, program, tiny, tmp_path):
    run = tmp_path / "run"
    more = ("trainer.max_steps=2", f"hydra.run.dir={run}", f"model={model}")
    status, _, err = program("train", *tiny, *more)
    assert status == 0, err
    status, out, err = program("autoint", "export", str(run), str(tmp_path / "mesh.ply"), "--resolution", "16")
    assert (status == 0 and "vertices" in out) or "no ray is half absorbed" in err or "there is no surface" in err
    assert "Traceback" not in err
    for words, arguments in (
        ("not an argument of export", [str(run), "mesh.stl"]),
        ("--resolution=3 must be between", [str(run), "new.ply", "--resolution", "3"]),
        ("no such checkpoint", ["nowhere", "new.ply"]),
    ):
        status, _, err = program("autoint", "export", *arguments)
        assert status == 2
        assert words in err
