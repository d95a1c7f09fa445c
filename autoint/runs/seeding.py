"""Random numbers that are functions of (seed, step, name), so that nothing about them needs saving."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator whose stream depends on ``seed`` and ``names`` only.

    Examples:
        >>> a, b = (torch.rand(1, generator=generator(0, step, "jitter")) for step in (1, 2))
        >>> bool(a == torch.rand(1, generator=generator(0, 1, "jitter"))), bool(a == b)
        (True, False)
    """
    digest = hashlib.blake2b("/".join(map(str, (seed, *names))).encode(), digest_size=7).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big"))
