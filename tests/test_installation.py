"""What `pip install` gives to somebody without a clone: the command, and the configuration that travels with it."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT

COMMANDS = """
import sys
import autoint
from autoint.__main__ import main

print(autoint.__file__)
for arguments in (["train", "--help"], ["train", *sys.argv[1:]]):
    sys.argv = ["autoint", *arguments]
    try:
        main()
    except SystemExit as stop:  # of --help
        assert not stop.code, stop
"""


@pytest.fixture
def installed(tmp_path):
    """An environment with nothing but the wheel; what that depends on, it finds where this one has it."""
    from hatchling.builders.wheel import WheelBuilder

    [wheel] = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True, timeout=240)
    [packages] = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # whose own .pth files are not read
    return packages


def test_the_wheel_works_outside_of_a_clone(installed, tiny, tmp_path):
    folder, bin_ = tmp_path / "elsewhere", Path(installed).parents[2] / "bin"
    folder.mkdir()
    around = {"cwd": folder, "env": {"PATH": str(bin_), "OMP_NUM_THREADS": "1"}, "timeout": 240}
    done = subprocess.run([bin_ / "autoint", "--help"], **around, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"  {name} " in done.stdout for name in ("train", "evaluate", "export", "download"))
    run = [*tiny, "trainer.max_steps=2", "hydra.run.dir=run"]
    done = subprocess.run([bin_ / "python", "-c", COMMANDS, *run], **around, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed / "autoint"))
    assert "experiment: deepvoxels, figure3, figure5" in done.stdout
    assert (folder / "run" / "checkpoints" / "last.ckpt").is_file()
