"""Whatever a file holds, its reader returns or explains: the quick part of ``tests/fuzz.py``."""

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.files.fuzz import TARGETS, read_transforms, scene

quick = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_explains_damaged_files(name, tmp_path):
    target = TARGETS[name]
    seeds = target.seeds(tmp_path)
    for contents in seeds:
        target.read(tmp_path, contents)

    @settings(quick, max_examples=20 if name == "hdf5" else 60)  # which is read by a process each
    @given(st.data())
    def damaged(data):
        contents = bytearray(data.draw(st.sampled_from(seeds)))
        for _ in range(data.draw(st.integers(1, 4))):
            start = data.draw(st.integers(0, len(contents)))
            patch = data.draw(st.one_of(st.binary(max_size=6), st.sampled_from([w.encode() for w in target.words])))
            contents[start : start + data.draw(st.sampled_from([0, 1, len(patch), 10**6]))] = patch
        target.read(tmp_path, bytes(contents))

    damaged()


def places(value, path=()):
    """Yield the paths of everything within a JSON value, of lists the first item only."""
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value[:1]):
        if isinstance(item, (dict, list)):
            yield from places(item, (*path, key))
        else:
            yield (*path, key)


NASTY = (
    "1e999",
    "9" * 400,
    "-1",
    "0",
    "1e-300",
    "1e300",
    "null",
    "true",
    '""',
    '"../0.png"',
    "[]",
    "[[]]",
    "{}",
    "NaN",
)


@pytest.mark.parametrize("seed", range(3))
def test_a_reader_explains_every_value_at_every_place(seed, tmp_path):
    """JSON that is well formed, with each of some values at each place, one at a time."""
    contents = json.loads(scene(tmp_path)[seed])
    ways = [way for way in places(contents) if way]
    assert len(ways) >= 7
    for *way, last in ways:
        changed = copy.deepcopy(contents)
        owner = changed
        for key in way:
            owner = owner[key]
        owner[last] = "HERE"
        text = json.dumps(changed)
        for value in NASTY:
            read_transforms(tmp_path, text.replace('"HERE"', value).encode())
