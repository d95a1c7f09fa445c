"""Limb 4: surfaces as the zeros of networks, from points or from what is inside of them, and their meshes."""

from autoint.surfaces.shapes import AbstractShape

__all__ = ["AbstractShape"]
