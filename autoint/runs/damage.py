"""What a checkpoint says of a training that is to go on: every part is what this training would have, or is refused.

Lightning takes the parts as they come: a counter that is off trains too little or too much, and a part that is missing
ends in its own errors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from autoint.runs import checkpoints

NEEDED = ("loops", "optimizer_states", "lr_schedulers")
LATER = {"initial_lr", "taken", "mark"}
"""Settings that some checkpoints do not have: of a schedule, and of a later version."""
FREE = {"lr", "betas", "damping", "growth", "absolute", "fused", "foreach", "capturable", "params", *LATER}
"""Settings of optimizers that change while training, or with the run's own, or with the machine."""


def check_parts(path: Path, contents: dict[str, Any]) -> None:
    """Refuse a checkpoint that lacks a part of what a training needs to go on, or has one that is none, naming it."""
    if not contents.keys() >= set(NEEDED):
        raise ValueError(f"{path}: weights alone, without what is needed to go on training; give a run's last.ckpt")
    parts: dict[str, Callable[[Any], str]] = {
        "global_step": lambda value: "",  # which loading has looked at
        "pytorch-lightning_version": _version,
        "epoch": lambda value: "" if type(value) is int and value in (0, 1) else "must be 0 or 1",
        "callbacks": _callbacks,
    }
    for part, wrong in parts.items():
        _tell(path, part, "is missing" if part not in contents else wrong(contents[part]))


def check(path: Path, contents: dict[str, Any], module: pl.LightningModule, trainer: pl.Trainer) -> None:
    """Load a checkpoint's weights and refuse it, naming the part, unless the training can go on from it exactly."""
    check_parts(path, contents)
    checkpoints.load_weights(path, contents, module)
    _tell(path, "loops", _loops(contents["loops"], contents, module.automatic_optimization))
    before, module.trainer = module._trainer, trainer
    try:
        configured: Any = module.configure_optimizers()
    finally:
        module.trainer = before
    if not isinstance(configured, (list, tuple)):
        configured = [configured]
    plain = [one["optimizer"] if isinstance(one, dict) else one for one in configured]
    schedules = [one["lr_scheduler"]["scheduler"] for one in configured if isinstance(one, dict)]
    _tell(path, "optimizer", _optimizers(contents["optimizer_states"], plain, contents["global_step"], module))
    _tell(path, "lr_schedulers", _schedules(contents["lr_schedulers"], schedules, contents["global_step"]))


