"""The picture of the idea, from a network trained for it: ``python docs/figures.py`` writes docs/images/idea.png."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import autoint
from autoint.integrals.antiderivatives import Antiderivative
from autoint.integrals.integrands import true_integrals
from autoint.reports.pictures import write_figure

IMAGES = Path(__file__).parent / "images"
NEAR, FAR, SECTIONS, SHOWN = 0.0, 4.0, 8, 3
BUMPS = ((1.55, 0.22, 2.6), (2.75, 0.16, 1.7), (2.1, 0.5, 0.5))  # where, how wide, how dense


def density(t: Tensor) -> Tensor:
    """Return the density along a ray that meets two things: t (P, 1) → (P,)."""
    return sum((a * torch.exp(-0.5 * ((t[:, 0] - m) / s) ** 2) for m, s, a in BUMPS), torch.zeros(len(t)))


def idea(model: Antiderivative) -> Figure:
    """Draw σ and Ψ with the sections of a ray, and Φ with one evaluation at every edge."""
    t = torch.linspace(NEAR, FAR, 401, dtype=torch.float64)
    edges = torch.linspace(NEAR, FAR, SECTIONS + 1, dtype=torch.float64)
    with torch.no_grad():
        psi, phi, at_edges = model.integrand(t), model.antiderivative(t), model.antiderivative(edges)
    phi, at_edges = phi - at_edges[0], at_edges - at_edges[0]
    parts = at_edges.diff()
    (a, b), (low, high) = edges[SHOWN : SHOWN + 2].tolist(), at_edges[SHOWN : SHOWN + 2].tolist()
    truth = float(true_integrals(density, edges[SHOWN, None, None], edges[SHOWN + 1, None, None]))
    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)

    within = (t >= a) & (t <= b)
    above.fill_between(t[within], psi[within], color="tab:orange", alpha=0.45, lw=0)
    above.plot(t, density(t[:, None]), color="black", lw=3.5, alpha=0.25, label="density σ along the ray")
    above.plot(t, psi, color="tab:red", lw=1.3, label="grad network Ψ = ∂Φ/∂t, trained to be σ")
    above.stairs(parts / edges.diff(), edges, color="0.45", lw=1.2, label="mean of each section, what is rendered")
    above.annotate(f"∫ σ dt = {truth:.4f}", (1.72, 1.2), (1.93, 2.45), arrowprops={"arrowstyle": "-", "color": "0.4"})
    above.set(ylim=(0, None), ylabel="density")

    below.plot(t, phi, color="tab:blue", lw=1.6, label="integral network Φ(t): same parameters, no training of its own")
    below.plot(
        edges,
        at_edges,
        "o",
        color="tab:blue",
        ms=5,
        clip_on=False,
        label=f"one evaluation per edge: {len(edges)} for the ray",
    )
    for x, y in ((a, low), (b, high)):
        below.plot(x, y, "o", color="tab:orange", ms=9)
        below.hlines(y, x, 3.62, color="tab:orange", lw=1, ls=":")
    below.annotate("", (3.6, low), (3.6, high), arrowprops={"arrowstyle": "<->", "color": "tab:orange"})
    below.text(
        3.56, (low + high) / 2, f"Φ(t$_{SHOWN + 1}$) − Φ(t$_{SHOWN}$) = {high - low:.4f}", ha="right", va="center"
    )
    below.set(xlabel="t, along the ray", ylabel="Φ(t) − Φ(t$_0$)", xlim=(NEAR, FAR))

    for axes, place in ((above, "upper right"), (below, "upper left")):
        axes.vlines(edges, 0, 1, transform=axes.get_xaxis_transform(), color="0.8", lw=0.8, zorder=0)
        axes.legend(fontsize=8.5, loc=place, framealpha=1)
        axes.spines[["top", "right"]].set_visible(False)
    above.set_xticks(edges, [f"t$_{k}$" for k in range(len(edges))])
    above.tick_params(labelbottom=True)
    return figure


def main() -> None:
    """Train, and draw."""
    model = autoint.fit(density, NEAR, FAR, tolerance=1e-5, max_time=600, progress=False)
    print(model.error_report())
    print(write_figure(IMAGES / "idea.png", idea(model), dpi=110))


if __name__ == "__main__":
    main()
