"""Files of strangers: damaged ones are named before they are used, and what is in hostile ones is not run."""

import ast
import getpass
import json
import os
import pickle
import shutil
import socket
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from autoint.files import torch_files
from autoint.reports import metrics
from autoint.runs import checkpoints, restoring
from autoint.runs.checkpoints import WholeFileIO
from autoint.runs.export import export
from autoint.runs.training import fit
from tests.conftest import ROOT
from tests.runs.test_resume import WHOLE, function_config

GOOD = {"autoint": {"format": 1, "version": "0", "config": {}}, "state_dict": {"w": torch.arange(4000.0)}}


@pytest.fixture
def run(tmp_path_factory):
    """Return the folder of a trained run, made once."""
    if "malice" not in WHOLE:
        WHOLE["malice"] = tmp_path_factory.mktemp("malice")
        fit(function_config(trainer={"max_steps": 5}), WHOLE["malice"])
    return WHOLE["malice"]


def zeroed(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(4096) + data[middle + 4096 :]


DAMAGES = {
    "empty": lambda data: b"",
    "first byte": lambda data: data[:1],
    "half": lambda data: data[: len(data) // 2],
    "all but one byte": lambda data: data[:-1],
    "zeroed block": zeroed,
    "web page": lambda data: b"<!DOCTYPE html><html>404</html>",
}


def assert_named(file: Path) -> None:
    with pytest.raises(ValueError, match="damaged checkpoint") as caught:
        checkpoints.load(file)
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"{file}: ")
    assert "use " in line


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(damage, run, tmp_path):
    file = tmp_path / "last.ckpt"
    file.write_bytes(DAMAGES[damage]((run / "checkpoints" / "last.ckpt").read_bytes()))
    assert_named(file)


def test_a_bit_flipped_in_any_record_is_named(run, tmp_path):
    """Of nearly all of them torch.load alone does not notice."""
    whole, file = run / "checkpoints" / "last.ckpt", tmp_path / "last.ckpt"
    with zipfile.ZipFile(whole) as archive:
        records = [record for record in archive.infolist() if record.file_size]
    assert len(records) > 20
    unnoticed = 0
    for number, record in enumerate(records):
        data = bytearray(whole.read_bytes())
        name, extra = data[record.header_offset + 26], data[record.header_offset + 28]
        start = record.header_offset + 30 + name + (data[record.header_offset + 27] << 8)
        start += extra + (data[record.header_offset + 29] << 8)
        data[start + (7 * number) % record.file_size] ^= 1 << (number % 8)
        file.write_bytes(data)
        assert_named(file)
        try:
            torch.load(file, weights_only=True)
            unnoticed += 1
        except Exception:
            continue
    assert unnoticed > len(records) / 2


@pytest.mark.parametrize("place", ["folder", "dangling link", "fifo"])
def test_what_is_no_file_is_named(place, tmp_path):
    file = tmp_path / "last.ckpt"
    {"folder": file.mkdir, "dangling link": lambda: file.symlink_to("none"), "fifo": lambda: os.mkfifo(file)}[place]()
    with pytest.raises(ValueError, match=r"last.ckpt: no such checkpoint"):
        checkpoints.load(file)


@pytest.mark.parametrize("address", ["http://host/last.ckpt", "https://host/x", "s3://bucket/x", "file:///etc/x"])
def test_addresses_are_refused(address, program, run):
    with pytest.raises(ValueError, match="a checkpoint is a file, not an address; download it"):
        checkpoints.load(address)
    for arguments in (("train", "task=function", f"ckpt_path={address}"), ("evaluate", f"runs={address}")):
        status, _, err = program(*arguments)
        assert status == 2
        [line] = err.strip().splitlines()
        assert "address" in line


def reduce_to(function, *arguments):
    class Payload:
        def __reduce__(self):
            return function, arguments

    return Payload()


def stateful(function, *arguments):
    class Stateful(dict):
        def __reduce__(self):
            return OrderedDict, (), {"x": reduce_to(function, *arguments)}

    return Stateful()


CODE = "open('canary', 'w').close()"
PAYLOADS = {
    "os.system": lambda: reduce_to(os.system, "touch canary"),
    "eval": lambda: reduce_to(eval, "open('canary', 'w')"),
    "exec": lambda: reduce_to(exec, CODE),
    "open": lambda: reduce_to(open, "canary", "w"),
    "getattr": lambda: reduce_to(getattr, reduce_to(__import__, "os"), "getcwd"),
    "shutil.copyfile": lambda: reduce_to(shutil.copyfile, __file__, "canary"),
    "Path.write_text": lambda: reduce_to(Path.touch, Path("canary")),
    "torch.save": lambda: reduce_to(torch.save, {}, "canary"),
    "torch.load": lambda: reduce_to(torch.load, "evil.ckpt", None),
    "torch.hub": lambda: reduce_to(torch.hub.download_url_to_file, "file:///etc/hostname", "canary"),
    "pickle.loads": lambda: reduce_to(pickle.loads, pickle.dumps(reduce_to(open, "canary", "w"))),
    "in a state": lambda: stateful(open, "canary", "w"),
    "much memory": lambda: reduce_to(bytearray, 10**13),
}
PLACES = {
    "at the top": lambda payload: {**GOOD, "x": payload},
    "in our own": lambda payload: {**GOOD, "autoint": {**GOOD["autoint"], "config": payload}},
    "in the weights": lambda payload: {**GOOD, "state_dict": {"w": payload}},
    "in the optimizer": lambda payload: {**GOOD, "optimizer_states": [{"state": {0: {"step": payload}}}]},
    "as a key": lambda payload: {**GOOD, "callbacks": [(payload, 1)]},
}


@pytest.mark.parametrize("unsafe", [False, True], ids=["", "forced"])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_code_in_a_checkpoint_is_not_run(payload, unsafe, monkeypatch, tmp_path):
    """Also where the environment asks torch to be unsafe, and in files that are not zip archives."""
    if unsafe:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    for place in PLACES.values():
        file = tmp_path / "evil.ckpt"
        torch.save(place(PAYLOADS[payload]()), file)
        with pytest.raises(
            ValueError, match=r"evil.ckpt: refused, it holds more than plain data .*nothing in it was run"
        ):
            checkpoints.load(file)
        torch.save(place(PAYLOADS[payload]()), file, _use_new_zipfile_serialization=False)
        assert_named(file)
        file.write_bytes(pickle.dumps(PAYLOADS[payload]()))
        assert_named(file)
    assert not Path("canary").exists()


def test_every_door_refuses_code(program, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({**GOOD, "x": reduce_to(open, "canary", "w")}, folder / "last.ckpt")
    quick = ("task=function", "+trainer.enable_progress_bar=false")
    for command in (
        ("train", *quick, f"ckpt_path={folder}/last.ckpt"),
        ("train", *quick, "ckpt_path=last", "hydra.run.dir=run"),
        ("train", *quick, "ckpt_path=auto", "hydra.run.dir=run"),
        ("train", *quick, "resume=true", "hydra.run.dir=run"),
        ("evaluate", "runs=run"),
    ):
        status, _, err = program(*command)
        assert status == 2
        [line] = err.strip().splitlines()
        assert "refused, it holds more than plain data (io.open" in line
    with pytest.raises(ValueError, match="more than plain data"):
        export("run")
    with pytest.raises(ValueError, match="not torchvision's weights"):
        metrics.load_lpips("alex", str(folder / "last.ckpt"))
    assert not Path("canary").exists()


def test_nothing_takes_more_memory_than_the_file_is_large(tmp_path):
    file = tmp_path / "bomb.ckpt"
    torch.save({**GOOD, "state_dict": {"w": torch.zeros(1).expand(10**12)}}, file)
    with pytest.raises(ValueError, match="a tensor larger than what is stored of it"):
        checkpoints.load(file)
    torch.save(GOOD, tmp_path / "good.ckpt")
    with zipfile.ZipFile(tmp_path / "good.ckpt") as good, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for record in good.infolist():
            packed.writestr(record.filename, good.read(record))
        packed.writestr("archive/data/9", bytes(10**7))
    with pytest.raises(ValueError, match="its records are larger than the file"):
        checkpoints.load(file)
    with zipfile.ZipFile(file, "w") as many:
        for number in range(20_000):
            many.writestr(f"archive/data/{number}", b"")
    with pytest.raises(ValueError, match=r"not written by torch\.save"):
        checkpoints.load(file)


class FromPairs:
    def __reduce__(self):
        return OrderedDict, ([((1, 2), None)],)


def test_nothing_takes_more_time_than_what_was_saved(tmp_path, monkeypatch):
    """Of integers of any size 20000 may have one hash, and a dict of them takes their square; opcodes do nothing."""
    file = tmp_path / "slow.ckpt"
    torch.save({**GOOD, "x": {2**64 - 1: -(2**63)}}, file)
    checkpoints.load(file)
    many = {(2**61 - 1) * k: None for k in range(99)}
    for keys in (many, {(1, 2): None}, OrderedDict({(1, 2): None}), FromPairs()):
        torch.save({**GOOD, "x": keys}, file)
        with pytest.raises(ValueError, match="a dict whose keys are neither texts nor numbers"):
            checkpoints.load(file)
    torch.save({**GOOD, "x": OrderedDict({"a": {None: 1, 2.5: 2}, 3: [(), (4,)], True: {}})}, file)
    checkpoints.load(file)
    torch.save(GOOD, file)
    monkeypatch.setattr(torch_files, "MOST_OPCODES", 50)
    with pytest.raises(ValueError, match=r"data.pkl has more than 50 parts"):
        checkpoints.load(file)
    monkeypatch.setattr(torch_files, "MOST_BYTES", 50)
    with pytest.raises(ValueError, match=r"data.pkl has \d+ bytes; at most 50"):
        checkpoints.load(file)


def deep(levels: int) -> bytes:
    """A pickle of lists in lists, as no recursive writer could make it."""
    return b"\x80\x02" + b"(" * levels + b"l" * levels + b"."


@pytest.mark.parametrize(
    ("record", "words"),
    [(deep(3 * 10**5), "refused|not a checkpoint of AutoInt"), (b"\x80\x02(ccollections", "damaged"), (b"", "damaged")],
    ids=["deep", "torn", "empty"],
)
def test_pickles_that_nobody_would_write(record, words, tmp_path):
    torch.save(GOOD, tmp_path / "good.ckpt")
    with zipfile.ZipFile(tmp_path / "good.ckpt") as good, zipfile.ZipFile("odd.ckpt", "w") as odd:
        for part in good.infolist():
            odd.writestr(part.filename, record if part.filename.endswith("data.pkl") else good.read(part))
    with pytest.raises(ValueError, match=words):
        checkpoints.load("odd.ckpt")


def test_an_exported_model_is_the_model_and_says_nothing_else(program, run, tmp_path):
    file = run / "checkpoints" / "last.ckpt"
    contents = checkpoints.load(file)
    contents["autoint"]["config"] |= {"data_dir": "/home/somebody/data", "ckpt_path": "/home/somebody/x.ckpt"}
    (tmp_path / "secret" / "checkpoints").mkdir(parents=True)
    WholeFileIO().save_checkpoint(contents, tmp_path / "secret" / "checkpoints" / "last.ckpt")
    folder = export(str(tmp_path / "secret"))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() == contents["state_dict"].keys()
    assert all(torch.equal(weights[key], value) for key, value in contents["state_dict"].items())
    for path in folder.iterdir():
        said = path.read_bytes().decode(errors="replace")
        for secret in ("somebody", str(tmp_path), "secret", str(Path.home()) + "/", socket.gethostname()):
            assert secret not in said
        assert f'"{getpass.getuser()}"' not in said
    assert json.loads((folder / "config.json").read_text())["format"] == 1
    (_, first), (_, second) = restoring.restored(file), restoring.restored(folder / "model.safetensors")
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None]
    assert torch.equal(first.model.integrand(x), second.model.integrand(x))
    with pytest.raises(ValueError, match=r"export exists; remove it, or give another folder by --to"):
        export(str(tmp_path / "secret"))
    with pytest.raises(ValueError, match="weights alone"):
        fit(function_config(ckpt_path=str(folder / "model.safetensors")), tmp_path / "other")
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"model.safetensors: damaged, or without its config.json"):
        checkpoints.load(folder / "model.safetensors")


