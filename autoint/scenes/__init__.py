"""Limb 2: scenes from posed images, rendered by sections. Its task is ``task=volrend``."""

from typing import TYPE_CHECKING

from autoint.names import public

if TYPE_CHECKING:
    from autoint.scenes.colors import AbstractColor as AbstractColor
    from autoint.scenes.data.views import Views as Views
    from autoint.scenes.occupancy import Occupancy as Occupancy
    from autoint.scenes.rays import Intrinsics as Intrinsics
    from autoint.scenes.rays import Rays as Rays
    from autoint.scenes.rendering import Rendering as Rendering
    from autoint.scenes.rendering import composite as composite
    from autoint.scenes.scene import Camera as Camera
    from autoint.scenes.scene import Scene as Scene
    from autoint.scenes.sections import AbstractPlacement as AbstractPlacement
    from autoint.scenes.session import RenderedImage as RenderedImage
    from autoint.scenes.session import Run as Run
    from autoint.scenes.session import load as load
    from autoint.scenes.session import train as train
    from autoint.scenes.volume import AbstractSections as AbstractSections
    from autoint.scenes.volume import AbstractVolume as AbstractVolume

# Looked up on first use: a scene and a camera need no Lightning, which runs do.
__getattr__, __dir__, __all__ = public(
    __name__,
    {
        "AbstractColor": "autoint.scenes.colors",
        "AbstractPlacement": "autoint.scenes.sections",
        "AbstractSections": "autoint.scenes.volume",
        "AbstractVolume": "autoint.scenes.volume",
        "Camera": "autoint.scenes.scene",
        "Intrinsics": "autoint.scenes.rays",
        "Occupancy": "autoint.scenes.occupancy",
        "Rays": "autoint.scenes.rays",
        "RenderedImage": "autoint.scenes.session",
        "Rendering": "autoint.scenes.rendering",
        "Run": "autoint.scenes.session",
        "Scene": "autoint.scenes.scene",
        "Views": "autoint.scenes.data.views",
        "composite": "autoint.scenes.rendering",
        "load": "autoint.scenes.session",
        "train": "autoint.scenes.session",
    },
)
