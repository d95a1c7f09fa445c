"""The programs as users call them: every choice composes, and bad input is one line, exit status 2 and no leftovers."""

import itertools
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from autoint.runs.command_line.cli import VERSION, store_groups
from autoint.runs.config import RunConfig
from tests.conftest import ROOT

CONF = ROOT / "conf"
BAD = {
    "sections=0": "sections=0 must be an integer of at least 1",
    "sections=-1": "sections=-1 must be an integer of at least 1",
    "sections=1.5": "sections=1.5 does not fit: expected int",
    "sections=sixteen": "sections='sixteen' does not fit: expected int",
    "sectons=16": "unknown key 'sectons'; did you mean 'sections'?",
    "+sectons=16": "unknown key 'sectons'; did you mean 'sections'?",
    "+foo=1": "unknown key 'foo'",
    "task=volrnd": "'volrnd' is unknown; did you mean 'volrend'? (available: ct, function, image, surface, volrend)",
    "scene=legoo": "scene='legoo' is unknown; did you mean 'lego'?",
    "scene=lego": "scene folder not found: data/nerf_synthetic/lego",
    "activation=swihs": "activation='swihs' is unknown; did you mean 'swish'?",
    "activation.omega_0=3": "unknown key 'activation.omega_0'",
    "network.hidden_feature=3": "unknown key 'network.hidden_feature'; did you mean 'hidden_features'?",
    "network.num_layers=0": "network.num_layers=0 must be an integer of at least 1",
    "trainer.max_step=3": "unknown key 'trainer.max_step'; did you mean 'max_steps'?",
    "+trainer.max_step=3": "unknown key 'trainer.max_step'; did you mean 'max_steps'?",
    "trainer.max_steps=0": "trainer.max_steps=0 must be an integer of at least 1",
    "trainer.precision=fp3": "trainer.precision=fp3 is not to be had",
    "optimizer.lr=nan": "optimizer.lr=nan must be positive",
    "fit=gradnet": "fit='gradnet' is unknown; did you mean 'grad_net'?",
    "background=blue": "background='blue' is unknown (available: white, black, random)",
    "image_size=0": "image_size=0 must be an integer of at least 1",
    "ckpt_path=none.ckpt": "none.ckpt: no such checkpoint",
    "encoding.num_frequencies=99": "encoding.num_frequencies=99 must be between 0 and 32",
    "epochs=9": "unknown key 'epochs'; did you mean 'trainer.max_steps'?",
    "device=cpu": "unknown key 'device'; did you mean 'trainer.accelerator'?",
    "scene.path=none": "unknown key 'scene.path', which is of scene=blender, colmap, deepvoxels, … (available: ",
    "experiment=tabel1": "experiment='tabel1' is unknown; did you mean 'table1'?",
    "scale=cpuu": "scale='cpuu' is unknown; did you mean 'cpu'?",
    "report.layout=tabel1": "report.layout='tabel1' is unknown; did you mean 'table1'?",
    "report.max_images=0": "report.max_images=0 must be an integer of at least 1",
    "report.lpips_weights=none.pth": "report.lpips_weights=none.pth: no such file",
    "report.lpips=vggg": "report.lpips='vggg' is unknown; did you mean 'vgg'?",
    "report.max_image=1": "unknown key 'report.max_image'; did you mean 'max_images'?",
    "sections=[1": "cannot read 'sections=[1'",
    "data_dir=${nowhere}": "nowhere",
}


@pytest.mark.parametrize("override", BAD)
def test_bad_input_is_one_line(override, program):
    status, _, err = (
        program("train", override, "image_size=8") if "image_size" not in override else program("train", override)
    )
    assert status == 2
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert BAD[override] in lines[0]
    assert not Path("outputs").exists()


def test_samples_must_be_a_multiple_of_sections(program):
    status, _, err = program("train", "fit=grad_net", "sections=16", "samples=100", "image_size=8")
    assert status == 2
    assert "samples=100 must be a multiple of sections=16, for instance samples=96" in err


def test_a_broken_scene_leaves_no_folder(program, blender_scene):
    (blender_scene / "nerf_synthetic" / "disc" / "val" / "r_1.png").unlink()
    status, _, err = program("train", "scene=blender", "scene.path=nerf_synthetic/disc", f"data_dir={blender_scene}")
    assert status == 2
    assert "transforms_val.json: frames[1].file_path" in err
    assert "Traceback" not in err
    assert not Path("outputs").exists()


def test_a_folder_that_was_there_before_is_left_alone(program):
    Path("mine").mkdir()
    Path("mine/notes.log").write_text("keep me")
    assert program("train", "sections=0", "hydra.run.dir=mine")[0] == 2
    assert Path("mine/notes.log").read_text() == "keep me"


