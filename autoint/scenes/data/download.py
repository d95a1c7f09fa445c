"""``autoint download lego``: fetch a public scene into ``data/``, where ``scene=lego`` finds it.

The archives' authors publish no checksums. What is checked is the size that the server announces and the CRC-32 of
every file in the archive: a broken transfer is found, an archive that somebody has exchanged is not.
"""

from __future__ import annotations

import argparse
import http.client
import re
import shutil
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from autoint.registry import COMMANDS, nearest

TIMEOUT = 20.0
CHUNK = 1 << 20
PAGE = "https://www.matthewtancik.com/nerf"
DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
EXAMPLE = "http://cseweb.ucsd.edu/~viscomp/projects/LF/papers/ECCV20/nerf/nerf_example_data.zip"


@dataclass(frozen=True)
class Archive:
    """A zip file of scenes: its name on this disk, its public address, and the data set's folder within it."""

    name: str
    address: str
    folder: str


SYNTHETIC = Archive("nerf_synthetic.zip", f"{DRIVE}18JxhpWD-4ZmuFKLzKlAw-w5PpzZxXOcG", "nerf_synthetic")
LLFF = Archive("nerf_llff_data.zip", f"{DRIVE}16VnMcF1KJYxN9QId6TClMsZRahHNMW5g", "nerf_llff_data")
SCENES = {
    # the two scenes that NeRF's authors offer by themselves: half a gigabyte instead of two
    "lego": Archive("nerf_example_data.zip", EXAMPLE, "nerf_synthetic"),
    "fern": Archive("nerf_example_data.zip", EXAMPLE, "nerf_llff_data"),
    **dict.fromkeys(("chair", "drums", "ficus", "hotdog", "materials", "mic", "ship"), SYNTHETIC),
    **dict.fromkeys(("flower", "fortress", "horns", "leaves", "orchids", "room", "trex"), LLFF),
}


def download(scene: str, to: Path, *, keep: bool = False) -> Path:
    """Fetch a scene's archive, check it, extract the scene into ``to`` and return its folder.

    Args:
        scene: one of ``SCENES``.
        to: the folder that holds data sets.
        keep: whether the archive stays, for other scenes of it; one that is there already is used.

    Raises:
        ValueError: for an unknown scene, and for an archive that is damaged or does not hold the scene.
        OSError: where the address cannot be reached.
    """
    if scene not in SCENES:
        raise ValueError(
            f"scene '{scene}' has no public address{nearest(scene, SCENES)} (available: {', '.join(SCENES)})"
        )
    archive = SCENES[scene]
    folder = to / archive.folder / scene
    if folder.is_dir():
        return folder
    to.mkdir(parents=True, exist_ok=True)
    file = to / archive.name
    if not file.is_file():
        fetch(archive.address, file)
    extract(file, f"{archive.folder}/{scene}", folder)
    if not keep:
        file.unlink()
    return folder


def fetch(address: str, file: Path) -> None:
    """Download ``address`` to ``file`` with a progress bar; what an earlier try left in ``file``.part is resumed."""
    part = file.with_name(f"{file.name}.part")
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        total = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
        if error.code == 416 and total and int(total[1]) == done:  # an earlier try got all, and was cut off afterwards
            part.replace(file)
            return
        raise
    with response:
        if response.headers.get_content_type() == "text/html":
            raise ValueError(
                f"{address} answers with a page instead of an archive; get {file.name} from {PAGE} by hand"
            )
        done = done if response.status == 206 else 0  # a server that knows no ranges starts anew
        length = response.headers.get("Content-Length")
        total_size = done + int(length) if length else None
        bar = tqdm(
            disable=None, desc=file.name, total=total_size, initial=done, unit="B", unit_scale=True, unit_divisor=1024
        )
        with part.open("ab" if done else "wb") as out, bar:
            while chunk := response.read(CHUNK):
                out.write(chunk)
                bar.update(len(chunk))
    size = part.stat().st_size
    if total_size is not None and size != total_size:
        raise ValueError(f"{part}: {size} of {total_size} bytes arrived; the same command again goes on from there")
    part.replace(file)


def extract(file: Path, inside: str, folder: Path) -> None:
    """Extract what lies below ``inside``, at any depth of the zip ``file``, to ``folder``; whole or not at all.

    Every file is checked against its CRC-32, and none can leave ``folder``.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    wanted = PurePosixPath(inside).parts
    found = False
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
            if broken is not None:
                raise zipfile.BadZipFile(f"bad CRC-32 for {broken}")
            for info in archive.infolist():
                parts = PurePosixPath(info.filename).parts
                at = next((i for i in range(len(parts)) if parts[i : i + len(wanted)] == wanted), None)
                if at is None or info.is_dir() or "__MACOSX" in parts:
                    continue
                target = part.joinpath(*parts[at + len(wanted) :])
                if not target.resolve().is_relative_to(part.resolve()):
                    raise ValueError(f"{file}: {info.filename} leaves the scene's folder; remove the archive")
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, target.open("wb") as out:
                    shutil.copyfileobj(source, out, CHUNK)
                found = True
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{file}: damaged archive ({error}); remove it and try again") from error
    if not found:
        raise ValueError(f"{file}: no {inside} in it; remove it, and get the scene from {PAGE} by hand")
    part.replace(folder)


@COMMANDS.register("download")
def main(arguments: list[str]) -> None:
    """Fetch a public scene into data/, where scene=NAME finds it: autoint download lego."""
    parser = argparse.ArgumentParser(prog="autoint download", description=(main.__doc__ or "").partition(":")[0])
    parser.add_argument("scene", help=f"one of {', '.join(SCENES)}")
    parser.add_argument("--to", type=Path, default=Path("data"), metavar="DIR", help="the folder of data sets (data)")
    parser.add_argument("--keep", action="store_true", help="keep the archive, for other scenes of it")
    chosen = parser.parse_args(arguments)
    try:
        folder = download(chosen.scene, chosen.to, keep=chosen.keep)
    except (OSError, http.client.HTTPException) as error:
        name = SCENES[chosen.scene].name
        reason = getattr(error, "reason", None) or error
        raise ValueError(
            f"{SCENES[chosen.scene].address} cannot be fetched ({reason}); try again where there is a network, "
            f"or get {name} by hand from {PAGE} and put it into {chosen.to}"
        ) from error
    print(f"{folder}\nnext: python train.py scene={chosen.scene} data_dir={chosen.to}")


def source(path: str, otherwise: str) -> str:
    """Return how to get the scene of a path: by this command, if it has it, or ``otherwise``."""
    scene = PurePosixPath(path).name
    return f"autoint download {scene}, or get {otherwise}" if scene in SCENES else f"get {otherwise}"
