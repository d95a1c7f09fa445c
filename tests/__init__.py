"""Shapes are annotated in the library and executed here: the hook must be in place before the first import."""

from jaxtyping import install_import_hook

CHECKED = (
    "autoint.integrals.definite",
    "autoint.integrals.quadrature",
    "autoint.networks.encodings",
    "autoint.reports.metrics",
    "autoint.scenes.rays",
    "autoint.scenes.rendering",
    "autoint.scenes.sections",
)
install_import_hook(CHECKED, "beartype.beartype")
