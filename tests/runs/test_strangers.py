"""A run, an export or a YAML file of somebody else runs nothing, takes no more than it says, and is resumed rightly."""

import copy
import json
import logging
import os
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file

from autoint.files import images
from autoint.files.whole_files import check_written, write_whole
from autoint.reports import tables
from autoint.runs import checkpoints, evaluation, report, restoring, resuming, sweeps, training
from autoint.runs.checkpoints import WholeFileIO
from autoint.runs.command_line import folders
from autoint.runs.evaluation import EvaluateConfig, evaluate_runs
from autoint.runs.export import export
from autoint.runs.interrupted import PartialEvaluation
from autoint.runs.loggers import MetricsFile
from tests.runs.test_resume import WHOLE, ct_config, fit, function_config, volrend_config

QUICK = {"max_steps": 3, "log_every_n_steps": 2}
MAKERS = {"function": function_config, "ct": ct_config, "volrend": volrend_config}
PAYLOAD = """
from pathlib import Path
Path("canary").touch()
def f(x): return x[:, 0].sin()
"""


@pytest.fixture
def good(tmp_path_factory):
    """Return the last checkpoint of a short run of each task, made once; the contents are the caller's own."""

    def get(task: str):
        name = f"stranger {task}"
        if name not in WHOLE:
            WHOLE[name] = tmp_path_factory.mktemp(task)
            fit(MAKERS[task](trainer=QUICK), WHOLE[name])
        return copy.deepcopy(checkpoints.load(WHOLE[name] / "checkpoints" / "last.ckpt"))

    return get


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """A module that leaves a canary behind when it is imported."""
    (tmp_path / "payload.py").write_text(PAYLOAD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "payload", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


def saved(contents, place="sent") -> Path:
    file = Path(place) / "checkpoints" / "last.ckpt"
    WholeFileIO().save_checkpoint(contents, file)
    return file


def line_of(program, *arguments) -> str:
    status, _, err = program(*arguments)
    assert status == 2, err
    [line] = err.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_code_that_a_run_names_is_imported_only_where_the_person_names_it_too(good, payload, program):
    contents = good("function")
    contents["autoint"]["config"]["options"]["function"] = "payload:f"
    file = saved(contents)
    line = line_of(program, "evaluate", "runs=sent")
    assert line.endswith("say so: python evaluate.py runs=sent function=payload:f")
    assert "names code" in line_of(program, "evaluate", "runs=sent", "function=math:sin")
    assert line_of(program, "evaluate", "runs=sent", "function=sin").startswith("error: function='sin': names code of")
    with pytest.raises(ValueError, match=r"say so: autoint export sent function=payload:f$"):
        export("sent")
    with pytest.raises(ValueError, match="payload:f names code"):
        restoring.restored(file)
    assert not Path("canary").exists()
    status, _, err = program("evaluate", "runs=sent", "function=payload:f", "hydra.run.dir=evaluation")
    assert status == 0, err
    assert Path("canary").exists()
    folder = export("sent", code=["payload:f"])
    Path("canary").unlink()
    sys.modules.pop("payload")
    with pytest.raises(ValueError, match="payload:f names code"):
        restoring.restored(folder / "model.safetensors")
    assert not Path("canary").exists()


@pytest.mark.parametrize("name", ["payload:f; touch canary", "sys:exit\n", "this:s()", ":", "a:b:c"])
def test_what_is_no_name_of_code_is_not_given_to_copy(name, good):
    contents = good("function")
    contents["autoint"]["config"]["options"]["function"] = name
    with pytest.raises(ValueError, match=r"is not of the form package.module:callable|a text of one line") as caught:
        restoring.restored(saved(contents))
    assert len(str(caught.value).splitlines()) == 1


HEAD = "# @package _global_\n"
CODE = {
    "file": "function: payload:f",
    "interpolation": "function: ${data_dir}\ndata_dir: 'payload:f'",
    "sweep": "hydra: {sweeper: {params: {function: 'payload:f'}}, mode: MULTIRUN}",
    "quoted sweep": "hydra: {sweeper: {params: {function: \"'payload:f',cos\"}}, mode: MULTIRUN}",
    "forced sweep": "hydra: {sweeper: {params: {'++function': 'payload:f'}}, mode: MULTIRUN}",
    "sweep of a reference": "data_dir: 'payload:f'\n"
    "hydra: {sweeper: {params: {function: '${data_dir}'}}, mode: MULTIRUN, sweep: {dir: s}}",
}


def experiment(text: str, *others: str) -> tuple[str, ...]:
    Path("conf/experiment").mkdir(parents=True, exist_ok=True)
    Path("conf/experiment/evil.yaml").write_text(HEAD + text, encoding="utf-8")
    return ("train", "--config-dir", "conf", "experiment=evil", *others)


@pytest.mark.parametrize("name", CODE)
def test_code_that_a_file_names_is_not_imported(name, payload, program):
    given = experiment(CODE[name], "trainer.max_steps=1")
    line = line_of(program, *given, "task=function")
    assert "payload" in line or "ordinary keys only" in line
    assert not Path("canary").exists()


def test_code_of_a_file_runs_where_the_command_line_names_it(payload, program):
    given = experiment(
        CODE["file"], "task=function", "trainer.max_steps=2", "adam_steps=2", "points=16", "hydra.run.dir=run"
    )
    line = line_of(program, *given)
    assert line.endswith(f"python train.py {' '.join(given[1:])} function=payload:f")
    assert program(*given, "function=payload:f")[0] == 0
    assert Path("canary").exists()


HYDRA = {
    "sweep of hydra": ("sweeper: {params: {'hydra.sweep.subdir': '../../../ESC'}}", "a file may sweep ordinary keys"),
    "handler by sweep": ("sweeper: {params: {'+hydra.job_logging.handlers.evil': '{class: payload.H}'}}", "ordinary"),
    "package by sweep": ("sweeper: {params: {'scene@hydra.launcher': lego}}", "a file may sweep ordinary keys only"),
    "handler": ("job_logging: {handlers: {evil: {class: payload.H}}}", "handlers.evil.class=payload.H: a file may not"),
    "storage": ("sweeper: {storage: 'sqlite:///x.db'}", "hydra.sweeper.storage"),
    "search": ("sweeper: {storage: 'sqlite:///x.db'}", "hydra.sweeper.storage=sqlite:///x.db: a file may not set this"),
    "callback": ("callbacks: {evil: {x: 1}}", "hydra.callbacks.evil.x=1: a file may not set this"),
    "copied environment": ("job: {env_copy: [HOME]}", "hydra.job.env_set.HOME: a file may not set environment"),
    "overrides": ("overrides: {task: ['function=payload:f']}", "hydra.overrides: only the command line may set it"),
    "many jobs": ("sweeper: {max_batch_size: 1000000}", "hydra.sweeper.max_batch_size=1000000: a file may not"),
    "mode": ("mode: 5", "hydra.mode"),
    "dotted": ("run: {dir: 'a/../../b'}", "hydra.run.dir=a/../../b: a file may name places below"),
}


@pytest.mark.parametrize("name", HYDRA)
def test_a_file_sets_listed_keys_of_hydra_only(name, program):
    """Whoever overrides another key of the same block, and whether the run is one or a sweep."""
    text, words = HYDRA[name]
    if name == "search":
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="pip install 'autoint[sweep]'")
    other = {"handler": "hydra.job_logging.root.level=INFO", "search": "hydra/sweeper=optuna"}.get(name, "seed=1")
    line = line_of(program, *experiment(f"hydra: {{{text}}}", "task=function", other, "-m"))
    assert words in line


