"""Data sets of scenes, one file for each format; importing this package registers them."""

from autoint.scenes.data import blender as blender
from autoint.scenes.data import colmap as colmap
from autoint.scenes.data import deepvoxels as deepvoxels
from autoint.scenes.data import llff as llff
from autoint.scenes.data import photos as photos
from autoint.scenes.data import procedural as procedural
from autoint.scenes.data import solid as solid
from autoint.scenes.data import transforms as transforms
