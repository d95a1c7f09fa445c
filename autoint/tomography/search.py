"""Which lattice and prior an object is found with: those that do best at measured views that the fit has not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoint.tomography.data.sinograms import noise_level
from autoint.tomography.models import LatticeObject
from autoint.tomography.sparse_gradient import Prior, SparseGradient

Trial = tuple[float, Prior]
"""A spacing of the lattice and a prior."""
EXPONENTS, STRENGTHS = (1.0, 0.5), (1e-5, 3e-5, 1e-4, 3e-4)
STRONGER = Prior(1.0, 1e-3), Prior(1.0, 3e-3), Prior(0.5, 1e-3)  # for noise of some per cent
FINER = tuple((0.5, Prior(1.0, strength)) for strength in (1e-5, 1e-4, 3e-4, 1e-3))  # where edges lie between the nodes
DEVIATIONS = (0.01, 0.02, 0.03, 0.045, 0.07, 0.1, 0.15)  # of noise in similar patches, with that of the views
BESIDE = (0.5, 0.0), (0.5, 1 / 400), (1.0, 1 / 300)
"""The sparse gradient beside similar patches: its exponent, and its strength in terms of their deviation."""
NOISY = 0.1  # share of the error at held-out views that is noise, from which on patches are tried
ENOUGH = 0.5  # of the deviation of the noise of counts: what leaves less of the views has taken noise for the object
FIRST = Prior(1.0, 3e-4)  # which finds what patches begin with, where nothing else was tried
NO_OBJECT = Prior(1.0, math.inf)  # nothing but interpolation, which no object may fall behind
MOST_NODES = 384  # across the object, unless asked for: a lattice finer than this costs minutes
MOST_FINER = 160  # pixels of the radius up to which a finer one is tried
LITTLE = 5e-5  # a prior that does best at more than this is one for noise
WEAKER = 4.0  # factor by which a finer lattice may want a weaker prior, which sums over more nodes
ALIKE = 1.07  # squared errors within this factor, 0.3 dB, are no reason for a stronger prior
PATCH_PASSES = 10  # of a trial with patches
WARM = 0.5  # share of its passes that a trial makes if its exponent has been tried before


def coarse_spacing(radius: float) -> float:
    """Return the lattice's spacing in pixels if nothing else is asked for, of a scan of this radius in pixels."""
    return max(1.0, radius / (MOST_NODES / 2))


def trials_of(
    spacing: float | None, exponent: float | None, strength: float | None, patches: float | None, radius: float
) -> list[Trial]:
    """Return what is to be tried: what is None is open. Spacings come in pixels and go out in units of the radius."""
    coarse = coarse_spacing(radius) if spacing is None else spacing
    if patches:
        beside = [
            Prior(p if exponent is None else exponent, share * patches if strength is None else strength, patches)
            for p, share in BESIDE
        ]
        return [(coarse / radius, prior) for prior in dict.fromkeys(beside)]
    exponents = EXPONENTS if exponent is None else (exponent,)
    trials = [(coarse, Prior(p, s)) for p in exponents for s in (STRENGTHS if strength is None else (strength,))]
    if spacing is None and exponent is None and strength is None:
        trials += [(coarse, NO_OBJECT), *((coarse, prior) for prior in STRONGER)]
        finer = coarse == 1 and radius <= MOST_FINER
        trials += FINER if finer else ()
        if patches is None:
            trials += [(coarse, Prior(p, share * d, d)) for p, share in BESIDE for d in DEVIATIONS]
            p, share = BESIDE[1]
            trials += [(0.5, Prior(p, share * d, d)) for d in DEVIATIONS] if finer else []
    return [(pixels / radius, prior) for pixels, prior in trials]


def check_prior(spacing: float | None, exponent: float | None, strength: float | None, patches: float | None) -> None:
    """Refuse what no object can be found with."""
    if spacing is not None and not 0.25 <= spacing <= 16:
        raise ValueError(f"spacing={spacing}: detector pixels between the object's nodes; give 0.25 to 16")
    if exponent is not None and not 0 < exponent <= 2:
        raise ValueError(f"exponent={exponent} must be above 0 and at most 2")
    if strength is not None and not strength > 0:
        raise ValueError(f"strength={strength} must be positive")
    if patches is not None and not 0 <= patches <= 1:
        raise ValueError(f"patches={patches}: deviation of noise in an object of about 1; give 0 to 1")


def most_trials(spacing: float | None, exponent: float | None, strength: float | None, patches: float | None) -> int:
    """Return how many trials there are at most, whatever the scan."""
    return len(trials_of(spacing, exponent, strength, patches, 1.0))


def amount(prior: Prior) -> float:
    """Return how strong a prior is among those of its kind."""
    return prior.deviation or prior.strength


def kind(trial: Trial) -> tuple[float, float, bool, bool]:
    """Return what trials have in common that differ by their amount alone."""
    spacing, prior = trial
    return spacing, prior.exponent, prior.deviation > 0, prior.strength > 0


