"""How to train a model: plain data and a learning-rate schedule, the same for every framework."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, SupportsFloat

from .base import positive_int
from .errors import SpecError, near_match

SCHEDULES = ("one-cycle", "cosine", "constant")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train a model with generated weights; used by ``deeptn_torch.train`` and ``deeptn_jax.train``.

    The optimizer is Adam. Cores can have their own learning rate, because a small tensor that generates a large weight
    needs larger steps than a dense one.

    Parameters
    ----------
    epochs : int
    lr : float
        Peak learning rate.
    core_lr : float, optional
        Peak learning rate of the cores, by default `lr`.
    batch : int
        Rows per step; the last batch of an epoch may be smaller.
    schedule : {"one-cycle", "cosine", "constant"}
        ``"one-cycle"``: cosine from lr/25 up to the peak and down to lr/250,000, while Adam's first beta goes from
        0.95 down to 0.85 and back (PyTorch's ``OneCycleLR``). ``"cosine"``: linear warmup from 0, then cosine down
        to 0. ``"constant"``: linear warmup, then constant.
    warmup : float
        Fraction of the steps during which the learning rate rises.
    clip : float, optional
        Maximum norm of the gradient of all parameters together.
    decay : float
        Decoupled decay of every generated weight: a step multiplies W (not the cores) by ``1 - learning rate * decay``.
    distill : float
        Fraction of the loss that comes from a teacher, from 0 to 1: the Kullback-Leibler divergence between the class
        probabilities at `temperature`, times ``temperature**2``; the mean squared difference, if the outputs are no
        logits. Without labels, all of the loss comes from the teacher.
    temperature : float
    features : float
        Weight of the features: the squared difference between what chosen layers of the model and of the teacher
        return, relative to the teacher's, is added to the loss.
    patience : int, optional
        End after so many epochs without a better score on the validation data.
    grow : tuple of (epoch, size)
        Before that epoch (from 0), every smaller generated weight grows to that size (`deeptn.fitting.grow`).

    Notes
    -----
    Sources: Smith & Topin, arXiv:1708.07120 (one cycle); Loshchilov & Hutter, arXiv:1608.03983 (cosine) and
    arXiv:1711.05101 (decoupled decay); Hinton, Vinyals & Dean, arXiv:1503.02531 (distillation).

    Examples
    --------
    >>> recipe = Recipe(epochs=5, lr=2e-3, core_lr=1e-2)
    >>> recipe.steps(1000), [round(recipe.at(step, 40)[0], 3) for step in (0, 11, 39)]
    (40, [0.04, 1.0, 0.0])
    """

    epochs: int
    lr: float = 2e-3
    core_lr: float | None = None
    batch: int = 128
    schedule: str = "one-cycle"
    warmup: float = 0.3
    clip: float | None = None
    decay: float = 0.0
    distill: float = 0.0
    temperature: float = 4.0
    features: float = 1.0
    patience: int | None = None
    grow: tuple[tuple[int, int], ...] = ()

    def __post_init__(self):
        for name in ("epochs", "batch"):
            object.__setattr__(self, name, positive_int(getattr(self, name), f"Recipe.{name}"))
        for name in ("lr", "core_lr", "clip", "temperature"):
            self._number(name, 0.0, math.inf, "a positive number", above=True)
        for name in ("decay", "features"):
            self._number(name, 0.0, math.inf, "a number, 0 or more")
        if self.patience is not None:
            object.__setattr__(self, "patience", positive_int(self.patience, "Recipe.patience"))
        for name in ("warmup", "distill"):
            self._number(name, 0.0, 1.0, "a number from 0 to 1")
        if self.schedule not in SCHEDULES:
            raise SpecError(f"Recipe.schedule = {self.schedule!r}; {near_match(str(self.schedule), SCHEDULES)}")
        try:
            grow = tuple((epoch, positive_int(size, "a size of Recipe.grow")) for epoch, size in self.grow)
        except (TypeError, ValueError):
            grow = ((None, 0),)
        if not all(type(epoch) is int and 0 <= epoch < self.epochs for epoch, _ in grow):
            raise SpecError(
                f"Recipe.grow = {self.grow!r}; expected pairs (epoch, size) with epochs from 0 to {self.epochs - 1}, "
                "like ((2, 4), (4, 8))"
            )
        object.__setattr__(self, "grow", tuple(sorted(grow)))
        fastest = max(self.rates)
        if self.decay * fastest >= 1.0:
            raise SpecError(
                f"Recipe.decay = {self.decay} at a learning rate of {fastest} would remove all of W in one step; "
                f"expected less than {1 / fastest:g}"
            )

    def _number(self, name: str, low: float, high: float, expected: str, above: bool = False) -> None:
        value: Any = getattr(self, name)
        if value is None and name in ("core_lr", "clip"):
            return
        number = float(value) if isinstance(value, SupportsFloat) and not isinstance(value, bool) else math.nan
        if not low <= number <= high or number == math.inf or (above and number == low):
            raise SpecError(f"Recipe.{name} = {value!r}; expected {expected}")
        object.__setattr__(self, name, number)

    @property
    def rates(self) -> tuple[float, float]:
        """Peak learning rates of the cores and of all other parameters."""
        return self.lr if self.core_lr is None else self.core_lr, self.lr

    def steps(self, rows: int) -> int:
        """Return the number of optimizer steps for a training set of `rows` rows."""
        return self.epochs * -(-rows // self.batch)

    def at(self, step: int, total: int) -> tuple[float, float]:
        """Return the fraction of the peak learning rate and Adam's first beta at a step (from 0) of `total`."""
        if self.schedule == "one-cycle":
            top, last = self.warmup * total - 1, total - 1
            if step <= top:
                share = step / top if top > 0 else 1.0
                return _cosine(1 / 25, 1.0, share), _cosine(0.95, 0.85, share)
            share = (step - top) / (last - top) if last > top else 1.0
            return _cosine(1.0, 1 / 250_000, share), _cosine(0.85, 0.95, share)
        rising = self.warmup * total
        if step < rising:
            return (step + 1) / (rising + 1), 0.9
        if self.schedule == "constant":
            return 1.0, 0.9
        return _cosine(1.0, 0.0, (step - rising) / max(total - rising, 1)), 0.9


#: How `heal` trains if nobody says: a few epochs at a moderate rate, half of the loss from the teacher.
HEALING = Recipe(epochs=10, lr=1e-3, core_lr=2e-3, distill=0.5, temperature=2.0)


def _cosine(start: float, end: float, share: float) -> float:
    """Interpolate from one number to another along half a cosine."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
