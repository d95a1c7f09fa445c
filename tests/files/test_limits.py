"""What is read takes no more memory and no more time than it says: sums, sizes unpacked, links, repeated keys."""

import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autoint.files import images, meshes, reading
from autoint.scenes.data import colmap_files
from autoint.scenes.data.poses import rigid
from autoint.surfaces import files as surface_files
from autoint.tomography.data import arrays, exchange
from autoint.tomography.data.scans import scan, sinogram


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "L"])
def test_a_large_image_is_reduced_band_by_band_to_the_same_values(mode, monkeypatch):
    g = np.random.default_rng(0)
    shape = {"RGB": (97, 61, 3), "RGBA": (97, 61, 4)}.get(mode, (97, 61))
    values = g.integers(0, 65536 if mode == "I;16" else 256, shape).astype(np.uint16 if mode == "I;16" else np.uint8)
    Image.fromarray(values).save("a.png")
    for size in (None, 40, 13, 1):
        monkeypatch.setattr(images, "BAND", 2**22)
        whole, _ = images.read_rgba(Path("a.png"), size)
        monkeypatch.setattr(images, "BAND", 500)
        assert torch.equal(images.read_rgba(Path("a.png"), size)[0], whole)


def test_no_picture_is_worked_on_as_a_whole(monkeypatch):
    """The most pixels in floating point at a time are those of a band, and of what is asked for."""
    seen = []
    real = images._premultiplied
    monkeypatch.setattr(images, "BAND", 1000)
    monkeypatch.setattr(images, "_premultiplied", lambda image: seen.append(image.size) or real(image))
    Image.new("RGB", (300, 200)).save("a.png")
    images.read_images([Path("a.png")] * 3, 8)
    assert max(width * height for width, height in seen) <= 1000
    assert len(seen) > 3


def test_the_pixels_of_all_images_together_are_bounded(monkeypatch):
    monkeypatch.setattr(images, "MAX_DECODED", 100)
    Image.new("RGB", (6, 6)).save("a.png")
    with pytest.raises(ValueError, match="3 images of 6x6 have 108 pixels in all; at most 100 are decoded"):
        images.read_images([Path("a.png")] * 3, 2)


def comparisons(count: int) -> int:
    """How often keys are compared while an object of so many, of which the last stands twice, is read."""

    class Key(str):
        made = 0
        __hash__ = str.__hash__

        def __eq__(self, other):
            Key.made += 1
            return str.__eq__(self, other)

    Path("a.json").write_text("{" + ",".join(f'"{i}":0' for i in range(count)) + f',"{count - 1}":0}}')
    with pytest.MonkeyPatch.context() as patch:
        real = json.loads
        hooked = lambda text, object_pairs_hook, **kw: real(  # noqa: E731
            text, object_pairs_hook=lambda pairs: object_pairs_hook([(Key(k), v) for k, v in pairs]), **kw
        )
        patch.setattr(reading.json, "loads", hooked)
        with pytest.raises(ValueError, match="stands twice in one object"):
            reading.read_json(Path("a.json"), "")
    return Key.made


def test_repeated_keys_are_found_in_linear_time():
    assert comparisons(4000) <= 100


def test_frames_are_counted_and_equal_images_found_at_once():
    with pytest.raises(ValueError, match=r"20001 frames; a scene has at most 20000: leave some out"):
        reading.frames_of({"frames": [{}] * 20001}, Path("transforms.json"))


def test_many_equal_poses_are_looked_at_together(monkeypatch):
    calls = []
    monkeypatch.setattr("autoint.scenes.data.poses._check", lambda *_: calls.append(0))
    poses = rigid([torch.eye(4)] * 5000, [str(i) for i in range(5000)])
    assert poses.shape == (5000, 4, 4)
    assert not calls


def test_findings_end_after_a_hundred():
    def wrong(i):
        raise ValueError(f"number {i}")

    with pytest.raises(ValueError, match=r"number 19\n… and at least 80 more like these$"):
        reading.gathered(wrong, range(10**6))


def test_a_zip_of_zeros_is_refused_by_its_headers(monkeypatch):
    np.savez_compressed("a.npz", sinogram=np.zeros((100, 100)), theta=np.arange(100.0))
    monkeypatch.setattr(reading, "MAX_NUMBERS", 10_050)
    unpacked = []
    real = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, n=-1: unpacked.append(n) or real(self, n))
    with pytest.raises(ValueError, match=r"a.npz\[theta.npy\]: 10100 numbers are more than the 10050 that fit; cut it"):
        sinogram(".", None, None, path="a.npz")
    assert min(unpacked) >= 0
    assert max(unpacked) < 4096
    np.save("b.npy", np.zeros((200, 200)))
    with pytest.raises(ValueError, match=r"b.npy: 40000 numbers are more than"):
        sinogram(".", None, None, path="b.npy")


