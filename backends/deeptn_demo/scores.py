"""Accuracy and loss of a classifier."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch: int = 1000) -> float:
    """Return the percentage of correct classes, in evaluation mode."""
    return 100.0 * _mean(lambda logits, y: (logits.argmax(1) == y).sum(), model, x, y, batch)


def mean_loss(model: nn.Module, x: Tensor, y: Tensor, batch: int = 1000) -> float:
    """Return the mean cross entropy, in evaluation mode."""
    return _mean(lambda logits, y: F.cross_entropy(logits, y, reduction="sum"), model, x, y, batch)


@torch.no_grad()
def _mean(measure: Callable[[Tensor, Tensor], Tensor], model: nn.Module, x: Tensor, y: Tensor, batch: int) -> float:
    mode = model.training
    model.eval()
    total = sum(float(measure(model(a), b)) for a, b in zip(x.split(batch), y.split(batch)))
    model.train(mode)
    return total / len(y)
