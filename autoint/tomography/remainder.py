"""What an object leaves of the measured views: how much of it is structure, which the views between them have too."""

from __future__ import annotations

import numpy as np

from autoint.tomography.data.sinograms import interpolated

BANDS = 8
"""Of spatial frequency along the detector, of equal width; between their middles the share is linear."""
EARNED = 0.95
"""Of the error with all of the remainder: a share that does not fall below it has not shown that it is better."""


def shared(rest: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return views (A, P) of which each frequency along the detector keeps its ``share`` (BANDS,)."""
    if (share == 1).all():
        return rest
    pixels = rest.shape[1]
    place = np.fft.rfftfreq(pixels) * 2 * len(share) - 0.5
    gain = np.interp(place, np.arange(len(share)), share)
    return np.asarray(np.fft.irfft(np.fft.rfft(rest, axis=1) * gain, n=pixels, axis=1))


def earned_share(guess: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return the share of ``guess`` in each band that is nearest to ``found``, views (A, P) both: 0 to 1, (BANDS,).

    Σ Re(g* f) / Σ |g|² over a band's Fourier coefficients, the Wiener filter: noise of the views that were found, which
    the guesses know nothing of, does not change what it is expected to be. All of it, where that is hardly worse.
    """
    g, f = np.fft.rfft(guess, axis=1), np.fft.rfft(found, axis=1)
    band = np.minimum((np.fft.rfftfreq(guess.shape[1]) * 2 * BANDS).astype(int), BANDS - 1)
    common, power = (np.bincount(band, v, BANDS) for v in ((g.conj() * f).real.sum(0), np.square(np.abs(g)).sum(0)))
    share = np.clip(common / np.maximum(power, 1e-30), 0, 1)
    whole, part = (float(np.square(found - shared(guess, s)).sum()) for s in (np.ones(BANDS), share))
    return share if part < EARNED * whole else np.ones(BANDS)


def foretold(remainder: np.ndarray, theta: np.ndarray, rho: np.ndarray, fan: bool = False) -> np.ndarray:
    """Return what every other view's neighbours make of it, (A, P): the even views by the odd ones, and vice versa."""
    guess = np.empty_like(remainder)
    for start in (0, 1):
        own, others = slice(start, None, 2), slice(1 - start, None, 2)
        guess[own] = interpolated(remainder[others], theta[others], rho, theta[own], fan=fan)
    return guess
