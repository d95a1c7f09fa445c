"""task=image: derivatives of images, against exact ones and a solver of Poisson's equation, and runs of it."""

import json
import re

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from autoint.integrals import images
from autoint.runs import build, restoring
from autoint.runs.config import RunConfig
from autoint.runs.training import fit

SMALL = (
    "task=image",
    "network.hidden_features=16",
    "encoding.resolutions=[4,8,16]",
    "batch_size=256",
    "val_every=1000",
    "+trainer.enable_progress_bar=false",
)


def waves(height=16, width=12):
    """An image of smooth waves."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 2, width), indexing="ij")
    return 0.5 + 0.2 * torch.sin(2 * x + y) + 0.15 * torch.cos(1.5 * y - x)


def solved(known, shape):
    """The slow twin: the image of mean 0 whose differences are nearest to the known ones, by Poisson's equation."""
    height, width = shape
    steps = known.means.double() * known.length
    across, down = steps[: height * (width - 1)].view(height, width - 1), steps[height * (width - 1) :]
    divergence = torch.zeros(shape, dtype=torch.float64)
    for axis, flow in ((1, across), (0, down.view(height - 1, width))):
        divergence += torch.diff(torch.nn.functional.pad(flow, (1, 1) if axis else (0, 0, 1, 1)), dim=axis)
    k, m = (np.cos(np.pi * np.arange(n) / n) for n in shape)
    scale = 2 * (k[:, None] + m[None] - 2)
    scale[0, 0] = 1
    modes = dctn(divergence.numpy(), norm="ortho") / scale
    modes[0, 0] = 0
    return torch.from_numpy(idctn(modes, norm="ortho"))


def cubic(at):
    x, y = at.unbind(-1)
    return x**3 - 2 * x * y**2 + y + 3 * x * x


def test_differences_are_means_of_the_derivative_to_the_last_digit():
    at = images.places(7, 10).double()
    assert float(at.abs().max()) == pytest.approx(0.9)  # the centre of a pixel of 0.2
    known = images.differences(cubic(at).float())
    everything = torch.arange(len(known.means))
    assert len(everything) == 7 * 9 + 6 * 10
    nodes, tangents = known.nodes(everything)
    x, y = nodes.unbind(-1)
    slope = torch.stack([3 * x**2 - 2 * y**2 + 6 * x, -4 * x * y + 1], dim=-1)
    assert torch.allclose((slope * tangents).sum(-1).mean(-1), known.means, atol=2e-5)


def test_sobel_s_slopes_are_those_of_a_plane():
    at = images.places(9, 9)
    known = images.sobel(0.3 * at[..., 0] - 0.7 * at[..., 1])
    inner = torch.zeros(9, 9, dtype=torch.bool)
    inner[1:-1, 1:-1] = True
    nodes, tangents = known.nodes(torch.arange(2 * 81))
    assert nodes.shape == (162, 1, 2)
    assert torch.equal(nodes[:81, 0], at.reshape(-1, 2))
    for axis, slope in enumerate((0.3, -0.7)):
        part = slice(81 * axis, 81 * (axis + 1))
        assert known.means[part][inner.flatten()] == pytest.approx(slope, abs=1e-5)
        assert (tangents[part, 0, axis] == 1).all()


def test_an_image_is_found_from_its_gradients_as_a_solver_of_poisson_s_equation_finds_it(program, tmp_path):
    truth = waves()
    file = tmp_path / "waves.png"
    iio.imwrite(file, (truth * 65535).numpy().astype(np.uint16))
    run = tmp_path / "run"
    words = (*SMALL, f"image={file}", "image_size=null", "trainer.max_steps=150", f"hydra.run.dir={run}")
    status, _, err = program("train", *words, "optimizer.lr=0.01", "optimizer.encoding_lr=0.03")
    assert status == 0, err
    result = json.loads((run / "result.json").read_text())
    assert result["metrics"]["test/psnr"] > 35
    assert (run / "image.png").is_file()
    config, module = restoring.restored(run / "checkpoints" / "last.ckpt")
    pixels = images.load_image(config)
    assert pixels == pytest.approx(truth, abs=2e-5)
    exact = solved(images.differences(pixels), pixels.shape)
    assert exact.float() == pytest.approx(pixels - pixels.mean(), abs=1e-5)
    assert module.found(*pixels.shape) == pytest.approx(exact.float(), abs=0.05)
    status, out, err = program("evaluate", f"runs={run}", "hydra.run.dir=evaluation")
    assert status == 0, err
    assert f"| {result['metrics']['test/psnr']:.2f}" in out
    assert list((tmp_path / "evaluation" / "images").rglob("image.png"))


def config(steps=9, **changes):
    trainer = {"max_steps": steps, "accelerator": "cpu", "enable_progress_bar": False}
    plain = {"task": "image", "image_size": 16, "fit": "grad_net", "batch_size": 32, "save_every": 4}
    plain |= {"network": {"hidden_features": 8, "num_layers": 1}, "optimizer": {"decay_steps": 1000}}
    return RunConfig.from_plain({**plain, "trainer": trainer, **changes})


def test_a_resumed_run_is_the_run_itself(tmp_path):
    fit(config(), tmp_path / "whole")
    fit(config(5), tmp_path / "parts")
    fit(config(ckpt_path="last"), tmp_path / "parts")
    ours, theirs = (
        restoring.restored(tmp_path / name / "checkpoints" / "last.ckpt")[1].state_dict() for name in ("parts", "whole")
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"image": "gone.png"}, "gone.png: file not found"),
        ({"image": "text.png"}, "text.png: not a readable PNG or JPEG image"),
        ({"image_size": 600}, "image_size=600 is larger than the image"),
        ({"image_size": 1}, "1x1 pixels, where 2 to 2048 a side are allowed"),
        ({"derivatives": "sobol"}, "derivatives='sobol' is unknown; did you mean 'sobel'?"),
        ({"fit": "integral_net"}, "task=image observes derivatives"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(choice, words, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=re.escape(words)) as found:
        build.task(config(**choice))
    assert "\n" not in str(found.value)
