"""Data sets: one file each; importing this package registers them."""

from autoint.data import blender as blender
from autoint.data import deepvoxels as deepvoxels
from autoint.data import llff as llff
from autoint.data import phantoms as phantoms
from autoint.data import procedural as procedural
from autoint.data import scans as scans
from autoint.data import transforms as transforms