def test_a_file_may_not_choose_who_launches(program):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install 'autoint[sweep]'")
    given = experiment("defaults:\n  - override /hydra/launcher: joblib\ntask: function")
    line = line_of(program, *given)
    assert "hydra.launcher." in line
    assert "give hydra/launcher=NAME on the command line" in line


GROWING = {
    "files": ("defaults:\n  - /experiment: evil\nseed: 1", "evil.yaml: its list of defaults"),
    "references": (
        "data_dir: ${x0}\n" + "\n".join(f"x{i}: ${{x{i + 1}}}${{x{i + 1}}}" for i in range(30)) + "\nx30: ab",
        "lead to ever more others",
    ),
    "a circle": ("data_dir: ${x}\nx: ${data_dir}", "data_dir: Recursive interpolation"),
    "a text": (f"data_dir: {'a' * 20000}", "evil.yaml:2:11: a text of 20000 characters, more than 10000"),
}


@pytest.mark.parametrize("name", GROWING)
def test_a_file_that_leads_to_ever_more_is_one_line(name, program):
    text, words = GROWING[name]
    assert words in line_of(program, *experiment(text, "task=function"))


def test_files_that_multiply_are_one_line(program):
    Path("conf/experiment").mkdir(parents=True)
    for level in range(9):
        below = "".join(f"  - /experiment/l{level + 1}@p{level}{i}\n" for i in range(10))
        Path(f"conf/experiment/l{level}.yaml").write_text(f"defaults:\n{below}x: 1\n")
    Path("conf/experiment/l9.yaml").write_text("x: 1\n")
    line = line_of(program, "train", "--config-dir", "conf", "experiment=l0")
    assert "more than 1000 files" in line


