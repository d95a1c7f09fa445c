"""Bad input on the command line, in files of configuration and in functions: rows 1 to 19, 55, 56, 59, 64 and 66.

A row is its number, what is given, and what the one line on stderr must say. Scenes: ``test_bad_scenes.py``.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

from autoint import registry
from autoint.integrals.functions import target
from autoint.runs import restoring
from autoint.runs.command_line import composing, hydra_keys
from autoint.runs.command_line.composing import check_file, check_jobs
from autoint.runs.config import RunConfig
from autoint.runs.training import fit
from tests.conftest import ROOT, forked, main_of

SMALL = ("image_size=8", "trainer.max_steps=1", "network.hidden_features=8", "trainer.accelerator=cpu")


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass


class Row(NamedTuple):
    number: int
    given: tuple[str, ...]
    words: str


def rows(topic):
    return pytest.mark.parametrize("row", topic, ids=lambda row: f"{row.number}-{' '.join(row.given)[:40]}")


DISC = ("scene=blender", "scene.path=nerf_synthetic/disc", "data_dir=data", *SMALL)
CONFIG = [
    Row(1, ("section=8",), "unknown key 'section'; did you mean 'sections'?"),
    Row(2, ("task=volrnd",), "task='volrnd' is unknown; did you mean 'volrend'?"),
    Row(3, ("activation=siren",), "activation='siren' is unknown; did you mean 'sine'? (available: relu, sharp"),
    Row(4, ("sections=",), "sections='' does not fit: expected int"),
    Row(4, ("sections=null",), "sections=None does not fit: expected int"),
    # and 6: the same check
    Row(5, ("sections=256", "samples=128", "fit=grad_net", *DISC), "samples=128 must be a multiple of sections=256"),
    Row(7, (*DISC, "scene.near=6", "scene.far=2"), "scene.near=6.0, scene.far=2.0: need 0 <= near < far, both finite"),
    Row(7, (*DISC, "scene.near=nan"), "scene.near=nan, scene.far=6.0: need 0 <= near < far"),
    Row(7, (*DISC, "scene.far=inf"), "scene.near=2.0, scene.far=inf: need 0 <= near < far"),
    Row(7, (*DISC, "scene.near=-1"), "scene.near=-1.0"),
    Row(8, ("optimizer.lr=inf",), "optimizer.lr=inf must be positive and at most 10"),
    Row(8, ("optimizer.lr=-1",), "optimizer.lr=-1.0 must be positive and at most 10"),
    Row(8, ("optimizer.lr=1e10",), "must be positive and at most 10"),
    Row(9, ("batch_size=0",), "batch_size=0 must be an integer of at least 1"),
    Row(9, (*DISC, "batch_size=10000000000"), "batch_size=10000000000: a step would take"),
    Row(10, ("trainer.precision=16-mixed", *SMALL), "precision=16-mixed is not to be had on a CPU (available: 32-true"),
    Row(10, ("trainer.precision=bf16-true", *SMALL), "bf16-mixed, and on a GPU 16-mixed; weights are never shorter"),
    Row(11, ("trainer.devices=4", *SMALL[:3]), "trainer.devices=4: this machine has no GPU; use trainer.devices=1, or"),
    Row(11, (*SMALL, "trainer.accelerator=gpu"), "this machine has no GPU; use trainer.accelerator=cpu"),
    Row(12, ("scene=lego",), "not found: data/nerf_synthetic/lego (there: disc); autoint download lego, or get"),
    Row(12, (*DISC, "scene.path=nerf_synthetic/disk"), "nerf_synthetic/disk; did you mean 'disc'? (there: disc)"),
    Row(13, ("sections=${sectons}",), "sections: Interpolation key 'sectons' not found; did you mean 'sections'?"),
    Row(14, ("+_target_=os.system",), "_target_='os.system': a configuration names no code to call; remove the key"),
    Row(14, ("+activation._target_=os.system",), "activation._target_='os.system': a configuration names no code"),
    Row(14, ("+trainer.profiler=[{a: {_target_: os.system}}]",), "trainer.profiler.0.a._target_='os.system'"),
    Row(14, ("+trainer.callbacks=[x]", *SMALL), "trainer.callbacks=['x']: this program sets it itself"),
    Row(14, ("+trainer.default_root_dir=/x", *SMALL), "trainer.default_root_dir='/x': this program sets it itself"),
    Row(14, ("--experimental-rerun", "x.pickle"), "--experimental-rerun reads a pickle, which is code"),
    Row(18, ("-m", "seed=range(100000)"), "the sweep has 1001 jobs or more; narrow it, or say that you mean it"),
    Row(18, ("-m", "seed=range(1000)", "sections=8,16"), "the sweep has 2000 jobs or more"),
    Row(18, ("-m", "seed=range(0)"), "seed=range(0): an empty range, so that there is nothing to run; give values"),
    Row(12, ("scene=lego", "data_dir=a\x1b[31mb", *SMALL), r"cannot read 'data_dir=a\x1b[31mb'"),
    Row(4, ("seed=-1",), "seed=-1 must be between 0 and 2⁶³ − 1"),
]  # fmt: skip


def refused(program, words: str, *arguments: str, name: str = "train") -> None:
    """Exit status 2, one line on stderr that holds the words, and nothing left behind."""
    before = {p for p in Path().rglob("*") if "conf" not in p.parts}
    status, _, err = program(name, *arguments)
    assert status == 2
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("error: ")
    assert words in err
    assert {p for p in Path().rglob("*") if "conf" not in p.parts} == before


@rows(CONFIG)
def test_a_bad_configuration_is_one_line(row, program, blender_scene):
    refused(program, row.words, *row.given)


GLOBAL = "# @package _global_\n"
HANDLER = "hydra: {job_logging: {handlers: {evil: {class: subprocess.Popen, args: [touch, canary]}}}}"
TENFOLD = [f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
BOMB = "\n".join(["a: &a [x,x,x,x,x,x,x,x,x,x]", *TENFOLD])
FILES = {
    "tab": ("a:\n\tb: 1", "evil.yaml:2:1: malformed YAML: found character"),
    "twice": ("seed: 1\nseed: 2", "evil.yaml:1:1: the key 'seed' stands twice"),
    "tag": ("seed: !!python/object/apply:os.system ['touch canary']", "evil.yaml:1:7: the tag python/object/apply:os."),
    "target": (GLOBAL + "model:\n  - a: {_target_: os.system}", "evil.yaml:3:9: '_target_' names code"),
    "launcher": (GLOBAL + "hydra: {launcher: {_target_: subprocess.Popen, args: [touch, canary]}}", "'_target_' names"),
    "factory": (GLOBAL + "hydra: {job_logging: {filters: {a: {(): subprocess.getoutput}}}}", "'()' names code"),
    "class": (GLOBAL + HANDLER, "hydra.job_logging.handlers.evil.class=subprocess.Popen: a file may"),
    "stream": (GLOBAL + "hydra: {job_logging: {handlers: {console: {stream: 'ext://antigravity.x'}}}}", "ext://antig"),
    "log file": (GLOBAL + "hydra: {job_logging: {handlers: {file: {filename: /tmp/x}}}}", "file.filename=/tmp/x: a"),
    "search path": (GLOBAL + "hydra: {searchpath: ['pkg://this']}", "'searchpath' names code or a place"),
    "secret": (GLOBAL + "data_dir: ${oc.env:SECRET}", "evil.yaml:2:11: '${oc.env:SECRET}' reads more than other keys"),
    "hidden secret": (GLOBAL + "fit: oc.env\ndata_dir: ${${fit}:SECRET}", "'${${fit}:SECRET}' reads more than"),
    "decode": (GLOBAL + "seed: ${oc.decode:1}", "'${oc.decode:1}' reads more"),
    "folder": (GLOBAL + "hydra: {run: {dir: /tmp/elsewhere}}", "hydra.run.dir=/tmp/elsewhere: a file may name"),
    "dots": (GLOBAL + "task: function\nfunction: ../../x\nhydra: {run: {dir: 'a/${function}'}}", "hydra.run.dir=a/."),
    "sweep": (GLOBAL + "hydra: {sweep: {subdir: ../../x}}", "hydra.sweep.subdir=../../x: a file may name places below"),
    "output": (GLOBAL + "hydra: {output_subdir: ../x}", "hydra.output_subdir=../x: a file may name"),
    "environment": (GLOBAL + "hydra: {job: {env_set: {LD_PRELOAD: x}}}", "a file may not set environment variables ("),
    "bomb": (GLOBAL + BOMB, "evil.yaml:5:4: more than 2000 values, with every alias written out"),
    "values": (f"a: [{'1,' * 2**18}]", "evil.yaml:1:3999: more than 2000 values, with every alias written out"),
    "null": ("null: 2", "evil.yaml:1:1: a key that is no text"),
    "set": ("network: !!set {a, b}", "evil.yaml:1:10: a set, which no key takes"),
    "loop": ("a: &a [*a]", "evil.yaml:1:4: an alias of what it stands in"),
    "deep": ("[" * 500, "evil.yaml: nested too deeply"),
    "large": ("#" * 2**20 + "\n", "evil.yaml: 1048577 bytes; a configuration has at most 1048576"),
    "BOM": (b"\xef\xbb\xbfseed: 1", "evil.yaml: begins with a byte-order mark; save it as UTF-8 without one"),
    "UTF-16": ("seed: 1".encode("utf-16"), "evil.yaml: begins with a byte-order mark"),
    "Latin-1": ("a: é".encode("latin-1"), "evil.yaml: not UTF-8 text at byte 3; save it as UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_configuration_is_data(name, program, monkeypatch):
    """Rows 14 and 15: a hostile experiment is refused; it runs nothing, reads no secret and writes nowhere."""
    contents, words = FILES[name]
    monkeypatch.setenv("SECRET", "xyzzy")
    Path("conf/experiment").mkdir(parents=True)
    Path("conf/experiment/evil.yaml").write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    refused(program, words, "--config-dir", "conf", "experiment=evil", "sections=0")
    assert not Path("canary").exists()


FORMS = {
    "an integer": (f"seed: {'9' * 5000}", r":1:7: malformed YAML: 9+ is no int; mend"),
    "a word": ("seed: !!int abc", r":1:7: malformed YAML: abc is no int; mend"),
    "neither": ("compile: !!bool maybe", ":1:10: malformed YAML: maybe is no bool; mend"),
    "a date": ("data_dir: !!timestamp 2001-13-45", "2001-13-45 is no timestamp"),
    "keys": ("seed: !!str {a: b}", "malformed YAML: expected a scalar node"),
    "no keys": ("network: !!map x", ":1:10: malformed YAML: x is no map"),
    "a merge": ("<<: 5", "malformed YAML: expected a mapping"),
    "no list": ("defaults: {a: b}", ":1:11: defaults is no list; write defaults:"),
    "a number": ("defaults: [5]", ":1:12: no entry of defaults; write NAME, GROUP: NAME or _self_"),
    "nothing": ("defaults: [~]", "no entry of defaults"),
    "a list in it": ("defaults: [[a]]", "no entry of defaults"),
    "a number of a group": ("defaults: [{a: 5}]", "no entry of defaults"),
    "keys of a group": ("defaults: [{a: {b: c}}]", "no entry of defaults"),
    "an entry too late": ("defaults: [{override /activation: sine}, {x: [a]}]", "an entry behind an override; put the"),
    "two groups": ("defaults: [{a: b, c: d}]", "no entry of defaults"),
    "a key": ("defaults: [{5: a}]", "no entry of defaults"),
    "three words": ("# @package a b c\nseed: 1", "Too many components .*; write # @package NAME"),
    "no word": ("# @package\nseed: 1", "Expected header format.*; write # @package NAME"),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_file_of_another_form_is_named(name, tmp_path):
    text, words = FORMS[name]
    (tmp_path / "evil.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"evil.yaml.*{words}"):
        check_file(tmp_path / "evil.yaml")
    (tmp_path / "good.yaml").write_text("defaults: [a, b: ~, override /c@d: [e, f], _self_]\ndata_dir: 2001-13-45\n")
    check_file(tmp_path / "good.yaml")


@pytest.mark.parametrize("values", ["range(0,10,0)", "range(1,nan)", "shuffle(range(0,1,0))"])
def test_a_range_that_is_none_is_named(values):
    with pytest.raises(ValueError, match=r"^seed=.*: no range; give range\(START,STOP,STEP\), all finite$"):
        check_jobs(OverridesParser.create().parse_overrides([f"seed={values}"]), None)


def test_many_numbers_in_any_order_are_counted_before_they_are_made():
    with pytest.raises(ValueError, match="1001 jobs or more"):
        check_jobs(OverridesParser.create().parse_overrides(["seed=shuffle(range(0,1000000000000))"]), None)


@pytest.mark.parametrize("place", ["a\0b", "a\nb"])
def test_a_place_has_no_control_characters(place):
    with pytest.raises(ValueError, match=r"^hydra.run.dir='a.*no name of a folder; leave control characters out$"):
        hydra_keys._check_place("run.dir", place)


def test_the_files_of_this_program_are_data():
    for file in (ROOT / "conf").rglob("*.yaml"):
        check_file(file)


def test_folders_that_lead_back_to_themselves_are_listed_once():
    """Of three such links ``--help`` would list 3, 9, 27, … folders."""
    Path("mine/experiment").mkdir(parents=True)
    Path("mine/loop").symlink_to(".")
    Path("other").symlink_to("mine/experiment")  # as one's own may be
    bounds, source = composing._Bounds(), SimpleNamespace(path="mine")
    listed = bounds.lister(lambda source, path, results_filter: [path])
    assert [listed(source, path, None) for path in ("", "experiment", "loop")] == [[""], ["experiment"], []]
    assert listed(SimpleNamespace(path="other"), "", None) == [""]
    bounds.counts["listings"] = composing.MAX_LISTINGS
    assert listed(source, "experiment", None) == []


def test_the_command_line_may_do_what_files_may_not(program, monkeypatch):
    monkeypatch.setenv("PLACE", "elsewhere")
    folder = Path("run").absolute()
    status, _, err = program("train", "data_dir=${oc.env:PLACE}", "scene=lego", f"hydra.run.dir={folder}")
    assert status == 2
    assert "scene folder not found: elsewhere/nerf_synthetic/lego" in err


@pytest.mark.parametrize(("key", "value"), [("data_dir", "${oc.env:SECRET}"), ("logger", {"_target_": "os.system"})])
def test_a_configuration_in_a_checkpoint_is_data(key, value, tmp_path, monkeypatch):
    """Row 59: it is neither resolved nor called."""
    monkeypatch.setenv("SECRET", "xyzzy")
    plain = {"task": "function", "fit": "grad_net", "trainer": {"max_steps": 1}}
    contents = {"autoint": {"format": 1, "version": "0", "config": {**plain, key: value}}, "state_dict": {}}
    torch.save(contents, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match=key) as caught:
        restoring.restored(tmp_path / "evil.ckpt")
    assert "xyzzy" not in str(caught.value)


BAD_PLUGINS = {
    16: ("from autoint.registry import ACTIVATIONS\n@ACTIVATIONS.register('swish')\ndef swish(): ...\n",
         "activation 'swish' is registered twice, by autoint.networks.activations and bad_plugin"),
    17: ("from autoint.registry import NO_SUCH_REGISTRY\n", "cannot import name 'NO_SUCH_REGISTRY'"),
}  # fmt: skip


@pytest.mark.parametrize("number", BAD_PLUGINS)
def test_a_plugin_that_fails_is_named(number, program, tmp_path, monkeypatch):
    code, words = BAD_PLUGINS[number]
    (tmp_path / "bad_plugin.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint(name="bad", value="bad_plugin", group=registry.PLUGIN_GROUP)
    monkeypatch.setattr(registry, "_plugins_loaded", False)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == registry.PLUGIN_GROUP else [])
    registry.importlib.import_module("autoint.networks.activations")
    status, _, err = program("train", "sections=0")
    sys.modules.pop("bad_plugin", None)
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    assert "error: plugin 'bad' (bad_plugin) of an unknown package failed to load: " in err
    assert words in err


MODULE = """
import torch
calls = []
def nan(x): return torch.where(x[:, 0] > 0.5, torch.nan, x[:, 0])
def singular(x): return 1 / (x[:, 0] - x[3, 0])
def wide(x): return x[None]
def number(x): return 3.0
def raising(x): raise KeyError("inside")
def complex(x): return x + 1j
def changing(x): calls.append(0); return x[:, 0] * len(calls)
value = 3
"""
FUNCTIONS = [
    Row(55, ("function=mine:nan",), "function=mine:nan is [nan] at x=[0."),
    Row(55, ("function=mine:singular",), "function=mine:singular is [inf] at x=[-0."),
    Row(55, ("function=mine:wide",), "returned a tensor of shape (1, 512, 1); it must return a tensor of shape"),
    Row(55, ("function=mine:number",), "function=mine:number returned a float; it must return a tensor of shape"),
    Row(55, ("function=mine:raising",), "function=mine:raising failed at x of shape (512, 1): 'inside'"),
    Row(55, ("function=mine:complex",), "returned complex numbers; give the real and imaginary parts as two columns"),
    Row(55, ("function=mine:changing",), "function=mine:changing gives other values when called again"),
    Row(55, ("function=mine:value",), "function=mine:value: it is a int, and must be callable"),
    Row(55, ("function=mine:nothing",), "function=mine:nothing: module 'mine' has no attribute 'nothing'"),
    Row(55, ("function='../../mine:nan'",), "function='../../mine:nan' is not of the form package.module:callable"),
    Row(55, ("function=cosx",), "function='cosx' is unknown; did you mean"),
    Row(56, ("lower=1", "upper=-1"), "lower=[1], upper=[-1]: they must be finite, and lower below upper on every axis"),
    Row(56, ("lower=1", "upper=1"), "lower below upper on every axis"),
    Row(56, ("upper=inf",), "they must be finite"),
    Row(56, ("lower=1e17", "upper=1.0000000000001e17"), "float64 has hardly a number between them; move the box to"),
    Row(56, ("lower=a",), "lower=['a'] must be real numbers"),
]  # fmt: skip


@rows(FUNCTIONS)
def test_a_bad_function_is_one_line(row, program, tmp_path, monkeypatch, caplog):
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    refused(program, row.words, "task=function", *row.given)


def test_a_function_of_ones_own_is_announced(program):
    """Promise 4: the one import path that is executed; the user's own traceback is kept as the cause."""
    given = ("train", "task=function", "function=math:sin")
    assert "function=math:sin: importing math, which runs the code in it" in program(*given)[1]
    with pytest.raises(ValueError, match="failed at x of shape") as caught:
        program(*given, trace=True)
    assert "only one element" in str(caught.value.__cause__.__cause__)
    with pytest.raises(ValueError, match=r"function='../../x:f' is not of the form package\.module:callable"):
        target("../../x:f")


