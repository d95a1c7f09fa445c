"""A mutation of a valid file ends well or in one line, in time and in memory: some of ``mutations.py``."""

import os

import pytest

from tests.files.mutations import KINDS, failures

SOME = {
    "yaml": 5,
    "checkpoint_ct": 15,
    "checkpoint_function": 15,
    "checkpoint_surface": 8,
    "tree": 8,
    "yaml_function": 5,
}
FOUND = {"scene": [9203], "checkpoint_function": [942], "colmap": [52, 54], "mat": [613], "ply": [8439]}
"""What ended otherwise when 10,000 of each kind were tried."""
COUNT = os.environ.get("AUTOINT_MUTATIONS")


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_file_is_taken_or_refused_in_one_line(kind, tmp_path):
    """``AUTOINT_MUTATIONS=10000`` goes through so many of each kind."""
    numbers = [*range(int(COUNT) if COUNT else SOME.get(kind, 30)), *FOUND.get(kind, [])]
    wrong = list(failures(kind, tmp_path, numbers))
    assert not wrong, "\n".join(wrong)
