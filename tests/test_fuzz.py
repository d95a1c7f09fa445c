"""Whatever a file holds, its reader returns or explains: the quick part of ``tests/fuzz.py``."""

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import TARGETS, read_transforms, scene

quick = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([0, -1, 1e30, 1e-30, 10**400, 180]))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8), st.sampled_from(["0.png", "../0.png", "/", "."])),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=8,
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

    @quick
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
    """Yield the paths of everything within a JSON value."""
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


def test_a_reader_explains_wrong_values(tmp_path):
    """JSON that is well formed, with anything anywhere."""
    seeds = [json.loads(contents) for contents in scene(tmp_path)]

    @settings(quick, max_examples=200)
    @given(st.data())
    def changed(data):
        contents = copy.deepcopy(data.draw(st.sampled_from(seeds)))
        for _ in range(data.draw(st.integers(1, 3))):
            *way, last = data.draw(st.sampled_from([p for p in places(contents) if p]))
            owner = contents
            for key in way:
                owner = owner[key]
            owner[last] = data.draw(values)
        read_transforms(tmp_path, json.dumps(contents).encode())

    changed()
