"""Registries: a name on the command line becomes an object, and a factory's signature becomes its configuration."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import importlib
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

T = TypeVar("T")
PLUGIN_GROUP = "autoint.plugins"
_registries: dict[str, Registry[Any]] = {}


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the closest of ``known``, or an empty string."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def unknown(key: str, value: str, allowed: Iterable[str], meant: str = "") -> str:
    """Return what to say of a name that is none of ``allowed``: these, with a plugin's package, and the nearest.

    That is ``meant``, where another key takes the name.
    """
    registry = _registries.get(key)
    shown = (f"{name}{registry.owner(name)}" for name in allowed) if registry else allowed
    near = f"; did you mean {meant}?" if meant else nearest(value, allowed)
    return f"{key}='{value}' is unknown{near} (available: {', '.join(shown)})"


def one_of(key: str, value: str, allowed: Iterable[str]) -> None:
    """Refuse a name that is none of ``allowed``."""
    if value not in allowed:
        raise ValueError(unknown(key, value, allowed))


def at_least_one(**values: int | None) -> None:
    """Refuse a count below 1; None stands for a count that was not given."""
    integer(1, **{key: value for key, value in values.items() if value is not None})


def integer(least: float = -math.inf, **values: Any) -> None:
    """Refuse what is no integer, or below ``least``."""
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
            also = f" of at least {least}" if math.isfinite(least) else ""
            raise ValueError(f"{key}={value!r:.60} must be an integer{also}")


def positive(zero: bool = False, **values: Any) -> None:
    """Refuse what is no real number, NaN, or not positive; ``zero`` may be allowed, too."""
    for key, value in values.items():
        number = not isinstance(value, bool) and isinstance(value, numbers.Real)
        if not number or not (float(value) > 0 or (zero and float(value) == 0)):
            raise ValueError(f"{key}={value!r:.60} must be {'a number of at least 0' if zero else 'positive'}")


class Registry(Generic[T]):
    """Map names to factories of one kind of component.

    A factory's *positional* parameters are runtime objects (a network, the number of features); its *keyword-only*
    parameters have a type and a default, and are its configuration: ``@ACTIVATIONS.register("sine")`` on
    ``def sine(*, omega_0: float = 30.0)`` makes ``activation=sine activation.omega_0=10`` work on the command line.
    """

    def __init__(self, kind: str, *modules: str) -> None:
        self.kind, self.modules = kind, modules
        self._factories: dict[str, Callable[..., T]] = {}
        self.aliases: dict[str, str] = {}
        _registries[kind] = self

    def register(self, name: str, alias: str | None = None) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Register a factory (a function or a class) under ``name``; a taken name raises ``ValueError``.

        An ``alias`` is an earlier name that is still understood; configurations hold the present one.
        """

        def add(factory: Callable[..., T]) -> Callable[..., T]:
            if alias is not None:
                self.aliases[alias] = name
            if name in self._factories:
                owners = f"{self._factories[name].__module__} and {factory.__module__}"
                raise ValueError(f"{self.kind} '{name}' is registered twice, by {owners}; rename one of them")
            _configuration(factory, f"{self.kind} '{name}'")
            self._factories[name] = factory
            return factory

        return add

    def names(self) -> list[str]:
        """Return the registered names, sorted, those of installed plugins included."""
        for module in self.modules:
            importlib.import_module(module)
        load_plugins()
        return sorted(self._factories)

    def owner(self, name: str) -> str:
        """Return `` of PACKAGE`` for an entry that another package registered, or an empty string."""
        package = self._factories[name].__module__.partition(".")[0] if name in self._factories else "autoint"
        return "" if package == "autoint" else f" of {package}"

    def canonical(self, name: str) -> str:
        """Return the present name of an entry; ``ValueError`` names what there is."""
        names = self.names()
        name = self.aliases.get(name, name)
        one_of(self.kind, name, names)
        return name

    def __getitem__(self, name: str) -> Callable[..., T]:
        return self._factories[self.canonical(name)]

    def fields(self, name: str) -> dict[str, tuple[Any, Any]]:
        """Return the configuration of an entry, ``{parameter: (type, default)}``."""
        return _configuration(self[name], f"{self.kind} '{name}'")

    def options(self, name: str, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the full configuration of ``name``: its defaults, overridden by ``given``, checked by type."""
        return checked(self.fields(name), given or {}, self.kind)

    def build(self, choice: str | Mapping[str, Any], *runtime: Any) -> T:
        """Build the entry named by ``choice``: a name, or a mapping with ``name`` and options."""
        if not isinstance(choice, (str, Mapping)) or (not isinstance(choice, str) and "name" not in choice):
            raise ValueError(f"{self.kind}={choice!r:.60} must be a name, or a dictionary with 'name' and its options")
        options = {"name": choice} if isinstance(choice, str) else dict(choice)
        name = options.pop("name")
        return self[name](*runtime, **self.options(name, options))


def checked(fields: Mapping[str, tuple[Any, Any]], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the defaults of ``fields`` overridden by ``given``; ``ValueError`` on unknown keys and wrong types."""
    prefix = f"{where}." if where else ""
    for key in given:
        if key not in fields:
            known = ", ".join(sorted(fields)) or "none"
            raise ValueError(f"unknown key '{prefix}{key}'{nearest(key, fields)} (available: {known})")
    if all(_fits(fields[key][0], value) for key, value in given.items()):
        return {**copy.deepcopy(_defaults_of(_schema_of(fields))), **copy.deepcopy(dict(given))}
    node = OmegaConf.structured(_schema_of(fields))
    for key, value in given.items():
        try:
            node[key] = value
        except OmegaConfBaseException as error:
            wanted = getattr(fields[key][0], "__name__", str(fields[key][0]))
            raise ValueError(f"{prefix}{key}={value!r:.200} does not fit: expected {wanted}") from error
    return typing.cast(dict[str, Any], OmegaConf.to_container(node, resolve=True))


def _fits(kind: Any, value: Any) -> bool:
    """Whether a value stays what it is when it is taken as of that kind: nearly all do, and need not be converted."""
    if isinstance(kind, types.UnionType) and value is None:
        return type(None) in kind.__args__
    if isinstance(kind, types.UnionType) and len(kind.__args__) == 2:
        return any(_fits(one, value) for one in kind.__args__ if one is not type(None))
    if kind in (int, float, bool, str):
        return type(value) is kind and not (kind is str and "$" in value)
    return (kind is Any or (kind == dict[str, Any] and type(value) is dict)) and _plain(value)


def _plain(value: Any) -> bool:
    """Whether nested data holds nothing that refers to other keys, and nothing but what a text can say."""
    if type(value) is dict:
        return all(type(key) is str and "$" not in key and _plain(item) for key, item in value.items())
    if type(value) is list:
        return all(map(_plain, value))
    return value is None or type(value) in (int, float, bool) or (type(value) is str and "$" not in value)


_schemas: dict[tuple[Any, ...], type] = {}


def _schema_of(fields: Mapping[str, tuple[Any, Any]]) -> type:
    """Return a dataclass of these fields, one for all that are alike: it takes longer to make than to fill."""
    key = tuple((name, kind, repr(default)) for name, (kind, default) in fields.items())
    if key not in _schemas:
        parts = [
            (k, t, dataclasses.field(default_factory=functools.partial(copy.deepcopy, d)))
            for k, (t, d) in fields.items()
        ]
        _schemas[key] = dataclasses.make_dataclass("Options", parts)
    return _schemas[key]


@functools.cache
def _defaults_of(schema: type) -> Any:
    return OmegaConf.to_container(OmegaConf.structured(schema), resolve=True)


def fields_of(cls: type) -> dict[str, tuple[Any, Any]]:
    """Return the fields of a dataclass as ``{name: (type, default)}``."""
    hints = typing.get_type_hints(cls)
    out = {}
    for f in dataclasses.fields(cls):
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        out[f.name] = (hints[f.name], default)
    return out


def _configuration(factory: Callable[..., Any], owner: str) -> dict[str, tuple[Any, Any]]:
    parameters = inspect.signature(factory).parameters.values()
    keyword_only = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    for p in keyword_only:
        if p.default is p.empty or p.annotation is p.empty:
            raise ValueError(f"{owner}: keyword-only parameter '{p.name}' needs a type and a default")
    target = factory.__init__ if inspect.isclass(factory) else factory
    hints = typing.get_type_hints(target) if keyword_only else {}
    return {p.name: (hints[p.name], p.default) for p in keyword_only}


_plugins_loaded = False


def load_plugins() -> None:
    """Import every installed plugin of the entry-point group ``autoint.plugins``; one that fails to load raises."""
    global _plugins_loaded
    if _plugins_loaded:
        return
    _plugins_loaded = True
    for entry in entry_points(group=PLUGIN_GROUP):
        try:
            entry.load()
        except Exception as error:
            _plugins_loaded = False
            package = entry.dist.name if entry.dist else "an unknown package"
            raise ValueError(
                f"plugin '{entry.name}' ({entry.value}) of {package} failed to load: {error}; mend or uninstall it"
            ) from error


LIMBS = ("autoint.integrals", "autoint.scenes", "autoint.surfaces", "autoint.tomography")
ACTIVATIONS: Registry[Any] = Registry("activation", "autoint.networks.activations")
ENCODINGS: Registry[Any] = Registry("encoding", "autoint.networks.grids")
GRAD_NETS: Registry[Any] = Registry("grad_net", "autoint.networks.grad_nets")
RULES: Registry[Any] = Registry("operation", "autoint.networks.grad_nets")
PLACEMENTS: Registry[Any] = Registry("placement", "autoint.scenes.sections")
COLORS: Registry[Any] = Registry("color", "autoint.scenes.colors")
MODELS: Registry[Any] = Registry("model", "autoint.scenes.models")
DATASETS: Registry[Any] = Registry("scene", "autoint.scenes.data")
PHANTOMS: Registry[Any] = Registry("phantom", "autoint.tomography.data")
SHAPES: Registry[Any] = Registry("shape", "autoint.surfaces.shapes", "autoint.surfaces.files")
FUNCTIONS: Registry[Any] = Registry("function", "autoint.integrals.functions")
LOGGERS: Registry[Any] = Registry("logger", "autoint.runs.loggers")
TASKS: Registry[Any] = Registry("task", *(f"{limb}.task" for limb in LIMBS), "autoint.integrals.images")
EVALUATIONS: Registry[Any] = Registry("evaluation", *(f"{limb}.task" for limb in LIMBS))
LAYOUTS: Registry[Any] = Registry(
    "report.layout", "autoint.scenes.paper_tables", "autoint.tomography.figure3", "autoint.tomography.sparse_ct"
)
COMMANDS: Registry[Any] = Registry(
    "command",
    "autoint.runs.command_line.commands",
    "autoint.scenes.data.download",
    "autoint.scenes.data.photos",
    "autoint.scenes.baking",
    "autoint.scenes.look",
    "autoint.scenes.session",
    "autoint.tomography.volumes",
)
