"""Train by a recipe, in any framework: epochs, schedule, growth, and checkpoints to resume from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..base import Array, PathLike
from ..errors import DeepTNError, FormatError
from ..files import fingerprint, read_tensors, write_tensors
from ..network import Network
from ..recipe import Recipe

CHECKPOINT = "deeptn-checkpoint"


class Trainer(Protocol):
    """What a framework provides for training: a model, its optimizer, and a single step.

    Attributes
    ----------
    networks : mapping of str to Network
        Networks that currently generate weights of the model.
    rows : int
        Number of rows in the training set.
    """

    @property
    def networks(self) -> Mapping[str, Network]: ...

    @property
    def rows(self) -> int: ...

    def grow(self, size: int, epoch: int) -> None:
        """Grow the network of every trained generated weight to `size`."""
        ...

    def order(self, epoch: int) -> Array:
        """Return the row indices in the order of an epoch."""
        ...

    def step(self, chosen: Array, share: float, beta: float) -> float:
        """Take a step on some rows with a share of the learning rates and Adam's first beta; return the loss."""
        ...

    def tensors(self) -> dict[str, Array]:
        """Return everything that the next step depends on."""
        ...

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Restore what `tensors` returned; raise `FormatError` if it does not fit the model."""
        ...


def carry_out(
    recipe: Recipe,
    trainer: Trainer,
    seed: int,
    on_step: Callable[[], object] | None,
    checkpoint: PathLike | None,
    **about: Any,
) -> float:
    """Train by a recipe, resuming from the checkpoint if it exists.

    Parameters
    ----------
    recipe : Recipe
    trainer : Trainer
    seed : int
        Seed of the `trainer`, recorded in the checkpoint.
    on_step : callable, optional
        Called after every step.
    checkpoint : path, optional
        Written after every epoch.
    **about
        Anything else that must match the checkpoint.

    Returns
    -------
    float
        Loss of the last step; nan if training was already complete.

    Raises
    ------
    DeepTNError
        If the loss is not finite.
    FormatError
        If the checkpoint belongs to another recipe, seed or model.
    """
    networks = {name: fingerprint(net) for name, net in trainer.networks.items()}
    about = {"recipe": repr(recipe), "seed": seed, "rows": trainer.rows, **about, "networks": networks}
    first, loss, total = 0, math.nan, recipe.steps(trainer.rows)
    if checkpoint is not None and Path(checkpoint).exists():
        first, tensors = _read(checkpoint, about)
        for epoch in range(first):
            _grow(recipe, trainer, epoch)
        try:
            trainer.restore(tensors)
        except (FormatError, KeyError) as error:
            raise FormatError(f"{checkpoint}: the checkpoint belongs to another model: {error}") from error
    for epoch in range(first, recipe.epochs):
        _grow(recipe, trainer, epoch)
        order, per_epoch = trainer.order(epoch), total // recipe.epochs
        for number in range(per_epoch):
            chosen = order[number * recipe.batch : (number + 1) * recipe.batch]
            loss = trainer.step(chosen, *recipe.at(epoch * per_epoch + number, total))
            check_loss(loss, recipe)
            if on_step is not None:
                on_step()
        if checkpoint is not None:
            write_tensors(checkpoint, {"format": CHECKPOINT, "epoch": epoch + 1, "about": about}, trainer.tensors())
    return loss


def check_loss(loss: float, recipe: Recipe) -> None:
    """Raise `DeepTNError` if a loss is not finite."""
    if not math.isfinite(loss):
        raise DeepTNError(f"the training loss became {loss}; lower the learning rate (now {recipe.lr})")


def check_teacher(recipe: Recipe, teacher: object) -> None:
    """Raise `DeepTNError` if a recipe needs a teacher and none was passed."""
    if recipe.distill and teacher is None:
        raise DeepTNError(f"Recipe.distill = {recipe.distill} needs a teacher; pass teacher=")


def _grow(recipe: Recipe, trainer: Trainer, epoch: int) -> None:
    sizes = [size for when, size in recipe.grow if when == epoch]
    if sizes:
        trainer.grow(max(sizes), epoch)


def _read(path: PathLike, about: dict[str, Any]) -> tuple[int, dict[str, np.ndarray]]:
    """Return the number of finished epochs in a checkpoint, and its tensors."""
    try:
        header, tensors = read_tensors(path, CHECKPOINT)
        epoch, found = int(header["epoch"]), dict(header["about"])
    except (FormatError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: not a training checkpoint ({error})") from error
    for key, expected in about.items():
        if found.get(key) != expected:
            raise FormatError(
                f"{path}: the checkpoint was written with {key} = {found.get(key)}, expected {expected}; "
                "name another file, and pass the model as it was at the start"
            )
    return epoch, tensors
