"""What nerfbaselines reads of AutoInt, by the entry point ``nerfbaselines.specs``: imports nothing but it."""

from __future__ import annotations

from typing import Any

SPEC: dict[str, Any] = {
    "id": "autoint",
    "method_class": "autoint.scenes.nerfbaselines:Method",
    "metadata": {
        "name": "AutoInt",
        "description": "Rays in sections, whose means are known in closed form; minutes on a CPU.",
        "paper_title": "AutoInt: Automatic Integration for Fast Neural Volume Rendering",
        "paper_authors": ["David B. Lindell", "Julien N. P. Martel", "Gordon Wetzstein"],
        "paper_link": "https://arxiv.org/abs/2012.01714",
        "link": "https://www.computationalimaging.org/publications/automatic-integration/",
        "licenses": [{"name": "MIT"}],
    },
    "presets": {},
}

try:
    from nerfbaselines import register
except ImportError:  # it is nerfbaselines that imports this
    pass
else:
    register(SPEC)
