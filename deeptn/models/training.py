"""Train by a recipe, in any framework: epochs, schedule, growth, early stopping, and checkpoints to resume from."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from msgspec import Raw
from msgspec.structs import astuple

from ..arrays import to_raw
from ..base import Array, Part, PathLike, decoded, previous, track, warn
from ..errors import DeepTNError, FormatError, SpecError
from ..files import NOTHING, Header, OldHeader, fingerprint, read_tensors, write_tensors
from ..network import Network
from ..recipe import Recipe

CHECKPOINT = "deeptn-checkpoint"

#: In front of the names of the best tensors in a checkpoint.
BEST = "best."

#: Largest size of what a checkpoint says of its training, in bytes.
ABOUT = 2**21


class Trainer(Protocol):
    """What a framework provides for training: a model, its optimizer, and a single step.

    Attributes
    ----------
    networks : mapping of str to Network
        Networks that currently generate weights of the model.
    steps : int
        Number of steps of an epoch.
    """

    @property
    def networks(self) -> Mapping[str, Network]: ...

    @property
    def steps(self) -> int: ...

    def grow(self, size: int, epoch: int) -> None:
        """Grow the network of every trained generated weight to `size`."""
        ...

    def batches(self, epoch: int) -> Iterable[Any]:
        """Return the batches of an epoch."""
        ...

    def step(self, batch: Any, share: float, beta: float) -> float:
        """Take a step on a batch with a share of the learning rates and Adam's first beta; return the loss."""
        ...

    def score(self) -> float | None:
        """Return how good the model is on other data, higher is better; None if there is no other data."""
        ...

    def tensors(self) -> dict[str, Array]:
        """Return everything that the next step depends on."""
        ...

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Restore what `tensors` returned; raise `FormatError` if it does not fit the model."""
        ...

    def undoing(self) -> Callable[[], None]:
        """Return what gives the user's model its present tensors and networks again."""
        ...

    def model_tensors(self) -> dict[str, Array]:
        """Return the tensors of the model alone."""
        ...

    def restore_model(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Restore what `model_tensors` returned."""
        ...


@dataclass(frozen=True)
class Epoch:
    """One epoch of training.

    Attributes
    ----------
    loss : float
        Mean loss of its steps.
    last : float
        Loss of its last step.
    score : float or None
        On the validation data, higher is better; None without.
    seconds : float
        Wall time.
    """

    loss: float
    last: float
    score: float | None
    seconds: float


@dataclass(frozen=True, repr=False)
class History:
    """What happened in training.

    Attributes
    ----------
    epochs : tuple of Epoch
        Those before an interruption included.
    best : int or None
        Index of the epoch whose parameters were kept: that with the best score; None without validation data.
    stopped : bool
        Whether `Recipe.patience` ended the training early.

    Examples
    --------
    >>> history = History((Epoch(0.9, 0.8, -0.7, 1.0), Epoch(0.7, 0.6, -0.75, 1.0)), best=0)
    >>> history, history.loss
    (History(2 epochs, loss=0.6, score=-0.7, best=0, 2 s), 0.6)
    """

    epochs: tuple[Epoch, ...]
    best: int | None = None
    stopped: bool = False

    @property
    def loss(self) -> float:
        """Loss of the last step."""
        return self.epochs[-1].last if self.epochs else math.nan

    @property
    def score(self) -> float | None:
        """Score of the parameters that were kept."""
        return None if self.best is None else self.epochs[self.best].score

    @property
    def seconds(self) -> float:
        """Wall time of all epochs."""
        return sum(epoch.seconds for epoch in self.epochs)

    def __repr__(self) -> str:
        score = "" if self.score is None else f", score={self.score:.4g}, best={self.best}"
        stopped = ", stopped=True" if self.stopped else ""
        return f"History({len(self.epochs)} epochs, loss={self.loss:.4g}{score}{stopped}, {self.seconds:.3g} s)"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"loss": self.loss, "score": self.score, "seconds": self.seconds}


def carry_out(
    recipe: Recipe,
    trainer: Trainer,
    seed: int,
    on_step: Callable[[], object] | None,
    checkpoint: PathLike | None,
    **about: Any,
) -> History:
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
        Written after every epoch; the one of the epoch before is kept beside it, see `previous`.
    **about
        Anything else that must match the checkpoint.

    Returns
    -------
    History

    Raises
    ------
    DeepTNError
        If the loss is not finite.
    FormatError
        If the checkpoint belongs to another recipe, seed or model.
    """
    networks = {name: fingerprint(net) for name, net in trainer.networks.items()}
    about = {"recipe": repr(recipe), "seed": int(seed), "steps": trainer.steps, **about, "networks": networks}
    run = _Run(recipe, trainer)
    if checkpoint is not None and Path(checkpoint).exists():
        run.resume(checkpoint, about)
    while len(run.epochs) < recipe.epochs and not run.stopped:
        run.epoch(on_step)
        if checkpoint is not None:
            run.write(checkpoint, about)
    return run.finish()


class _Run:
    """The state of a training that is interrupted and resumed."""

    def __init__(self, recipe: Recipe, trainer: Trainer):
        self.recipe, self.trainer = recipe, trainer
        self.epochs: list[Epoch] = []
        self.best: int | None = None
        self.kept: dict[str, np.ndarray] = {}

    @property
    def stopped(self) -> bool:
        """Whether the score did not rise for as many epochs as the recipe allows."""
        patience = self.recipe.patience
        return patience is not None and self.best is not None and len(self.epochs) - 1 - self.best >= patience

    def epoch(self, on_step: Callable[[], object] | None) -> None:
        number, started, losses = len(self.epochs), time.monotonic(), list[float]()
        if _grow(self.recipe, self.trainer, number):
            self.best, self.kept = None, {}  # the best of the smaller network does not fit
        steps, total = self.trainer.steps, self.recipe.epochs * self.trainer.steps
        label = f"epoch {number + 1} of {self.recipe.epochs}"
        for batch in track(self.trainer.batches(number), label, steps):
            if len(losses) == steps:
                raise DeepTNError(f"epoch {number + 1} has more than {steps} batches, as many as len(data) said")
            share, beta = self.recipe.at(number * steps + len(losses), total)
            losses.append(self.trainer.step(batch, share, beta))
            check_loss(losses[-1], self.recipe)
            if on_step is not None:
                on_step()
        if not losses:
            raise DeepTNError(f"epoch {number + 1} has no batches; the data must be the same in every epoch")
        score = self.trainer.score()
        if score is not None and not math.isfinite(score):
            raise DeepTNError(f"the score on the validation data became {score}; lower the learning rate")
        seconds = time.monotonic() - started
        self.epochs.append(Epoch(float(np.mean(losses)), losses[-1], score, seconds))
        before = None if self.best is None else self.epochs[self.best].score
        if score is not None and (before is None or score > before):
            self.best = number
            self.kept = {name: np.array(to_raw(tensor)) for name, tensor in self.trainer.model_tensors().items()}

    def finish(self) -> History:
        """Keep the best parameters."""
        if self.best is not None and self.best != len(self.epochs) - 1:
            self.trainer.restore_model(self.kept)
        return History(tuple(self.epochs), self.best, self.stopped)

    def write(self, path: PathLike, about: dict[str, Any]) -> None:
        header = {
            "format": CHECKPOINT,
            "epoch": len(self.epochs),
            "about": about,
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "best": self.best,
        }
        tensors = self.trainer.tensors() | {BEST + name: a for name, a in self.kept.items()}
        write_tensors(path, header, tensors, keep=True)

    def resume(self, path: PathLike, about: dict[str, Any]) -> None:
        epochs, best, tensors = _read(path, about)
        if len(epochs) > self.recipe.epochs:
            raise FormatError(f"{path}: the checkpoint has {len(epochs)} epochs, but the recipe {self.recipe.epochs}")
        undo = self.trainer.undoing()
        try:
            self._restore(epochs, best, tensors)
        except (DeepTNError, LookupError, ValueError, TypeError, RuntimeError) as error:
            undo()
            raise FormatError(f"{path}: the checkpoint belongs to another model: {error}") from error

    def _restore(self, epochs: list[Epoch], best: int | None, tensors: Mapping[str, np.ndarray]) -> None:
        for number in range(len(epochs)):
            _grow(self.recipe, self.trainer, number)
        self.epochs, self.best = epochs, best
        self.kept = {name.removeprefix(BEST): a for name, a in tensors.items() if name.startswith(BEST)}
        shapes = {name: array.shape for name, array in self.kept.items()}
        wanted = {name: tuple(array.shape) for name, array in self.trainer.model_tensors().items()}
        if shapes != ({} if best is None else wanted):
            raise FormatError("its best parameters have other names or shapes")
        self.trainer.restore({name: a for name, a in tensors.items() if not name.startswith(BEST)})


def about_of(loss: Any, taught: bool, features: Iterable[str], validation: Any, evaluate: Any) -> dict[str, Any]:
    """Return what a checkpoint says of the objective of a training.

    Examples
    --------
    >>> about_of("mse", False, [], None, None)
    {'loss': 'mse', 'taught': False, 'features': [], 'scored': None}
    """
    scored = "validation" if validation is not None else "evaluate" if evaluate is not None else None
    name = getattr(loss, "__qualname__", type(loss).__name__) if callable(loss) else loss
    return {"loss": name, "taught": taught, "features": list(features), "scored": scored}


def check_loss(loss: float, recipe: Recipe) -> None:
    """Raise `DeepTNError` if a loss is not finite."""
    if not math.isfinite(loss):
        raise DeepTNError(f"the training loss became {loss}; lower the learning rate (now {recipe.lr})")


def check_score(recipe: Recipe, validation: object, evaluate: object) -> None:
    """Raise `SpecError` if two things would give a score, or nothing does and the recipe needs one."""
    if validation is not None and evaluate is not None:
        raise SpecError("validation and evaluate both give a score; pass one of them")
    if recipe.patience is not None and validation is None and evaluate is None:
        raise SpecError(f"Recipe.patience = {recipe.patience} needs a score; pass validation= or evaluate=")


def check_recipe(recipe: object, teacher: object, seed: object) -> None:
    """Raise `DeepTNError` if a recipe is none or needs a teacher that was not passed, or a seed is none."""
    if not isinstance(recipe, Recipe):
        given = (
            ", ".join(f"{name}={value!r}" for name, value in recipe.items()) if isinstance(recipe, dict) else "epochs=5"
        )
        raise SpecError(f"the recipe is a {type(recipe).__name__}; write deeptn.recipe.Recipe({given})")
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise SpecError(f"the seed is a {type(seed).__name__}; expected an integer (validation=, on_step= have names)")
    if recipe.distill and teacher is None:
        raise DeepTNError(f"Recipe.distill = {recipe.distill} needs a teacher; pass teacher=")


def check_teacher(model: Collection[object], teacher: Collection[object]) -> None:
    """Warn if only the teacher has generated weights: it should be the original model."""
    if teacher and not model:
        warn("the teacher is compressed, but the model is not; write heal(small, original, data)")


class EpochData(Part, frozen=True):
    """An epoch in a checkpoint, with the fields of `Epoch`."""

    loss: float
    last: float
    score: float | None
    seconds: float


class CheckpointHeader(Header, frozen=True):
    """The header of a checkpoint."""

    epoch: int = 0
    about: Raw = NOTHING
    epochs: tuple[EpochData, ...] = ()
    best: int | None = None


class OldCheckpointHeader(OldHeader, frozen=True):
    """The header of a checkpoint of version 1 or 2."""

    epoch: int = 0
    about: Raw = NOTHING
    epochs: tuple[EpochData, ...] = ()
    best: int | None = None


def _grow(recipe: Recipe, trainer: Trainer, epoch: int) -> bool:
    sizes = [size for when, size in recipe.grow if when == epoch]
    if sizes:
        trainer.grow(max(sizes), epoch)
    return bool(sizes)


def _read(path: PathLike, about: dict[str, Any]) -> tuple[list[Epoch], int | None, dict[str, np.ndarray]]:
    """Return the epochs of a checkpoint, the best one, and its tensors."""
    try:
        header, tensors = read_tensors(path, CHECKPOINT, CheckpointHeader, OldCheckpointHeader)
        if header.best is not None and not 0 <= header.best < len(header.epochs):
            raise FormatError(f"its best epoch is {header.best} of {len(header.epochs)}")
        if len(bytes(header.about)) > ABOUT:
            raise FormatError(f"what it says of its training has more than {ABOUT:,} bytes")
        found = decoded(header.about, dict[str, Any], "its training")
        if header.epoch != len(header.epochs):
            raise FormatError(f"it is of epoch {header.epoch}, but has {len(header.epochs)} of them")
    except FormatError as error:
        raise FormatError(f"{path}: not a training checkpoint ({error}){_other(path)}") from error
    for key, expected in about.items():
        if found.get(key) != expected:
            raise FormatError(
                f"{path}: the checkpoint was written with {key} = {found.get(key)!s:.200}, expected {expected!s:.200}; "
                "name another file, and pass the model as it was at the start"
            )
    return [Epoch(*astuple(epoch)) for epoch in header.epochs], header.best, tensors


def _other(path: PathLike) -> str:
    """Name the checkpoint of the epoch before, if there is one."""
    before = previous(path)
    if len(os.fsencode(before.name)) > 255:
        return ""
    return (
        f"; the one of the epoch before is {str(before)!r}: rename it to resume from there" if before.exists() else ""
    )
