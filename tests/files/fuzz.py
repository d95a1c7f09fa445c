"""Fuzz the readers of files of untrusted origin: ``python -m tests.files.fuzz transforms --seconds 600``.

Guided by coverage (``pip install -e '.[fuzz]'``). Whatever bytes a reader gets, it returns, or raises a ``ValueError``
of its own, within seconds and without memory growing; anything else ends the script with the input in ``crash-…``.
The quick tests of ``test_fuzz.py`` go through the same table of targets.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Target(NamedTuple):
    """What is fuzzed.

    Attributes:
        seeds: writes what else the reader needs into a folder, and returns contents that are good.
        read: reads a folder with these contents.
        words: what such files are made of, for mutations.
    """

    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path, bytes], object]
    words: tuple[str, ...] = ()


def scene(folder: Path) -> list[bytes]:
    """Three pictures of 4x3 pixels, and files about them like those of Blender, instant-ngp and nerfstudio."""
    import numpy as np
    from PIL import Image

    from autoint.scenes.data.procedural import orbit

    frames = []
    for i, pose in enumerate(orbit(3, 0.0)):
        Image.fromarray(np.full((3, 4, 4), 60 * i, np.uint8)).save(folder / f"{i}.png")
        frames.append({"file_path": f"./{i}" + ".png" * (i % 2), "transform_matrix": pose.tolist()})
    plain = {"camera_angle_x": 0.7, "frames": frames}
    lens = {"fl_x": 5.0, "fl_y": 5.1, "cx": 2.0, "cy": 1.5, "w": 4, "h": 3, "k1": 0.01, "p1": 0.001, "aabb_scale": 2}
    full = {**lens, "camera_model": "OPENCV", "scale": 0.33, "offset": [0.5, 0.5, 0.5], "frames": frames[::-1]}
    named = {**plain, "train_filenames": ["0", "1.png"], "frames": [{**lens, **frame} for frame in frames]}
    return [json.dumps(contents).encode() for contents in (plain, full, named)]


def read_transforms(folder: Path, data: bytes) -> None:
    from autoint.scenes.data.blender import blender
    from autoint.scenes.data.transforms import transforms

    (folder / "transforms_train.json").unlink(missing_ok=True)
    (folder / "transforms.json").write_bytes(data)
    for bounds in ("auto", "aabb_scale"):
        explained(lambda: transforms(str(folder), "train", None, path=".", hold_every=2, bounds=bounds))  # noqa: B023
    (folder / "transforms_train.json").write_bytes(data)
    explained(lambda: blender(str(folder), "train", None, path="."))


def capture(folder: Path) -> list[bytes]:
    import numpy as np

    from tests.scenes import captures

    captures.write_llff(folder, captures.Camera(5.0, 5.0, 2.0, 1.5, 4, 3), captures.facing(3))
    table, out = np.load(folder / "poses_bounds.npy"), []
    for array in (table, np.asfortranarray(table), table.astype(np.float32), table.astype(np.int16)):
        stream = io.BytesIO()
        np.save(stream, array)
        out.append(stream.getvalue())
    return out


def read_poses_bounds(folder: Path, data: bytes) -> None:
    from autoint.scenes.data.llff import llff

    (folder / "poses_bounds.npy").write_bytes(data)
    for ndc in (True, False):
        explained(lambda: llff(str(folder), "train", None, path=".", ndc=ndc))  # noqa: B023


def posed(folder: Path) -> list[bytes]:
    from autoint.scenes.data.procedural import orbit
    from tests.scenes import captures

    captures.write_deepvoxels(folder, captures.Camera(5.0, 5.0, 2.0, 1.5, 4, 3), orbit(3, 0.0))
    return [(folder / name).read_bytes() for name in ("intrinsics.txt", "pose/000001.txt")]


def read_posed(folder: Path, data: bytes) -> None:
    from autoint.scenes.data.deepvoxels import deepvoxels

    for name in ("intrinsics.txt", "pose/000001.txt"):
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(data)
        explained(lambda: deepvoxels(str(folder), "train", None, path="."))
        (folder / name).write_bytes(good)


def pictures(folder: Path) -> list[bytes]:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 1
    out = []
    for mode, kind in (("RGB", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("I;16", "PNG"),
                       ("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG")):  # fmt: skip
        stream = io.BytesIO()
        Image.new(mode, (5, 3), 1).save(stream, kind, **({"exif": exif} if mode == "RGB" else {}))
        out.append(stream.getvalue())
    return out


def read_image(folder: Path, data: bytes) -> None:
    from autoint.files.images import read_images

    (folder / "a.png").write_bytes(data)
    explained(lambda: read_images([folder / "a.png"], None))


def scans(folder: Path) -> list[bytes]:
    import h5py
    import numpy as np

    counts = 100 + np.arange(4 * 2 * 6).reshape(4, 2, 6) % 7
    with h5py.File(folder / "seed.h5", "w") as file:
        for name, array in (("data", counts), ("data_white", counts + 60), ("data_dark", counts % 3)):
            file[f"exchange/{name}"] = array.astype(np.uint16)
        file["exchange/theta"] = np.arange(4) * 40.0
    return [(folder / "seed.h5").read_bytes()]


def read_scan(folder: Path, data: bytes) -> None:
    from autoint.tomography.data.scans import scan

    (folder / "scan.h5").write_bytes(data)
    explained(lambda: scan(str(folder), None, None, path="scan.h5"))


def sinograms(folder: Path) -> list[bytes]:
    import numpy as np

    values, out = np.sin(np.arange(24.0)).reshape(4, 6) + 2, []
    for save in (np.save, lambda file, array: np.savez(file, sinogram=array, theta=np.arange(4) * 40.0), np.savetxt):
        stream = io.BytesIO()
        save(stream, values)
        out.append(stream.getvalue())
    return out


def read_sinogram(folder: Path, data: bytes) -> None:
    from autoint.tomography.data.scans import sinogram

    for name in ("a.npy", "a.npz", "a.txt", "a.tif"):
        (folder / name).write_bytes(data)
        explained(lambda: sinogram(str(folder), None, None, path=name))  # noqa: B023


JSON_WORDS = (
    "frames", "file_path", "transform_matrix", "camera_angle_x", "fl_x", "cx", "w", "h", "k1", "k4", "camera_model",
    "train_filenames", "offset", "scale", "aabb_scale", "NaN", "Infinity", "1e999", "null", "true", "[[", "{}", "../",
)  # fmt: skip
TARGETS = {
    "transforms": Target(scene, read_transforms, JSON_WORDS),
    "poses_bounds": Target(capture, read_poses_bounds, ("descr", "<f8", "|O", "fortran_order", "True", "(3, 17)")),
    "intrinsics": Target(posed, read_posed, ("nan", "inf", "1e400", "0x1")),
    "hdf5": Target(scans, read_scan, ("exchange", "data_white", "theta", "HDF", "OHDR", "TREE", "SNOD", "HEAP")),
    "sinograms": Target(sinograms, read_sinogram, ("descr", "<f8", "|O", "(4, 6)", "PK", "nan", "II*")),
    "images": Target(pictures, read_image, ("IHDR", "PLTE", "tRNS", "IDAT", "eXIf", "acTL", "iCCP", "zTXt", "IEND")),
}


def explained(action: Callable[[], object]) -> None:
    """Let pass what a user could read: a ``ValueError`` that was raised by this package, of few and short lines."""
    try:
        action()
    except ValueError as error:
        raised_in = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
        lines = str(error).splitlines()
        if not raised_in.startswith("autoint.") or not 1 <= len(lines) <= 21 or max(map(len, lines)) > 1000:
            raise AssertionError(f"raised in {raised_in}, {len(lines)} lines: {str(error)[:300]}") from error


def main() -> None:
    """Fuzz one target for so many seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=600)
    arguments = parser.parse_args()
    import atheris

    logging.disable()
    with atheris.instrument_imports(include=["autoint.files", "autoint.scenes.data", "autoint.tomography.data", "PIL"]):
        import autoint.scenes.data
        import autoint.tomography.data  # noqa: F401
    target = TARGETS[arguments.target]
    folder, corpus = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    for i, contents in enumerate(target.seeds(folder)):
        (corpus / f"seed_{i}").write_bytes(contents)
        target.read(folder, contents)
    words = corpus.with_suffix(".dict")
    words.write_text("".join(f'"{word}"\n' for word in target.words))
    limits = (f"-max_total_time={arguments.seconds}", "-timeout=20", "-rss_limit_mb=4096", "-max_len=8192")
    atheris.Setup([sys.argv[0], *limits, f"-dict={words}", str(corpus)], lambda data: target.read(folder, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
