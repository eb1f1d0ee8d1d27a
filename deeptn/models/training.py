"""Training by a recipe, in any framework: the epochs, the schedule, growth, and checkpoints to go on from."""

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
    """What a framework brings to training: a model, its optimizer, and one step.

    Attributes
    ----------
    networks : mapping of str to Network
        What generates weights of the model now.
    rows : int
        Of the training set.
    """

    @property
    def networks(self) -> Mapping[str, Network]: ...

    @property
    def rows(self) -> int: ...

    def grow(self, size: int, epoch: int) -> None:
        """Let every generated weight that is trained grow to a size."""
        ...

    def order(self, epoch: int) -> Array:
        """Return the numbers of the rows in the order of an epoch."""
        ...

    def step(self, chosen: Array, share: float, beta: float) -> float:
        """Do a step on some rows with a share of the learning rates and Adam's first beta; return the loss."""
        ...

    def tensors(self) -> dict[str, Array]:
        """Return all that the next step depends on."""
        ...

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Take back what `tensors` gave; `FormatError` if it does not fit the model."""
        ...


def carry_out(
    recipe: Recipe,
    trainer: Trainer,
    seed: int,
    on_step: Callable[[], object],
    checkpoint: PathLike | None,
    **about: Any,
) -> float:
    """Train by a recipe, from a checkpoint on if there is one.

    Parameters
    ----------
    recipe : Recipe
    trainer : Trainer
    seed : int
        Of the `trainer`, for the checkpoint.
    on_step : callable
        Called after every step.
    checkpoint : path, optional
        Written after every epoch.
    **about
        Whatever else a checkpoint has to agree on.

    Returns
    -------
    float
        Loss of the last step; nan if the checkpoint left nothing to do.

    Raises
    ------
    DeepTNError
        If the loss is not finite.
    FormatError
        If the checkpoint is none of this recipe, seed and model.
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
            raise FormatError(f"{checkpoint}: a checkpoint of another model: {error}") from error
    for epoch in range(first, recipe.epochs):
        _grow(recipe, trainer, epoch)
        order, per_epoch = trainer.order(epoch), total // recipe.epochs
        for number in range(per_epoch):
            chosen = order[number * recipe.batch : (number + 1) * recipe.batch]
            loss = trainer.step(chosen, *recipe.at(epoch * per_epoch + number, total))
            check_loss(loss, recipe)
            on_step()
        if checkpoint is not None:
            write_tensors(checkpoint, {"format": CHECKPOINT, "epoch": epoch + 1, "about": about}, trainer.tensors())
    return loss


def check_loss(loss: float, recipe: Recipe) -> None:
    """Raise `DeepTNError` if a loss is not finite."""
    if not math.isfinite(loss):
        raise DeepTNError(f"the training loss became {loss}; lower the learning rate {recipe.lr}")


def check_teacher(recipe: Recipe, teacher: object) -> None:
    """Raise `DeepTNError` if a recipe asks for a teacher and there is none."""
    if recipe.distill and teacher is None:
        raise DeepTNError(f"Recipe.distill = {recipe.distill} compares with a teacher; pass teacher=")


def _grow(recipe: Recipe, trainer: Trainer, epoch: int) -> None:
    sizes = [size for when, size in recipe.grow if when == epoch]
    if sizes:
        trainer.grow(max(sizes), epoch)


def _read(path: PathLike, about: dict[str, Any]) -> tuple[int, dict[str, np.ndarray]]:
    """How many epochs a checkpoint has done, and its tensors."""
    try:
        header, tensors = read_tensors(path, CHECKPOINT)
        epoch, found = int(header["epoch"]), dict(header["about"])
    except (FormatError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: no checkpoint of training ({error})") from error
    for key, expected in about.items():
        if found.get(key) != expected:
            raise FormatError(
                f"{path}: a checkpoint of another {key}: {found.get(key)}, expected {expected}; "
                "name another file, and pass the model as it was at the start"
            )
    return epoch, tensors
