"""What a network must be for its derivatives and integrals to be those of a function: the same at every evaluation."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

WEIGHT_HOOKS = (BasePruningMethod, SpectralNorm, WeightNorm)
"""Hooks in front of a layer's forward that set its weight from other parameters, whatever the layer is given."""
RANDOM = "is another function at every evaluation"
_SEEN: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""The mode in which a network was found to draw nothing but by torch, whose generator is looked at every time."""
WATCHED = (_DropoutNd, _NormBase, nn.RReLU, nn.MultiheadAttention, nn.RNNBase)


def evaluated(net: nn.Module, evaluate: Callable[[], Tensor], watch: bool = True) -> Tensor:
    """Return ``evaluate()``, in which ``net`` is one function: its weights are made once, and nothing in it is drawn.

    Args:
        net: the network that ``evaluate`` calls, as often as it likes.
        evaluate: returns what is wanted of it.
        watch: whether to look for random numbers and for buffers that are written to, which no class tells of; done
            anyway where weights are made, not done in compiled code and below function transforms.

    Raises:
        ValueError: names the module that is random, looks at the other points of a batch, or counts evaluations.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        with steady(net):
            return evaluate()
    made = steady(net)
    if not watch and isinstance(made, contextlib.nullcontext):
        return evaluate()
    first = _SEEN.get(net) != net.training
    unmade = _generators(first)
    with made:
        before = _generators(first), _versions(net)
        try:
            out = evaluate()
        except RuntimeError as error:
            if "mutate a captured Tensor" not in str(error):
                raise
            raise ValueError(_refusal(type(net).__name__, "changes its buffers when it is evaluated")) from error
        if changed := [name for name, version in _versions(net).items() if before[1].get(name) != version]:
            raise ValueError(_refusal(type(net).__name__, f"changes its buffer '{changed[0]}' when it is evaluated"))
        drawn = _drawn(before[0], _generators(first)) and not torch.equal(out, evaluate())
    if not drawn and _drawn(unmade, before[0]):
        with steady(net):  # weights made by chance
            drawn = not torch.equal(out, evaluate())
    if drawn:
        raise ValueError(_refusal(type(net).__name__, RANDOM))
    _SEEN[net] = net.training
    return out


def steady(net: nn.Module, refuse: bool = True) -> contextlib.AbstractContextManager[None]:
    """Refuse a network that is no function of x alone, if ``refuse``; in the context, made weights are made once.

    Weights made by ``prune``, ``weight_norm``, ``spectral_norm`` or a parametrization are computed at the start, as one
    forward pass would, and are then plain attributes: the same for every corner of a box, and for those who read a
    layer's weight without calling it.
    """
    hooked, parametrized = [], []
    for module in net.modules():
        if refuse and isinstance(module, WATCHED) and (fault := _fault(module)):
            name = next(name for name, other in net.named_modules() if other is module)
            raise ValueError(_refusal(f"{type(module).__name__}{f' ({name})' if name else ''}", fault))
        if module._forward_pre_hooks and any(isinstance(h, WEIGHT_HOOKS) for h in module._forward_pre_hooks.values()):
            hooked.append(module)
        if "parametrizations" in module._modules:
            parametrized.append(module)
    return _held(hooked, parametrized) if hooked or parametrized else contextlib.nullcontext()


@contextlib.contextmanager
def _held(hooked: Sequence[nn.Module], parametrized: Sequence[nn.Module]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        with contextlib.ExitStack() as normal:  # made in inference mode they could not enter other modes
            if torch.is_inference_mode_enabled():
                normal.enter_context(torch.inference_mode(False))
                normal.enter_context(torch.no_grad())
            if parametrized:
                stack.enter_context(parametrize.cached())
            for module in parametrized:
                for name in cast(nn.ModuleDict, module.parametrizations):
                    getattr(module, name)
            for module in hooked:
                hooks: Any = module._forward_pre_hooks
                others = type(hooks)((k, hook) for k, hook in hooks.items() if not isinstance(hook, WEIGHT_HOOKS))
                for hook in hooks.values():
                    if isinstance(hook, WEIGHT_HOOKS):
                        hook(module, ())
                stack.callback(setattr, module, "_forward_pre_hooks", hooks)
                module._forward_pre_hooks = others
        yield


def _fault(module: nn.Module) -> str | None:
    """Return why a module is no function of its input, or None."""
    if isinstance(module, _NormBase):
        of_batch = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if of_batch and module.running_mean is None:
            return "looks at the other points of a batch, having no running statistics"
        if module.training and (of_batch or module.track_running_stats):
            return "looks at the other points of a batch, and changes its statistics"
        return None
    if not module.training:
        return None
    if isinstance(module, nn.RReLU):
        return RANDOM if module.lower < module.upper else None
    share = module.p if isinstance(module, _DropoutNd) else cast(float, module.dropout)
    return RANDOM if share > 0 else None


def _refusal(name: str, fault: str) -> str:
    return (
        f"{name} {fault}, so that there is nothing to differentiate or to integrate; call .eval() first, or remove it"
    )


def _generators(foreign: bool) -> list[object]:
    """Return the states of torch's generators of random numbers, and of Python's and numpy's if ``foreign``."""
    states: list[object] = [torch.get_rng_state().numpy().tobytes()]
    if foreign:  # ten times as slow
        numpys = np.random.get_state(legacy=False)
        inner = {k: v.tobytes() if isinstance(v, np.ndarray) else v for k, v in numpys["state"].items()}
        states += [random.getstate(), {**numpys, "state": inner}]
    if torch.cuda.is_initialized() and not torch.cuda.is_current_stream_capturing():
        states.append(torch.cuda.get_rng_state().numpy().tobytes())
    return states


def _drawn(before: Sequence[object], after: Sequence[object]) -> bool:
    return any(a != b for a, b in zip(before, after, strict=False))  # CUDA's may have come in between


def _versions(net: nn.Module) -> dict[str, tuple[int, int]]:
    return {name: (id(b), 0 if b.is_inference() else b._version) for name, b in net.named_buffers()}
