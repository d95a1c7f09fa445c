"""What of an evaluation is done already, kept until all of it is."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any, ClassVar

import torch

from autoint.files.reading import remembered
from autoint.files.whole_files import write_json


class PartialEvaluation:
    """The images of an evaluation that are done, kept in its folder until the whole of it is, and found there again.

    Only as long as the weights, the settings and the image itself are the same.
    """

    NAME = "unfinished.json"
    opened: ClassVar[set[Path]] = set()

    def __init__(self, folder: Path, volume: torch.nn.Module, settings: dict[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        for weight in volume.state_dict().values():
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        self.file, self.key = folder / self.NAME, digest.hexdigest()
        self.opened.add(self.file.absolute())
        kept = remembered(self.file)
        done = kept.get("done") if isinstance(kept, dict) and kept.get("key") == self.key else {}
        self.done: dict[str, Any] = done if isinstance(done, dict) else {}

    def note(self, image: str, truth: torch.Tensor, found: dict[str, Any]) -> None:
        """Keep what was found of an image."""
        self.done[image] = {"checksum": _checksum(truth), **found}
        write_json(self.file, {"key": self.key, "done": self.done})

    def found(self, image: str, truth: torch.Tensor) -> dict[str, Any] | None:
        """Return what was found of an image before, if it was."""
        known = self.done.get(image)
        return dict(known) if known and known["checksum"] == _checksum(truth) else None

    @classmethod
    def clear(cls, folder: Path) -> None:
        """Forget the evaluations below ``folder`` that were begun here: they are finished, and the next begins anew.

        Those of others may be there too, as in a folder of many evaluations.
        """
        for file in [file for file in cls.opened if file.is_relative_to(folder.absolute())]:
            file.unlink(missing_ok=True)
            cls.opened.discard(file)


def _checksum(image: torch.Tensor) -> int:
    return zlib.crc32(image.cpu().contiguous().numpy().tobytes())
