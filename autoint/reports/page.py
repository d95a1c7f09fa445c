"""One page to mail: everything in one HTML file that needs no network, of at most 3 MB, whatever it is about."""

from __future__ import annotations

import base64
import dataclasses
import functools
import secrets
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from PIL import Image, features

from autoint.files.images import FORMATS
from autoint.files.whole_files import write_whole
from autoint.reports import pictures

if TYPE_CHECKING:
    from jinja2 import Template

BUDGET = 2_400_000
"""Bytes of pictures, as they stand in the page; the rest is text."""
WIDEST, SMALL = 480, 200
VIEWS = 4


@dataclass(frozen=True)
class RunOfPage:
    """What is said of a run: its name, the command, how it differs from the defaults, and facts, (name, value) each."""

    name: str
    command: str
    differences: list[tuple[str, str, str]] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class TableOfPage:
    """A table of texts, with a title above and a note below."""

    title: str
    heads: list[str]
    lines: list[list[str]]
    note: str = ""


@dataclass
class Page:
    """A page in the making.

    Attributes:
        title, made: the head, and when and by what it was made.
        runs, tables: what was run, and what came of it.
        charts: SVG of :mod:`charts`, which escapes its texts.
    """

    title: str
    made: str
    runs: list[RunOfPage]
    tables: list[TableOfPage] = field(default_factory=list)
    charts: list[str] = field(default_factory=list)
    _views: list[dict[str, Any]] = field(default_factory=list)
    _pictures: list[tuple[str, str, int]] = field(default_factory=list)
    _used: int = 0
    _left_out: int = 0

    def show(self, file: Path) -> None:
        """Show a picture file: views by :func:`pictures.write_view` with a slider, drawings and others as they are.

        Of those for which there is no room only the number is told.
        """
        if file.suffix == ".svg":
            content = file.read_bytes()
            uri = self._fits(f"data:image/svg+xml;base64,{base64.b64encode(content).decode()}")
            if uri:
                self._pictures.append((file.stem, uri, 640))
            return
        with Image.open(file, formats=FORMATS) as image:
            panels = pictures.panels_of(image) if len(self._views) < VIEWS else {}
            if {"truth", "rendering"} <= panels.keys():
                self._show_view(file.stem, panels)
            elif uri := self._fits(data_uri(image, 1100)):
                self._pictures.append((file.stem, uri, min(image.width, 1100)))

    def _show_view(self, name: str, panels: dict[str, Image.Image]) -> None:
        encoded = {key: data_uri(panel, WIDEST) for key, panel in panels.items()}
        if self._fits("".join(encoded.values())):
            truth, rendering, width = encoded.pop("truth"), encoded.pop("rendering"), panels["truth"].width
            small = width < SMALL
            shown = {"truth": truth, "rendering": rendering, "others": list(encoded.items()), "name": name}
            self._views.append({**shown, "width": max(SMALL, min(width, WIDEST)), "style": "small" if small else ""})

    def thumbnail(self, file: Path) -> str | None:
        """Return the rendering of a view, or any other picture, as a small data URI; None where there is no room."""
        with Image.open(file, formats=FORMATS) as image:
            panels = pictures.panels_of(image)
            return self._fits(data_uri(panels.get("rendering", image), 96))

    def _fits(self, uri: str) -> str | None:
        if self._used + len(uri) > BUDGET:
            self._left_out += 1
            return None
        self._used += len(uri)
        return uri

    def write(self, file: Path) -> Path:
        """Write the page, whole or not at all; return ``file``."""
        values = {f.name.lstrip("_"): getattr(self, f.name) for f in dataclasses.fields(self)}
        values["charts"] = [Markup(chart) for chart in self.charts if chart]  # their texts are escaped
        file.parent.mkdir(parents=True, exist_ok=True)
        return write_whole(file, template().render(values, nonce=secrets.token_hex(8)).encode())


def data_uri(image: Image.Image, widest: int) -> str:
    """Return an image as it stands in a page, reduced to at most ``widest`` pixels, as WebP where that is known."""
    image = image.convert("RGB")
    if max(image.size) > widest:
        image.thumbnail((widest, widest))
    stream, form = BytesIO(), "WEBP" if features.check("webp") else "JPEG"
    image.save(stream, form, quality=85)
    return f"data:image/{form.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


@functools.cache
def template() -> Template:
    """Return the page's template, which escapes all that is put into it."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
