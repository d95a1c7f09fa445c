"""Meshes and clouds of points in files, by trimesh: read from strangers, and written whole."""

from __future__ import annotations

import json
import re
import struct
from array import array
from collections import Counter
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from autoint.files.whole_files import write_whole

KINDS = (".ply", ".glb", ".obj")
READ = (*KINDS, ".stl", ".off")
MAX_BYTES = 2**30
MOST_TEXT, MOST_LINES, LONGEST = 2**28, 2**23, 2**22
"""Bytes, lines and bytes of a line of a mesh in text: each line takes microseconds, and becomes ten times its bytes."""
MOST_CORNERS = 2**24
"""Corners of all faces of a mesh in text, each of which may become a triangle."""
MOST_PARTS = 5000
"""Meshes of a scene that are joined, each of which takes a millisecond."""
MOST_SHARED = 2**23
"""Vertices and indices that a scene may have beside those that its file has room for: its nodes may share a mesh."""
MOST_ABOUT = 2**24
"""Bytes of a scene's JSON."""


def load_trimesh() -> Any:
    """Return trimesh; ``ValueError`` names the extra where it is not installed."""
    try:
        import trimesh
    except ImportError as error:
        raise ValueError("trimesh is not installed: pip install 'autoint[surfaces]'") from error
    return trimesh


def check_size(file: Path) -> None:
    """Refuse a file that is not there, or too large."""
    if not file.is_file():
        raise ValueError(f"{file}: no such file; give its whole path")
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(f"{file}: {file.stat().st_size} bytes, more than {MAX_BYTES}; thin it out")


def check_kind(file: Path, kinds: tuple[str, ...] = KINDS) -> None:
    """Refuse a file whose ending is none of ``kinds``."""
    if file.suffix.lower() not in kinds:
        raise ValueError(f"{file}: '{file.suffix}' is no kind of mesh that is known; give {', '.join(kinds)}")


