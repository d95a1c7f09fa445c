"""What a training takes where nothing is named: the best recipe, by the machine, beneath everything that is named."""

import pickle

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from autoint.runs import build
from autoint.runs.command_line import recipe
from autoint.runs.command_line.cli import VERSION, store_groups
from autoint.runs.resuming import continued
from autoint.scenes.task import load_views
from tests.runs.test_cli import CONF, composed


@pytest.fixture(params=["laptop", "gpu"])
def machine(request, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param == "gpu")
    return request.param


@pytest.fixture
def laptop(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def sizes(config):
    net, budget = config.network, config.trainer["max_time"]
    size = config.options["image_size"] or config.options["max_image_size"]
    return size, net.num_layers, net.hidden_features, config.optimizer.lr, budget


def suited(config):
    """The choices that a model's quality rests on."""
    o, bands = config.options, config.encoding.get("num_frequencies")
    grids = config.encoding.get("resolutions")
    return o["model"]["name"], o["placement"]["name"], grids, bands, o["direction_encoding"]["num_frequencies"]


LAPTOP, GPU = (100, 4, 64, 0.01, "00:00:10:00"), (400, 8, 256, 0.002, "00:00:20:00")


def test_the_shortest_command_is_the_experiment_s(machine):
    """`scene=lego` is what `experiment=lego_cpu` is, or `lego_gpu` on a GPU: 9 dB more than the defaults of before."""
    shortest, named = composed("scene=lego"), composed(f"experiment=lego_{'cpu' if machine == 'laptop' else 'gpu'}")
    assert sizes(shortest) == (LAPTOP if machine == "laptop" else GPU)
    grids, bands = ([64, 128], 2) if machine == "laptop" else ([64, 128, 256], 4)
    assert suited(shortest) == ("section_means", "proposal", grids, 4, bands)
    here, there = shortest.to_plain(), named.to_plain()
    for key in ("accelerator", "devices"):  # which an experiment of the CPU says, and the machine knows
        here["trainer"].pop(key), there["trainer"].pop(key)
    assert here == there


def test_a_scene_of_one_s_own_and_the_embedded_one_take_it_too(laptop):
    for scene in ([], ["scene=blender", "scene.path=mine"], ["scene=transforms", "scene.path=mine"]):
        config = composed(*scene)
        assert (sizes(config), suited(config)) == (LAPTOP, ("section_means", "proposal", [64, 128], 4, 2))


@pytest.mark.parametrize("named", ["trainer=cpu", "trainer.accelerator=cpu", "trainer=ddp_cpu", "experiment=lego_cpu"])
def test_who_trains_on_the_cpu_gets_its_sizes_whatever_the_machine_has(named, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert sizes(composed(named)) == LAPTOP


@pytest.mark.parametrize("named", ["trainer=gpu", "trainer.accelerator=gpu", "trainer=ddp", "experiment=lego_gpu"])
def test_who_asks_for_a_gpu_gets_its_sizes(named, laptop):
    assert sizes(composed(named)) == GPU


def test_what_the_command_line_names_wins(laptop):
    config = composed("image_size=50", "network.num_layers=2", "optimizer.lr=0.003", "trainer.max_time=00:01:00:00")
    assert sizes(config) == (50, 2, 64, 0.003, "00:01:00:00")
    config = composed("encoding=positional", "placement=uniform", "encoding@direction_encoding=identity", "color=mean")
    assert config.encoding == {"name": "positional", "num_frequencies": 10, "pi": True, "include_input": True}
    assert config.options["direction_encoding"] == {"name": "identity"}
    assert config.options["placement"]["name"] == "uniform"
    assert composed("model=nerf", "encoding=identity").encoding == {"name": "identity"}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model=autoint"], ("autoint", "proposal", [16, 32, 64], 4, 0)),
        (["model=object"], ("section_means", "proposal", [64, 128], 4, 2)),
        (["model=nerf"], ("nerf", "proposal", None, 6, 2)),
        (["fit=grad_net"], ("autoint", "proposal", [16, 32, 64], 4, 0)),
        (["grad_net.compile=true"], ("autoint", "proposal", [16, 32, 64], 4, 0)),
        (["color=weighted"], ("autoint", "proposal", [16, 32, 64], 4, 0)),
        (["networks=2", "model=object"], ("section_means", "proposal", [64, 128], 4, 2)),
        (["scale=full"], ("section_means", "proposal", [64, 128, 256], 4, 4)),
        (["scale=full", "model=autoint"], ("autoint", "proposal", None, 10, 4)),
        (["experiment=lego_cpu", "method=nerf"], ("nerf", "uniform", None, 6, 2)),
        (["experiment=lego_cpu", "method=autoint_8"], ("autoint", "proposal", [16, 32, 64], 4, 0)),
        (["experiment=lego_cpu", "method=object_16"], ("section_means", "proposal", [64, 128], 4, 2)),
    ],
)
def test_each_model_has_what_suits_it(overrides, expected, laptop):
    assert suited(composed(*overrides)) == expected


