"""A slice of a DICOM file as a phantom."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
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
    with warnings.catch_warnings(action="ignore"):  # pydicom's, of values that are looked at here
        head = _head(file)
        kind, (frames,) = str(head.get("Modality")), _numbers(file, head, "NumberOfFrames", [1])
        if kind != "CT" or frames != 1 or "PixelSpacing" not in head or "RescaleSlope" not in head:
            raise ValueError(
                f"{file}: modality {kind:.40}, {frames:g} frames; give one slice of a CT with PixelSpacing and "
                "RescaleSlope"
            )
        shape = int(*_numbers(file, head, "Rows", [0])), int(*_numbers(file, head, "Columns", [0]))
        if not 4 <= min(shape) <= max(shape) or shape[0] * shape[1] > MOST:
            raise ValueError(f"{file}: {shape[0]}×{shape[1]} pixels; give 4 on a side at least, and {MOST} at most")
        spacing = _numbers(file, head, "PixelSpacing", [0, 0])
        if not 0 < spacing[0] < 1e3 or abs(spacing[0] - spacing[1]) > 1e-3 * spacing[0]:
            raise ValueError(f"{file}: pixels of {spacing[0]} × {spacing[1]} mm; they must be squares")
        (slope,), (begin,) = (_numbers(file, head, f"Rescale{key}", [0]) for key in ("Slope", "Intercept"))
        try:
            values = pydicom.dcmread(file).pixel_array * slope + begin
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{file}: pixels cannot be read ({reason:.100}); store them uncompressed") from error
    if values.shape != shape or not np.isfinite(values).all():
        raise ValueError(f"{file}: pixels of shape {values.shape} in a file that says {shape}; give finite grey values")
    return values, spacing[0]


def _head(file: Path) -> Any:
    """Return what a file says of its pixels."""
    import pydicom

    try:
        syntax = pydicom.filereader.read_file_meta_info(file).get("TransferSyntaxUID")
        deflated = syntax == pydicom.uid.DeflatedExplicitVRLittleEndian
        head = None if deflated else pydicom.dcmread(file, stop_before_pixels=True)
    except Exception as error:  # pydicom raises many kinds on damaged files
        raise ValueError(f"{file}: not a readable DICOM file ({str(error)[:100]}); restore the file") from error
    if head is None:  # a megabyte becomes a gigabyte before the first value is known
        raise ValueError(f"{file}: deflated as a whole; store it uncompressed")
    return head


def _numbers(file: Path, head: Any, key: str, default: list[float]) -> list[float]:
    """Return as many finite numbers of an element as ``default`` has, which counts where there is none."""
    found: Any = "what is no number"
    try:
        found = head.get(key)
        if found is None or found == "":
            return default
        numbers = [float(one) for one in (found if isinstance(found, Iterable) else [found])]
    except (ArithmeticError, TypeError, ValueError):
        numbers = []
    if len(numbers) != len(default) or not all(map(math.isfinite, numbers)):
        wanted = "a number" if len(default) == 1 else f"{len(default)} numbers"
        raise ValueError(f"{file}: {key} holds {found!s:.80}; {wanted} must stand there: restore the file")
    return numbers
