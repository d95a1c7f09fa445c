"""What a fit has reached, and how far an antiderivative is from the truth: two things that are told."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What a fit has reached; of several pieces, the worst.

    Attributes:
        error: the root mean square of Ψ − f as a share of that of f, at the points of the training.
        tolerance: what was asked for.
        steps, seconds: of the training.
        end: why it ended.
        integral_error: the largest error of integrals over random boxes, as a share of rms f · volume, at 99 %
            confidence from random points that the training has not seen; None where nobody looked.
        places: what was found to be wrong with the function, and where.
    """

    error: float
    tolerance: float
    steps: int
    seconds: float
    end: str
    integral_error: float | None = None
    places: tuple[str, ...] = ()

    @property
    def met(self) -> bool:
        """Whether the tolerance is met, by the integrals where somebody looked."""
        return (self.error if self.integral_error is None else self.integral_error) <= self.tolerance

    def __str__(self) -> str:
        looked = "" if self.integral_error is None else f", integrals off by {self.integral_error:.1e} at most"
        found = "".join(f"; there is {place}" for place in self.places)
        return (
            f"relative error {self.error:.1e} after {self.steps} steps and {self.seconds:.0f} s{looked}; tolerance "
            f"{self.tolerance:.0e} {'met' if self.met else 'not met'} ({self.end}){found}"
        )


@dataclasses.dataclass(frozen=True)
class ErrorReport:
    """Absolute errors of an antiderivative: of its integrand, and of its integrals over random boxes.

    Attributes:
        integrand_max, integrand_rms: of Ψ − f at random points.
        integral_max, integral_rms: of the integrals.
        boxes: how many points and boxes.
        against: what the integrals are compared with.
        variance_ratio: mean variance of plain Monte Carlo over that of ``residual=samples``, at as many samples.
        samples: how many that is in each box.
    """

    integrand_max: float
    integrand_rms: float
    integral_max: float
    integral_rms: float
    boxes: int
    against: str
    variance_ratio: float
    samples: int

    def __str__(self) -> str:
        return (
            f"integrand error {self.integrand_max:.1e} at most, {self.integrand_rms:.1e} rms, at {self.boxes} points; "
            f"integral error {self.integral_max:.1e} at most, {self.integral_rms:.1e} rms, over {self.boxes} random "
            f"boxes (against {self.against}); {self.samples} samples of the residual have a variance "
            f"{self.variance_ratio:.1e} times less than as many of the function"
        )
