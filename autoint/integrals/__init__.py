"""Limb 1: integrals of functions, from an antiderivative or by quadrature. Its task is ``task=function``."""

from autoint.integrals.accuracy import ErrorReport, Fitted
from autoint.integrals.antiderivatives import Antiderivative, Piecewise
from autoint.integrals.base import AbstractAntiderivative
from autoint.integrals.definite import integrate
from autoint.integrals.densities import Density, DensityFitted
from autoint.integrals.density_fitting import fit_density
from autoint.integrals.estimates import Estimate
from autoint.integrals.fitting import fit
from autoint.integrals.functions import Target
from autoint.integrals.quadrature import gauss_legendre, midpoint, stratified

__all__ = [
    "AbstractAntiderivative",
    "Antiderivative",
    "Density",
    "DensityFitted",
    "ErrorReport",
    "Estimate",
    "Fitted",
    "Piecewise",
    "Target",
    "fit",
    "fit_density",
    "gauss_legendre",
    "integrate",
    "midpoint",
    "stratified",
]