class Remembers(Callback):
    """Ends a training that goes on where its optimizer remembers nothing of a weight: its state was lost.

    A weight that has had no gradient has no state either, so that the first step alone can tell.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.looked = path, False

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        starting = not trainer.global_step or not pl_module.automatic_optimization  # by hand, one may start later
        if self.looked or starting or not isinstance(optimizer, torch.optim.Adam):
            return
        self.looked = True
        for name, weight in pl_module.named_parameters():
            if weight.grad is not None and not optimizer.state.get(weight) and weight.grad.any():
                _tell(self.path, "optimizer", f"remembers nothing of {name} after {trainer.global_step} steps")


def _tell(path: Path, part: str, wrong: str) -> None:
    if wrong:
        mend = "use another checkpoint, as ckpt_path=auto does of a run's folder"
        raise ValueError(f"{path}: damaged, its {part} {' '.join(wrong.split())}; {mend}")  # tensors have many lines


def _version(value: Any) -> str:
    return "" if isinstance(value, str) and re.fullmatch(r"2\.\d+(\.\w+)*", value) else f"is {value!r:.40}, and not 2.…"


def _callbacks(value: Any) -> str:
    if not isinstance(value, dict) or not all(isinstance(k, str) and isinstance(v, dict) for k, v in value.items()):
        return "must be states by name"
    for name, state in value.items():
        elapsed = state.get("time_elapsed")
        if not name.startswith("Timer"):
            continue
        if not isinstance(elapsed, dict) or not {"train", "validate"} <= {getattr(k, "value", k) for k in elapsed}:
            return f"{name:.40} must have time_elapsed"
        if not all(_number(seconds) and seconds >= 0 for seconds in elapsed.values()):
            return f"{name:.40} must have seconds that are not negative"
    return ""


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _same(theirs: Any, ours: Any) -> bool:
    """Whether plain data are equal, of the same types throughout; to a tensor in its place nothing is."""
    if type(theirs) is not type(ours):
        return False
    if isinstance(ours, dict):
        return theirs.keys() == ours.keys() and all(_same(theirs[key], value) for key, value in ours.items())
    if isinstance(ours, (list, tuple)):
        return len(theirs) == len(ours) and all(map(_same, theirs, ours))
    return bool(theirs == ours)


def _betas(value: Any) -> bool:
    pair = isinstance(value, (list, tuple)) and len(value) == 2
    return pair and all(_number(beta) and 0 <= beta < 1 for beta in value)


def _ints(value: Any) -> bool:
    """Whether all leaves are counts; True equals 1, and is none, but where the name says so."""
    if isinstance(value, dict):
        return all(type(v) is bool if k == "is_last_batch" else _ints(v) for k, v in value.items())
    if isinstance(value, list):
        return all(map(_ints, value))
    return type(value) is int and 0 <= value < 2**63


VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("fused", "foreach", "capturable", "absolute"),
        (lambda value: isinstance(value, (bool, type(None))), "not true or false"),
    ),
    **dict.fromkeys(("lr", "initial_lr"), (lambda value: _number(value) and 0 <= value <= 10, "no learning rate")),
    **dict.fromkeys(("damping", "growth"), (lambda value: _number(value) and value > 0, "which must be positive")),
    "betas": (_betas, "not two numbers in [0, 1)"),
    "taken": (_ints, "no number of steps"),
    "mark": (lambda value: isinstance(value, float) and value >= 0, "no loss"),
}
"""What a setting of an optimizer may be, and what is said of one that is not."""


def _loops(value: Any, contents: dict[str, Any], automatic: bool) -> str:
    """Return what is wrong with the counters: after so many steps, all of them are known."""
    steps, trainer = contents["global_step"], contents["autoint"]["config"].get("trainer", {})
    each = trainer.get("accumulate_grad_batches", 1) if isinstance(trainer, dict) else 1
    batches = steps * (each if type(each) is int else 1)
    if not isinstance(value, dict) or not isinstance(value.get("fit_loop"), dict):
        return "lacks its fit_loop"
    loop = value["fit_loop"]
    done = {name: batches for name in ("ready", "started", "processed", "completed")}
    once = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    taken, none = {"ready": steps, "completed": steps}, {"ready": 0, "completed": 0}
    expected: dict[str, Any] = {
        "state_dict": {"combined_loader": [{"step": batches}]},
        "epoch_loop.state_dict": {"_batches_that_stepped": steps},
        "epoch_loop.batch_progress": {"total": done, "current": done, "is_last_batch": False},
        "epoch_progress": {"total": once, "current": once},
        "epoch_loop.automatic_optimization.state_dict": {},
        "epoch_loop.manual_optimization.state_dict": {},
        "epoch_loop.val_loop.state_dict": {},
    }
    step = {"step": {"total": taken if automatic else none, "current": taken if automatic else none}}
    manual = {"total": none if automatic else taken, "current": none if automatic else taken}
    expected["epoch_loop.manual_optimization.optim_step_progress"] = manual
    for name, wanted in expected.items():
        if not _same(found := loop.get(name), wanted):
            return f"say {name}={found!r:.120}, after {steps} steps it must be {wanted!r:.120}"
    optim = loop.get("epoch_loop.automatic_optimization.optim_progress")
    if not isinstance(optim, dict) or not isinstance(optim.get("optimizer"), dict):
        return "lack the progress of the optimizer"
    if not _counters(optim, ("optimizer", "step", "zero_grad")) or optim["optimizer"].get("step") != step["step"]:
        return f"say optimizer={optim['optimizer']!r:.120}, after {steps} steps it must be {step!r:.120}"
    for name in ("epoch_loop.scheduler_progress", "epoch_loop.val_loop.batch_progress"):
        if not _counters(loop.get(name), ()):
            return f"say {name}={loop.get(name)!r:.120}, which counts nothing"
    others = ("validate_loop", "test_loop", "predict_loop")
    if not all(isinstance(value.get(name), dict) and _ints(value[name]) for name in others):
        return f"lack one of {', '.join(others)}"
    return ""


def _counters(value: Any, within: tuple[str, ...]) -> bool:
    if isinstance(value, dict) and within:
        inner = {key: within if key == within[0] else () for key in within}
        return value.keys() <= inner.keys() and all(_counters(part, inner[key]) for key, part in value.items())
    return isinstance(value, dict) and {"total", "current"} <= value.keys() and _ints(value)


def _optimizers(states: Any, fresh: list[torch.optim.Optimizer], steps: int, module: pl.LightningModule) -> str:
    if not isinstance(states, list) or len(states) != len(fresh):
        count = len(states) if isinstance(states, list) else "none"
        return f"must be one of {len(fresh)}, and there is {count}"
    for state, optimizer in zip(states, fresh, strict=True):
        groups, own = (state.get("param_groups") if isinstance(state, dict) else None), optimizer.state_dict()
        if not isinstance(groups, list) or len(groups) != len(own["param_groups"]):
            return "lacks its settings, param_groups"
        wrong = next(filter(None, map(_group, groups, own["param_groups"])), "")
        wrong = wrong or _memories(state.get("state"), optimizer, steps, module.automatic_optimization and steps > 0)
        if wrong:
            return wrong
    return ""


def _memories(state: Any, optimizer: torch.optim.Optimizer, steps: int, needed: bool) -> str:
    """Return what is wrong with what an optimizer remembers of its weights."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    adam = isinstance(optimizer, torch.optim.Adam)
    if not isinstance(state, dict) or (needed and adam and not state):
        return f"lacks its state, after {steps} steps"
    for key, values in state.items():
        if type(key) is not int or not 0 <= key < len(weights) or not isinstance(values, dict):
            return f"belongs to another model: it has a state of weight {key!r:.40}, and there are {len(weights)}"
        if values.keys() != ({"step", "exp_avg", "exp_avg_sq"} if adam else set()):
            return f"remembers {', '.join(map(repr, values))[:80] or 'nothing'} of weight {key}"
        for name, value in values.items():
            wrong = _memory(name, value, weights[key], steps)
            if wrong:
                return f"belongs to another model or is damaged: {name} of weight {key} has {wrong}"
    return ""


