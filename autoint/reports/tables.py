"""Tables for people, in Markdown."""

from __future__ import annotations

import math
from typing import Any

from autoint.files.reading import escaped


def markdown(rows: list[dict[str, Any]], columns: dict[str, tuple[str, str]], values: dict[str, Any]) -> str:
    """Return a table in Markdown, padded so that it reads well in a terminal too; heads are formatted by ``values``."""
    heads = [head.format(**values) for head, _ in columns.values()]
    cells = [[cell(row[key], form) for key, (_, form) in columns.items()] for row in rows]
    widths = [max(len(line[k]) for line in [heads, *cells]) for k in range(len(heads))]
    lines = [heads, ["-" * width for width in widths], *cells]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def cell(value: Any, form: str) -> str:
    """Return a value as it stands in a table: ``n/a`` for None and NaN, and a text in one cell."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "n/a"
    if isinstance(value, float):
        return format(value, form)
    return escaped("; ".join(str(value).splitlines())).replace("|", r"\|")
