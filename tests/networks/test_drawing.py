import logging
import re
import shutil
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from torch import nn

import autoint
from autoint.registry import ENCODINGS, GRAD_NETS

LABEL = re.compile(r'^  "(\w+)" \[label="([^"]*)", .*fillcolor="(#\w+)"\]$', re.MULTILINE)


def net(**kwargs):
    return autoint.IntegralNet(in_features=2, out_features=1, hidden_features=4, num_layers=3, **kwargs)


def drawn(module, path):
    """Return ``{node: (label, colour)}`` from the drawing."""
    return {name: (label, fill) for name, label, fill in LABEL.findall(autoint.draw(module, path).read_text("utf-8"))}


def sources(module):
    """Return ``{node: the node of Φ it comes from}`` from the listing."""
    return dict(re.findall(r"^(\w+) .* from (\w+)$", autoint.draw(module), re.MULTILINE))


@pytest.mark.parametrize("axes", [(0,), (0, 1), (1, 1, 0)])
def test_homologous_nodes_have_one_colour_in_both_drawings(axes, tmp_path):
    phi = net()
    psi = autoint.grad_net(phi, axes)
    primal, derived, homologous = drawn(phi, tmp_path / "phi.dot"), drawn(psi, tmp_path / "psi.gv"), sources(psi)
    operations = sources(phi)
    assert operations == {name: name for name in operations}
    assert set(homologous.values()) == set(operations)
    assert {name: primal[source][1] for name, source in homologous.items()} == {
        name: fill for name, (_, fill) in derived.items() if name in homologous
    }
    assert len({primal[name][1] for name in operations}) == len(operations) == 7
    assert [label for label, _ in derived.values() if label.startswith("tangent")] == [
        f"tangent along x{'₀₁'[axis]}" for axis in axes
    ]


@pytest.mark.parametrize("builder", GRAD_NETS.names())
def test_every_builder_is_drawn_by_the_graph_of_its_derivative(builder):
    phi = net()
    assert autoint.draw(autoint.grad_net(phi, (0, 1), builder)) == autoint.draw(autoint.grad_net(phi, (0, 1), "graph"))


def test_labels_name_parameters_constants_and_encodings(tmp_path):
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(2, 4), nn.Tanh())
            self.latent = nn.Parameter(torch.ones(3))

        def forward(self, x, condition):
            h = torch.cat([self.body(x), 2 * x[..., 1:]], dim=-1)
            return h.sum(-1, keepdim=True) * self.latent * condition

    labels = {label for label, _ in drawn(Mine(), tmp_path / "mine.dot").values()}
    assert {r"linear\nbody.0", "cat(dim=-1)", "getitem([…, 1:])", "2 × ·", "sum(-1, keepdim=True)"} <= labels
    assert {r"×\nlatent", "x", "condition", "Φ"} <= labels
    encoded = net(encoding="positional", condition=ENCODINGS.build("positional", 2))
    assert r"γ\nencoding" in {label for label, _ in drawn(encoded, tmp_path / "phi.dot").values()}
    mixed = {label for label, _ in drawn(autoint.grad_net(encoded, (0, 1)), tmp_path / "psi.dot").values()}
    assert {r"γ\ncondition", r"γ\nencoding", r"∂γ\nencoding", r"∂²γ\nencoding", "∂²Φ/∂x₀∂x₁"} <= mixed


def fake_dot(folder, monkeypatch, script):
    program = folder / "bin" / "dot"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")


def test_pictures_are_made_by_graphviz(tmp_path, monkeypatch):
    if shutil.which("dot"):
        picture = autoint.draw(net(), tmp_path / "real.svg")
        assert ElementTree.parse(picture).getroot().tag.endswith("svg")
        assert autoint.draw(net(), tmp_path / "real.png").read_bytes().startswith(b"\x89PNG")
    fake_dot(tmp_path, monkeypatch, 'echo "$@"; cat')
    path = autoint.draw(net(), tmp_path / "phi.svg")
    assert path == tmp_path / "phi.svg"
    assert path.read_text("utf-8") == "-Tsvg\n" + autoint.draw(net(), tmp_path / "phi.dot").read_text("utf-8")


def test_a_failure_of_graphviz_leaves_nothing_behind(tmp_path, monkeypatch):
    fake_dot(tmp_path, monkeypatch, "cat > /dev/null; echo half a picture; echo no fonts >&2; exit 1")
    with pytest.raises(RuntimeError, match=r"dot -Tpng failed: no fonts"):
        autoint.draw(net(), tmp_path / "phi.png")
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_without_graphviz_the_listing_is_written_instead(kind, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with caplog.at_level(logging.WARNING):
        path = autoint.draw(net(), str(tmp_path / f"phi.{kind}"))
    assert [path.name for path in tmp_path.iterdir()] == ["phi.txt"]
    assert path == tmp_path / "phi.txt"
    assert path.read_text("utf-8") == autoint.draw(net()) + "\n"
    (record,) = caplog.records
    assert "apt-get install graphviz" in record.getMessage()


@pytest.mark.parametrize(
    ("file", "words"),
    [("phi.pdf", r"file type='.pdf' is unknown.*available: .svg, .png"), ("none/phi.svg", "make it first")],
)
def test_a_file_that_cannot_be_written_is_refused(file, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        autoint.draw(net(), tmp_path / file)
    assert list(tmp_path.iterdir()) == []