@pytest.fixture
def run(blender_scene) -> Path:
    """A run of one step on the disc."""
    plain: dict[str, Any] = {"task": "volrend", "scene": {"name": "blender", "path": "nerf_synthetic/disc"}}
    plain |= {"data_dir": str(blender_scene), "network": {"hidden_features": 8, "num_layers": 1}, "batch_size": 16}
    plain["trainer"] = {"max_steps": 1, "accelerator": "cpu", "enable_progress_bar": False}
    fit(RunConfig.from_plain(plain), Path("run"))
    return Path("run")


def test_a_run_does_not_go_on_as_another_and_evaluation_says_what_is_missing(run, program, blender_scene):
    """Rows 19 and 64."""
    last = f"ckpt_path={run}/checkpoints/last.ckpt"
    wider = (*DISC[:3], *SMALL[1:], "network.hidden_features=16", "network.num_layers=1")
    refused(program, "network.hidden_features (8 there, 16 here)", last, *wider)
    Path("weights.pth").write_text("<html>404</html>")
    evaluate = (f"runs={run}", "device=cpu", "hydra.run.dir=out")
    for words, *arguments in (
        ("scene folder not found: nowhere/nerf_synthetic/disc", "data_dir=nowhere"),
        ("lpips_weights=weights.pth: not torchvision's weights of alex", "lpips=alex", "lpips_weights=weights.pth"),
        ("lpips_weights=none.pth: no such file; give torchvision's", "lpips=alex", "lpips_weights=none.pth"),
    ):
        refused(program, words, *evaluate, *arguments, name="evaluate")
    (blender_scene / "nerf_synthetic" / "disc" / "test" / "r_1.png").write_bytes(b"")
    refused(program, "r_1.png: not a readable PNG or JPEG image (the file is empty)", *evaluate, name="evaluate")