def read(file: Path) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return vertices (V, 3), the normals that the file has (V, 3), or None, and faces (F, 3), or None for a cloud.

    What else a file names, such as textures, is not looked at.

    Raises:
        ValueError: names the file, and what is wrong with it.
    """
    check_kind(file, READ)
    trimesh = load_trimesh()
    check_size(file)
    try:
        loaded = _loaded(trimesh, file.suffix[1:].lower(), file.read_bytes())
        vertices = np.asarray(getattr(loaded, "vertices", ()), dtype=np.float64)
        faces = np.asarray(getattr(loaded, "faces", ()), dtype=np.int64)
        normals = _normals(loaded, len(vertices))
    except Exception as error:  # of many kinds, from many parsers
        text = " ".join(str(error).split())
        raise ValueError(f"{file}: cannot be read as {file.suffix}: {text or type(error).__name__:.200}") from error
    if vertices.ndim != 2 or vertices.shape[1:] != (3,) or not len(vertices):
        raise ValueError(f"{file}: there are no points in it; give a mesh, or a cloud of points")
    if faces.size and not (faces.min() >= 0 and faces.max() < len(vertices)):
        raise ValueError(f"{file}: its triangles name vertices that are not there, of {len(vertices)}")
    return vertices, normals, faces if faces.size else None


def _loaded(trimesh: Any, kind: str, data: bytes) -> Any:
    """Return what has the vertices and faces of a file, as many as it says, and not far more than its bytes."""
    if kind in ("obj", "off") or _in_ascii(kind, data):
        _check_text(data)
    if kind == "obj":
        return _obj(data)
    if kind in CHECKS:
        CHECKS[kind](data)
    options = {"skip_materials": True} if kind in ("glb", "ply") else {}
    loaded = trimesh.load(BytesIO(data), file_type=kind, process=False, **options)
    if kind == "ply":
        _check_ply(data, loaded)
    return loaded.to_geometry() if isinstance(loaded, trimesh.Scene) else loaded


def _in_ascii(kind: str, data: bytes) -> bool:
    return kind == "ply" and b"ascii" in data[:100].lower()


def _check_text(data: bytes) -> None:
    lines = data.count(b"\n")
    if len(data) > MOST_TEXT or lines > MOST_LINES or max(map(len, BytesIO(data)), default=0) > LONGEST:
        raise ValueError(
            f"{len(data)} bytes of text in {lines} lines, where {MOST_TEXT} in {MOST_LINES} are read, and {LONGEST} in "
            "one; save it as a binary .ply, or thin it out"
        )


def _obj(data: bytes) -> Any:
    """Return vertices and triangles of an OBJ, polygons as fans.

    trimesh takes time by the square of the materials, and half a minute for a million corners of polygons.
    """
    points, corners, sizes, before = array("d"), array("q"), array("q"), array("q")
    for line in BytesIO(data.replace(b"\r\n", b"\n").replace(b"\\\n", b" ")):
        if line[:2] in (b"v ", b"v\t"):
            if len(place := line.split(None, 4)[1:4]) < 3:
                raise ValueError(f"{line[:80].decode(errors='replace')!r} has fewer than 3 numbers; restore it")
            points.extend(map(float, place))
        elif line[:2] in (b"f ", b"f\t"):
            words = line.partition(b"#")[0].split()[1:]
            corners.extend(map(int, [word.partition(b"/")[0] for word in words] if b"/" in line else words))
            sizes.append(len(words))
            before.append(len(points) // 3)
            if len(corners) > MOST_CORNERS:
                raise ValueError(f"more than {MOST_CORNERS} corners of faces; thin it out")
    count, index = np.array(sizes, np.int64), np.array(corners, np.int64)
    index = np.where(index < 0, index + np.repeat(np.array(before, np.int64), count), index - 1)
    fans = (count - 2).clip(0)
    first = np.repeat(np.cumsum(count) - count, fans)
    turn = np.arange(len(first)) - np.repeat(np.cumsum(fans) - fans, fans)
    faces, vertices = index[np.stack([first, first + turn + 1, first + turn + 2], axis=1)], np.array(points)
    vertices, used = vertices.reshape(-1, 3), np.zeros(len(points) // 3, bool)
    if not faces.size or faces.min() < 0 or faces.max() >= len(vertices):
        return SimpleNamespace(vertices=vertices, faces=faces)
    used[faces] = True
    return SimpleNamespace(vertices=vertices[used], faces=(np.cumsum(used) - 1)[faces])


def _check_off(data: bytes) -> None:
    """Refuse an OFF that ends before its own counts are reached: trimesh takes the faces that are there."""
    text = re.sub(rb"#[^\r\n]*", b"", data).partition(b"OFF")[2]
    lines = [line for line in text.splitlines() if line.strip()]
    points, faces = map(int, lines[0].split()[:2])
    _check_count("rows", points + faces, len(lines) - 1)
    for row in map(bytes.split, lines[1 + points : 1 + points + faces]):
        if int(row[0]) >= len(row):
            _check_count("vertices of a face", int(row[0]), len(row) - 1)


def _check_glb(data: bytes) -> None:
    """Refuse a GLB that becomes far more than its bytes: many nodes of one mesh, or meshes of the same numbers."""
    (length,) = struct.unpack_from("<I", data, 12)
    if length > MOST_ABOUT:
        raise ValueError(f"{length} bytes of JSON, more than {MOST_ABOUT}; export the mesh alone")
    tree = json.loads(data[20 : 20 + length])
    nodes, accessors = tree.get("nodes", []), tree.get("accessors", [])
    counts = [accessor["count"] for accessor in accessors]
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ValueError("the count of an accessor is no whole number; restore it")
    parents = Counter(child for node in nodes for child in node.get("children", ()))
    shown = Counter[int]()
    for number, node in enumerate(nodes):
        shown[node.get("mesh", -1)] += max(1, parents[number])
    parts, total = 0, sum(one["count"] for one in accessors if "bufferView" not in one)  # which are zeros
    for number, mesh in enumerate(tree.get("meshes", [])):
        for primitive in mesh["primitives"]:
            used = [*primitive["attributes"].values(), *([primitive["indices"]] if "indices" in primitive else [])]
            parts += max(1, shown[number])
            total += max(1, shown[number]) * sum(counts[one] for one in used)
    if parts > MOST_PARTS or total > (most := MOST_SHARED + len(data) // 2):
        raise ValueError(
            f"{total} vertices and indices in {parts} parts, more than "
            f"{f'{MOST_PARTS} parts' if parts > MOST_PARTS else most}; export fewer as one mesh"
        )


def _check_ply(data: bytes, loaded: Any) -> None:
    """Refuse an ASCII PLY that ends before its header's counts are reached: trimesh takes the rows that are there.

    Of a binary one it compares the bytes itself.
    """
    if not _in_ascii("ply", data):
        return
    lines, kinds = data.splitlines(), dict[str, str]()
    at = 1 + next(k for k, line in enumerate(lines) if b"end_header" in line.split())
    for name, element in _elements(loaded).items():
        _check_count(f"rows of '{name}'", element["length"], len(lines) - at)
        at += element["length"]
        kinds = element["properties"] if element["length"] else kinds
    last, needed = lines[at - 1].split(), 0
    for kind in kinds.values():
        needed += 1 + int(float(last[needed])) if "$LIST" in kind else 1
    _check_count("numbers in the last row", needed, len(last))


def _elements(loaded: Any) -> dict[str, Any]:
    """Return the elements of a PLY as trimesh leaves them."""
    found: dict[str, Any] = (getattr(loaded, "metadata", None) or {}).get("_ply_raw", {})
    return found


CHECKS = {"off": _check_off, "glb": _check_glb}


def _check_count(what: str, told: int, found: int) -> None:
    if found < told:
        raise ValueError(f"it tells of {told} {what}, and {max(0, found)} are there; restore it")


def _normals(loaded: Any, count: int) -> np.ndarray | None:
    """Return the normals of a PLY's vertices, which trimesh leaves as they were read."""
    raw = _elements(loaded).get("vertex", {}).get("data")
    if raw is None or any(key not in ((getattr(raw, "dtype", None) and raw.dtype.names) or raw) for key in NORMAL):
        return None
    normals = np.stack([np.asarray(raw[key], dtype=np.float64).reshape(-1) for key in NORMAL], axis=1)
    return normals if len(normals) == count else None