def _memory(name: Any, value: Any, weight: Tensor, steps: int) -> str:
    """Return what is wrong with what an optimizer remembers of a weight."""
    if name == "step":
        number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        return "" if _number(number) and 0 <= number <= steps and number == int(number) else f"{value!r:.40}"
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if value.shape != weight.shape:
        return f"the shape {tuple(value.shape)}, not {tuple(weight.shape)}"
    if value.dtype not in (weight.dtype, torch.float64) or value.layout != torch.strided:
        return f"{value.dtype}, not {weight.dtype}"
    if not value.isfinite().all() or (name == "exp_avg_sq" and (value < 0).any()):
        return "values that it cannot have"
    return ""


def _group(theirs: Any, ours: Mapping[str, Any]) -> str:
    if not isinstance(theirs, dict) or theirs.keys() - LATER != ours.keys() - LATER:
        return "has other settings than its optimizer knows"
    if not _same(theirs["params"], ours["params"]):
        return f"belongs to another model, of {len(ours['params'])} weights"
    for key, value in theirs.items():
        if key not in FREE and not _same(value, ours[key]):
            return f"says {key}={value!r:.40}, not {ours[key]!r:.40}"
        allowed, what = VALUES.get(key, (None, ""))
        if allowed is not None and not allowed(value):
            return f"says {key}={value!r:.40}, {what}"
    return ""


def _schedules(states: Any, fresh: list[Any], steps: int) -> str:
    if not isinstance(states, list) or len(states) != len(fresh):
        return f"must be a list of {len(fresh)}"
    for state, schedule in zip(states, fresh, strict=True):
        own = schedule.state_dict()
        if not isinstance(state, dict) or not own.keys() - {"_is_initial"} <= state.keys() <= own.keys():
            return "has other parts than its schedule knows"
        if not _same((state["last_epoch"], state["_step_count"]), (steps, steps + 1)):
            return f"stands at step {state['last_epoch']!r:.40}, and the run at {steps}"
        for key in ("base_lrs", "_last_lr"):
            rates = state[key]
            if not isinstance(rates, list) or len(rates) != len(own[key]) or not all(map(_number, rates)):
                return f"says {key}={rates!r:.40}, not a learning rate"
            if not all(0 <= rate <= 10 for rate in rates):
                return f"says {key}={rates!r:.40}, not a learning rate"
        if not _same(state["lr_lambdas"], own["lr_lambdas"]):
            return f"says lr_lambdas={state['lr_lambdas']!r:.40}, not {own['lr_lambdas']}"
    return ""