def test_what_cannot_be_evaluated_is_marked_and_the_other_runs_have_their_rows(run, program, monkeypatch):
    """Row 64: a damaged run among good ones, and an image that is not finite."""
    shutil.copytree(run, "runs/whole")
    shutil.copytree(run, "runs/broken")
    Path("runs/broken/checkpoints/last.ckpt").write_bytes(b"<html>404</html>")
    status, out, err = program("evaluate", "runs=runs", "device=cpu", "hydra.run.dir=out")
    assert status == 2
    assert err.splitlines()[-1] == "error: 1 of 2 runs could not be evaluated; the table says which and why"
    table = Path("out/table.md").read_text(encoding="utf-8")
    assert table in out
    assert re.search(r"\| disc .*\| runs/whole \|", table)
    assert re.search(r"\| not evaluated *\| because .*\n.*\n\| runs/broken *\| .*last.ckpt: .*", table)
    assert list(json.loads(Path("out/result.json").read_text())["failed"]) == ["runs/broken"]

    def not_finite(self, rays, background, chunk_size):
        return torch.full((len(rays), 3), torch.nan), torch.zeros(len(rays)), torch.zeros(len(rays))

    monkeypatch.setattr("autoint.scenes.volume.AbstractVolume.view", not_finite)
    status, _, err = program("evaluate", f"runs={run}", "device=cpu")
    assert status == 2
    assert "48 of 48 rendered pixels are not finite; evaluate an earlier checkpoint" in err.splitlines()[-1]


