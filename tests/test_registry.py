import sys
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from autoint import registry
from autoint.registry import ACTIVATIONS, Registry


@pytest.fixture
def fruits():
    fruits = Registry("fruit", "autoint.registry")

    @fruits.register("apple")
    def apple(basket, *, weight: float = 1.0, ripe: bool = True, label: str | None = None):
        return basket, weight, ripe, label

    return fruits


def test_the_signature_is_the_configuration(fruits):
    assert fruits.build("apple", "b") == ("b", 1.0, True, None)
    assert fruits.build({"name": "apple", "weight": 2, "label": "x"}, "b") == ("b", 2.0, True, "x")
    assert fruits.options("apple", {"ripe": "false"}) == {"weight": 1.0, "ripe": False, "label": None}


def test_errors_name_what_exists_and_the_nearest(fruits):
    with pytest.raises(
        ValueError, match=r"fruit='aple' is unknown; did you mean 'apple'\? \(available: apple of tests\)"
    ):
        fruits.build("aple")
    with pytest.raises(ValueError, match=r"unknown key 'fruit.wieght'; did you mean 'weight'\?"):
        fruits.options("apple", {"wieght": 1})
    with pytest.raises(ValueError, match=r"fruit\.weight='heavy' does not fit: expected float"):
        fruits.options("apple", {"weight": "heavy"})


def test_a_name_is_taken_once_and_options_need_types(fruits):
    with pytest.raises(ValueError, match="registered twice"):
        fruits.register("apple")(lambda: None)
    with pytest.raises(ValueError, match="'size' needs a type and a default"):
        fruits.register("pear")(lambda *, size=1: None)


def install_plugin(monkeypatch, value):
    monkeypatch.setattr(registry, "_plugins_loaded", False)
    entry = EntryPoint(name="mine", value=value, group=registry.PLUGIN_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == registry.PLUGIN_GROUP else [])


def test_plugins_register_by_being_imported(tmp_path, monkeypatch):
    (tmp_path / "my_plugin.py").write_text(
        "from autoint.registry import ACTIVATIONS\n"
        "import torch\n"
        "from autoint.networks.activations import Activation, he_init\n"
        "@ACTIVATIONS.register('plugged')\n"
        "def plugged():\n"
        "    return Activation(torch.tanh, lambda x, order: 1 - torch.tanh(x)**2, he_init, smooth=1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    install_plugin(monkeypatch, "my_plugin")
    try:
        with pytest.raises(
            ValueError, match=r"did you mean 'plugged'\? \(available: plugged of my_plugin, relu, sine, so"
        ):
            ACTIVATIONS["pluged"]
        assert "plugged" in ACTIVATIONS.names()
    finally:
        ACTIVATIONS._factories.pop("plugged", None)
        sys.modules.pop("my_plugin", None)


def test_a_plugin_that_fails_to_load_raises(monkeypatch):
    install_plugin(monkeypatch, "no_such_module_at_all")
    with pytest.raises(ValueError, match="plugin 'mine'"):
        ACTIVATIONS.names()


VALUES = [
    *((int, 3), (int, "4"), (float, 2), (float, 2.5), (bool, True), (bool, 1), (str, "x"), (str, 5), (int | None, 7)),
    *((str | None, None), (float | None, 1), (list[float], [1, 2.0]), (Any, [1, {"a": None}]), (Any, {1: 2})),
    *((dict[str, Any], {"a": {"b": [1.5, "x"]}}), (dict[str, Any], {"a": 1, "b": "${.a}"})),
]


@pytest.mark.parametrize(("kind", "value"), VALUES)
def test_what_needs_no_conversion_is_what_omegaconf_makes_of_it(kind, value, monkeypatch):
    fields = {"one": (kind, None if kind in (str | None, int | None, float | None) else value), "other": (int, 1)}
    quick = registry.checked(fields, {"one": value}, "")
    monkeypatch.setattr(registry, "_fits", lambda kind, value: False)
    slow = registry.checked(fields, {"one": value}, "")
    assert repr(quick) == repr(slow)
    quick["one"] = [quick["one"]]
    assert repr(registry.checked(fields, {"one": value}, "")) == repr(slow)
