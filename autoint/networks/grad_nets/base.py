"""What every grad network is: Ψ = ∂Φ/∂x over the parameters of Φ (paper, eq. 1)."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from autoint.networks.compilation import Compiled
from autoint.networks.integral_net import IntegralNet
from autoint.networks.steady import evaluated

Field = Callable[[Tensor], Tensor]
Derivative = Callable[[Tensor, Sequence[Tensor], Tensor | None], Tensor]
KINKS = nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.ELU, nn.SELU, nn.CELU


class AbstractGradNet(nn.Module, abc.ABC):
    """Ψ, the derivative of an integral network, holding that very network: parameters are shared, never copied.

    Two ways to evaluate it: ``forward(x)`` differentiates along the coordinate axis chosen at construction, and
    ``along(x, tangent)`` along any direction, for instance a ray's: with x = o + t·d, ∂Φ/∂t = d·∇Φ.

    Args:
        integral_net: Φ, (…, D) → (…, C).
        axes: the coordinates to differentiate by, in turn.
        compile: evaluate through ``torch.compile``: the first call takes some ten seconds and needs a C++ compiler.

    Raises:
        ValueError: where the activation has too few derivatives, or the builder cannot be compiled; at an evaluation,
            where Φ is no function of x alone, as with dropout in training mode.
    """

    compilable: ClassVar[bool] = True
    mixed: ClassVar[bool] = False
    """Whether it keeps its first layer in full precision by itself where autocast lowers it."""

    def __init__(self, integral_net: nn.Module, axes: Sequence[int] = (0,), *, compile: bool = False) -> None:
        super().__init__()
        self.integral_net, self.axes = integral_net, tuple(axes)
        self._compile = compile
        self._compiled: Compiled | None = None
        if compile and not self.compilable:
            raise ValueError(
                f"compile=True: torch.compile cannot differentiate a {type(self).__name__} grad network once more, as "
                "training does; use builder=explicit or graph, or leave compile=False"
            )
        kinks = any(isinstance(module, KINKS) for module in integral_net.modules())
        smooth = integral_net.activation.smooth if isinstance(integral_net, IntegralNet) else 1 if kinks else math.inf
        if len(self.axes) > smooth:
            raise ValueError(
                f"axes={self.axes}: the activation can be differentiated {smooth:.0f} time(s) only, more gives zero; "
                "use activation=swish, softplus or sine"
            )

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return ∂ⁿΦ/∂x_{axes}, x (…, D) → (…, C)."""
        return self.by_axes(x, self.axes, condition)

    def by_axes(self, x: Tensor, axes: Sequence[int], condition: Tensor | None = None) -> Tensor:
        """Return the derivative by other axes than those chosen at construction, no more than these."""
        basis = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return self._evaluate(x, [basis[axis] for axis in axes], condition)

    def along(self, x: Tensor, tangent: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the directional derivative ``tangent``·∇Φ(x), x and tangent (…, D) → (…, C)."""
        return self._evaluate(x, [tangent], condition)

    def _evaluate(self, x: Tensor, tangents: Sequence[Tensor], condition: Tensor | None) -> Tensor:
        if not self.mixed and torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self._evaluate(x, tangents, condition)
        watch = not getattr(self.integral_net, "plain", False)
        return evaluated(self.integral_net, lambda: self._derivative(x, tangents, condition), watch)

    def _derivative(self, x: Tensor, tangents: Sequence[Tensor], condition: Tensor | None) -> Tensor:
        if not self._compile or torch._C._are_functorch_transforms_active():
            return self.derivative(x, tangents, condition)
        if torch.is_inference_mode_enabled():  # which compiled code cannot ask for
            return normally(self._derivative, x, tangents, condition)
        if self._compiled is None:
            width = getattr(self.integral_net, "hidden_features", 64)
            self._compiled = Compiled(lambda x, condition, *along: self.derivative(x, along, condition), width)
        return cast(Tensor, self._compiled(x, condition, *tangents))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": None}  # a copy compiles for itself

    def _field(self, condition: Tensor | None) -> Field:
        """Return Φ as a function of x alone."""
        return lambda x: self.integral_net(x) if condition is None else self.integral_net(x, condition)

    @abc.abstractmethod
    def derivative(self, x: Tensor, tangents: Sequence[Tensor], condition: Tensor | None) -> Tensor:
        """Return the mixed derivative of Φ along each of ``tangents`` in turn."""


def normally(derivative: Derivative, x: Tensor, tangents: Sequence[Tensor], condition: Tensor | None) -> Tensor:
    """Return ``derivative(x, tangents, condition)`` outside of inference mode, where torch 2.11's jvp is zero."""
    with torch.inference_mode(False), torch.no_grad():
        normal = None if condition is None else condition.clone()
        return derivative(x.clone(), [tangent.clone() for tangent in tangents], normal)
