"""What ``torch.save`` has written, read as data: nothing in a file is run, and none takes more memory than its size."""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# All that plain data and tensors need; torch's own list has more, with which one can ask for any amount of memory.
NAMES = re.compile(r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch \w+Storage")
MOST_LEAVES, DEEPEST = 10**6, 100
MOST_BYTES, MOST_OPCODES = 2**26, 10**6
"""Of the record that says what is in a file, numbers apart: 100 bytes, or 35 opcodes, for each tensor as a rule."""
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def refuse_address(path: str | Path) -> None:
    """Refuse what is not on this machine: whoever downloads a checkpoint should know that and from where."""
    if URL.match(str(path)):
        raise ValueError(f"{path}: a checkpoint is a file, not an address; download it, and give the file")


def read_plain(file: Path, mend: str) -> Any:
    """Return plain data and tensors, on the CPU; ``ValueError`` names the file, what is wrong, and the ``mend``.

    Nothing in the file is run (``weights_only=True``, and no other names than those of tensors), every record's
    checksum is verified, which ``torch.load`` does not do, and nothing takes more memory than the file is large.
    """
    try:
        names = _verified(file)
    except Exception as error:  # zipfile raises many kinds
        raise ValueError(f"{file}: damaged checkpoint ({error}); {mend}") from error
    foreign = [name.replace(" ", ".") for name in names if not NAMES.fullmatch(name)]
    try:
        if foreign:
            raise ValueError(", ".join(foreign[:3])[:200])
        contents = read(file)
    except Exception as error:  # torch raises many kinds; whatever it is, nothing in the file was run
        reason = str(error).splitlines()[0][:200]
        raise ValueError(f"{file}: refused, it holds more than plain data ({reason}); nothing in it was run") from error
    _check_tree(contents, file)
    if any(t.numel() * t.element_size() > t.untyped_storage().nbytes() for t in tensors_of(contents)):
        raise ValueError(f"{file}: refused, it holds a tensor larger than what is stored of it")
    return _plain(contents, {})


def read(file: Path) -> Any:
    """Return what ``torch.save`` has written, on the CPU: nothing else calls ``torch.load``."""
    return torch.load(file, map_location="cpu", weights_only=True)


def _verified(file: Path) -> list[str]:
    """Verify the checksums of a checkpoint and return the global names in it, without running anything."""
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        packed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
        if packed or sum(record.file_size for record in records) > file.stat().st_size:
            raise zipfile.BadZipFile("its records are larger than the file")
        damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(f"bad checksum in {damaged}")
        pickled = [record for record in records if record.filename.endswith("data.pkl")]
        if len(pickled) != 1:
            raise zipfile.BadZipFile("not written by torch.save")
        if pickled[0].file_size > MOST_BYTES:
            raise zipfile.BadZipFile(f"{pickled[0].filename} has {pickled[0].file_size} bytes; at most {MOST_BYTES}")
        names, stack = [], _Stack()
        for number, (opcode, argument, _) in enumerate(pickletools.genops(archive.read(pickled[0]))):
            if number == MOST_OPCODES:
                raise zipfile.BadZipFile(f"{pickled[0].filename} has more than {MOST_OPCODES} parts")
            stack.follow(opcode, argument)
            if opcode.name in ("GLOBAL", "INST"):
                names.append(str(argument))
            elif opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
                names.append(opcode.name)
        return names


class _Stack:
    """What a pickle that is read has on its stack, by kind: the keys of its dicts are texts and numbers.

    Of tuples, as of integers of any size, anybody finds as many of one hash as wanted; Python hides that of texts.
    """

    KEYS = frozenset(("str", "bytes", "bytes_or_str", "int", "long", "int_or_bool", "bool", "float", "None"))

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.marks: list[int] = []
        self.memo: dict[int, str] = {}

    def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Do as the opcode does; ``BadZipFile`` for a dict with other keys."""
        name, kinds, before = opcode.name, self.kinds, opcode.stack_before
        if name == "MARK":
            self.marks.append(len(kinds))
        elif name.endswith("PUT") or name == "MEMOIZE":
            self.memo[len(self.memo) if argument is None else int(argument)] = kinds[-1]
        elif name.endswith("GET"):
            kinds.append(self.memo[int(argument)])
        else:
            marked = pickletools.markobject in before
            taken = before.index(pickletools.markobject) if marked else len(before)
            start = self.marks.pop() if marked else len(kinds)
            given = kinds[start - taken :]
            del kinds[start - taken :]
            keys = given[taken if marked else 1 :: 2] if name in ("DICT", "SETITEM", "SETITEMS") else []
            filled = name == "REDUCE" and given == ["collections OrderedDict", given[1]] and given[1] != "EMPTY_TUPLE"
            if filled or not self.KEYS.issuperset(keys):
                raise zipfile.BadZipFile("it holds a dict whose keys are neither texts nor numbers of 64 bits")
            known = {"GLOBAL": str(argument), "EMPTY_TUPLE": name}
            if isinstance(argument, int) and not -(2**63) <= argument < 2**64:
                known[name] = "wide"
            kinds += [known.get(name, kind.name) for kind in opcode.stack_after]


def _check_tree(contents: Any, file: Path) -> None:
    """Refuse what contains itself, or has more than ``MOST_LEAVES`` with all shared parts written out; in linear time.

    Whoever goes through the contents later, as every copy does, meets a shared part as often as it is referred to.
    """
    sizes: dict[int, int] = {}
    stack: list[tuple[Any, bool]] = [(contents, False)]
    open_: set[int] = set()
    while stack:
        value, done = stack.pop()
        if not isinstance(value, (dict, list, tuple)) or id(value) in sizes:
            continue
        below = [*dict.keys(value), *dict.values(value)] if isinstance(value, dict) else list(value)
        if done:
            open_.discard(id(value))
            sizes[id(value)] = 1 + sum(sizes.get(id(item), 1) for item in below)
            if sizes[id(value)] > MOST_LEAVES:
                raise ValueError(f"{file}: refused, it holds more than {MOST_LEAVES} values, shared ones written out")
        elif id(value) in open_:
            raise ValueError(f"{file}: refused, it holds a {type(value).__name__} that contains itself")
        else:
            open_.add(id(value))
            if len(open_) > DEEPEST:
                raise ValueError(f"{file}: refused, it holds lists in lists, more than {DEEPEST} deep")
            stack.append((value, True))
            stack += [(item, False) for item in below]


def tensors_of(contents: Any) -> Iterator[Tensor]:
    """Yield all tensors, however deep or often they are in there."""
    stack, seen = [contents], set()
    while stack:
        value = stack.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            stack.extend(dict.values(value) if isinstance(value, dict) else value)


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """Return what :func:`_check_tree` has passed with dicts for OrderedDicts, what is shared still shared.

    An OrderedDict brings attributes along, which may stand before its own methods, or be torch's ``_metadata``.
    """
    if isinstance(value, (dict, list, tuple)) and id(value) not in known:
        if isinstance(value, dict):
            known[id(value)] = {key: _plain(item, known) for key, item in dict.items(value)}
        else:
            known[id(value)] = type(value)(_plain(item, known) for item in value)
    return known.get(id(value), value)
