"""Limb 3: sinograms from few views, and the object behind them. Its task is ``task=ct``."""

from autoint.tomography.data.sinograms import Scan
from autoint.tomography.projector import Lattice, projection_matrix
from autoint.tomography.reconstruction import Reconstruction, reconstruct

__all__ = ["Lattice", "Reconstruction", "Scan", "projection_matrix", "reconstruct"]
