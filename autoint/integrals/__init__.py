"""Limb 1: integrals of functions, from an antiderivative or by quadrature. Its task is ``task=function``."""

from autoint.integrals.antiderivatives import Antiderivative, ErrorReport
from autoint.integrals.definite import integrate
from autoint.integrals.fitting import fit
from autoint.integrals.functions import Target
from autoint.integrals.quadrature import gauss_legendre, midpoint, stratified

__all__ = [
    "Antiderivative",
    "ErrorReport",
    "Target",
    "fit",
    "gauss_legendre",
    "integrate",
    "midpoint",
    "stratified",
]