PLY = """ply\nformat ascii 1.0\ncomment TextureFile a.png\nelement vertex 4\nproperty float x\nproperty float y
property float z\nelement face 2\nproperty list uchar int vertex_indices\nend_header
0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n4 0 1 2 3"""
OFF = "OFF\n4 2 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n4 0 1 2 3"


@pytest.mark.parametrize(
    ("text", "lost", "words"),
    [
        (PLY, len("\n4 0 1 2 3"), "it tells of 2 rows of 'face', and 1 are there; restore it"),
        (PLY, len(" 2 3"), "5 numbers in the last row, and 3 are there"),
        (PLY, len("0 1\n3 0 1 2\n4 0 1 2 3") + 2, "4 rows of 'vertex', and 3 are there"),
        (OFF, len("\n4 0 1 2 3"), "6 rows, and 5 are there"),
        (OFF, len(" 3"), "4 vertices of a face, and 3 are there"),
    ],
)
def test_a_mesh_that_is_cut_off_is_refused_by_its_own_counts(text, lost, words, capfd):
    pytest.importorskip("trimesh")
    file = Path(f"a.{text[:3].lower()}")
    file.write_text(text + "\n")
    assert [len(part) for part in meshes.read(file)[::2]] == [4, 3]
    file.write_text(text[:-lost])
    with pytest.raises(ValueError, match=words):
        meshes.read(file)
    assert not "".join(capfd.readouterr())  # of its texture neither


def glb(nodes=1, primitives=1, zeros=0):
    """A triangle that so many nodes show, or so many primitives have, and an accessor of numbers that are not there."""
    accessors = [
        {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"},
        {"bufferView": 1, "componentType": 5125, "count": 3, "type": "SCALAR"},
        {"componentType": 5126, "count": zeros, "type": "VEC3"},
    ]
    tree = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": list(range(nodes))}],
        "nodes": [{"mesh": 0, "translation": [k, 0, 0]} for k in range(nodes)],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}] * primitives}],
        "accessors": accessors[: 3 if zeros else 2],
        "bufferViews": [{"buffer": 0, "byteLength": 36}, {"buffer": 0, "byteOffset": 36, "byteLength": 12}],
        "buffers": [{"byteLength": 48}],
    }
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    numbers = np.eye(3, dtype="<f4").tobytes() + np.arange(3, dtype="<u4").tobytes()
    head = b"glTF" + struct.pack("<IIII", 2, 28 + len(text) + len(numbers), len(text), 0x4E4F534A)
    Path("a.glb").write_bytes(head + text + struct.pack("<II", len(numbers), 0x004E4942) + numbers)


@pytest.mark.parametrize(
    ("most", "more", "words"),
    [
        ({"nodes": 40}, {"nodes": 41}, "246 vertices and indices in 41 parts, more than 40 parts; export"),
        ({"primitives": 40}, {"primitives": 41}, "246 vertices and indices in 41 parts, more than 40 parts"),
        ({"zeros": 2**23}, {"zeros": 2**24}, r"\.glb: 16777222 vertices and indices in 1 parts, more than 8388"),
    ],
)
def test_a_scene_that_becomes_far_more_than_its_file_is_refused(most, more, words, monkeypatch):
    pytest.importorskip("trimesh")
    monkeypatch.setattr(meshes, "MOST_PARTS", 40)
    glb(**most)
    assert len(meshes.read(Path("a.glb"))[2]) == max(most.get("nodes", 1), most.get("primitives", 1))
    glb(**more)
    with pytest.raises(ValueError, match=words):
        meshes.read(Path("a.glb"))


OBJ = """# a hull
mtllib a.mtl
v 9 9 9
v 0 0 0 1 0 0
v 1 0 0
usemtl a
v 1 1 0
v 0 1 0
f -4/1 -3/2/1 -2//1 -1   # which count from here
v 0 0 1
usemtl b
f 2 3 \\
 6
"""


def test_an_obj_has_its_triangles_whatever_its_materials(monkeypatch):
    trimesh = pytest.importorskip("trimesh")
    Path("a.obj").write_text(OBJ.replace("\n", "\r\n"))
    monkeypatch.setattr(trimesh, "load", None)  # which takes time by the square of the materials
    vertices, _, faces = meshes.read(Path("a.obj"))
    assert vertices.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 4]]
    for text, words in (("v 1 2\n", "'v 1 2.*' has fewer than 3 numbers"), ("v 1 2 3\nf 1 2 x\n", "'x'")):
        Path("a.obj").write_text(text)
        with pytest.raises(ValueError, match=rf"a.obj: cannot be read as .obj: .*{words}"):
            meshes.read(Path("a.obj"))


