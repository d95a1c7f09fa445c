"""What the programs say: what every key is, which one was meant, which choices disagree, why there is no LPIPS."""

import functools
import itertools
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from autoint.files import reading
from autoint.registry import EVALUATIONS, TASKS
from autoint.reports import metrics, tables
from autoint.runs import evaluation
from autoint.runs.command_line import helping, presets
from autoint.runs.command_line.cli import VERSION, store_groups
from autoint.runs.command_line.telling import one_line
from autoint.runs.command_line.words import as_runs, as_typed
from autoint.runs.config import GROUPS, NESTED, RunConfig
from autoint.runs.evaluation import EvaluateConfig
from autoint.runs.resuming import flat
from tests.runs.test_cli import CONF

PRESETS = {group: sorted(p.stem for p in (CONF / group).glob("*.yaml")) for group in ("method", "experiment", "scale")}


@pytest.mark.parametrize("task", ["volrend", "ct", "function"])
def test_help_says_what_every_key_of_the_task_is(task, program):
    status, out, _ = program("train", f"task={task}", "--help")
    assert status == 0
    lines = out.splitlines()
    assert max(map(len, lines)) <= helping.WIDTH
    for key in TASKS.fields(task):
        if key not in GROUPS:
            [line] = [x for x in lines if x.startswith(f"  {key}: ")]
            assert len(line.split()) > 3, line
    for words in (
        "optimizer.lr: ",
        "learning rate",
        "task: ct, function, image, surface, volrend",
        "trainer.max_time: ",
    ):
        assert words in out
    assert "_keys" not in out
    assert "    lego_cpu " in out
    assert f"of task={task}" in out


def test_help_of_an_evaluation(program):
    status, out, _ = program("evaluate", "--help")
    assert status == 0
    for words in (
        "  max_images: null ",
        "evenly spaced",
        "of runs of task=volrend",
        "  ray: none ",
        "a panel that shows",
    ):
        assert words in out


def test_nothing_that_can_be_set_is_without_a_word():
    owners = [(RunConfig, None), (EvaluateConfig, None), *((cls, None) for cls in NESTED.values())]
    for registry in (*GROUPS.values(), TASKS, EVALUATIONS):
        owners += [(registry[name], registry.fields(name)) for name in registry.names()]
    for owner, fields in owners:
        keys = fields if fields is not None else owner.__dataclass_fields__
        assert not set(keys) - set(helping.documented(owner)), owner
        assert helping.first_line(owner)


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("lr=0.1", "'optimizer.lr'"),
        ("+lr=0.1", "'optimizer.lr'"),
        ("max_steps=3", "'trainer.max_steps'"),
        ("network.lr=3", "'optimizer.lr'"),
        ("hidden_features=3", "'network.hidden_features'"),
        ("omega_0=3", "'activation.omega_0'"),
        ("sectons=3", "'sections'"),
        ("lpips=vgg", "'report.lpips'"),
    ],
)
def test_a_key_is_looked_for_below_others_too(override, meant, program):
    status, _, err = program("train", override)
    assert status == 2
    key = override.lstrip("+").partition("=")[0]
    assert err.startswith(f"error: unknown key '{key}'; did you mean {meant}? (")
    assert len(err.strip().splitlines()) == 1


