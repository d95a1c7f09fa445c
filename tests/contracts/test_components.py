"""What every entry of every registry must do; a new entry is found here by itself."""

import functools
import inspect

import pytest
import torch

from autoint.integrals import quadrature
from autoint.networks.grad_nets import grad_net
from autoint.registry import (
    ACTIVATIONS,
    COLORS,
    DATASETS,
    ENCODINGS,
    FUNCTIONS,
    GRAD_NETS,
    MODELS,
    PHANTOMS,
    PLACEMENTS,
    SHAPES,
    TASKS,
)
from autoint.runs import build, restoring
from autoint.runs.command_line import cli
from autoint.runs.config import GROUPS
from autoint.runs.training import fit
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.rays import Rays
from tests import reference
from tests.cases import every_network, network, points, relative_error
from tests.scenes.test_task import tiny_config

AXES = [(0, 1), (1, 1), (0, 1, 0)]
every_builder = pytest.mark.parametrize("builder", GRAD_NETS.names())


@pytest.mark.parametrize("name", ACTIVATIONS.names())
def test_activation_derivatives_are_those_of_autograd(name):
    activation = ACTIVATIONS.build(name)
    x = torch.linspace(-6, 6, 101, dtype=torch.float64).requires_grad_()
    y, highest = activation.function(x), int(min(activation.smooth, 5))
    jet = activation.jet(x, highest)
    assert len(jet) == highest + 1
    assert len(activation.jet(x, highest + 1)) == highest + 2
    assert relative_error(jet[0], y) < 1e-15
    for order in range(1, highest + 1):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        assert relative_error(jet[order], y) < 1e-12, order
        assert torch.equal(activation.jet(x, order)[order], jet[order])
    if activation.bend is not None:
        factor, rest = activation.bend(jet[0], jet[1])
        assert relative_error(factor * rest, jet[2]) < 1e-12


@pytest.mark.parametrize("name", ACTIVATIONS.names())
def test_activation_differences_do_not_cancel(name):
    """Against ∫ NL' where the step is short, against the values where it is long; finite far out."""
    activation = ACTIVATIONS.build(name)
    if activation.difference is None:
        return
    x = torch.linspace(-6, 6, 100, dtype=torch.float64)  # without 0, where ReLU has its kink
    for delta in (1e-14, -1e-9, 1e-4, -1e-3):
        slopes = [reference.mean_over(lambda t: activation.jet(t[:, None], 1)[1], a, a + delta, nodes=8) for a in x]
        ours = activation.difference(x, torch.full_like(x, delta))
        assert relative_error(ours, torch.cat(slopes) * delta) < 1e-13
    for delta in (0.0, 0.5, -2.0, 30.0):
        direct = activation.function(x + delta) - activation.function(x)
        ours = activation.difference(x, torch.full_like(x, delta))
        assert float((ours - direct).abs().max()) < 1e-13 * 40
    far = torch.tensor([-1e4, -50.0, 0.0, 50.0, 1e4])
    ends = torch.cartesian_prod(far, far).requires_grad_()
    values = activation.difference(ends[:, 0], ends[:, 1])
    assert values.isfinite().all()
    assert torch.autograd.grad(values.sum(), ends)[0].isfinite().all()


def small_encoding(name):
    """Of few outputs: the slow twin nests a graph per output."""
    fields = ENCODINGS.fields(name)
    sizes = {"num_frequencies": 1 if "resolutions" in fields else 2, "resolutions": [2, 3], "features": 1}
    return ENCODINGS.build({"name": name, **{key: size for key, size in sizes.items() if key in fields}}, 3).double()


