"""The canary: a wrong shape must be caught, or the annotations are decoration."""

import pytest
import torch
from jaxtyping import TypeCheckError

from autoint.scenes import rays, rendering


def test_a_wrong_shape_is_caught():
    with pytest.raises(TypeCheckError):
        rendering.composite(torch.ones(2, 3), torch.ones(2, 4, 3), torch.ones(2, 4), torch.ones(3))
    with pytest.raises(TypeCheckError):
        rays.Rays(torch.ones(2, 3), torch.ones(2, 2), torch.ones(2), torch.ones(2))