def test_a_traceback_is_shown_when_asked_for(program):
    with pytest.raises(ValueError, match="sections=0"):
        program("train", "sections=0", trace=True)


def test_help_tells_what_can_be_chosen(program):
    status, out, _ = program("train", "--help")
    assert status == 0
    for line in (
        "activation: relu, sharp_softplus, sine, slow_sine, softplus, swish",
        "encoding: fine_grid, finest_grid, grid, identity, normalized_positional, positional",
        "grad_net: double_backward, explicit, graph, jvp",
        "placement: occupied, predicted, proposal, uniform",
        "model: autoint, efficient_nerf, light_field, nerf, nerf_tree, neural_volumes, object, potential, "
        "section_means, unisurf",
        "color: decoded, mean, weighted",
        "logger: csv, tensorboard, wandb",
        "python train.py task=volrend scene=lego sections=16",
        "sections: 16",
    ):
        assert line in out
    assert "lpips_weights" in program("evaluate", "--help")[1]


def composed(*overrides):
    store_groups()
    with initialize_config_dir(str(CONF), **VERSION):
        return RunConfig.from_hydra(compose("config", list(overrides)))


FILES = {group.name: sorted(f"{group.name}='{p.stem}'" for p in group.glob("*.yaml")) for group in CONF.glob("*/")}
SURFACES = [f"method='{p.stem}'" for p in CONF.glob("method/*.yaml") if "Of task=surface" in p.read_text()]
ALONE = ["experiment", "faithful", "task"]
"""Groups of files that choose much themselves; of the others one each goes together."""
TOGETHER = itertools.zip_longest(
    *([f for f in files if f not in SURFACES] for group, files in sorted(FILES.items()) if group not in ALONE)
)
SINGLY = [[file] for group in ALONE for file in FILES[group]] + [["task=surface", file] for file in SURFACES]


@pytest.mark.parametrize("choices", [*SINGLY, *map(list, TOGETHER)], ids=str)
def test_every_file_of_conf_composes(choices):
    composed(*filter(None, choices))


def test_faithful_is_the_paper_as_printed(program, tiny):
    """Sec. 5: 8x256, L = 10 and 4, Adam 5e-4 x0.2 every 1e5 steps, 4 images x 1024 rays, M = 128/N, sampler."""
    config = composed("faithful='true'", "scene=lego")
    assert (config.fit, config.batch_size, config.options["images_per_batch"]) == ("grad_net", 4096, 4)
    assert (config.network.hidden_features, config.network.num_layers) == (256, 8)
    assert [config.encoding["num_frequencies"], config.options["direction_encoding"]["num_frequencies"]] == [10, 4]
    assert (config.optimizer.lr, config.optimizer.final, config.optimizer.decay_steps) == (5e-4, 0.2, 100_000)
    assert (config.options["samples"], config.options["placement"]["name"]) == (128, "predicted")
    status, _, err = program(
        "train", "faithful=true", *tiny, "batch_size=8", "trainer.max_steps=2", "hydra.run.dir=run"
    )
    assert status == 0, err


def test_components_have_options_without_any_yaml():
    config = composed("activation=sine", "activation.omega_0=10", "placement=predicted", "placement.num_layers=3")
    assert config.activation == {"name": "sine", "omega_0": 10.0}
    assert config.options["placement"] == {"name": "predicted", "hidden_features": 64, "num_layers": 3}
    assert composed("encoding=positional", "encoding.pi=false").encoding["pi"] is False


def test_a_configuration_survives_being_plain_data():
    config = composed("experiment=lego_cpu", "sections=8")
    assert RunConfig.from_plain(config.to_plain()) == config
    assert config.options["scene"]["path"] == "nerf_synthetic/lego"


def test_a_failed_job_does_not_stop_a_sweep(program, tiny):
    status, _, err = program(
        "train",
        "-m",
        "sections=4,0",
        *[t for t in tiny if t != "sections=4"],
        "trainer.max_steps=2",
        "hydra.sweep.dir=sweep",
    )
    assert status == 2
    assert "error: sections=0" in err
    assert len(list(Path("sweep").rglob("last.ckpt"))) == 1


def test_evaluate_refuses_what_is_not_there(program):
    for arguments, words in (
        (["runs=nowhere"], "runs=nowhere: no such file or folder"),
        (["runs=.", "splt=val"], "unknown key 'splt'; did you mean 'split'?"),
        (["runs=.", "+foo=1"], "unknown key 'foo'"),
        (["runs=.", "split=tset"], "split='tset' is unknown; did you mean 'test'?"),
        (["runs=.", "max_images=0"], "max_images=0 must be an integer of at least 1"),
        (["runs=."], "no checkpoints/last.ckpt below it"),
    ):
        status, _, err = program("evaluate", *arguments)
        assert status == 2
        assert words in err
        assert len(err.strip().splitlines()) == 1
        assert not Path("outputs").exists()