WORDS = {
    "optimizer.learning_rate=1e-3": "key 'optimizer.learning_rate'; did you mean 'optimizer.lr'? (available: lr,",
    "activation.omega=30": "'activation.omega'; did you mean activation=sine activation.omega_0=VALUE? "
    "(activation=swish has no keys)",
    "activation={omega: 30}": "unknown key 'activation.omega'; did you mean activation=sine activation.omega_0=VALUE?",
    "task=nerf": "task='nerf' is unknown; did you mean model=nerf or method=nerf? (available: ct, function,",
    "task=lego": "task='lego' is unknown; did you mean scene=lego? (available: ct",
    "model=lego": "model='lego' is unknown; did you mean scene=lego? (available: autoint",
    "function=sin": "unknown key 'function', which is of task=function; name the task (see --help)",
    "optimizer=[1,2]": "optimizer=[1,2] does not fit: optimizer holds keys (lr, betas, warmup_steps, final, "
    "decay_steps, encoding_lr); give one by itself, as in optimizer.lr=VALUE",
    "optimizer=adam": "optimizer='adam' does not fit: optimizer holds keys (lr,",
    "optimizer.betas={a: 1}": "optimizer.betas={a: 1} does not fit: optimizer.betas is a list, as [0.9,0.99]",
    "hydra.run=[1]": "hydra.run=[1] does not fit: hydra.run holds keys (dir); give one by itself, as in hydra.run.dir=",
    "trainer=[1]": "trainer=[1]: a name is needed; give one that --help lists for trainer",
    "scene=3": "scene=3: a name is needed; give one that --help lists for scene",
    "experiment=null": "experiment=null: a name is needed",
    "encoding@direction_encoding=[a]": "encoding@direction_encoding=[a]: a name is needed",
}


@pytest.mark.parametrize("override", WORDS)
def test_a_word_in_the_wrong_place_is_told_where_it_belongs(override, program):
    status, _, err = program("train", override, "trainer.max_steps=1")
    assert status == 2
    assert WORDS[override] in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("optimizer: [1, 2]", ":2:12: optimizer holds keys, and no list; write optimizer: {lr: VALUE}"),
        ("activation: [1, 2]", ":2:13: activation holds keys, and no list; write activation: {name: VALUE}"),
        ("optimizer: {betas: {a: 1}}", ": has a list where others have keys, or keys where others have a list"),
        ("- seed", ":2:1: no keys; write KEY: VALUE"),
    ],
)
def test_a_file_with_a_list_where_keys_are_is_named(text, told, program):
    Path("c/experiment").mkdir(parents=True)
    Path("c/experiment/mine.yaml").write_text(f"# @package _global_\n{text}\n")
    status, _, err = program("train", "--config-dir", "c", "experiment=mine", "trainer.max_steps=1")
    assert status == 2
    assert f"c/experiment/mine.yaml{told}" in err
    assert len(err.strip().splitlines()) == 1


def test_what_hydra_says_of_a_long_value_is_cut(program):
    Path("c/experiment").mkdir(parents=True)
    Path("c/experiment/mine.yaml").write_text(f"# @package _global_\nhydra: {{run: [{{dir: {'x' * 9000}}}]}}\n")
    status, _, err = program("train", "--config-dir", "c", "experiment=mine", "trainer.max_steps=1")
    [line] = err.strip().splitlines()
    assert (status, "mine" in line, len(line) < 1000) == (2, True, True)


def test_an_error_without_words_is_one_line():
    assert one_line(HydraException(""), []) == "the configuration cannot be read (HydraException); check its files"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("defaults: [{override /activation: 'line\n\nline'}]\n", r"activation='line\nline' is unknown"),
        ('hydra: {sweeper: {params: {"seed\\n": 1}}}', r"hydra.sweeper.params.seed\n: a file may sweep ordinary keys"),
    ],
)
def test_a_name_with_an_end_of_a_line_is_told_in_one_line(text, told, program):
    Path("c/experiment").mkdir(parents=True)
    Path("c/experiment/mine.yaml").write_text("# @package _global_\n" + text)
    status, _, err = program("train", "--config-dir", "c", "experiment=mine", "trainer.max_steps=1")
    assert status == 2
    [line] = err.strip().splitlines()
    assert line.startswith(f"error: {told}")


def test_only_findings_have_a_line_each():
    def wrong(name):
        raise ValueError(f"{name} is wrong")

    with pytest.raises(reading.FindingsError) as caught:
        reading.gathered(wrong, ["a\nb", "c"])
    assert one_line(caught.value, []) == "a\\nb is wrong\nc is wrong"


def test_a_text_is_one_cell_of_a_table():
    assert tables.cell("a|b\nc", "") == r"a\|b; c"


def test_a_file_with_a_number_where_keys_are_is_one_line(program):
    Path("c/experiment").mkdir(parents=True)
    Path("c/experiment/mine.yaml").write_text("# @package _global_\ntrainer: 3\n")
    status, _, err = program("train", "--config-dir", "c", "experiment=mine")
    assert (status, len(err.strip().splitlines())) == (2, 1)
    assert "trainer" in err


