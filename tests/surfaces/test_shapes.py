"""Shapes: true distances, samples, and marching cubes, each against what is known exactly."""

import numpy as np
import pytest

from autoint.registry import SHAPES
from autoint.reports.meshing import BLOCK, Grid, Mesh, marching_cubes
from autoint.surfaces import shapes

ANALYTIC = ("box", "csg", "gyroid", "sphere", "torus")


@pytest.fixture(scope="module", autouse=True)
def _small():
    """Seeds and grids that are enough here."""
    with pytest.MonkeyPatch.context() as patch:
        of_cube = Grid.cube
        patch.setattr(shapes.Grid, "cube", staticmethod(lambda center, half, cells: of_cube(center, half, 48)))
        yield


@pytest.mark.parametrize("name", ANALYTIC)
def test_samples_lie_on_the_surface_and_normals_lead_away_from_it(name):
    shape = SHAPES.build(name, "")
    points, normals = shape.sample(300, 0)
    assert np.abs(points).max() <= shapes.HALF
    assert np.abs(shape.distance(points)).max() < 1e-9
    assert np.linalg.norm(normals, axis=1) == pytest.approx(1)
    step = 1e-3
    ahead, behind = (shape.distance(points + s * step * normals) for s in (1, -1))
    assert np.quantile(np.abs(ahead - step), 0.95) < 1e-8
    assert np.quantile(np.abs(behind + step), 0.95) < 1e-8
    assert (shape.inside(points - step * normals)).mean() > 0.99


@pytest.mark.parametrize("name", ANALYTIC)
def test_a_distance_is_that_to_the_nearest_of_many_points(name):
    """From outside, and a little inside, where unions too are exact."""
    shape = SHAPES.build(name, "")
    surface, normals = shape.sample(20_000, 1)
    rng = np.random.default_rng(2)
    x = surface[:200] + rng.uniform(-0.02, 0.1, (200, 1)) * normals[:200]
    nearest = np.array([np.linalg.norm(surface - p, axis=1).min() for p in x])
    assert np.all(np.abs(shape.distance(x)) <= nearest + 1e-4)  # far out, a closest point is nearly found
    assert np.abs(np.abs(shape.distance(x)) - nearest).mean() < 2e-3
    assert np.array_equal(shape.distance(x) < 0, shape.inside(x))


def test_a_gyroid_s_edge_is_found():
    """The nearest point of the ball's cut rim, by brute force over a fine sample of the edge."""
    shape = SHAPES.build({"name": "gyroid", "period": 0.9}, "")
    edges = [points for which, points, _ in shape.solid.seeds if which == (0, 1)]
    assert len(edges[0]) > 50
    rim = edges[0][:20]
    x = rim * 1.02  # beyond the ball, over its rim
    assert np.all(shape.distance(x) <= np.linalg.norm(x - rim, axis=1) + 1e-9)
    field, ball = shape._fields
    assert np.abs(field(rim)[0]).max() < 1e-8
    assert np.abs(ball(rim)[0]).max() < 1e-8


def ball(x):
    return np.linalg.norm(x, axis=1) - 0.4


def test_marching_cubes_converge_with_the_square_of_a_cell():
    errors = []
    for cells in (20, 40):
        mesh = marching_cubes(ball, Grid(np.full(3, -0.5), 1 / cells, (cells,) * 3), slope=1.0)
        assert mesh.watertight
        errors.append(np.abs(ball(mesh.vertices)).mean())
        centres = mesh.vertices[mesh.faces].mean(axis=1)
        assert ((mesh.face_normals * centres).sum(axis=1) > 0).all()  # outwards
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)


def test_blocks_make_one_closed_mesh_and_ask_only_where_the_surface_is():
    asked = []

    def counted(x):
        asked.append(len(x))
        return ball(x)

    grid = Grid(np.full(3, -1.3), 2.6 / (4 * BLOCK + 7), (4 * BLOCK + 7,) * 3)
    mesh = marching_cubes(counted, grid, slope=1.0)
    assert mesh.watertight
    assert sum(asked) < 0.5 * np.prod(np.array(grid.cells) + 1)
    assert max(asked) <= 2**16
    euler = len(mesh.vertices) - 1.5 * len(mesh.faces) + len(mesh.faces)
    assert euler == 2  # of a sphere: nothing is there twice
    area = 0.5 * np.linalg.norm(mesh.face_normals, axis=1).sum()
    assert area == pytest.approx(4 * np.pi * 0.4**2, rel=1e-3)


@pytest.mark.parametrize("seed", range(2))
def test_blocks_meet_though_a_value_depends_on_what_is_asked_with_it(seed):
    """As values of a network do, in their last digits."""
    rng = np.random.default_rng(seed)
    mesh = marching_cubes(
        lambda x: ball(x) + 1e-7 * rng.standard_normal(len(x)), Grid.cube(np.zeros(3), 0.5, 2 * BLOCK)
    )
    assert mesh.watertight


def test_a_box_that_is_no_cube_and_a_level():
    grid = Grid.box(np.array([-0.6, -0.7, -1.5]), np.array([0.6, 0.7, 1.5]), 50)
    assert grid.cells[2] == 50
    assert grid.cells[0] < 25
    mesh = marching_cubes(ball, grid, level=0.1)
    assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(0.5, abs=2e-3)


def test_what_is_open_or_nowhere_is_said():
    half = marching_cubes(ball, Grid(np.array([-0.5, -0.5, 0.0]), 0.05, (20, 20, 10)))
    assert not half.watertight
    with pytest.raises(ValueError, match="there is no surface"):
        marching_cubes(ball, Grid.cube(np.ones(3), 0.2, 8))


def test_a_mesh_is_sampled_by_area():
    """Two squares, one nine times as large."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=float)
    both = np.concatenate([vertices, 3 * vertices + [5, 0, 0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    mesh = Mesh(both, np.concatenate([faces, faces + 4]))
    points, normals = mesh.sample(20_000, np.random.default_rng(0))
    assert (points[:, 0] > 2).mean() == pytest.approx(0.9, abs=0.01)
    assert np.allclose(normals, [0, 0, 1])
    assert points[points[:, 0] < 2].mean(axis=0)[:2] == pytest.approx([0.5, 0.5], abs=0.02)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"name": "torus", "tube": 0.4}, "shape.radius: the shape reaches 0.7"),
        ({"name": "torus", "tube": 0.3, "radius": 0.1}, "shape.tube=0.3 must be above 0"),
        ({"name": "sphere", "radius": 2.0}, "it must be 0.01 to 0.5"),
        ({"name": "box", "rounding": 0.3}, "shape.rounding=0.3"),
        ({"name": "csg", "rounding": 0.0}, "shape.rounding=0.0"),
        ({"name": "gyroid", "period": 0.0}, "shape.period=0.0"),
        ({"name": "points"}, "shape.path is empty"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(choice, words):
    with pytest.raises(ValueError, match=words):
        SHAPES.build(choice, "")
