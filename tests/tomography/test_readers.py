"""Sinograms of MATLAB and slices of DICOM: what is read, and what is refused in a line."""

import struct
import zlib

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from autoint.registry import PHANTOMS
from tests.tomography.test_reconstruction import scan  # noqa: F401 (a fixture)
from tests.tomography.test_task import exchange, read

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
        (b"MATLAB 7.3 MAT-file".ljust(116) + b"\0" * 8 + b"\0\2IM" + b"\0" * 400, "s.mat: not a readable HDF5 file"),
        (b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + b"\x0e\0\0\0\xff\xff\0\0", "s.mat: "),
    ],
)
def test_no_matlab(tmp_path, contents, words):
    (tmp_path / "s.mat").write_bytes(contents)
    with pytest.raises(ValueError, match=words) as caught:
        sinogram(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_array_of_matlab_that_unpacks_to_more_than_its_shape_is_refused_by_its_head(tmp_path):
    savemat(tmp_path / "s.mat", {"sinogram": np.zeros((64, 64))})
    whole = (tmp_path / "s.mat").read_bytes()
    packed = zlib.compress(whole[128:].replace(struct.pack("<ii", 64, 64), struct.pack("<ii", 4, 4)))
    (tmp_path / "s.mat").write_bytes(whole[:128] + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(ValueError, match=r"s.mat: 'sinogram' unpacks to 32768 bytes, more than its shape \(4, 4\) has"):
        sinogram(tmp_path)
    savemat(tmp_path / "s.mat", {"sinogram": np.full((4, 4), 1j)}, do_compression=True)
    with pytest.raises(ValueError, match=r"s.mat: 'sinogram' holds complex numbers; save integers or floats"):
        sinogram(tmp_path)


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
    with pydicom.config.disable_value_validation():
        for name, value in changes.items():
            if name == "TransferSyntaxUID":
                data.file_meta.TransferSyntaxUID = value
            elif isinstance(value, str):  # as it stands there, numbers or not
                data.add_new(name, "LO", value)
            else:
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
        ({"PixelSpacing": 1.0}, r"slice.dcm: PixelSpacing holds 1.0; 2 numbers must stand there: restore the file"),
        ({"PixelSpacing": "x\\1"}, r"slice.dcm: PixelSpacing holds .*; 2 numbers must stand there"),
        ({"Rows": [64, 64]}, r"slice.dcm: Rows holds \[64, 64\]; a number must stand there"),
        ({"RescaleSlope": "x"}, "slice.dcm: RescaleSlope holds x; a number must stand there"),
        ({"NumberOfFrames": "x"}, "slice.dcm: NumberOfFrames holds x; a number must stand there"),
        ({"Modality": "C" * 60000}, f"modality {'C' * 40}, 1 frames"),
        ({"TransferSyntaxUID": "1.2.840.10008.1.2.1.99"}, "slice.dcm: deflated as a whole; store it uncompressed"),
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


@pytest.mark.parametrize("change", ["dark", "theta", "radians", "closed"])
def test_variants_of_the_data_exchange_layout(tmp_path, change, caplog):
    """No dark frames, angles elsewhere or in radians, and both 0 and 180 degrees."""
    theta = np.linspace(0, 180, 25) if change == "closed" else np.arange(24) * 7.5

    def damage(arrays):
        if change == "dark":
            del arrays["data_dark"]
            arrays["data"] -= 100
            arrays["data_white"] -= 100
        if change == "closed":
            arrays["data"] = np.concatenate([arrays["data"], arrays["data"][:1, :, ::-1]])
        if change in ("theta", "radians"):
            del arrays["theta"]

    values = exchange(tmp_path / "scan.h5", angles=theta, damage=damage)
    with h5py.File(tmp_path / "scan.h5", "a") as file:
        if change in ("theta", "radians"):
            there = file.create_dataset("process/acquisition/rotation/theta", data=theta)
        if change == "radians":
            there[:] = np.deg2rad(theta)
            there.attrs["units"] = "rad"
    found = read(tmp_path / "scan.h5")
    assert found.values[:24] == pytest.approx(values, abs=1e-9)
    assert found.theta == pytest.approx(np.deg2rad(theta))
    assert ("no dark frames" in caplog.text) == (change == "dark")
    if change == "radians":
        with pytest.raises(ValueError, match=r"phantom\.unit=degrees: .* says radians of its angles; leave"):
            read(tmp_path / "scan.h5", unit="degrees")


def nexus(file, **changes):
    values = exchange(file)
    with h5py.File(file, "r") as old:
        parts = {name: np.array(old[f"exchange/{name}"]) for name in ("data", "data_white", "data_dark", "theta")}
    kinds = {"data": 0, "data_white": 1, "data_dark": 2}
    key = np.concatenate([np.full(len(parts[name]), kind) for name, kind in kinds.items()])
    with h5py.File(file, "w") as new:
        tomo = new.create_group("entry1/tomo_entry")
        tomo["instrument/detector/data"] = np.concatenate([parts[name] for name in kinds])
        tomo["instrument/detector/image_key"] = changes.get("key", key)
        if "control" in changes:
            tomo["instrument/detector/image_key_control"] = changes["control"](key)
        tomo["sample/rotation_angle"] = np.concatenate([parts["theta"], np.zeros(len(key) - 24)])
    return values


def test_nexus(tmp_path):
    values = nexus(tmp_path / "scan.nxs")
    found = read(tmp_path / "scan.nxs")
    assert found.values == pytest.approx(values, abs=1e-9)
    assert found.theta == pytest.approx(np.deg2rad(np.arange(24) * 7.5))
    for key, words in ((np.zeros(30), "names no projections"), (np.zeros(3), "30 frames, 3 image keys, 30 angles")):
        nexus(tmp_path / "scan.nxs", key=key)
        with pytest.raises(ValueError, match=words):
            read(tmp_path / "scan.nxs")


def test_frames_of_nexus_that_align_the_sample_are_left_out(tmp_path):
    """They have the image_key of projections, and a negative image_key_control."""
    values = nexus(tmp_path / "scan.nxs", control=lambda key: np.where(np.arange(len(key)) == 5, -1, key))
    found = read(tmp_path / "scan.nxs")
    assert found.values == pytest.approx(np.delete(values, 5, 0), abs=1e-9)
    assert found.theta == pytest.approx(np.deg2rad(np.delete(np.arange(24) * 7.5, 5)))
    nexus(tmp_path / "scan.nxs", control=lambda key: key[1:])
    with pytest.raises(ValueError, match=r"image_key_control\]: 29 numbers of 30 frames"):
        read(tmp_path / "scan.nxs")


def test_matlab_of_now(tmp_path, scan):  # noqa: F811
    """Format 7.3 is HDF5 behind 512 bytes, with the axes the other way round."""
    with h5py.File(tmp_path / "s.mat", "w", userblock_size=512) as file:
        file["sinogram"] = scan.values.T
        file["theta"] = np.degrees(scan.theta)[:, None]
        file["name"] = np.frombuffer("tooth".encode("utf-16le"), np.uint16)
    head = b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM"
    with (tmp_path / "s.mat").open("r+b") as file:
        file.write(head)
    found = sinogram(tmp_path, center=24.0)
    assert found.values == pytest.approx(scan.values)
    assert found.theta == pytest.approx(scan.theta)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.full((1, 1), 255), "phantom: a picture of 1×1 pixels; at least 4×4 are needed"),
        (np.zeros((8, 8)), "phantom: the picture is black within its inscribed circle"),
    ],
)
def test_a_picture_of_nothing(tmp_path, pixels, words):
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=words):
        PHANTOMS.build({"name": "image", "path": "a.png"}, str(tmp_path), None, 8)


@pytest.mark.parametrize(
    ("factor", "angles", "words"),
    [
        (1e200, None, r"the largest value is \S+e\+\d+; give −log of the transmission, of the order of 1"),
        (1e-200, None, "the largest value is "),
        (1.0, 7.0, "all 40 views have the same angle, 7; give one angle per view"),
    ],
)
def test_numbers_that_no_measurement_has(tmp_path, scan, factor, angles, words):  # noqa: F811
    theta = np.degrees(scan.theta[:40]) if angles is None else np.full(40, angles)
    savemat(tmp_path / "s.mat", {"sinogram": scan.values[:40] * factor, "theta": theta})
    with pytest.raises(ValueError, match=words):
        sinogram(tmp_path, center=24.0)