@pytest.mark.parametrize("text", [PLY, OFF, OBJ], ids=["ply", "off", "obj"])
@pytest.mark.parametrize("limit", [{"MOST_TEXT": 40}, {"MOST_LINES": 3}, {"LONGEST": 5}], ids=str)
def test_a_mesh_in_text_has_bounded_lines(text, limit, monkeypatch):
    pytest.importorskip("trimesh")
    file = Path(f"a.{'obj' if text is OBJ else text[:3].lower()}")
    file.write_text(text)
    meshes.read(file)
    for name, number in limit.items():
        monkeypatch.setattr(meshes, name, number)
        with pytest.raises(ValueError, match=rf"of text in \d+ lines, where .*{number}.*; save it as a binary .ply"):
            meshes.read(file)


def test_corners_of_polygons_are_bounded(monkeypatch):
    pytest.importorskip("trimesh")
    monkeypatch.setattr(meshes, "MOST_CORNERS", 6)
    Path("a.obj").write_text(OBJ)
    with pytest.raises(ValueError, match="more than 6 corners of faces; thin it out"):
        meshes.read(Path("a.obj"))


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.xyz"])
def test_a_table_in_text_is_bounded_before_it_is_read(name, monkeypatch):
    def read():
        return surface_files._columns(Path(name))[0] if name == "a.xyz" else arrays.contents(Path(name)).values

    row = "1,2,3\n" if name == "a.csv" else "1 2 3\n"
    Path(name).write_text(f"\ufeff# in °\n\n{row}{row}")
    assert read().tolist() == [[1, 2, 3]] * 2
    monkeypatch.setattr(np, "loadtxt", None)
    for words, text, key, number in (
        ("5 rows of 3 numbers are more than 11", "\n" + row * 4, "MAX_NUMBERS", 11),
        ("a row has more than 99 characters", "\0" * 99, "MAX_ROW", 99),
        ("are more than 50", row * 9, "MAX_TEXT", 50),
    ):
        Path(name).write_text(text)
        with monkeypatch.context() as patch:
            patch.setattr(reading, key, number)
            with pytest.raises(ValueError, match=rf"{name}: .*{words}"):
                read()


def test_a_table_of_nothing_is_refused_without_a_warning():
    for name in ("a.txt", "a.csv"):
        Path(name).write_text("\n# 1\n")
        with pytest.raises(ValueError, match="there are no numbers in it"):
            arrays.contents(Path(name))


