"""Sinograms and phantoms, one file for each kind; importing this package registers them."""

from autoint.tomography.data import dicom as dicom
from autoint.tomography.data import phantoms as phantoms
from autoint.tomography.data import scans as scans