def test_nothing_in_the_package_reads_code():
    """No unpickling, no evaluation of text, no YAML with tags; what is loaded by torch is data only."""
    for file in (ROOT / "autoint").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            if file.name == "graph.py" and called == "exec":
                continue  # what torch.fx wrote down of a graph in memory
            assert not re.fullmatch(r"eval|exec|(cloud)?pickle\..*|yaml\.(full_|unsafe_)?load|os\.system", called), file
            assert called != "torch.load" or given.get("weights_only") == "True", file
            assert called != "np.load" or given.get("allow_pickle") == "False", file


def outside(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a program as users do, in a process of its own with little around it."""
    basics = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, *command], cwd=folder, env=basics, capture_output=True, timeout=240)


def test_a_home_is_not_needed_nor_a_terminal_that_knows_letters(tmp_path):
    """Row 66: HOME unset, ASCII only, spaces and letters in the folder's name; the table has a ∫."""
    folder = tmp_path / "mein Ordner = é, {x}"
    folder.mkdir()
    quick = ("task=function", "function=linear", "trainer.max_steps=2", "adam_steps=2", "points=16")
    train = (str(ROOT / "train.py"), *quick, "hydra.run.dir=my run")
    done = outside(folder, *train, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0, done.stderr
    assert b"max error of \\u222b" in done.stdout
    assert b"Traceback" not in done.stderr
    assert (folder / "my run" / "errors.md").is_file()


@pytest.mark.parametrize("command", ["autoint", "evaluate --help"])
def test_a_reader_that_leaves_is_no_error(command, tmp_path, monkeypatch):
    """Row 66: stdout is a pipe that nobody reads, and is buffered, as where nothing asks for the contrary."""
    name, *arguments = command.split()
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    reader, writer = os.pipe()
    os.close(reader)
    errors = os.open("errors", os.O_WRONLY | os.O_CREAT)
    child = forked(main_of(name), writer, errors)
    os.close(errors)
    os.close(writer)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert (tmp_path / "errors").read_text() == ""
    assert status in (0, 141)


def test_a_hostile_scene_ends_the_program_with_a_line(blender_scene, elsewhere, monkeypatch):
    """As users see it: exit status 2, one line, no folder."""
    file = blender_scene / "nerf_synthetic" / "disc" / "transforms_train.json"
    file.write_text(file.read_text().replace("./train/r_3.png", "/etc/passwd"))
    monkeypatch.setattr(sys, "argv", ["autoint", "train", *DISC])
    status, out, err = elsewhere(main_of("autoint"))
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert "transforms_train.json: frames[3].file_path='/etc/passwd' leaves the scene folder; use a path inside" in line
    assert not (blender_scene.parent / "outputs").exists()