@pytest.mark.parametrize("value", ["soon", "5x", "-3", "0"])
def test_a_time_that_is_none_is_refused_before_anything_is_read(value, program):
    status, _, err = program("train", f"trainer.max_time={value}")
    assert status == 2
    assert "is no time to train for; give seconds, or as in 90s, 5m, 1h30m or DD:HH:MM:SS" in err
    assert len(err.strip().splitlines()) == 1


@functools.cache
def settings_of(group, name):
    """What a file says, read without Hydra."""
    plain = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
    chosen = [d for d in plain.pop("defaults", []) if isinstance(d, dict)]
    plain.pop("hydra", None)
    overrides = {k.removeprefix("override /"): v for d in chosen for k, v in d.items() if k.startswith("override /")}
    return dict(flat(plain)) | overrides


@pytest.fixture(scope="module")
def loader():
    store_groups()
    with initialize_config_dir(str(CONF), **VERSION):
        loader = GlobalHydra.instance().config_loader()
        loader.repository = CachingConfigRepository(loader.repository)  # a thousand choices of a few files
        yield loader


def test_of_all_choices_that_are_shipped_no_two_disagree_in_silence(loader):
    """Every method with every experiment at every scale: refused by name, or there is nothing to disagree about."""
    for names in itertools.product(*([None, *of] for of in PRESETS.values())):
        chosen = {group: name for group, name in zip(PRESETS, names, strict=True) if name}
        pairs = list(itertools.combinations(chosen.items(), 2))
        clash = {
            key
            for (a, b) in pairs
            for key in settings_of(*a).keys() & settings_of(*b).keys()
            if settings_of(*a)[key] != settings_of(*b)[key]
        }
        said = ""
        try:
            presets.check(loader, [f"{group}={name}" for group, name in chosen.items()])
        except ValueError as error:
            said = str(error)
        assert bool(said) == bool(clash), chosen
        assert not clash or any(f" {key} (" in said for key in clash)
    assert {"model"} <= settings_of("method", "nerf").keys() & settings_of("method", "autoint_8").keys()


def test_a_choice_that_is_named_is_trained_or_refused(program):
    status, out, err = program("train", "experiment=lego_cpu", "method=nerf", "--cfg", "job")
    assert (status, "model:\n  name: nerf\n" in out) == (0, True), err
    refusal = "error: faithful=true and method=nerf disagree about model (autoint, nerf)"
    status, _, err = program("train", "faithful=true", "method=nerf", "--cfg", "job")
    assert status == 2
    assert err.startswith(refusal)
    assert len(err.splitlines()) == 1
    status, out, _ = program("train", "faithful=true", "method=nerf", "model=nerf", "placement=uniform", "--cfg", "job")
    assert status == 0
    assert "model:\n  name: nerf\n" in out
    sweep = ("-m", "faithful=true", "method=nerf,object_16", "hydra.sweep.dir=sweep")
    status, _, err = program("train", *sweep)
    assert status == 2
    assert refusal in err
    assert "faithful=true and method=object_16 disagree about model (autoint, section_means)" in err


def test_what_is_given_by_itself_settles_it(loader):
    presets.check(loader, ["faithful='true'", "method=nerf", "model=nerf", "placement=uniform"])
    presets.check(loader, ["scale=full", "experiment=lego_cpu"])  # the experiment's scale is not named, the other is
    with pytest.raises(ValueError, match=r"faithful=true and scale=tiny disagree about image_size \(None, 32\)"):
        presets.check(loader, ["faithful='true'", "scale=tiny"])
    with initialize_config_dir(str(CONF), **VERSION):
        compose("config", ["experiment=table1", "scale=tiny", "method=nerf"])


