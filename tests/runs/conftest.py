"""What is the same for all tests of runs."""

import pytest


@pytest.fixture(autouse=True)
def _undrawn(undrawn):
    """None of them looks at a figure."""
