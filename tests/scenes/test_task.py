"""The volume-rendering task from end to end, on tiny runs of the embedded scene."""

import csv
import hashlib
import json
import math
import subprocess
import sys
import types
import warnings
from pathlib import Path

import imageio.v3 as iio
import pytest
import torch

from autoint.integrals.definite import BLOCK
from autoint.networks.encodings import AbstractEncoding
from autoint.registry import GRAD_NETS, MODELS
from autoint.reports import metrics
from autoint.runs import build, checkpoints, restoring
from autoint.runs.config import FITS, RunConfig
from autoint.runs.training import fit
from autoint.scenes import ray_panel
from autoint.scenes import task as scenes_task
from autoint.scenes.task import load_views
from benchmarks.measure import peak_memory
from tests.conftest import ROOT, main_of

DIRS = ("one", "two")
GOLDEN = ROOT / "tests" / "golden" / "losses.json"


def tiny_config(**overrides) -> RunConfig:
    trainer = {"max_steps": 12, "accelerator": "cpu", "enable_progress_bar": False, **overrides.pop("trainer", {})}
    return RunConfig.from_plain(
        {
            "task": "volrend",
            "image_size": 12,
            "batch_size": 32,
            "network": {"hidden_features": 8, "num_layers": 2},
            "encoding": {"name": "normalized_positional", "num_frequencies": 2},
            "sections": 4,
            "samples": 8,
            "val_images": 1,
            "trainer": trainer,
            **overrides,
        }
    )


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("model", ["section_means", "potential", "autoint", "light_field"])
def test_what_is_to_be_smooth_is_less_rough(model, tmp_path):
    """With the same batches and as many steps, in the cells that rays pass."""
    rough = []
    for smooth in (0.0, 10.0):
        run = tmp_path / str(smooth)
        options = {"encoding": {"name": "grid", "resolutions": [4]}, "optimizer": {"lr": 1e-3, "warmup_steps": 0}}
        fit(tiny_config(model=model, smooth=smooth, **options), run)
        module = restoring.restored(checkpoints.last(run))[1]
        x = 2 * torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) - 1
        found = (getattr(part, "encoding", None) for part in module.modules())
        with torch.no_grad():
            rough.append(sum(e.total_variation(x) for e in found if isinstance(e, AbstractEncoding)))
    assert rough[1] < 0.7 * rough[0]


@pytest.mark.parametrize("model", ["unisurf", "nerf_tree", "neural_volumes"])
def test_what_has_no_grid_to_be_smooth_trains_all_the_same(model, tmp_path):
    for run, smooth in (("rough", 0.0), ("smooth", 1.0)):
        fit(tiny_config(model=model, smooth=smooth, trainer={"max_steps": 2}), tmp_path / run)
    assert len({digest(checkpoints.last(tmp_path / run)) for run in ("rough", "smooth")}) == 1


@pytest.mark.parametrize("smooth", [-1.0, math.nan, math.inf])
def test_a_weight_of_smoothness_is_none_below_0(smooth):
    with pytest.raises(ValueError, match="must be a number from 0; 0 leaves it out"):
        build.task(tiny_config(smooth=smooth), with_data=False)


def digest(checkpoint: Path) -> str:
    """A hash over all weights and the optimizer's state."""
    contents = checkpoints.load(checkpoint)
    out = hashlib.sha256()
    for tensor in contents["state_dict"].values():
        out.update(tensor.numpy().tobytes())
    for state in contents["optimizer_states"][0]["state"].values():
        for value in state.values():
            out.update(torch.as_tensor(value).numpy().tobytes())
    return out.hexdigest()


