"""Shapes are annotated in the library and executed here: the hook must be in place before the first import."""

from jaxtyping import install_import_hook

CHECKED = [
    f"autoint.{name}" for name in ("encodings", "integrals", "metrics", "quadrature", "rays", "rendering", "sections")
]
install_import_hook(CHECKED, "beartype.beartype")