@pytest.mark.parametrize("name", ENCODINGS.names())
def test_encoding_jets_are_those_of_autograd(name):
    """Along every subset of three tangents, which are not the axes."""
    encoding = small_encoding(name)
    x, tangents = points(2, 3), [points(1, 3, seed=seed) for seed in (4, 5, 6)]
    jet = encoding.jet(x, tangents)
    assert len(jet) == 8
    assert jet[0].shape == (2, encoding.out_features)
    assert torch.equal(jet[0], encoding(x))
    for subset in range(1, 8):
        field = encoding
        for i in range(3):
            if subset >> i & 1:
                field = functools.partial(reference.derivative, field, tangent=tangents[i])
        truth = field(x)
        ours = torch.zeros_like(truth) if jet[subset] is None else jet[subset]
        assert relative_error(ours, truth) < 1e-11, subset


@every_builder
@every_network
def test_grad_net_values_and_parameter_gradients(activation, encoding, builder):
    net = network(activation, encoding)
    x = points(9)
    for axis in (0, 1):
        psi = grad_net(net, axes=(axis,), builder=builder)
        truth = reference.derivative(net, x, torch.eye(2, dtype=torch.float64)[axis])
        assert relative_error(psi(x), truth) < 1e-10
        parameters = [p for p in net.parameters() if p is not net.hidden[-1].bias or activation != "relu"]
        ours = torch.autograd.grad(psi(x).square().sum(), parameters, allow_unused=True)
        theirs = torch.autograd.grad(truth.square().sum(), parameters, allow_unused=True)
        scale = max(float(g.abs().max()) for g in theirs if g is not None)
        for a, b in zip(ours, theirs, strict=True):
            a, b = (torch.zeros(1) if g is None else g for g in (a, b))
            assert float((a - b).abs().max()) <= 1e-10 * scale