def option(**values):
    def change(contents):
        contents["autoint"]["config"]["options"].update(values)

    return change


def shared(**values):
    def change(contents):
        for key, value in values.items():
            own = contents["autoint"]["config"]
            own[key] = {**own[key], **value} if isinstance(value, dict) and key != "encoding" else value

    return change


SIZES = {
    "hidden_features": ("volrend", shared(network={"hidden_features": 200000}), "network.hidden_features=200000"),
    "width": ("ct", shared(network={"hidden_features": 20000}), r"shape \(8,\), not \(20000,\)"),
    "num_layers": ("volrend", shared(network={"num_layers": 10**9}), "num_layers=1000000000: must be at most 1024"),
    "grid": ("volrend", shared(encoding={"name": "grid", "features": 200, "resolutions": [256]}), "Missing key"),
    "sections": ("volrend", option(sections=10**9), "sections=1000000000: must be at most 8192"),
    "image_size": ("volrend", option(image_size=30000), "image_size=30000: must be at most 8192"),
    "samples": ("ct", option(samples=10**9), "samples=1000000000: must be at most 65536"),
    "rho": ("ct", option(rho=10**6), "rho=1000000: must be at most 4096"),
    "options": ("volrend", lambda c: c["autoint"]["config"].update(options=5), "options=5 must hold the keys"),
    "integer": ("volrend", shared(seed=10**40), "seed: an integer of 133 bits"),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_configuration_takes_no_more_than_its_file_holds(name, good):
    task, change, words = SIZES[name]
    contents = good(task)
    change(contents)
    with pytest.raises(ValueError, match=words) as caught:
        restoring.restored(saved(contents))
    assert len(str(caught.value).splitlines()) == 1


BIAS, DENSITY = "volume.networks.0.hidden.0.bias", "volume.occupancy.density"
NUMBERS = {
    "nan": (DENSITY, lambda t: t.fill_(torch.nan), "volume.occupancy.density holds numbers that are not finite"),
    "infinity": (BIAS, lambda t: t - torch.inf, "hidden.0.bias holds numbers that are not finite"),
    "int8": (BIAS, lambda t: t.to(torch.int8), r"holds torch.int8, not torch.float32"),
    "float16": (BIAS, lambda t: t.half(), r"holds torch.float16, not torch.float32"),
    "complex": (BIAS, lambda t: t.to(torch.complex64), r"holds torch.complex64, not torch.float32"),
    "double": (BIAS, lambda t: t.double(), r"holds torch.float64, not torch.float32"),
    "box": ("volume.occupancy.lower", lambda t: t + 1e6, "the scene's box is from"),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_numbers_of_a_checkpoint_are_what_its_module_says(name, good, tmp_path):
    key, change, words = NUMBERS[name]
    contents = good("volrend")
    contents["state_dict"][key] = change(contents["state_dict"][key].clone())
    file = saved(contents)
    with pytest.raises(ValueError, match=words):
        restoring.restored(file)
    with pytest.raises(ValueError, match=words):
        fit(volrend_config(trainer=QUICK, ckpt_path=str(file)), tmp_path / "run")


def test_the_numbers_of_a_scan_fit_each_other(good):
    for key, value, words in (
        ("spacing", torch.tensor(1e-9, dtype=torch.float64), "197 nodes are not those of a lattice of spacing 1e-09"),
        ("theta", torch.zeros(7, dtype=torch.float64), "which are no scan's"),
    ):
        contents = good("ct")
        contents["state_dict"][f"search.object.{key}"] = value
        with pytest.raises(ValueError, match=words):
            restoring.restored(saved(contents))


def test_a_run_in_float64_is_restored(good):
    contents = good("volrend")
    contents["autoint"]["config"]["trainer"]["precision"] = "64-true"
    contents["state_dict"] = {k: v.double() for k, v in contents["state_dict"].items()}
    assert restoring.restored(saved(contents))[0].trainer["precision"] == "64-true"


def loops(c):
    return c["loops"]["fit_loop"]


def memory(c):
    return c["optimizer_states"][0]["state"][0]


DAMAGE = {
    "no step": ("global_step", lambda c: c.pop("global_step")),
    "steps": ("global_step", lambda c: c.update(global_step=torch.ones(3, 2))),
    "negative step": ("global_step", lambda c: c.update(global_step=-1)),
    "another step": ("loops", lambda c: c.update(global_step=2)),
    "no loops": ("weights alone", lambda c: c.pop("loops")),
    "empty loops": ("loops", lambda c: c.update(loops={})),
    "done": ("loops", lambda c: loops(c)["epoch_progress"]["current"].update(completed=1)),
    "batches": ("loops", lambda c: loops(c)["epoch_loop.batch_progress"]["current"].update(completed=80)),
    "loader": ("loops", lambda c: loops(c)["state_dict"].update(combined_loader=[{"step": 80}])),
    "many lines": ("loops", lambda c: loops(c).update({"epoch_loop.scheduler_progress": torch.ones(3, 3)})),
    "no loader": ("loops", lambda c: loops(c).pop("state_dict")),
    "true": ("loops", lambda c: loops(c)["epoch_progress"]["current"].update(ready=True)),
    "no optimizer": ("optimizer", lambda c: c.update(optimizer_states=[])),
    "forgotten": ("optimizer", lambda c: c["optimizer_states"][0].update(state={})),
    "no moment": ("optimizer", lambda c: memory(c).pop("exp_avg_sq")),
    "moment": ("optimizer", lambda c: memory(c).update(exp_avg=memory(c)["exp_avg"] * torch.nan)),
    "short moment": ("optimizer", lambda c: memory(c).update(exp_avg=memory(c)["exp_avg"].half())),
    "settings": ("optimizer", lambda c: c["optimizer_states"][0]["param_groups"][0].update(amsgrad=True)),
    "rate": ("optimizer", lambda c: c["optimizer_states"][0]["param_groups"][0].update(lr=torch.nan)),
    "a tensor": ("optimizer", lambda c: c["optimizer_states"][0]["param_groups"][0].update(eps=torch.zeros(2))),
    "a number": ("optimizer", lambda c: c["optimizer_states"][0]["param_groups"][0].update(eps=True)),
    "tensors": ("optimizer", lambda c: c["optimizer_states"][0]["param_groups"][0].update(params=[torch.zeros(2)] * 4)),
    "groups": ("optimizer", lambda c: c["optimizer_states"][0].pop("param_groups")),
    "no schedule": ("lr_schedulers", lambda c: c.update(lr_schedulers=[])),
    "no count": ("lr_schedulers", lambda c: c["lr_schedulers"][0].update(last_epoch=torch.full((2,), 3))),
    "schedule": ("lr_schedulers", lambda c: c["lr_schedulers"][0].update(last_epoch=0)),
    "no callbacks": ("callbacks", lambda c: c.pop("callbacks")),
    "callbacks": ("callbacks", lambda c: c.update(callbacks=[1])),
    "timer": ("callbacks", lambda c: c["callbacks"].update(Timer={"time_elapsed": {"train": -1.0}})),
    "no version": ("pytorch-lightning_version", lambda c: c.pop("pytorch-lightning_version")),
    "version": ("pytorch-lightning_version", lambda c: c.update({"pytorch-lightning_version": "x.y"})),
    "epoch": ("epoch", lambda c: c.update(epoch=10**9)),
    "no weights": ("state_dict", lambda c: c.pop("state_dict")),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_when_a_run_is_resumed(name, good, tmp_path, monkeypatch):
    words, change = DAMAGE[name]
    contents = good("volrend")
    change(contents)
    file = saved(contents)
    monkeypatch.setattr(training, "_run", lambda *_: pytest.fail("the training went on"))
    with pytest.raises(ValueError, match=words) as caught:
        fit(volrend_config(trainer={**QUICK, "max_steps": 80}, ckpt_path=str(file)), tmp_path / "run")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("key", ["trainer", "activation"])
def test_a_long_value_is_refused_in_a_short_line(key, good):
    contents = good("function")
    contents["autoint"]["config"][key] = [{"max_steps": 3, "accelerator": "cpu"}] * 200
    with pytest.raises(ValueError, match=rf"{key}=\[\{{'max_steps': 3") as caught:
        restoring.restored(saved(contents))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("task", [["function"], {"name": "function"}, 5, None])
def test_a_task_that_is_no_name_is_refused(task, good):
    contents = good("function")
    contents["autoint"]["config"]["task"] = task
    with pytest.raises(ValueError, match=r"task=.* must be one of: ct, function, image, surface, volrend"):
        restoring.restored(saved(contents))


def test_an_optimizer_that_forgot_one_weight_is_noticed_at_the_first_step(good, tmp_path):
    contents = good("volrend")
    del contents["optimizer_states"][0]["state"][0]
    more = volrend_config(trainer={**QUICK, "max_steps": 80}, ckpt_path=str(saved(contents)))
    with pytest.raises(
        ValueError, match=r"damaged, its optimizer remembers nothing of \S+ after \d steps; use another"
    ):
        fit(more, tmp_path / "run")


@pytest.mark.parametrize("options", [5, None, [1], {"scene": 5}, {"sections": "x"}, {1: 2}, {"scene": {"name": [1]}}])
def test_a_damaged_run_costs_only_itself(options, good):
    whole, broken = good("function"), good("volrend")
    saved(whole, "runs/whole")
    broken["autoint"]["config"]["options"] = options
    saved(broken, "runs/broken")
    with pytest.raises(ValueError, match="1 of 2 runs could not be evaluated"):
        evaluate_runs(EvaluateConfig(runs="runs", device="cpu"), Path("out"))
    assert list(json.loads(Path("out/result.json").read_text())["failed"]) == ["runs/broken"]


@pytest.mark.parametrize("name", ["values", "keys", "_metadata"])
def test_attributes_of_a_dict_in_a_checkpoint_count_for_nothing(name, good):
    contents = good("function")
    contents["state_dict"] = OrderedDict(contents["state_dict"])
    vars(contents["state_dict"])[name] = 5
    torch.save(contents, "sent.ckpt")
    assert checkpoints.load("sent.ckpt")["state_dict"].keys() == dict.keys(contents["state_dict"])
    restoring.restored("sent.ckpt")


def test_an_error_of_any_kind_costs_only_its_own_run(good, monkeypatch):
    for name in ("first", "second"):
        saved(good("function"), f"runs/{name}")
    evaluated = evaluation._evaluated

    def failing(config, file, *rest):
        return {}[5] if "first" in str(file) else evaluated(config, file, *rest)

    monkeypatch.setattr(evaluation, "_evaluated", failing)
    found = evaluation.evaluated_runs(EvaluateConfig(runs="runs", device="cpu"), Path("out"))
    assert (len(found.runs), found.failed) == (1, {"runs/first": "KeyError: 5"})


def test_an_export_whose_numbers_were_changed_is_refused(good):
    saved(good("function"))
    folder = export("sent")
    weights = load_file(folder / "model.safetensors")
    save_file({k: v.half() for k, v in weights.items()}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"holds torch.float16, not torch.float64"):
        restoring.restored(folder / "model.safetensors")
    (folder / "config.json").write_text("[" * 2**21)
    with pytest.raises(ValueError, match=r"config.json has 2097152 bytes; at most"):
        restoring.restored(folder / "model.safetensors")


def test_what_contains_itself_or_multiplies_is_refused():
    around: list = []
    around.append(around)
    many: list = [0] * 10
    for _ in range(13):
        many = [many] * 10
    for value, words in ((around, "a list that contains itself"), (many, "more than 1000000 values")):
        torch.save({"autoint": {"format": 1, "config": {"x": value}}, "state_dict": {}}, "evil.ckpt")
        with pytest.raises(ValueError, match=words):
            checkpoints.load("evil.ckpt")


NOTED = {
    "no object": "[1]",
    "no metrics": '{"steps": 3, "seconds": 1.0}',
    "a list": '{"steps": 3, "seconds": 1.0, "metrics": [1]}',
    "texts": '{"steps": 3, "seconds": 1.0, "metrics": {"val/psnr": "x"}}',
    "no time": '{"steps": 3, "seconds": "long", "metrics": {}}',
    "endless": '{"steps": 3, "seconds": Infinity, "metrics": {}}',
    "thousands of digits": f'{{"steps": 3, "seconds": 1{"0" * 5000}, "metrics": {{}}}}',
    "deep": "[" * 10**5,
}


@pytest.mark.parametrize("name", NOTED)
def test_what_a_run_has_noted_beside_its_checkpoint_is_taken_if_it_is_whole(name, good):
    contents = good("function")
    file = saved(contents)
    result = file.parent.parent / "result.json"
    result.write_text(NOTED[name])
    assert resuming.result_of(file, contents) is None
    result.write_text('{"steps": 3, "seconds": 1.5, "metrics": {"loss": NaN}}')
    assert resuming.result_of(file, contents)["seconds"] == 1.5


def test_pipes_in_the_folder_of_a_run_are_not_waited_for(good):
    """As an archive may hold them: in place of what a run, an export or an evaluation has written, and of pictures."""
    contents = good("function")
    file = saved(contents, "runs/one")
    folder = file.parent.parent
    for name in ("result.json", "metrics.csv", "view.png", "view.svg", "evaluation/result.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        os.mkfifo(folder / name)
    assert resuming.result_of(file, contents) is None
    assert report.of_training(folder) is not None
    assert report._measured(report._run(file, "one")) == {}
    os.mkfifo("unfinished.json")
    assert PartialEvaluation(Path(), torch.nn.Linear(1, 1), {}).done == {}
    log = MetricsFile(Path("new"))
    log.go_on(folder / "metrics.csv", 3)
    assert log.rows == []
    exported = export(str(folder))
    (exported / "config.json").unlink()
    os.mkfifo(exported / "config.json")
    with pytest.raises(ValueError, match=r"damaged, or without its config.json \(there is no config.json\)"):
        restoring.restored(exported / "model.safetensors")
    with pytest.raises(ValueError, match=r"view.png: no file, but a folder, a pipe or a device; give the image itself"):
        images.read_rgba(folder / "view.png", None)


@pytest.mark.parametrize("step", ["\u00b2", "1" * 5000, "-1", "x"])
def test_rows_of_metrics_that_have_no_step_are_dropped(step):
    """Of a table that somebody else has written; what is no table ends it."""
    rows = f"loss,step\n0.5,0\n0.4,{step}\n0.3,1\n{'x' * 200000},2\n"
    Path("metrics.csv").write_text(rows, encoding="utf-8")
    log = MetricsFile(Path("new"))
    log.go_on(Path("metrics.csv"), 3)
    assert [row["loss"] for row in log.rows] == ["0.5", "0.3"]


def test_a_picture_that_another_program_would_run_is_none_of_a_report(good):
    """PostScript in a .png, which Pillow hands to Ghostscript; panels that lie outside of their sheet."""
    folder = saved(good("function")).parent.parent
    (folder / "evil.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    assert report._kind(folder / "evil.png") == "unreadable"
    for panels in ("5", '{"size": [100000, 100000], "times": 1, "names": ["truth"]}', "[" * 10**5):
        about = PngInfo()
        about.add_text("panels", panels)
        Image.new("RGB", (8, 8)).save(folder / "sheet.png", pnginfo=about)
        assert report._kind(folder / "sheet.png") == "picture"
    assert report.of_training(folder) is not None


def test_nothing_is_written_through_links_of_a_run_that_somebody_has_sent(good, program):
    """Its owner is whoever has unpacked it, so that only where a link leads tells it from the user's own."""
    folder = saved(good("function")).parent.parent
    Path("home").mkdir()
    Path("home/rc").write_text("precious")
    (folder / "train.log").symlink_to("../home/rc")
    line = line_of(program, "train", "task=function", "ckpt_path=last", "hydra.run.dir=sent", "trainer.max_steps=8")
    assert "sent/train.log: a link that leads out of the folder" in line
    (folder / "train.log").unlink()
    for place in (".hydra", ".hydra/config.yaml", "validation", "validation/step_0000003.png", "evaluation/renders"):
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).symlink_to(Path("home/rc" if "." in place[1:] else "home").absolute())
        with pytest.raises(ValueError, match=rf"sent/{place}: a link that leads out of the folder"):
            fit(function_config(), folder)
        (folder / place).unlink()
    (folder / "validation" / "newest.png").symlink_to("../image.png")
    (folder / "images").symlink_to("../home")  # of a scene, which only an evaluation writes
    check_written(folder, "train.log")
    assert "/images: a link" in line_of(program, "evaluate", "runs=sent", "hydra.run.dir=sent")
    assert [(file.name, file.read_text()) for file in Path("home").iterdir()] == [("rc", "precious")]


def test_links_of_the_user_go_on(good, program):
    """Of all runs, or of checkpoints, to a larger disk; a backup by hard links keeps what it has."""
    Path("scratch").mkdir()
    Path("outputs").symlink_to("scratch")
    saved(good("function"), "outputs/run")
    Path("outputs/run/checkpoints").rename("scratch/kept")
    Path("outputs/run/checkpoints").symlink_to(Path("scratch/kept").absolute())
    Path("outputs/run/train.log").write_text("before\n")
    os.link("outputs/run/train.log", "backup")
    line = ("train", "task=function", "ckpt_path=last", "hydra.run.dir=outputs/run", "trainer.max_steps=4")
    status, _, err = program(*line, "+trainer.enable_progress_bar=false")
    assert status == 0, err
    assert checkpoints.load("scratch/kept/last.ckpt")["global_step"] == 4
    assert Path("backup").read_text() == "before\n"
    assert Path("outputs/run/train.log").read_text().startswith("before\n/")


def test_the_part_of_a_file_is_written_through_no_link():
    Path("rc").write_text("precious")
    for name in (".metrics.csv.part", "metrics.csv"):
        Path(name).symlink_to("rc")
    write_whole(Path("metrics.csv"), b"loss,step\n")
    assert (Path("rc").read_text(), Path("metrics.csv").read_text()) == ("precious", "loss,step\n")
    assert not Path("metrics.csv").is_symlink()


def test_columns_of_others_that_a_shell_would_run_do_not_go_on():
    Path("metrics.csv").write_text("$(touch canary),loss,step,val/psnr\n1,0.5,0,$(touch canary)\n,0.4,1,21.5\n")
    log = MetricsFile(Path("new"))
    log.go_on(Path("metrics.csv"), 3)
    assert log.rows == [{"loss": "0.5", "step": "0"}, {"loss": "0.4", "step": "1", "val/psnr": "21.5"}]


@pytest.mark.parametrize("text", ["[]", "{}", '{"row": {"lpips": 1}}', '{"row": {}, "per_image": [5]}', "[" * 10**5])
def test_what_was_measured_before_is_taken_if_it_is_whole(text, good, monkeypatch):
    file = saved(good("function"))
    known = file.parent.parent / "evaluation" / "result.json"
    row = dict.fromkeys(sweeps.MEASURED, 1.0)

    class Module:
        def evaluate(self, *_):
            known.parent.mkdir(exist_ok=True)
            return row, []

    monkeypatch.setattr(restoring, "restored", lambda *_, **__: (None, Module()))
    monkeypatch.setattr(sweeps, "on_device", lambda module, _: module)
    config = EvaluateConfig(lpips="none")
    sweeps.evaluated(config, file)
    kept = json.loads(known.read_text())
    known.write_text(text if text[0] == "[" else json.dumps({"key": kept["key"], **json.loads(text)}))
    assert sweeps.evaluated(config, file).row == row
    monkeypatch.setattr(Module, "evaluate", lambda *_: pytest.fail("measured again"))
    assert sweeps.evaluated(config, file).row == row


def test_names_of_others_move_no_cursor():
    """In tables, in what is logged, and in what is said of a checkpoint's version."""
    red = "a\x1b[31m\nerror: b"
    assert tables.cell(red, "") == r"a\x1b[31m; error: b"
    record = logging.LogRecord("name", logging.ERROR, "", 0, "%s:\n%s is left out", ("two lines", "a\x1b[31m"), None)
    assert folders._escaping(record)
    assert record.getMessage() == "two lines:\na\\x1b[31m is left out"
    assert folders._escaping(logging.LogRecord("name", logging.ERROR, "", 0, "%d", ("no number",), None))
    torch.save({"autoint": {"format": 2, "version": red}}, "evil.ckpt")
    with pytest.raises(ValueError, match=r"format 2 \(made by AutoInt a\\x1b\[31m\\nerror: b\), but"):
        checkpoints.load("evil.ckpt")


def test_a_label_that_leads_back_to_itself_is_a_line(program):
    Path("experiment").mkdir()
    Path("experiment/evil.yaml").write_text("# @package _global_\ndata_dir: ${label:data_dir}\n")
    line = line_of(program, "train", "task=function", "--config-dir", ".", "experiment=evil")
    assert line.endswith("${label:data_dir} leads back to itself; write it out")
