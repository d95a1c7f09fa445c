"""Φ and Ψ: activations, encodings, integral networks, and the grad networks over the same parameters."""

from autoint.networks.activations import Activation, he_init
from autoint.networks.drawing import draw
from autoint.networks.encodings import AbstractEncoding
from autoint.networks.grad_nets import AbstractGradNet, grad_net
from autoint.networks.integral_net import IntegralNet

__all__ = ["AbstractEncoding", "AbstractGradNet", "Activation", "IntegralNet", "draw", "grad_net", "he_init"]
