"""Limb 2: scenes from posed images, rendered by sections. Its task is ``task=volrend``."""

from autoint.scenes.colors import AbstractColor
from autoint.scenes.data.views import Views
from autoint.scenes.occupancy import Occupancy
from autoint.scenes.rays import Intrinsics, Rays
from autoint.scenes.rendering import Rendering, composite
from autoint.scenes.sections import AbstractPlacement
from autoint.scenes.volume import AbstractSections, AbstractVolume

__all__ = [
    "AbstractColor",
    "AbstractPlacement",
    "AbstractSections",
    "AbstractVolume",
    "Intrinsics",
    "Occupancy",
    "Rays",
    "Rendering",
    "Views",
    "composite",
]
