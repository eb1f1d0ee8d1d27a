"""One training recipe for all: Adam, one-cycle schedule, cross entropy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deeptn import DeepTNError

from .data import Images


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained.

    Attributes
    ----------
    epochs : int
    lr : float
        Peak learning rate of the one-cycle schedule.
    batch : int
        Rows per step; the last batch of an epoch may be smaller.
    """

    epochs: int
    lr: float = 2e-3
    batch: int = 128

    def steps(self, rows: int) -> int:
        """Optimiser steps for a training set of so many rows."""
        return self.epochs * -(-rows // self.batch)


def train(
    model: nn.Module, data: Images, recipe: Recipe, seed: int, on_step: Callable[[], object] = lambda: None
) -> None:
    """Train a model in place.

    Parameters
    ----------
    model : nn.Module
        Parameters without ``requires_grad`` stay as they are.
    data : Images
    recipe : Recipe
    seed : int
        Of the order of the images; the same seed gives every model the same batches.
    on_step : callable
        Called after every step.

    Raises
    ------
    deeptn.DeepTNError
        If the loss is no longer finite.
    """
    rows = len(data.train_x)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=recipe.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=recipe.steps(rows))
    generator = torch.Generator().manual_seed(seed)
    loss_function = nn.CrossEntropyLoss()
    model.train()
    for _ in range(recipe.epochs):
        for rows_of_batch in torch.randperm(rows, generator=generator).split(recipe.batch):
            loss = loss_function(model(data.train_x[rows_of_batch]), data.train_y[rows_of_batch])
            if not bool(torch.isfinite(loss)):
                raise DeepTNError(
                    f"the training loss became {float(loss.detach())}; lower the learning rate {recipe.lr}"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            on_step()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch: int = 1000) -> float:
    """Share of correct classes in percent, in evaluation mode."""
    mode = model.training
    model.eval()
    right = sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(batch), y.split(batch)))
    model.train(mode)
    return 100.0 * right / len(y)


@torch.no_grad()
def mean_loss(model: nn.Module, x: Tensor, y: Tensor, batch: int = 1000) -> float:
    """Mean cross entropy, in evaluation mode."""
    mode = model.training
    model.eval()
    total = sum(
        float(nn.functional.cross_entropy(model(a), b, reduction="sum")) for a, b in zip(x.split(batch), y.split(batch))
    )
    model.train(mode)
    return total / len(y)
