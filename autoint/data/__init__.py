"""Data sets: one file each; importing this package registers them."""

from autoint.data import blender as blender
from autoint.data import procedural as procedural