NORMAL = ("nx", "ny", "nz")


def write(
    file: Path,
    vertices: np.ndarray,
    faces: np.ndarray | None = None,
    normals: np.ndarray | None = None,
    colors: np.ndarray | None = None,
) -> None:
    """Write a mesh, or a cloud of points where there are no ``faces``, whole or not at all.

    Args:
        file: ``.ply``, ``.glb`` or ``.obj``.
        vertices: (V, 3).
        faces: (F, 3), counter-clockwise seen from outside.
        normals: at the vertices, (V, 3).
        colors: at the vertices, in [0, 1], (V, 3).
    """
    check_kind(file)
    trimesh = load_trimesh()
    rgba = None if colors is None else np.round(255 * np.c_[colors.clip(0, 1), np.ones(len(colors))]).astype(np.uint8)
    if faces is None and file.suffix.lower() == ".ply":
        write_whole(file, _cloud(vertices, normals, rgba))
        return
    if faces is None:
        made = trimesh.PointCloud(vertices, colors=rgba)
    else:
        made = trimesh.Trimesh(vertices, faces, vertex_normals=normals, vertex_colors=rgba, process=False)
    options: dict[str, Any] = {}
    if faces is not None and file.suffix.lower() != ".glb":
        options = {"vertex_normal" if file.suffix.lower() == ".ply" else "include_normals": normals is not None}
    data = made.export(file_type=file.suffix[1:].lower(), **options)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, data.encode() if isinstance(data, str) else data)


def _cloud(vertices: np.ndarray, normals: np.ndarray | None, rgba: np.ndarray | None) -> bytes:
    """Return points as a PLY with their normals, which trimesh would leave out."""
    columns: list[tuple[str, str, str, np.ndarray]] = [
        (name, "<f4", "float", values[:, k])
        for names, values in (("x y z", vertices), ("nx ny nz", normals))
        if values is not None
        for k, name in enumerate(names.split())
    ]
    columns += [] if rgba is None else [(n, "u1", "uchar", rgba[:, k]) for k, n in enumerate(("red", "green", "blue"))]
    rows = np.empty(len(vertices), dtype=[(name, kind) for name, kind, _, _ in columns])
    for name, _, _, values in columns:
        rows[name] = values
    listed = "".join(f"property {word} {name}\n" for name, _, word, _ in columns)
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(rows)}\n{listed}end_header\n"
    return head.encode() + rows.tobytes()