def test_a_named_scale_beats_an_experiment_and_a_method_does_too(laptop):
    assert sizes(composed("experiment=lego_cpu", "scale=full")) == (None, 8, 256, 0.0005, None)
    assert composed("experiment=lego_cpu", "method=autoint_8").options["sections"] == 8


PAPER = {  # the rows of the paper's tables, as they were before there was a recipe
    "full": ((None, 8, 256, 0.0005, None), (None, 10, 4)),
    "cpu": ((100, 4, 64, 0.01, "00:00:03:00"), ([16, 32, 64], 4, 0)),
    "tiny": ((32, 2, 16, 0.01, None), (None, 3, 1)),
}


@pytest.mark.parametrize("scale", PAPER)
def test_the_paper_s_rows_are_as_they_were(scale, machine):
    of_size, bands = PAPER[scale]
    for experiment in ("table1", "deepvoxels"):
        config = composed(f"experiment={experiment}", f"scale={scale}", "scene=lego", "method=autoint_32")
        assert sizes(config) == of_size
        assert suited(config) == ("autoint", "proposal", *bands)
        assert (config.options["sections"], config.options["color"]["name"]) == (32, "mean")
    config = composed("experiment=figure5", f"scale={scale}", "placement=predicted")
    assert (sizes(config), suited(config)) == (of_size, ("autoint", "predicted", *bands))
    config = composed("experiment=table1", f"scale={scale}", "scene=lego", "method=nerf")
    assert (sizes(config), suited(config)) == (of_size, ("nerf", "uniform", None, *bands[1:]))


def test_faithful_takes_nothing_of_the_recipe(machine):
    config = composed("faithful='true'", "scene=lego")
    assert sizes(config) == (None, 8, 256, 5e-4, None)
    assert suited(config) == ("autoint", "predicted", None, 10, 4)
    assert (config.trainer["max_steps"], config.val_every, config.save_every) == (20_000, 1000, 500)


@pytest.mark.parametrize(
    ("overrides", "steps", "time"),
    [
        (["trainer.max_steps=6000"], 6000, None),
        (["scale=cpu", "trainer.max_steps=6000"], 6000, None),
        (["task=function", "trainer.max_steps=6000"], 6000, None),
        (["trainer.max_steps=6000", "trainer.max_time=00:00:01:00"], 6000, "00:00:01:00"),
        (["trainer.max_time=00:00:01:00"], 150_000, "00:00:01:00"),
        (["trainer.max_time=null"], 150_000, None),
    ],
)
def test_steps_that_are_named_are_not_cut_by_a_time_that_is_not(overrides, steps, time, laptop):
    trainer = composed(*overrides).trainer
    assert (trainer["max_steps"], trainer["max_time"]) == (steps, time)


