"""The numbers printed in the paper (Lindell, Martel and Wetzstein, CVPR 2021), for comparison."""

from __future__ import annotations

SCENES = ("chair", "drums", "ficus", "hotdog", "lego", "materials", "mic", "ship")
METHODS = {
    "nerf": "NeRF",
    "neural_volumes": "Neural Volumes",
    "autoint_8": "AutoInt (N=8)",
    "autoint_16": "AutoInt (N=16)",
    "autoint_32": "AutoInt (N=32)",
}

# Table 1: PSNR in dB, memory in GB, runtime in seconds per frame; over all scenes.
TABLE_1: dict[str, dict[str, float]] = {
    "nerf": {"psnr": 31.0, "memory": 15.6, "seconds_per_frame": 30},
    "neural_volumes": {"psnr": 26.1, "memory": 10.4, "seconds_per_frame": 0.3},
    "autoint_8": {"psnr": 25.6, "memory": 15.5, "seconds_per_frame": 2.6},
    "autoint_16": {"psnr": 26.0, "memory": 15.0, "seconds_per_frame": 4.8},
    "autoint_32": {"psnr": 26.8, "memory": 15.5, "seconds_per_frame": 9.3},
}

# Supplement, Table 1; in the order of SCENES.
PER_SCENE: dict[str, dict[str, tuple[float, ...]]] = {
    "psnr": {
        "nerf": (33.00, 25.01, 30.13, 36.18, 32.54, 29.62, 32.91, 28.65),
        "neural_volumes": (28.33, 22.58, 24.79, 30.71, 26.08, 24.22, 27.78, 23.93),
        "autoint_8": (25.60, 20.78, 22.47, 32.33, 25.09, 25.90, 28.10, 24.15),
        "autoint_16": (25.65, 21.30, 23.95, 31.28, 25.48, 28.05, 28.36, 24.26),
        "autoint_32": (25.82, 22.02, 25.51, 31.84, 27.26, 28.58, 28.42, 25.18),
    },
    "ssim": {
        "nerf": (0.967, 0.925, 0.964, 0.974, 0.961, 0.949, 0.980, 0.856),
        "neural_volumes": (0.916, 0.879, 0.910, 0.944, 0.880, 0.888, 0.946, 0.784),
        "autoint_8": (0.928, 0.861, 0.898, 0.974, 0.900, 0.930, 0.948, 0.852),
        "autoint_16": (0.925, 0.869, 0.909, 0.971, 0.905, 0.947, 0.951, 0.853),
        "autoint_32": (0.926, 0.885, 0.926, 0.973, 0.929, 0.953, 0.951, 0.869),
    },
    "lpips": {
        "nerf": (0.046, 0.091, 0.044, 0.121, 0.050, 0.063, 0.028, 0.206),
        "neural_volumes": (0.109, 0.214, 0.162, 0.109, 0.175, 0.130, 0.107, 0.276),
        "autoint_8": (0.141, 0.224, 0.148, 0.080, 0.175, 0.136, 0.131, 0.323),
        "autoint_16": (0.149, 0.221, 0.139, 0.095, 0.171, 0.110, 0.130, 0.320),
        "autoint_32": (0.149, 0.209, 0.109, 0.088, 0.135, 0.100, 0.127, 0.295),
    },
}


def per_scene(metric: str, method: str, scene: str) -> float | None:
    """Return what the supplement's Table 1 says of a method and a scene, or None where it says nothing.

    Examples:
        >>> per_scene("psnr", "autoint_32", "lego")
        27.26
    """
    values = PER_SCENE.get(metric, {}).get(method)
    return values[SCENES.index(scene)] if values and scene in SCENES else None