def test_resuming_another_architecture_is_refused(tmp_path):
    fit(tiny_config(trainer={"max_steps": 1}), tmp_path)
    path = str(tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(ValueError, match=r"trained with another sections \(4 there, 2 here\)"):
        fit(tiny_config(sections=2, ckpt_path=path), tmp_path / "other")


def test_a_run_folder_holds_what_the_readme_says(program, tiny):
    status, _, err = program("train", *tiny, "trainer.max_steps=3", "hydra.run.dir=run")
    assert status == 0, err
    for name in (
        ".hydra/config.yaml",
        "checkpoints/last.ckpt",
        "metrics.csv",
        "result.json",
        "validation/step_0000003.png",
    ):
        assert Path("run", name).is_file(), name
    result = json.loads(Path("run/result.json").read_text())
    assert result["steps"] == 3
    rows = read_csv(Path("run/metrics.csv"))
    assert any(row["val/psnr"] for row in rows)


def test_other_loggers_log_beside_the_csv(tiny, tmp_path, elsewhere, monkeypatch):
    """In a process of their own, because both leave threads behind; wandb is offline by default."""

    def log():
        warnings.simplefilter("default")
        for logger in ("tensorboard", "wandb"):
            arguments = [*tiny, "trainer.max_steps=2", f"logger={logger}", f"hydra.run.dir={logger}"]
            monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
            main_of("train")()

    status, _, err = elsewhere(log)
    assert status == 0, err
    for logger, files in (("tensorboard", "*events*"), ("wandb", "*.wandb")):
        assert (tmp_path / logger / "metrics.csv").is_file()
        assert list((tmp_path / logger / logger).rglob(files))


def test_a_checkpoint_is_plain_data(tmp_path):
    fit(tiny_config(trainer={"max_steps": 2}), tmp_path)
    contents = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert contents["autoint"]["config"]["options"]["sections"] == 4
    assert contents["global_step"] == 2


def test_evaluate_gives_identical_images_in_a_fresh_process(program, tiny, tmp_path):
    """One run, evaluated here and by a process of its own: table, per-image values and pictures are the same."""
    assert program("train", *tiny, "trainer.max_steps=20", "hydra.run.dir=run")[0] == 0
    status, out, _ = program("evaluate", "runs=run", "hydra.run.dir=here", "device=cpu", "chunk_size=50")
    assert status == 0
    assert "| procedural | autoint | 4 " in out
    command = [sys.executable, ROOT / "evaluate.py", "runs=run", "hydra.run.dir=there", "device=cpu", "chunk_size=50"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    pictures = sorted(p.relative_to("here") for p in Path("here").rglob("*.png"))
    assert len(pictures) == 16
    for picture in pictures:
        assert (Path("here") / picture).read_bytes() == (Path("there") / picture).read_bytes()
    results = [json.loads(Path(f, "result.json").read_text()) for f in ("here", "there")]
    values = [[(v["image"], v["psnr"], v["ssim"]) for v in r["per_image"]] for r in results]
    assert values[0] == values[1]
    row = results[0]["rows"][0]
    assert row["evaluations_per_ray"] == 5
    assert row["images"] == 8
    assert row["psnr"] == pytest.approx(sum(v[1] for v in values[0]) / 8)
    image = iio.imread("here/images/00_procedural_4/renders/test_000.png")
    strip = iio.imread("here/images/00_procedural_4/test_000.png")
    assert image.shape == (12, 12, 3)
    assert strip.shape == (16 + 132, 5 * 136 - 4, 3)
    assert (strip[16::11, 136:268:11] == image).all()
    for name in ("table.md", "table.csv", "per_image.csv"):
        assert Path("here", name).stat().st_size > 0


def test_evaluation_never_touches_the_grad_net(program, tiny, monkeypatch):
    assert program("train", *tiny, "fit=grad_net", "trainer.max_steps=2", "hydra.run.dir=run")[0] == 0

    def forbidden(*_):
        raise AssertionError("the grad network was evaluated")

    for name in GRAD_NETS.names():
        monkeypatch.setattr(GRAD_NETS[name], "derivative", forbidden)
    monkeypatch.setattr(ray_panel, "ray_profile", lambda *_: None)  # of the page's ray, which is a picture of Ψ
    monkeypatch.setattr(ray_panel, "draw_ray", lambda *_: None)
    assert program("evaluate", "runs=run", "max_images=1", "hydra.run.dir=e")[0] == 0


def test_chunks_do_not_change_an_image(tmp_path):
    fit(tiny_config(trainer={"max_steps": 5}), tmp_path)
    config, module = restoring.restored(tmp_path / "checkpoints" / "last.ckpt")
    from autoint.scenes.data.batches import WholeImages

    volume = module.volume
    rays = WholeImages(load_views(config, "test"))[0].rays
    whole, parts = (volume.view(rays, torch.ones(3), size)[0] for size in (10_000, 17))
    assert torch.allclose(whole, parts, atol=1e-6)


@pytest.fixture
def set_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("model", MODELS.names())
def test_threads_do_not_change_an_image(model, set_threads):
    """Nor what they have to know of the thread that they work for: its precision."""
    volume = build.task(tiny_config(model=model)).module.volume
    rays = load_views(tiny_config(), "test").rays_of(0)
    seen = {}
    for threads in (1, 2):
        set_threads(threads)
        seen[threads] = volume.view(rays, torch.ones(3), 100)
        with torch.autocast("cpu", torch.bfloat16):
            seen[-threads] = volume.view(rays, torch.ones(3), 100)
        assert torch.get_num_threads() == threads
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(seen[1], seen[2], strict=True))
    assert all(torch.allclose(a, b, atol=1e-2) for a, b in zip(seen[-1], seen[-2], strict=True))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("model", MODELS.names())
def test_out_of_memory_halves_the_chunk_and_goes_on(model, threads, set_threads, monkeypatch, caplog):
    set_threads(threads)
    volume = build.task(tiny_config(model=model)).module.volume
    rays = load_views(tiny_config(), "test").rays_of(0)
    whole = volume.view(rays, torch.ones(3), 100)
    real, sizes = volume.render, []

    def small(chunk, edges, background):
        sizes.append(len(chunk))
        if len(chunk) > 9:
            raise torch.OutOfMemoryError("no memory left")
        return real(chunk, edges, background)

    monkeypatch.setattr(volume, "render", small)
    parts = volume.view(rays, torch.ones(3), 100)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, parts, strict=True))
    assert max(sizes) > 9 >= sizes[-1]
    assert "out of memory: going on with" in caplog.text
    monkeypatch.setattr(volume, "render", lambda *_: (_ for _ in ()).throw(RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        volume.view(rays, torch.ones(3), 100)


@pytest.mark.parametrize("model", MODELS.names())
def test_memory_of_rendering_is_bounded_by_the_chunk(model, monkeypatch):
    """What the docstring of ``view`` promises, for two sizes of image."""
    volume = build.task(tiny_config(model=model)).module.volume
    monkeypatch.setitem(BLOCK, True, 2**30)  # on a CPU the blocks are smaller than the chunks
    for size in (24, 48):
        rays = load_views(tiny_config(image_size=size), "test", 1).rays_of(0)
        image = len(rays) * 4 * 12  # rays and results, which the image asks for
        peak = peak_memory(lambda rays=rays: volume.view(rays, torch.ones(3), 128))
        inputs = next((m.out_features for m in volume.modules() if isinstance(m, AbstractEncoding)), 0) + 4
        assert peak - image < 4 * 128 * max(volume.evaluations, volume.look_ups) * (3 * volume.width + 4 * inputs)


@pytest.mark.parametrize(
    ("name", "choice"),
    [
        ("integral_net", {}),
        ("grad_net", {"fit": "grad_net"}),
        ("object", {"model": {"name": "object", "nodes": 2}, "encoding": "grid"}),
    ],
)
def test_golden_losses(name, choice, tmp_path):
    """The loss after 50 steps is what it was when it was last looked at."""
    budget = {"optimizer": {"lr": 0.01, "warmup_steps": 5}, "trainer": {"max_steps": 50, "log_every_n_steps": 10}}
    fit(tiny_config(**choice, **budget), tmp_path)
    rows = read_csv(tmp_path / "metrics.csv")
    losses = [float(row["train/loss"]) for row in rows if row.get("train/loss")]
    golden = json.loads(GOLDEN.read_text())[name]
    assert losses == pytest.approx(golden, rel=1e-3)
    assert losses[-1] < 0.8 * losses[0]


def test_a_collapsed_run_says_so(tmp_path, caplog, monkeypatch):
    from autoint.scenes.models.integral_volume import IntegralVolume

    real = IntegralVolume.integral
    monkeypatch.setattr(
        IntegralVolume, "integral", lambda self, rays, t, seen=None: real(self, rays, t, seen) * 0 - t[..., None]
    )
    result = fit(tiny_config(trainer={"max_steps": 2}), tmp_path)
    assert result["collapsed"] is True
    assert "collapsed to the background" in caplog.text


def test_training_stops_in_time_with_a_checkpoint(tmp_path):
    result = fit(tiny_config(trainer={"max_steps": 10**6, "max_time": "00:00:00:02"}), tmp_path)
    assert 1 < result["steps"] < 10**6
    last = checkpoints.load(tmp_path / "checkpoints" / "last.ckpt")
    assert last["global_step"] == result["steps"]


def test_a_rehearsal_tells_how_long_a_validation_takes(monkeypatch, tmp_path):
    """As many times as long as the part of an image that it renders fits into all that are validated."""
    task = build.task(tiny_config(val_images=3))
    task.data.trainer = task.module._trainer = types.SimpleNamespace(datamodule=task.data, global_rank=0, world_size=1)
    clock, rendered, real = iter(range(100)), [], task.module.volume.view

    def view(rays, *args, **options):
        rendered.append(len(rays))
        return real(rays, *args, **options)

    monkeypatch.setattr(scenes_task, "REHEARSED", 50)
    monkeypatch.setattr(scenes_task.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(task.module.volume, "view", view)
    assert task.module.rehearsal() == pytest.approx(3 * 144 / 48)
    assert rendered == [48, 48]


@pytest.mark.parametrize(
    ("fit_by", "steps"), [("integral_net", 8), *(pytest.param(f, 50, marks=pytest.mark.slow) for f in FITS)]
)
def test_two_processes_train_as_one(fit_by, steps, program, elsewhere, tiny, no_lpips, monkeypatch):
    """Gloo on two ranks: losses, metrics over 3 images and the evaluation are those of one process."""
    run = [*tiny, f"fit={fit_by}", "trainer.precision=64-true", f"trainer.max_steps={steps}", f"val_every={steps // 2}"]
    run += ["val_images=3", "+trainer.log_every_n_steps=1", "activation=softplus"]
    run.remove("val_images=1")

    def train():
        warnings.simplefilter("ignore")
        sys.modules["__main__"].__spec__ = None  # which a program that is called by its file has not
        main_of("train")()

    with monkeypatch.context() as patch:  # the second process is called by the command of the first
        patch.setattr(sys, "argv", [str(ROOT / "train.py"), "trainer=ddp_cpu", *run, "hydra.run.dir=two"])
        status, out, err = elsewhere(train)
    assert status == 0, err
    assert out.count("2 processes: every step takes 32 rays together, 16 each; optimizer.lr=0.01") == 1
    assert program("train", *run, "hydra.run.dir=one")[0] == 0
    losses, results = (
        [
            [float(row[k]) for row in read_csv(Path(d) / "metrics.csv") for k in row if "/" in k and row[k]]
            for d in DIRS
        ],
        [json.loads((Path(d) / "result.json").read_text())["metrics"] for d in DIRS],
    )
    assert len(losses[0]) == 2 * steps + 2 * 3
    assert losses[0] == pytest.approx(losses[1], rel=0, abs=1e-8)
    assert results[0] == pytest.approx(results[1], rel=0, abs=1e-6)
    assert program("evaluate", "runs=.", "max_images=2", "hydra.run.dir=evaluation")[0] == 0
    rows = json.loads(Path("evaluation/result.json").read_text())["rows"]
    one, two = ({k: v for k, v in row.items() if k in ("psnr", "ssim", "images")} for row in rows)
    assert one == pytest.approx(two, abs=1e-6)


def test_every_image_is_counted_once_whatever_the_number_of_processes():
    from autoint.scenes.data.batches import WholeImages

    views = load_views(tiny_config(), "val", 3)
    for world in (1, 2, 3, 5):
        shares = [WholeImages(views, rank, world) for rank in range(world)]
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        items = [share[i] for share in shares for i in range(len(share))]
        counted = [item.rgba for item in items if item.counted]
        assert len(counted) == 3
        sums = sorted(float(rgba.sum()) for rgba in counted)
        assert sums == sorted(float(image.sum()) for image in views.images.reshape(3, -1))


def test_processes_see_what_one_would(monkeypatch):
    """What is gathered stands in the order of one process's batch, of which each has every second row."""
    module = build.task(tiny_config(), with_data=False).module
    rows = torch.arange(12.0).view(6, 2)
    monkeypatch.setattr(type(module), "trainer", types.SimpleNamespace(world_size=2))
    monkeypatch.setattr(module, "all_gather", lambda own: torch.stack([rows[0::2], rows[1::2]]))
    assert torch.equal(module._of_all_processes(rows[0::2]), rows)


def test_what_several_processes_cannot_do(program, tiny, tmp_path):
    ddp = ["trainer=ddp_cpu", *(t for t in tiny if "accelerator" not in t), "trainer.max_steps=2"]
    status, _, err = program("train", "-m", *ddp, "seed=1", "hydra.sweep.dir=sweep")
    assert (status, len(err.strip().splitlines())) == (2, 1)
    assert "error: -m with 2 devices: every process would begin the sweep anew; use trainer.devices=1" in err
    status, _, err = program("train", "task=function", "trainer.devices=2", "trainer.strategy=ddp")
    assert status == 2
    assert "trainer.devices=2: task=function trains in one process; use 1" in err


def environment():
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_psnr_is_the_mean_over_images():
    values = [metrics.psnr(torch.full((4, 4, 3), e), torch.zeros(4, 4, 3)) for e in (0.1, 0.01)]
    assert [round(float(v), 3) for v in values] == [20.0, 40.0]


def test_ssim_is_one_for_equal_images_and_less_for_noise():
    g = torch.Generator().manual_seed(0)
    image = torch.rand(24, 24, 3, generator=g)
    assert float(metrics.ssim(image, image)) == pytest.approx(1)
    assert float(metrics.ssim(image, torch.rand(24, 24, 3, generator=g))) < 0.3


def test_lpips_by_its_real_loading_path(tmp_path, monkeypatch, capsys):
    """A file in the cache is used; a local file gives the same numbers; where neither is, the reason is an OSError."""
    import torchvision

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    metrics.load_lpips.cache_clear()
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a, **k: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(OSError, match="no network"):
        metrics.load_lpips("alex", None)
    torch.manual_seed(0)
    backbone = torchvision.models.alexnet(weights=None).state_dict()
    file = tmp_path / "hub" / "checkpoints" / metrics.BACKBONES["alex"]
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(backbone, file)
    cached = metrics.load_lpips("alex", None)
    local = metrics.load_lpips("alex", str(file))
    first, second = torch.rand(2, 64, 64, 3)
    assert float(metrics.lpips(cached, first, second)) == float(metrics.lpips(local, first, second)) > 0
    assert float(metrics.lpips(local, first, first)) == 0
    with pytest.raises(ValueError, match=r"lpips_weights=none.pth: no such file; give torchvision's alexnet"):
        metrics.load_lpips("alex", "none.pth")
    torch.save({"x": torch.zeros(1)}, tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match="not torchvision's weights of alex"):
        metrics.load_lpips("alex", str(tmp_path / "wrong.pth"))


def test_mixed_precision_keeps_what_needs_all_digits():
    """Under bf16 the encoding, the first layer and Φ are as without; the rest of Ψ is not, but close."""
    config = tiny_config(fit="grad_net", network={"hidden_features": 16, "num_layers": 3})
    volume = build.task(config, with_data=False).module.volume
    rays, psi = load_views(config, "train", 1).rays_of(0)[:50], volume.grad_nets[0]
    edges, u = rays.even_edges(4), torch.rand(50, 4, 2)
    seen = []

    def results():
        propagate = type(psi).propagate
        psi.propagate = lambda streams, *layers: seen.append(streams) or propagate(psi, streams, *layers)
        with torch.no_grad():
            return volume.means_from_differences(rays, edges), volume.means_from_samples(rays, edges, u)

    differences, samples = results()
    with torch.autocast("cpu", torch.bfloat16):
        lower_differences, lower_samples = results()
    assert torch.equal(differences, lower_differences)
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    assert lower_samples.dtype == torch.float32
    assert 0 < float((samples - lower_samples).abs().max()) < 0.02 * float(samples.abs().max())


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_train(precision, tmp_path):
    trainer = {"max_steps": 20, "precision": precision}
    losses = {}
    for name, options in (("full", {"max_steps": 20}), (precision, trainer)):
        fit(tiny_config(fit="grad_net", trainer={**options, "log_every_n_steps": 20}), tmp_path / name)
        losses[name] = float(read_csv(tmp_path / name / "metrics.csv")[0]["train/loss"])
    assert losses[precision] == pytest.approx(losses["full"], rel=0.1)
