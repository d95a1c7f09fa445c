"""AutoInt: integrals of neural networks, by training their derivatives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoint.names import find_moved, public

if TYPE_CHECKING:
    from autoint.integrals import Estimate as Estimate
    from autoint.integrals import fit as fit
    from autoint.integrals import fit_density as fit_density
    from autoint.integrals import integrate as integrate
    from autoint.networks import IntegralNet as IntegralNet
    from autoint.networks import draw as draw
    from autoint.networks import grad_net as grad_net
    from autoint.networks import gradient as gradient
    from autoint.scenes import Camera as Camera
    from autoint.scenes import Scene as Scene
    from autoint.scenes import load as load
    from autoint.scenes import train as train
    from autoint.tomography import reconstruct as reconstruct

__version__ = "0.1.0"
find_moved()
# Looked up on first use, so that `import autoint` and the command line's help need no torch.
__getattr__, __dir__, __all__ = public(
    __name__,
    {
        "Camera": "autoint.scenes",
        "Estimate": "autoint.integrals",
        "IntegralNet": "autoint.networks",
        "Scene": "autoint.scenes",
        "draw": "autoint.networks",
        "fit": "autoint.integrals",
        "fit_density": "autoint.integrals",
        "grad_net": "autoint.networks",
        "gradient": "autoint.networks",
        "integrate": "autoint.integrals",
        "load": "autoint.scenes",
        "reconstruct": "autoint.tomography",
        "train": "autoint.scenes",
    },
)