def least_error(scored: Sequence[tuple[float, Trial]]) -> tuple[float, Trial]:
    """Return the trial with the least squared error, and that error.

    A finer lattice has to earn its nodes, by being more than hardly better than an object on a coarser one: where few
    views are held out, and all trials tell them equally badly, it is chance that chooses.
    """
    least, (spacing, _) = best = min(scored, key=lambda t: t[0])
    coarser = [
        (score, (h, prior))
        for score, (h, prior) in scored
        if h > spacing and score <= ALIKE * least and math.isfinite(prior.strength)
    ]
    return min(coarser, key=lambda t: t[0]) if coarser else best


class Search(nn.Module):
    """Fits an object to three quarters of the measured views by each trial, and to all of them by the best.

    A fit begins with what the one before it has found, and a trial makes half of the passes if its exponent has been
    tried before; it is left out, and its passes do nothing, if the trials before it tell that it would do worse: see
    :meth:`promising`.

    Args:
        obj: the object.
        trials: what is tried; one alone, or one for fewer than four views, is taken without asking the views.
        passes: of the last fit; each trial has half as many.
        places: for scores, at least one for each trial: as many as the configuration can mean with any scan, so that
            the module that a checkpoint is loaded into needs no scan to have its shape.

    Attributes:
        scores: mean squared error of every trial at the held-out views; infinite before it was made, if left out, or if
            it explains noise: of counts there is some.
    """

    scores: Tensor

    def __init__(self, obj: LatticeObject, trials: Sequence[Trial], passes: int, places: int = 0) -> None:
        super().__init__()
        self.object, self.passes = obj, passes
        self.trials = list(trials)
        places = max(places, len(self.trials))
        self.register_buffer("scores", torch.full((places,), math.inf, dtype=torch.float64))
        self.register_load_state_dict_pre_hook(_add_places)
        self._solver: tuple[tuple[int, Prior], SparseGradient] | None = None

    @property
    def tried(self) -> int:
        """How many trials come before the last fit."""
        return len(self.trials) if len(self.trials) > 1 and len(self.object.theta) > 3 else 0

    @property
    def each(self) -> int:
        """Passes of each trial."""
        return max(1, self.passes // 2)

    @property
    def steps(self) -> int:
        """Steps in all."""
        return sum(self.lengths)

    @property
    def lengths(self) -> list[int]:
        """Steps of each trial, and of the last fit: passes, but for trials with patches.

        These are a step each, and with the sparse gradient beside them, of which two or three are promising, all of a
        kind are the first one's.
        """
        tried = self.trials[: self.tried]
        known = [kind(trial) for trial in tried]
        return [
            self.each if not prior.deviation else int(prior.strength == 0 or known.index(known[turn]) == turn)
            for turn, (_, prior) in enumerate(tried)
        ] + [self.passes]

    @property
    def best(self) -> Trial:
        """The trial that did best at the held-out views; the first, if there were none.

        Of those of its kind that are hardly worse the weakest, unless it is for noise: each went on from the answer of
        a weaker one, and so has had more passes.
        """
        if not self.tried:
            return self.trials[0]
        scored = [(score, trial) for trial, score in zip(self.trials, self.scores.tolist(), strict=False)]
        least, (spacing, prior) = least_error(scored)
        if prior.deviation or (prior.strength > LITTLE and self._noise() > NOISY * least):
            return spacing, prior
        alike = [t for score, t in scored if score <= ALIKE * least and kind(t) == kind((spacing, prior))]
        return min(alike, key=lambda t: t[1].strength)

    @property
    def held_out_psnr(self) -> float | None:
        """PSNR of the best trial at the held-out views so far, in dB."""
        least = float(self.scores.min())
        return -10 * math.log10(max(least, 1e-30)) if math.isfinite(least) else None

    def promising(self, turn: int) -> bool:
        """Return whether a trial may do better than those before it.

        Not if strengths of the same spacing and exponent got worse on the way to it; if it is weaker than what a larger
        exponent has chosen; or if it is for a finer lattice, and stronger than what the coarse one has chosen, or much
        weaker. Patches are for noise alone, beside them the gradient about the deviation that they do best with; and
        that one alone on a finer lattice, where the gradient by itself does better on one.
        """
        spacing, prior = self.trials[turn]
        if math.isinf(prior.strength):
            return True
        scored = [(*t, float(s)) for t, s in zip(self.trials, self.scores, strict=False) if math.isfinite(float(s))]
        scored = [t for t in scored if math.isfinite(t[1].strength)]
        size = amount(prior)
        if prior.deviation and scored and spacing < max(h for h, _, _ in scored):
            plain = [(s, h) for h, p, s in scored if not p.deviation]
            alike = [(s, p.deviation) for h, p, s in scored if h > spacing and p.deviation]
            return bool(plain and alike) and min(plain)[1] == spacing and min(alike)[1] == prior.deviation
        if prior.strength and prior.deviation:
            alone = [(s, p.deviation) for _, p, s in scored if p.deviation and not p.strength]
            if not alone or not min(alone)[1] / 2 <= prior.deviation <= min(alone)[1]:
                return False
        coarser = [(s, p.strength) for h, p, s in scored if h > spacing and p.exponent == prior.exponent]
        if coarser:
            chosen = min(coarser)[1]
            if not chosen / WEAKER <= prior.strength <= max(chosen, 2 * LITTLE):
                return False
        alike = [(amount(p), s) for h, p, s in scored if kind((h, p)) == kind((spacing, prior))]
        if alike:
            nearest = min(alike, key=lambda t: abs(math.log(t[0] / size)))
            return nearest == min(alike, key=lambda t: t[1])
        if prior.deviation:
            plain = [(s, p.strength) for _, p, s in scored if not p.deviation]
            return not plain or (min(plain)[1] > LITTLE and self._noise() > NOISY * min(plain)[0])
        above = [(s, p.strength) for h, p, s in scored if h == spacing and p.exponent > prior.exponent]
        return not (above and prior.strength < min(above)[1] / 4)

    def _noise(self) -> float:
        """Return the variance of the views' noise, in the units of the scores."""
        return (noise_level(self.object.seen.cpu().numpy()) / float(self.object.scale)) ** 2

    def _left(self, views: np.ndarray) -> float:
        """Return the root mean square of what the object leaves of these views, in units of scale."""
        return float(np.sqrt(np.square(self.object.remainder()[views]).mean())) / float(self.object.scale)

    def _found(self, turn: int) -> list[Prior]:
        """Return the priors of the trials before this one that found an object."""
        known = zip(self.trials[:turn], self.scores[:turn].tolist(), strict=True)
        return [prior for (_, prior), score in known if math.isfinite(score) and math.isfinite(prior.strength)]

    def advance(self, step: int) -> None:
        """Make step number ``step``: a pass of a trial or of the last fit, or all passes of a trial with patches."""
        lengths = self.lengths
        turn = int(np.searchsorted(np.cumsum(lengths), step, side="right"))
        done = step - sum(lengths[:turn])
        if turn == self.tried:
            self._finish(done)
        for number in range(turn, self.tried):
            if number > turn and lengths[number]:
                break
            if self.promising(number):
                self._try(number, done)
        if step == self.steps - 1:
            self._solver = None

    def _try(self, turn: int, done: int) -> None:
        """Fit to three quarters of the views by a trial, and ask the others at the end of its steps."""
        views = np.arange(len(self.object.theta))
        held_out, kept = views[2::4], np.delete(views, np.s_[2::4])
        (spacing, prior), found = self.trials[turn], self._found(turn)
        last = prior.deviation > 0 or done == self.lengths[turn] - 1
        if prior.deviation:
            self.object.begin(spacing, warm=bool(found))
            for number in range(0 if found else self.each):
                self._pass(turn, kept, FIRST, number / self.each)
            for number in range(PATCH_PASSES):
                self._pass(turn, kept, prior, number / PATCH_PASSES)
        elif math.isfinite(prior.strength):
            again = prior.exponent in [before.exponent for before in found]
            start = min(int(self.each * (1 - WARM)), self.each - 1) if again else 0
            if done == start:
                self.object.begin(spacing, warm=bool(found))
            if done >= start:
                self._pass(turn, kept, prior, done / self.each)
        elif last:
            before = self._nothing(spacing)
            self.scores[turn] = self.object.score(kept, held_out)
            self.object.values.data.copy_(before)  # which the next trial begins with
            return
        if last and not (self.object.counted and self._left(kept) < ENOUGH * math.sqrt(self._noise())):
            self.scores[turn] = self.object.score(kept, held_out)

    def _finish(self, done: int) -> None:
        """Fit to all views by the best trial; with patches in the last passes alone, which take longer."""
        views, (spacing, prior), found = np.arange(len(self.object.theta)), self.best, self._found(self.tried)
        if not math.isfinite(prior.strength):
            if done == self.passes - 1:
                self._nothing(spacing)
            return
        if done == 0:
            self.object.begin(spacing, warm=bool(found))
        patches = max(1, self.passes // 3) if prior.deviation else self.passes
        before = self.passes - patches
        if done >= before:
            self._pass(self.tried, views, prior, (done - before) / patches)
        elif not found:
            self._pass(self.tried, views, FIRST, done / before)

    def _nothing(self, spacing: float) -> Tensor:
        """Make the object nothing; return what it was, on a lattice of this spacing."""
        self.object.begin(spacing, warm=True)
        before = self.object.values.detach().clone()
        self.object.begin(spacing)
        return before

    def _pass(self, turn: int, views: np.ndarray, prior: Prior, done: float) -> None:
        """Make a pass over these views."""
        if self._solver is None or self._solver[0] != (turn, prior):
            self._solver = (turn, prior), self.object.solver(views, prior)
        values = self.object.values.detach()
        values.copy_(torch.from_numpy(self._solver[1].step(values.cpu().numpy(), done)))


def _add_places(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Fill up the scores of a checkpoint from before, which had none for the trials that its scan was too large for."""
    there, own = state.get(prefix + "scores"), module.scores
    if isinstance(there, Tensor) and isinstance(own, Tensor) and there.dim() == 1 and len(there) < len(own):
        state[prefix + "scores"] = torch.cat([there, own.new_full((len(own) - len(there),), math.inf)])