def test_all_ways_to_name_runs_are_one():
    one = ["runs='a/b'"]
    assert as_runs(["a/b"]) == as_runs(["runs=a/b"]) == one
    several = ["split=val", "runs=['a','b c']"]
    assert as_runs(["a", "split=val", "b c"]) == as_runs(["split=val", "runs=a,b c"]) == several
    for left in (["runs=[a,b]"], ["runs=a,b", "-m"], ["--cfg", "job"], ["runs='a,b'", "-c", "all"]):
        assert as_runs(left) == left
    Path("x,y").mkdir()
    assert as_runs(["runs=x,y"]) == ["runs='x,y'"]


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("data_dir=/home/jörg/data", "/home/jörg/data"),
        ("image=Läufe/föto (1).png", "Läufe/föto (1).png"),
        ("ckpt_path=outputs/a=b/it's.ckpt", "outputs/a=b/it's.ckpt"),
        ("hydra.run.dir=~/x", "/home/me/x"),
        ("hydra.run.dir='~/x y'", "/home/me/x y"),
        ("phantom.path=a,b.h5", "a,b.h5"),  # which is there
        ("scene=Läufe,lego", ["Läufe", "lego"]),
        ("data_dir=~a/b", "~a/b"),
        ("sections=16", 16),
        ("scene.path=${data_dir}/x", "${data_dir}/x"),
        ("lower=[0,1]", [0, 1]),
    ],
)
def test_paths_are_typed_as_they_are(typed, read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    Path("a,b.h5").touch()
    for words in (as_typed([typed]), as_runs([typed])):
        [override] = OverridesParser.create().parse_overrides(words)
        values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
        values = [getattr(value, "text", value) for value in values]
        assert values == (read if override.is_sweep_override() else [read])
    Path("~").mkdir()
    assert as_typed(["hydra.run.dir=~/x"]) == ["hydra.run.dir='~/x'"]


def test_flags_may_stand_anywhere():
    typed = [
        "scene=lego",
        "-m",
        "sections=8,16",
        "--config-dir",
        "conf",
        "seed=1",
        "--info",
        "searchpath",
        "batch_size=8",
    ]
    assert as_typed(typed) == [
        *("scene=lego", "sections=8,16", "seed=1", "batch_size=8", "-m", "--config-dir", "conf", "--info", "searchpath")
    ]
    assert as_typed(["seed=1", "--info"]) == ["seed=1", "--info"]


def test_an_unknown_flag_is_a_line_that_says_how_keys_are_set(program):
    status, out, err = program("train", "--seed", "3")
    assert (status, out, err) == (
        2,
        "",
        "error: --seed is no flag; keys are given as seed=VALUE, and --help lists them\n",
    )
    status, _, err = program("evaluate", "--multirum", "runs=x")
    assert (status, err.count("\n")) == (2, 1)
    assert "did you mean --multirun?" in err


def test_an_option_that_no_evaluated_task_knows_is_told(caplog):
    given = EvaluateConfig.from_plain({"video": "orbit"})
    evaluation._tell_unused(given, {"ct", "function"})
    assert caplog.messages == ["video=orbit says nothing to runs of task=ct, function"]
    caplog.clear()
    evaluation._tell_unused(given, {"ct", "volrend"})
    evaluation._tell_unused(EvaluateConfig(), {"ct"})
    assert not caplog.messages


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise AssertionError("a look into the network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr(metrics, "load_lpips", refuse)
    metrics.lpips_metric.cache_clear()
    yield
    metrics.lpips_metric.cache_clear()


def test_lpips_downloads_only_when_asked(no_network, caplog, tmp_path, monkeypatch):
    assert metrics.lpips_metric("none", None) is None
    assert not caplog.records
    assert metrics.lpips_metric("vgg", None) is None
    [record] = caplog.records
    cache = tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth"
    assert record.getMessage() == (
        f"LPIPS is n/a: there is no {cache}; give lpips_weights=FILE with torchvision's {cache.name}, or "
        f"lpips_weights=download to fetch it to {cache}, or lpips=none"
    )
    asked = []
    monkeypatch.setattr(metrics, "load_lpips", lambda net, weights: asked.append((net, weights)))
    metrics.lpips_metric("vgg", "download")
    cache.parent.mkdir(parents=True)
    cache.touch()
    metrics.lpips_metric.cache_clear()
    metrics.lpips_metric("vgg", None)
    assert asked == [("vgg", None)] * 2
