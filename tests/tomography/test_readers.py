"""Sinograms of MATLAB and slices of DICOM: what is read, and what is refused in a line."""

import numpy as np
import pytest
from scipy.io import savemat

from autoint.registry import PHANTOMS
from tests.tomography.test_reconstruction import scan  # noqa: F401 (a fixture)

pydicom = pytest.importorskip("pydicom")


def sinogram(folder, **options):
    return PHANTOMS.build({"name": "sinogram", "path": "s.mat", **options}, str(folder), None, None)


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab(tmp_path, scan, compressed):  # noqa: F811
    """With a column for each view, as MATLAB's radon has it, and angles in a row."""
    arrays = {"sinogram": scan.values.T, "theta": np.degrees(scan.theta)}
    savemat(tmp_path / "s.mat", arrays, do_compression=compressed)
    found = sinogram(tmp_path, center=24.0, transpose=True)
    assert found.values == pytest.approx(scan.values)
    assert found.theta == pytest.approx(scan.theta)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"", "s.mat: "),
        (b"MATLAB 7.3 MAT-file".ljust(116) + b"\0" * 8 + b"\0\2IM" + b"\0" * 400, "format 7.3; save it with -v7"),
        (b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + b"\x0e\0\0\0\xff\xff\0\0", "s.mat: "),
    ],
)
def test_no_matlab(tmp_path, contents, words):
    (tmp_path / "s.mat").write_bytes(contents)
    with pytest.raises(ValueError, match=words) as caught:
        sinogram(tmp_path)
    assert "\n" not in str(caught.value)


def test_matlab_without_a_sinogram(tmp_path):
    savemat(tmp_path / "s.mat", {"a": np.ones(3), "sinogram": {"b": 1}})
    with pytest.raises(ValueError, match=r"found: a \(double\), sinogram \(struct\)"):
        sinogram(tmp_path)


def write(file, hounsfield, **changes):
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.Modality, data.PixelSpacing, data.RescaleSlope, data.RescaleIntercept = "CT", [2.0, 2.0], 1, -1024
    data.Rows, data.Columns = hounsfield.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.PixelData = (hounsfield + 1024).astype(np.uint16).tobytes()
    for name, value in changes.items():
        setattr(data, name, value)
    data.save_as(file, enforce_file_format=True)


def test_a_cylinder_of_water(tmp_path):
    """Its central line absorbs 2r·μ of water, whatever the number of pixels it is scaled to."""
    at = np.arange(64) - 32
    inside = at**2 + at[:, None] ** 2 < 20**2
    write(tmp_path / "slice.dcm", np.where(inside, 0, -1000))
    for size in (64, 32):
        found = PHANTOMS.build({"name": "dicom", "path": "slice.dcm"}, str(tmp_path), size, 8)
        assert found.pixel_size == 2.0 * 64 / size
        assert found.values[:, size // 2] == pytest.approx(40 * 2 * 0.0193, rel=0.05)
        assert found.image.max() * found.pixel_units[0] == pytest.approx(0.0193)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"Modality": "MR"}, "modality MR, 1 frames"),
        ({"PixelSpacing": [1.0, 2.0]}, r"pixels of 1.0 × 2.0 mm; they must be squares"),
        ({"Rows": 60000, "Columns": 60000}, "60000×60000 pixels; give"),
        ({"Rows": 70}, "slice.dcm: pixels cannot be read"),
    ],
)
def test_no_slice(tmp_path, changes, words):
    write(tmp_path / "slice.dcm", np.zeros((64, 64)), **changes)
    with pytest.raises(ValueError, match=words) as caught:
        PHANTOMS.build({"name": "dicom", "path": "slice.dcm"}, str(tmp_path), None, 8)
    assert "\n" not in str(caught.value)


def test_no_dicom(tmp_path):
    (tmp_path / "slice.dcm").write_bytes(b"<html>")
    for path, words in (
        ("slice.dcm", "not a readable DICOM"),
        ("none.dcm", "no such file"),
        ("", "phantom.path is empty"),
    ):
        with pytest.raises(ValueError, match=words):
            PHANTOMS.build({"name": "dicom", "path": path}, str(tmp_path), None, 8)
