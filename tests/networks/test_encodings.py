import math

import pytest
import torch

from autoint.registry import ENCODINGS


def test_positional_is_equation_14():
    encoding = ENCODINGS.build({"name": "positional", "num_frequencies": 3, "include_input": False}, 1).double()
    p = torch.tensor([[0.3]], dtype=torch.float64)
    expected = [f(2**i * math.pi * 0.3) for f in (math.sin, math.cos) for i in range(3)]
    assert torch.allclose(encoding(p)[0], torch.tensor(expected, dtype=torch.float64))


def test_normalized_positional_is_equation_15():
    options = {"num_frequencies": 3, "include_input": False}
    plain, normalized = (
        ENCODINGS.build({"name": n, **options}, 2).double() for n in ("positional", "normalized_positional")
    )
    omega = torch.tensor([2.0**i * math.pi for i in range(3)], dtype=torch.float64).repeat(4)
    x = torch.rand(5, 2, dtype=torch.float64)
    assert torch.allclose(normalized(x) * omega, plain(x))


def test_defaults_are_the_papers():
    fields = ENCODINGS.fields("normalized_positional")
    assert {k: d for k, (_, d) in fields.items()} == {"num_frequencies": 10, "pi": True, "include_input": True}


@pytest.mark.parametrize("count", [-1, 33])
def test_frequencies_out_of_range(count):
    with pytest.raises(ValueError, match=f"num_frequencies={count}"):
        ENCODINGS.build({"name": "positional", "num_frequencies": count}, 1)


def test_float32_loses_no_digits_at_ten_octaves():
    """sin(2⁹πx) for a float32 x, to float32's own precision: the phase is reduced before π comes in."""
    encoding = ENCODINGS.build("positional", 1)
    x = torch.linspace(-1.4, 1.4, 1001)[:, None]
    ours, truth = encoding(x), encoding.double()(x.double())
    assert float((ours - truth).abs().max()) < 5e-7
