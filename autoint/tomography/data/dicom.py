"""A slice of a DICOM file as a phantom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from autoint.registry import PHANTOMS
from autoint.tomography.data.arrays import LARGEST, MOST
from autoint.tomography.data.phantoms import projected
from autoint.tomography.data.sinograms import Scan

WATER = 0.0193  # attenuation per millimetre at 70 keV, which Hounsfield's units are relative to


@PHANTOMS.register("dicom")
def dicom(data_dir: str, rho: int | None, theta: int | None, *, path: str = "") -> Scan:
    """A CT slice of a DICOM file, in attenuation of 70 keV, scaled to ``rho`` pixels and projected by ``radon``.

    μ = max(0, 1 + HU/1000)·μ_water; the slice is written per millimetre.

    Args:
        data_dir: where a relative path begins.
        rho: detector pixels; None keeps the slice's own.
        theta: angles.
        path: of the file; what lies outside of the inscribed circle is taken for empty.
    """
    if not path:
        raise ValueError("phantom.path is empty: give the file, as in phantom=dicom phantom.path=FILE")
    hounsfield, spacing = read_slice(Path(data_dir) / path)
    own = max(hounsfield.shape)
    size, square = rho or own, np.full((own, own), -1000.0)
    top, left = ((own - n) // 2 for n in hounsfield.shape)
    square[top : top + hounsfield.shape[0], left : left + hounsfield.shape[1]] = hounsfield
    per_millimetre = WATER * np.maximum(0, 1 + square / 1000)
    shrunk = Image.fromarray(per_millimetre.astype(np.float32)).resize((size, size), Image.Resampling.BOX)
    pixel = spacing * own / size
    radius = max(size // 2, size - 1 - size // 2)
    return replace(projected(np.asarray(shrunk, float) * pixel * radius, theta), pixel_size=pixel)


def read_slice(file: Path) -> tuple[np.ndarray, float]:
    """Return a CT slice in Hounsfield's units, and the size of its square pixels in millimetres."""
    try:
        import pydicom
    except ImportError as error:
        raise ValueError("phantom=dicom needs pydicom: pip install 'autoint[dicom]'") from error
    if not file.is_file():
        raise ValueError(f"{file}: no such file; set phantom.path, relative to data_dir or absolute")
    if file.stat().st_size > LARGEST:
        raise ValueError(f"{file}: {file.stat().st_size} bytes; a slice may have {LARGEST}")
    try:
        head = pydicom.dcmread(file, stop_before_pixels=True)
    except Exception as error:  # pydicom raises many kinds on damaged files
        raise ValueError(f"{file}: not a readable DICOM file ({str(error)[:100]}); restore the file") from error
    kind, frames = head.get("Modality"), int(head.get("NumberOfFrames") or 1)
    shape = int(head.get("Rows") or 0), int(head.get("Columns") or 0)
    spacing: Any = head.get("PixelSpacing")
    if kind != "CT" or frames != 1 or spacing is None or "RescaleSlope" not in head:
        raise ValueError(
            f"{file}: modality {kind}, {frames} frames, pixel spacing {spacing}; give one slice of a CT with "
            "PixelSpacing and RescaleSlope"
        )
    if not 4 <= min(shape) <= max(shape) or shape[0] * shape[1] > MOST:
        raise ValueError(f"{file}: {shape[0]}×{shape[1]} pixels; give 4 on a side at least, and {MOST} at most")
    if not 0 < float(spacing[0]) < 1e3 or abs(float(spacing[0]) - float(spacing[1])) > 1e-3 * float(spacing[0]):
        raise ValueError(f"{file}: pixels of {spacing[0]} × {spacing[1]} mm; they must be squares")
    try:
        contents = pydicom.dcmread(file)
        values = contents.pixel_array * float(contents.RescaleSlope) + float(contents.get("RescaleIntercept") or 0)
    except Exception as error:
        raise ValueError(
            f"{file}: pixels cannot be read ({str(error).splitlines()[0][:100]}); store them uncompressed"
        ) from error
    if values.shape != shape or not np.isfinite(values).all():
        raise ValueError(f"{file}: pixels of shape {values.shape} in a file that says {shape}; give finite grey values")
    return values, float(spacing[0])