def test_an_experiment_of_one_s_own_names_steps(laptop, tmp_path):
    """It lies above the recipe, whose time limit would end it early."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ntrainer: {max_steps: 7}\nimage_size: 40\n")
    trainer = composed(f"hydra.searchpath=[{tmp_path}]", "experiment=mine").trainer
    assert (trainer["max_steps"], trainer["max_time"]) == (7, None)


def test_jobs_of_a_sweep_in_another_process_take_it_too(laptop):
    """Launchers send the loader to their workers, and let it compose there."""
    store_groups()
    with initialize_config_dir(str(CONF), **VERSION):
        loader = GlobalHydra.instance().config_loader()
        master = compose("config", ["scene=lego"], return_hydra_config=True)
        sent = pickle.dumps((loader, master))
    loader, master = pickle.loads(sent)
    job = loader.load_sweep_config(master, ["model=nerf", "trainer.max_steps=5"])
    assert (job.encoding.num_frequencies, job.direction_encoding.num_frequencies) == (6, 2)
    assert (job.trainer.max_steps, job.trainer.max_time) == (5, None)


def test_a_resumed_run_trains_for_the_steps_that_are_named(laptop):
    """Its time limit was the recipe's, and is used up: 6000 more steps would be none."""
    stored, now = composed("trainer=cpu"), composed("trainer=cpu", "trainer.max_steps=6000")
    going_on = continued(now, stored, ["trainer.max_steps"])
    assert (going_on.trainer["max_steps"], going_on.trainer["max_time"]) == (6000, None)
    now = composed("trainer=cpu", "trainer.max_steps=6000", "trainer.max_time=20m")
    assert continued(now, stored, ["trainer.max_steps", "trainer.max_time"]).trainer["max_time"] == "20m"


def test_images_smaller_than_the_recipe_s_size_stay_as_they_are(blender_scene, laptop, caplog):
    scene = ["scene=blender", "scene.path=nerf_synthetic/disc", f"data_dir={blender_scene}"]
    assert load_views(composed(*scene), "train").images.shape[1:3] == (6, 8)
    assert load_views(composed(*scene, "image_size=4"), "train").images.shape[1:3] == (3, 4)
    assert load_views(composed(*scene, "max_image_size=4"), "train").images.shape[1:3] == (3, 4)
    assert composed("image_size=null").options["max_image_size"] is None
    with pytest.raises(ValueError, match=r"image_size=100 is larger than the images \(8x6\)"):
        load_views(composed(*scene, "image_size=100"), "train")
    caplog.set_level("INFO", "autoint")
    build.task(composed(*scene, "network.hidden_features=2"))
    assert "images of 8×6 pixels" in caplog.messages


def lines(*overrides):
    store_groups()
    with initialize_config_dir(str(CONF), **VERSION):
        config = compose("config", list(overrides), return_hydra_config=True)
    return recipe.told(config, config.hydra)


def test_one_line_tells_of_the_sizes(machine):
    cpu = machine == "laptop"
    sizes = "CPU: 100×100 pixels, 4×64 network, 10" if cpu else "GPU: 400×400 pixels, 8×256 network, 20"
    assert lines() == [f"{sizes} minutes; scale=full for the paper's"]
    assert lines("scale=cpu", "trainer.max_time=90s") == ["CPU: 100×100 pixels, 4×64 network, 1.5 minutes"]
    assert lines("trainer=cpu", "image_size=null", "network.num_layers=2", "trainer.max_steps=60") == [
        "CPU: images as large as they are, 2×64 network, 60 steps; scale=full for the paper's"
    ]
    assert lines("task=ct") == lines("task=function") == []


def test_keys_of_integral_networks_choose_them_and_say_so(laptop):
    assert lines("fit=grad_net", "networks=2")[1:] == [
        "model=autoint, because of fit and networks; without it, model=section_means does better"
    ]
    assert lines("fit=grad_net", "model=autoint")[1:] == []
    with pytest.raises(ValueError, match=r"^fit: says nothing to model=nerf; leave it out, or take model=autoint$"):
        lines("fit=grad_net", "model=nerf")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("model=unisurf", "model=unisurf, which learns no grid of positions; give model.smooth, or leave it out"),
        ("model=nerf", "encoding=normalized_positional, which learns no grid of positions; leave it out"),
    ],
)
def test_smooth_is_refused_where_nothing_varies(word, told, laptop):
    lines(word)
    with pytest.raises(ValueError, match=f"^smooth: says nothing to {told}$"):
        lines("smooth=0.01", word)
    lines("smooth=0", word)  # by which what was trained without it goes on
    assert lines("smooth=0.01", "model=autoint") == lines("model=autoint")


def test_a_training_begins_with_the_line(program, tiny):
    status, out, err = program("train", *tiny, "trainer.max_steps=1", "hydra.run.dir=run")
    assert status == 0, err
    assert out.startswith("CPU: 12×12 pixels, 2×8 network, 1 step; scale=full for the paper's\n")
    stored = OmegaConf.load("run/.hydra/overrides.yaml")
    assert not [key for key in stored if "recipe" in key]  # what is written down is what was typed
