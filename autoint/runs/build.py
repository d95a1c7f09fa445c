"""Networks and tasks from configuration."""

from __future__ import annotations

from dataclasses import dataclass

import pytorch_lightning as pl
import torch

from autoint.networks.encodings import AbstractEncoding
from autoint.networks.grad_nets import AbstractGradNet
from autoint.networks.integral_net import IntegralNet
from autoint.registry import GRAD_NETS, TASKS
from autoint.runs.config import RunConfig
from autoint.runs.trainers import check_trainer


@dataclass(frozen=True)
class Task:
    """What a task factory returns: the module, and its data unless only the module was asked for."""

    module: pl.LightningModule
    data: pl.LightningDataModule | None


def integral_net(
    config: RunConfig, in_features: int, out_features: int, condition: AbstractEncoding | None = None
) -> IntegralNet:
    """Build an integral network of the configured size, activation and encoding."""
    size = config.network
    return IntegralNet(
        in_features,
        out_features,
        hidden_features=size.hidden_features,
        num_layers=size.num_layers,
        activation=config.activation,
        encoding=config.encoding,
        condition=condition,
    )


def grad_net(config: RunConfig, net: IntegralNet) -> AbstractGradNet:
    """Build the configured grad network of ``net``."""
    choice = {**config.grad_net, "compile": True} if config.compile else config.grad_net
    return GRAD_NETS.build(choice, net)


def task(config: RunConfig, with_data: bool = True) -> Task:
    """Build the task's module, with initial weights from the seed, and its data."""
    if with_data:
        check_trainer(config)  # now, rather than after the data was read
    torch.manual_seed(config.seed)
    return TASKS[config.task](config, with_data, **config.options)
