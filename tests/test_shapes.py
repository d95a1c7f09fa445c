"""The canary: a wrong shape must be caught, or the annotations are decoration."""

import importlib

import pytest
import torch
from jaxtyping import TypeCheckError

from autoint.scenes import rays, rendering
from tests import CHECKED


@pytest.mark.parametrize("name", CHECKED)
def test_what_is_to_be_checked_is_there_and_checked(name):
    """Also after it was moved: a hook says nothing of a module that there is no more."""
    assert type(importlib.import_module(name).__spec__.loader).__module__.startswith("jaxtyping")


def test_a_wrong_shape_is_caught():
    with pytest.raises(TypeCheckError):
        rendering.composite(torch.ones(2, 3), torch.ones(2, 4, 3), torch.ones(2, 4), torch.ones(3))
    with pytest.raises(TypeCheckError):
        rays.Rays(torch.ones(2, 3), torch.ones(2, 2), torch.ones(2), torch.ones(2))
