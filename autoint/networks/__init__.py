"""Φ and Ψ: activations, encodings, integral networks, and the grad networks over the same parameters."""

from autoint.networks.activations import Activation, he_init
from autoint.networks.distance_net import DistanceNet
from autoint.networks.drawing import draw
from autoint.networks.encodings import AbstractEncoding
from autoint.networks.grad_nets import AbstractGradNet, grad_net
from autoint.networks.grad_nets.gradient import curvature, gradient
from autoint.networks.integral_net import IntegralNet

__all__ = [
    "AbstractEncoding",
    "AbstractGradNet",
    "Activation",
    "DistanceNet",
    "IntegralNet",
    "curvature",
    "draw",
    "grad_net",
    "gradient",
    "he_init",
]
