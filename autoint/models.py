"""The models of a scene, from configuration."""

from __future__ import annotations

import math
from typing import Any

from autoint import build
from autoint.config import RunConfig
from autoint.integral_volume import IntegralVolume, Training
from autoint.nerf import Nerf
from autoint.object_volume import ObjectVolume
from autoint.occupancy import Occupancy
from autoint.radiance_field import RadianceField
from autoint.registry import ACTIVATIONS, COLORS, ENCODINGS, MODELS, PLACEMENTS, at_least_one
from autoint.volume import AbstractVolume


@MODELS.register("autoint")
def autoint(
    config: RunConfig,
    occupancy: Occupancy,
    *,
    jitter: bool = True,
    direction_noise: float = 0.0,
    anneal: int = 1,
    nonnegative: float = 0.0,
    consistent: float = 0.0,
    density_frequencies: int | None = None,
) -> AbstractVolume:
    """Integral networks along the rays.

    Args:
        config: the run's configuration.
        occupancy: where the scene is.
        jitter: fit=integral_net moves the edges at random.
        direction_noise: standard deviation of what is added to the direction that the networks are told, in training.
        anneal: every section begins as this many (a power of two), for fit=integral_net.
        nonnegative: weight of a penalty on negative densities inside sections.
        consistent: weight of a penalty on densities that depend on the direction.
        density_frequencies: bands of the direction for the density network, with networks=2; None as for colour.
    """
    options = config.options
    if anneal < 1 or not math.log2(anneal).is_integer():
        raise ValueError(f"model.anneal={anneal} must be a power of two, such as 4; 1 does not anneal")
    for key, value in {
        "direction_noise": direction_noise,
        "nonnegative": nonnegative,
        "consistent": consistent,
    }.items():
        if value < 0:
            raise ValueError(f"model.{key}={value} cannot be negative; 0 leaves it out")
    if density_frequencies is not None and options["networks"] == 1:
        raise ValueError(f"model.density_frequencies={density_frequencies} needs networks=2, density and colour apart")
    if config.fit == "grad_net" and options["samples"] % options["sections"]:
        fits = max(1, options["samples"] // options["sections"]) * options["sections"]
        raise ValueError(
            f"samples={options['samples']} must be a multiple of sections={options['sections']}, for instance "
            f"samples={fits}"
        )
    directions = options["direction_encoding"]
    color = COLORS.build(options["color"], ENCODINGS.build(directions, 3))
    of_density = directions
    if density_frequencies is not None:
        of_density = {**directions, "num_frequencies": density_frequencies}
    heads = (
        [(color.outputs, directions)]
        if options["networks"] == 1
        else [(1, of_density), (color.outputs - 1, directions)]
    )
    nets = [build.integral_net(config, 3, outputs, ENCODINGS.build(choice, 3)) for outputs, choice in heads]
    return IntegralVolume(
        nets,
        [build.grad_net(config, net) for net in nets],
        PLACEMENTS.build(options["placement"], options["sections"], occupancy),
        color,
        occupancy,
        Training(
            fit=config.fit,
            samples=options["samples"] // options["sections"],
            jitter=jitter,
            direction_noise=direction_noise,
            anneal=anneal,
            nonnegative=nonnegative,
            consistent=consistent,
        ),
    )


@MODELS.register("object")
def object_(config: RunConfig, occupancy: Occupancy, *, nodes: int = 2) -> AbstractVolume:
    """One field that all directions share, averaged over sections and decoded afterwards.

    Args:
        config: the run's configuration; fit, grad_net, color and networks say nothing to this model.
        occupancy: where the scene is.
        nodes: where a section's mean of the encoding is taken.
    """
    at_least_one(**{"model.nodes": nodes})
    options = config.options
    field = _field(config, config.encoding, options["direction_encoding"])
    placement = PLACEMENTS.build(options["placement"], options["sections"], occupancy)
    return ObjectVolume(field, nodes, placement, occupancy)


def _field(config: RunConfig, encoding: Any, directions: Any) -> RadianceField:
    return RadianceField(
        ENCODINGS.build(encoding, 3),
        ENCODINGS.build(directions, 3),
        config.network.hidden_features,
        config.network.num_layers,
        ACTIVATIONS.build(config.activation),
    )


@MODELS.register("nerf")
def nerf(config: RunConfig, occupancy: Occupancy, *, coarse: int = 64, fine: int = 128) -> AbstractVolume:
    """Neural radiance fields (Mildenhall et al. 2020): the same widths, bands and renderer, by quadrature.

    Args:
        config: the run's configuration.
        occupancy: where the scene is.
        coarse: stratified samples per ray.
        fine: samples more, where the coarse ones found something.
    """
    at_least_one(**{"model.coarse": coarse, "model.fine": fine})
    # NeRF's own encoding, with as many bands: normalising is for derivatives, and grids came later.
    encoding, directions = (
        {"name": "positional", "num_frequencies": choice.get("num_frequencies", 10)}
        for choice in (config.encoding, config.options["direction_encoding"])
    )
    fields = [_field(config, encoding, directions) for _ in range(2)]
    return Nerf(fields, coarse, fine, occupancy)