def test_an_export_that_fails_leaves_nothing(run, tmp_path, monkeypatch):
    half = Path.write_bytes

    def full(file, content):
        half(file, content[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        export(str(run), str(tmp_path / "out"))
    assert not list(tmp_path.iterdir())


FORBIDDEN = {"eval", "exec", "compile", "__import__"}
GENERATED = {"autoint/networks/grad_nets/graph.py"}  # compiles code that it has generated itself, from no one's input


def calls(tree: ast.AST) -> list[str]:
    return [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_the_program_has_no_unsafe_loader():
    loads = []
    for file in sorted([*ROOT.glob("*.py"), *(ROOT / "autoint").rglob("*.py")]):
        name, tree = str(file.relative_to(ROOT)), ast.parse(file.read_text())
        called = calls(tree)
        loads += [name for call in called if call == "torch.load"]
        if name not in GENERATED:
            assert not FORBIDDEN & set(called), name
        assert not {"yaml.load", "yaml.full_load", "yaml.unsafe_load", "torch.hub.load"} & set(called), name
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                imported = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not imported & {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}, name
            if isinstance(node, ast.keyword) and node.arg in ("weights_only", "allow_pickle"):
                value = getattr(node.value, "value", None)
                saves = name == "autoint/runs/callbacks.py"  # Lightning's name for saving the optimizer as well
                assert value is (node.arg == "weights_only") or saves, f"{name}: {ast.unparse(node)}"
    assert loads == ["autoint/files/torch_files.py"]