def test_points_of_a_model_are_read_at_once_and_its_text_is_bounded(monkeypatch):
    tracks = {1: [], 2: [5, 0, 6, 1], 3: [7, 2]}
    packed = [struct.pack(f"<Q3d3BdQ{len(t)}i", k, k, 2, 3, 9, 9, 9, k / 2, len(t) // 2, *t) for k, t in tracks.items()]
    Path("points3D.bin").write_bytes(struct.pack("<Q", 3) + b"".join(packed))
    text = "\n".join(f"{k} {k} 2 3 9 9 9 {k / 2} {' '.join(map(str, t))}" for k, t in tracks.items())
    Path("points3D.txt").write_text(f"# some\n{text}\n")
    monkeypatch.setattr(colmap_files, "MAX_LINE", 30)
    calls, real = [], colmap_files._Bytes.next
    monkeypatch.setattr(colmap_files._Bytes, "next", lambda self, form: calls.append(form) or real(self, form))
    for read, file in ((colmap_files._points_bin, "points3D.bin"), (colmap_files._points_txt, "points3D.txt")):
        ((places, errors, seen),) = read(Path(file))
        assert places.tolist() == [[1, 2, 3], [2, 2, 3], [3, 2, 3]]
        assert errors.tolist() == [0.5, 1, 1.5]
        assert [one.tolist() for one in seen] == [[], [5, 6], [7]]
    assert calls == ["Q"]  # microseconds for each of millions of points
    Path("points3D.txt").write_text("1 " + "0" * 30)
    with pytest.raises(ValueError, match=r"points3D.txt: line 1 has more than 30 characters; restore it"):
        next(colmap_files._points_txt(Path("points3D.txt")))
    for name in ("cameras.txt", "images.txt"):
        Path(name).write_text("")
    monkeypatch.setattr(colmap_files, "MAX_TEXT", 20)
    with pytest.raises(ValueError, match=r"32 bytes, more than 20; leave images out, or convert the model to .bin"):
        colmap_files.read_model(Path())


def hdf5(name="a.h5", **replaced):
    h5py = pytest.importorskip("h5py")
    counts = 100 + np.arange(4 * 2 * 6).reshape(4, 2, 6) % 7
    with h5py.File(name, "w") as file:
        arrays = {"data": counts, "data_white": counts + 60, "data_dark": counts % 3, "theta": np.arange(4) * 40.0}
        for key, array in arrays.items():
            if key in replaced and replaced[key] is not None:
                file[f"exchange/{key}"] = replaced[key](h5py)
            else:
                file[f"exchange/{key}"] = array
        file["elsewhere/counts"] = counts
    return h5py


def test_links_out_of_an_hdf5_file_are_refused_and_those_within_followed():
    hdf5("secret.h5")
    hdf5(data=lambda h5py: h5py.ExternalLink("secret.h5", "/exchange/data"))
    with pytest.raises(
        ValueError, match=r"a.h5\[exchange/data\]: a link to another file 'secret.h5'; give a file that"
    ):
        scan(".", None, None, path="a.h5")
    h5py = hdf5("b.h5", data=lambda h5py: h5py.SoftLink("/elsewhere/counts"))
    assert scan(".", None, None, path="b.h5", center=2.5).values.shape == (4, 6)
    with h5py.File("b.h5", "a") as file:
        file["door"] = h5py.ExternalLink("secret.h5", "/exchange")
        del file["exchange/data"]
        file["exchange/data"] = h5py.SoftLink("../door/data")
        file["exchange/x"] = h5py.SoftLink("/exchange/y")
        file["exchange/y"] = h5py.SoftLink("x")
    with pytest.raises(ValueError, match=r"no dataset exchange/data|a link to another file"):
        scan(".", None, None, path="b.h5")
    with h5py.File("b.h5", "a") as file:
        del file["exchange/data"]
        file["exchange/data"] = h5py.SoftLink("/door/data")
    with pytest.raises(ValueError, match=r"exchange/data\]: a link to another file 'secret.h5'"):
        scan(".", None, None, path="b.h5")
    with h5py.File("b.h5", "a") as file:
        del file["exchange/data"]
        file["exchange/data"] = h5py.SoftLink("/exchange/x")
    with pytest.raises(ValueError, match=r"exchange/data\]: links that lead to each other"):
        scan(".", None, None, path="b.h5")
    with h5py.File("c.h5", "w") as file:
        file["exchange"] = h5py.ExternalLink("secret.h5", "/exchange")
    with pytest.raises(ValueError, match=r"a link to another file 'secret.h5'"):
        scan(".", None, None, path="c.h5")


def test_chunks_that_unpack_to_gigabytes_are_refused():
    h5py = hdf5()
    with h5py.File("a.h5", "a") as file:
        del file["exchange/data"]
        shape = (2**14, 2**14, 2)
        file.create_dataset("exchange/data", shape, np.uint8, chunks=shape, compression="gzip")
    with pytest.raises(ValueError, match=rf"in chunks of {2**29} bytes; at most {exchange.CHUNK} are unpacked at once"):
        scan(".", None, None, path="a.h5")


def test_a_file_of_holes_is_waited_for_no_longer_than_for_what_is_there(monkeypatch):
    hdf5()
    waited, real = [], exchange.subprocess.run
    monkeypatch.setattr(exchange.subprocess, "run", lambda *a, **kw: waited.append(kw["timeout"]) or real(*a, **kw))
    os.truncate("a.h5", 2**34)
    scan(".", None, None, path="a.h5", center=2.5)
    assert waited == [pytest.approx(exchange.PATIENCE, abs=1)]
    hdf5("b.h5")
    with Path("b.h5").open("ab") as file:
        file.write(bytes(2**23))
    scan(".", None, None, path="b.h5", center=2.5)
    assert waited[1] == pytest.approx(exchange.PATIENCE + 2**23 / exchange.SLOWEST, abs=0.1)


@pytest.mark.parametrize("values", [b"[]," * 10**6, b"{}," * 10**6, b"1," * (4 * 10**6 + 1)])
def test_json_of_many_values_is_refused_before_they_are_made(values, monkeypatch):
    """33 MB of empty lists would take a gigabyte, and 20 s."""
    Path("transforms.json").write_bytes(b'{"frames": [' + values + b"0]}")
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("they are made"))
    with pytest.raises(ValueError, match=r"^transforms.json: more than 1000000 lists and objects, or 4000000 values; "):
        reading.read_json(Path("transforms.json"), "")
    assert reading.remembered(Path("transforms.json")) is None
