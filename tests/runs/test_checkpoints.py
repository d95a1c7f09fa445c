import os
import pickle
import zipfile

import pytest
import torch

from autoint.runs import checkpoints
from autoint.runs.checkpoints import WholeFileIO


def contents(step=1):
    return {"autoint": {"format": 1, "version": "0", "config": {}}, "state_dict": {"w": torch.arange(4000.0) + step}}


def test_the_one_before_is_kept_and_no_part_is_left(tmp_path):
    path = tmp_path / "last.ckpt"
    for step in (1, 2, 3):
        WholeFileIO().save_checkpoint(contents(step), path)
    assert checkpoints.load(path)["state_dict"]["w"][0] == 3
    assert checkpoints.load(tmp_path / "previous.ckpt")["state_dict"]["w"][0] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_a_save_after_one_that_was_killed_in_the_middle(tmp_path):
    """Killed between its two renamings, it has left last.ckpt and previous.ckpt as one file."""
    WholeFileIO().save_checkpoint(contents(1), tmp_path / "last.ckpt")
    os.link(tmp_path / "last.ckpt", tmp_path / "previous.ckpt")
    WholeFileIO().save_checkpoint(contents(2), tmp_path / "last.ckpt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert checkpoints.load(tmp_path / "previous.ckpt")["state_dict"]["w"][0] == 1


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    WholeFileIO().save_checkpoint(contents(1), path)

    def full_disk(checkpoint, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(ValueError, match=r"could not be saved \(\[Errno 28\] No space left.* is whole: .*last.ckpt"):
        WholeFileIO().save_checkpoint(contents(2), path)
    assert checkpoints.load(path)["state_dict"]["w"][0] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "html"])
def test_damage_is_found_before_the_file_is_used(damage, tmp_path):
    path = tmp_path / "last.ckpt"
    WholeFileIO().save_checkpoint(contents(1), path)
    WholeFileIO().save_checkpoint(contents(2), path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        record = max(archive.infolist(), key=lambda r: r.file_size)
    if damage == "truncated":
        data = data[: len(data) // 2]
    elif damage == "empty":
        data = bytearray()
    elif damage == "flipped":
        data[record.header_offset + 2000] ^= 4
    else:
        data = bytearray(b"<html>")
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"last.ckpt: damaged checkpoint .*; use .*previous.ckpt, or ckpt_path=auto"):
        checkpoints.load(path)


class Payload:
    def __reduce__(self):
        return open, ("canary", "w")


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path):
    path = tmp_path / "evil.ckpt"
    torch.save({"autoint": Payload()}, path)
    with pytest.raises(ValueError, match="more than plain data"):
        checkpoints.load(path)
    assert not (tmp_path / "canary").exists()
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ValueError, match="damaged checkpoint"):
        checkpoints.load(path)
    assert not (tmp_path / "canary").exists()


def test_other_files_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="no such checkpoint"):
        checkpoints.load(tmp_path / "none.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of AutoInt"):
        checkpoints.load(tmp_path / "other.ckpt")
    torch.save({"autoint": {"format": 99, "version": "9.9"}}, tmp_path / "newer.ckpt")
    with pytest.raises(ValueError, match=r"format 99 \(made by AutoInt 9.9\)"):
        checkpoints.load(tmp_path / "newer.ckpt")


def test_only_plain_data_is_saved(tmp_path):
    with pytest.raises(AssertionError, match=r"checkpoint\['x'\] is a PosixPath"):
        WholeFileIO().save_checkpoint({"x": tmp_path}, tmp_path / "a.ckpt")
    assert not list(tmp_path.iterdir())