def segments(count=16, dim=3):
    """Segments within [−1.2, 1.2]ᴰ, long and short, one along an axis and one of no length."""
    g = torch.Generator().manual_seed(3)
    a, b = (2.4 * torch.rand(count, dim, dtype=torch.float64, generator=g) - 1.2 for _ in range(2))
    b[: count // 2] = a[: count // 2] + 0.01 * b[: count // 2]
    b[0] = a[0]
    b[1, 1:] = a[1, 1:]
    return a, b


def densely(function, a, b, pieces=2**11, nodes=2):
    """The mean by two Gauss-Legendre nodes on each of very many pieces."""
    edges = torch.linspace(0, 1, pieces + 1, dtype=a.dtype)
    t, weights = quadrature.gauss_legendre(edges, nodes)
    points = a + t.flatten()[:, None] * (b - a)
    return (function(points).unflatten(0, t.shape) * weights[:, None]).sum(1).mean(0)


@pytest.mark.parametrize("name", ENCODINGS.names())
def test_encoding_means_are_those_of_dense_quadrature(name):
    encoding = small_encoding(name)
    a, b = segments()
    with torch.no_grad():
        found = encoding.mean(a, b, cut=True)
        truth = torch.stack([densely(encoding, *pair) for pair in zip(a, b, strict=True)])
        # Dense quadrature across a wall errs itself, by the square of a piece's length.
        assert (found - truth).abs().max() < (1e-12 if encoding.mean_rule == "closed form" else 1e-6)
        assert found.shape == (len(a), encoding.out_features)
        assert torch.allclose(encoding.mean(b, a, cut=True), found, rtol=0, atol=1e-13)
        assert torch.allclose(encoding.mean(a, a), encoding(a), rtol=0, atol=1e-13)
        share = torch.rand(len(a), 1, dtype=a.dtype, generator=torch.Generator().manual_seed(4))
        middle = a + share * (b - a)
        parts = share * encoding.mean(a, middle, cut=True) + (1 - share) * encoding.mean(middle, b, cut=True)
        assert torch.allclose(parts, found, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ENCODINGS.names())
def test_encoding_means_have_the_gradients_of_what_they_average(name):
    encoding = small_encoding(name)
    a, b = (x[10:12].clone().requires_grad_() for x in segments())
    weights = points(2, encoding.out_features, seed=5)
    assert torch.autograd.gradcheck(lambda p, q: (weights * encoding.mean(p, q, cut=True)).sum(), (a, b), atol=1e-6)


@every_builder
@every_network
def test_grad_nets_of_higher_order(activation, encoding, builder):
    """Mixed and repeated partials, values and parameter gradients, against nested autograd; all pairs of choices."""
    turn = ACTIVATIONS.names().index(activation) + ENCODINGS.names().index(encoding)
    axes = AXES[(turn + GRAD_NETS.names().index(builder)) % len(AXES)]
    net = network(activation, encoding)
    if ACTIVATIONS.build(activation).smooth < len(axes):
        with pytest.raises(ValueError, match="use activation=swish"):
            grad_net(net, axes, builder)
        return
    x, field = points(3), net
    for axis in axes:
        field = functools.partial(reference.derivative, field, tangent=torch.eye(2, dtype=torch.float64)[axis])
    psi, truth = grad_net(net, axes, builder)(x), field(x)
    assert relative_error(psi, truth) < 1e-9
    ours, theirs = (
        torch.autograd.grad(v.square().sum(), list(net.parameters()), allow_unused=True) for v in (psi, truth)
    )
    scale = max(float(g.abs().max()) for g in theirs if g is not None)
    for a, b in zip(ours, theirs, strict=True):
        a, b = (torch.zeros(1) if g is None else g for g in (a, b))
        assert float((a - b).abs().max()) <= 1e-9 * scale


@every_builder
def test_grad_net_shares_parameter_storage(builder):
    net = network("swish", "identity")
    psi = grad_net(net, builder=builder)
    assert {p.data_ptr() for p in psi.parameters()} == {p.data_ptr() for p in net.parameters()}
    before = psi(points(3))
    with torch.no_grad():
        net.output.weight.mul_(2)
    assert torch.allclose(psi(points(3)), 2 * before)


@every_builder
def test_grad_net_along_a_ray_with_a_condition(builder):
    net = network("swish", "normalized_positional", in_features=3, condition=ENCODINGS.build("identity", 3).double())
    origin, direction = points(4, 3), torch.nn.functional.normalize(points(4, 3, seed=5), dim=-1)
    t = torch.linspace(0, 1, 7, dtype=torch.float64)
    x = origin[:, None] + t[:, None] * direction[:, None]
    psi = grad_net(net, builder=builder).along(x, direction[:, None].expand_as(x), direction[:, None])
    step = 1e-5
    ahead, behind = (net(x + s * step * direction[:, None], direction[:, None]) for s in (1, -1))
    assert relative_error(psi, (ahead - behind) / (2 * step)) < 1e-7


@pytest.mark.parametrize("name", PLACEMENTS.names())
def test_placement_spans_the_ray_in_order(name):
    torch.manual_seed(0)
    occupancy = Occupancy(torch.full((3,), -4.0), torch.full((3,), 4.0))
    placement = PLACEMENTS.build(name, 8, occupancy)
    for p in placement.parameters():
        torch.nn.init.normal_(p)
    d = torch.nn.functional.normalize(torch.randn(50, 3), dim=-1)
    rays = Rays(torch.randn(50, 3), d, torch.full((50,), 0.5), torch.full((50,), 3.0))
    edges = placement(rays)
    assert edges.shape == (50, 9)
    assert torch.allclose(edges[:, 0], rays.near)
    assert torch.allclose(edges[:, -1], rays.far)
    assert (edges.diff(dim=-1) > 0).all()


@pytest.mark.parametrize("name", GROUPS)
def test_every_component_is_documented(name):
    registry = GROUPS[name]
    for entry in registry.names():
        assert inspect.getdoc(registry[entry]), f"{registry.kind} '{entry}' has no docstring"


def test_the_command_line_surface():
    """What a user's fingers have learned: a name may be added here, never removed or renamed."""
    assert set(ACTIVATIONS.names()) == {"relu", "sine", "softplus", "swish"}
    assert set(ENCODINGS.names()) == {"grid", "identity", "normalized_positional", "positional"}
    assert set(GRAD_NETS.names()) == {"double_backward", "explicit", "graph", "jvp"}
    assert set(PLACEMENTS.names()) == {"occupied", "predicted", "proposal", "uniform"}
    assert set(COLORS.names()) == {"decoded", "mean", "weighted"}
    ours = {"autoint", "section_means", "nerf", "efficient_nerf", "nerf_tree", "light_field", "neural_volumes"}
    ours |= {"potential", "unisurf"}
    assert set(MODELS.names()) == ours
    assert set(DATASETS.names()) == {
        "blender",
        "colmap",
        "deepvoxels",
        "llff",
        "photos",
        "procedural",
        "solid",
        "transforms",
    }
    assert set(PHANTOMS.names()) == {"dicom", "ellipses", "image", "scan", "shepp_logan", "sinogram"}
    assert set(FUNCTIONS.names()) == {"cos", "gaussian2d", "gaussian3d", "linear", "polynomial", "sinc", "xcosx"}
    assert set(SHAPES.names()) == {"box", "csg", "gyroid", "mesh", "points", "sphere", "torus"}
    assert set(TASKS.names()) == {"ct", "function", "image", "surface", "volrend"}
    assert cli.known_keys() == [
        "activation",
        "adam_steps",
        "background",
        "batch_size",
        "ckpt_path",
        "color",
        "compile",
        "counted",
        "data_dir",
        "derivatives",
        "direction_encoding",
        "encoding",
        "exponent",
        "fields",
        "fit",
        "function",
        "gaussian",
        "grad_net",
        "image",
        "image_size",
        "images_per_batch",
        "logger",
        "loss",
        "lower",
        "max_image_size",
        "model",
        "network",
        "networks",
        "noise",
        "normals",
        "num_points",
        "optimizer",
        "passes",
        "patches",
        "phantom",
        "photons",
        "placement",
        "points",
        "radius",
        "report",
        "resolution",
        "resume",
        "rho",
        "samples",
        "save_every",
        "scene",
        "sections",
        "seed",
        "shape",
        "smooth",
        "spacing",
        "strength",
        "subsample",
        "task",
        "teacher",
        "teacher_only",
        "teacher_views",
        "theta",
        "threshold",
        "tolerance",
        "trainer",
        "upper",
        "val_every",
        "val_images",
        "viewer",
        "views",
    ]


CHOICES = [
    *({"activation": name} for name in ACTIVATIONS.names()),
    *({"encoding": name} for name in ENCODINGS.names()),
    *({"fit": "grad_net", "grad_net": name} for name in GRAD_NETS.names()),
    *({"placement": name} for name in PLACEMENTS.names()),
    *({"color": name} for name in COLORS.names()),
    *({"model": name} for name in MODELS.names()),
    {"networks": 2},
    {"networks": 2, "model": {"name": "autoint", "density_frequencies": 0}},
    {"model": {"name": "autoint", "jitter": False, "direction_noise": 0.1, "nonnegative": 0.1, "consistent": 0.1}},
    {"model": {"name": "autoint", "anneal": 4}},
    {"background": "black"},
]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "-".join(map(str, choice.values())))
def test_every_component_trains_and_is_restored(choice, tmp_path):
    """A few steps with it, every parameter moved, and the checkpoint rebuilds the very same module."""
    before = build.task(tiny_config(**choice), with_data=False).module.state_dict()
    fit(tiny_config(**choice, trainer={"max_steps": 6}, optimizer={"warmup_steps": 1}), tmp_path)
    _, module = restoring.restored(tmp_path / "checkpoints" / "last.ckpt")
    after = module.state_dict()
    assert after.keys() == before.keys()
    still = [k for k, v in after.items() if torch.equal(v, before[k])]
    assert not still, still
