"""What ``--help`` says: every choice and every key, each with a line of the docstring of what it belongs to."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from autoint.registry import EVALUATIONS, TASKS, Registry, fields_of
from autoint.runs.config import GROUPS, NESTED, RunConfig

WIDTH, COLUMN = 120, 34
SECTIONS = ("Args:", "Attributes:")
ENTRY = re.compile(r"(\w+(?:, \w+)*): (.*)")
OF_TRAINER = {
    "max_steps": "steps of the optimizer",
    "max_time": "at most so long, as in 90s, 5m, 1h30m; the learning rate decays over what ends first",
    "accelerator": "auto, cpu or gpu",
    "devices": "how many processes, each with one device; auto takes what is there",
    "strategy": "auto, ddp or fsdp: how several processes share the work",
    "precision": "32-true, 64-true, bf16-mixed, and on a GPU 16-mixed",
    "num_nodes": "machines that train together",
    "fast_dev_run": "one batch of everything",
}


def documented(factory: Callable[..., Any]) -> dict[str, str]:
    """Return {parameter: what the docstring says of it}, from the sections ``Args:`` and ``Attributes:``."""
    bases = (
        [base for base in reversed(factory.__mro__) if base is not object] if inspect.isclass(factory) else [factory]
    )
    found: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in "\n".join(inspect.cleandoc(base.__doc__ or "") for base in bases).splitlines():
        indent = len(line) - len(line.lstrip())
        if indent == 0:
            inside, names = line.strip() in SECTIONS if line.strip() else inside, []
        elif inside and indent == 4 and (entry := ENTRY.fullmatch(line.strip())):
            names = entry[1].split(", ")
            found.update(dict.fromkeys(names, entry[2]))
        elif inside:
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
    return found


def first_line(factory: Callable[..., Any]) -> str:
    """Return the first sentence of a docstring."""
    return inspect.cleandoc(factory.__doc__ or "").partition("\n")[0].rstrip(".")


def choices(group: str, names: Iterable[str], sources: Iterable[Path]) -> str:
    """Return the choices of a group in one line, and below it a line for each that says something of itself."""
    names, registry = [name for name in names if not name.endswith("_keys")], (GROUPS | {"task": TASKS}).get(group)
    lines = textwrap.wrap(f"{group}: {', '.join(names)}", WIDTH, subsequent_indent="    ")
    for name in names:
        files = [folder / group / f"{name}.yaml" for folder in sources]
        said = next((_comment(file) for file in files if file.is_file()), "")
        if registry is not None and not said and registry.aliases.get(name, name) in registry.names():
            said = first_line(registry[name])
        lines += [_row(f"    {name}", said).partition("\n")[0]] if said else []
    return "\n".join(lines)


def _comment(file: Path) -> str:
    """Return the first comment of a YAML file that is not for Hydra."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            return ""
        if "@package" not in line:
            return line.lstrip("# ").rstrip(".")
    return ""


def run_keys(composed: Mapping[str, Any]) -> str:
    """Return every key of a run with its value and what it is, those of the task first."""
    task = str(composed.get("task"))
    own, shared = documented(TASKS[task]), documented(RunConfig)
    parts = {
        f"of task={task}": [
            _key(k, v, own) for k, v in composed.items() if k in TASKS.fields(task) and k not in GROUPS
        ],
        "of every run": [
            _key(k, v, shared) for k, v in composed.items() if k in fields_of(RunConfig) and not isinstance(v, dict)
        ],
    }
    for key, value in composed.items():
        if key in GROUPS and isinstance(value, dict) and "name" in value:
            parts[f"of {key}={value['name']}"] = _options(key, value, GROUPS[key])
        elif isinstance(value, dict):
            texts = OF_TRAINER if key == "trainer" else documented(NESTED[key]) if key in NESTED else {}
            parts[f"of {key}"] = [
                _key(f"{key}.{leaf}", v, {f"{key}.{leaf}": texts.get(leaf, "")}) for leaf, v in value.items()
            ]
    return "\n".join("\n".join([head, *rows]) for head, rows in parts.items() if rows)


def evaluation_keys(composed: Mapping[str, Any]) -> str:
    """Return every key of an evaluation with its value and what it is, those of all tasks' runs first."""
    from autoint.runs.evaluation import EvaluateConfig

    owners = {key: task for task in EVALUATIONS.names() for key in EVALUATIONS.fields(task)}
    parts = [_key(k, v, documented(EvaluateConfig)) for k, v in composed.items() if k not in owners]
    for task in dict.fromkeys(owners.values()):
        texts = documented(EVALUATIONS[task])
        parts += [f"of runs of task={task}", *(_key(k, v, texts) for k, v in composed.items() if owners.get(k) == task)]
    return "\n".join(parts)


def _options(key: str, value: Mapping[str, Any], registry: Registry[Any]) -> list[str]:
    texts = documented(registry[str(value["name"])])
    return [_key(f"{key}.{k}", v, {f"{key}.{k}": texts.get(k, "")}) for k, v in value.items() if k != "name"]


def _key(key: str, value: Any, texts: Mapping[str, str]) -> str:
    shown = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
    return _row(f"  {key}: {shown}", texts.get(key, ""))


def _row(left: str, text: str) -> str:
    """Return two columns, the second as many lines as it needs, in the command line's words."""
    said = re.sub(r"\bNone\b", "null", text.replace("``", "")).rstrip(".")
    first = f"{left:{COLUMN - 2}}  " if len(left) < COLUMN - 1 else f"{left}  "
    lines = textwrap.wrap(said, WIDTH, initial_indent=first, subsequent_indent=" " * COLUMN)
    return "\n".join(lines) if said else left


def text(template: str, composed: Any, groups: Mapping[str, Iterable[str]], sources: Iterable[Path]) -> str:
    """Fill in Hydra's template of a program's help: ``$APP_CONFIG_GROUPS`` and ``$CONFIG``."""
    plain: Any = OmegaConf.to_container(composed, resolve=False)
    folders = list(sources)
    chosen = "\n".join(choices(group, names, folders) for group, names in groups.items())
    keys = run_keys(plain) if "task" in plain else evaluation_keys(plain)
    return template.replace("$APP_CONFIG_GROUPS", chosen).replace("$CONFIG", keys)
