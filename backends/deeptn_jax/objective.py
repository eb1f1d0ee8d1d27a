"""The loss of a batch: of labels, of a teacher's outputs, and of a teacher's features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from deeptn.errors import SpecError
from deeptn.models import check_labels, loss_for
from deeptn.recipe import Recipe

from .view import is_array

#: ``"cross_entropy"``, ``"mse"``, or a function of outputs and labels; None chooses by the dtype of the labels.
Loss: TypeAlias = str | Callable[[Any, Any], jax.Array] | None

#: The class number that cross entropy ignores, as in PyTorch.
IGNORED = -100


@dataclass(frozen=True)
class Objective:
    """How outputs, labels and a teacher make a loss."""

    recipe: Recipe
    loss: Loss = None
    taught: bool = False
    features: tuple[str, ...] = ()

    def share(self, target: Any) -> float:
        """Return the share of the teacher in the loss: all of it without labels, or nothing beside features."""
        if not self.taught:
            return 0.0
        return self.recipe.distill if target is not None or self.features else 1.0

    def __call__(self, outputs: Any, target: Any, wanted: Any = None, own: Any = None, other: Any = None) -> jax.Array:
        """Return the loss; `wanted` are the teacher's outputs, `own` and `other` the features of both."""
        parts: list[jax.Array] = []
        # Without labels, a teacher has classes only if the user says so.
        kind, share = "cross_entropy" if self.loss == "cross_entropy" else "mse", self.share(target)
        if target is not None:
            loss, kind = self._of_labels(outputs, target)
            parts.append((1 - share) * loss)
        if share:
            parts.append(share * self._of_teacher(outputs, wanted, kind))
        if self.features:
            parts.append(self.recipe.features * self._of_features(own, other))
        if not parts:
            raise SpecError("the batches have no labels: pass (inputs, labels), or a teacher")
        return sum(parts[1:], parts[0])

    def check(self, outputs: Any, target: Any) -> None:
        """Raise `SpecError` if class numbers are out of range, which JAX would not notice; outputs may be shapes."""
        labels = None if target is None else np.asarray(target)
        if labels is None or labels.dtype.kind not in "iu" or callable(self.loss) or self.loss == "mse":
            return
        used = labels[labels != IGNORED]
        if used.size:
            check_labels(int(used.min()), int(used.max()), logits_of(outputs, "the model").shape[-1])

    def _of_labels(self, outputs: Any, target: Any) -> tuple[jax.Array, str]:
        integer = not jnp.issubdtype(jnp.asarray(target).dtype, jnp.inexact)
        if callable(self.loss):
            loss = jnp.asarray(self.loss(outputs, target))
            if loss.size != 1:
                raise SpecError(f"the loss must return an array with one entry, got {loss.shape}")
            return _wide(loss).reshape(()), "cross_entropy" if integer else "mse"
        found = logits_of(outputs, "the model")
        kind = loss_for(self.loss, found, target, integer)
        if kind == "mse":
            return jnp.mean((_wide(found) - target.astype(_wide(found).dtype)) ** 2), kind
        counts = target != IGNORED
        chosen = jnp.where(counts, target, jnp.zeros_like(target))[..., None]
        losses = _wide(-jnp.take_along_axis(jax.nn.log_softmax(found), chosen, -1)[..., 0])
        total = jnp.where(counts, losses, jnp.zeros_like(losses)).sum()
        return total / jnp.maximum(counts.sum().astype(losses.dtype), 1), kind

    def _of_teacher(self, outputs: Any, wanted: Any, kind: str) -> jax.Array:
        found, goal = logits_of(outputs, "the model"), logits_of(wanted, "the teacher")
        if found.shape != goal.shape:
            raise SpecError(f"the teacher returned shape {goal.shape}, but the model {found.shape}; they must agree")
        found, goal = _wide(found), _wide(goal)
        if kind == "mse":
            return jnp.mean((found - goal) ** 2)
        heat = self.recipe.temperature
        logits, goals = (jax.nn.log_softmax(z / heat) for z in (found, goal))
        return heat**2 * (jnp.exp(goals) * (goals - logits)).sum(-1).mean()

    def _of_features(self, own: Mapping[str, Any], other: Mapping[str, Any]) -> jax.Array:
        gaps = []
        for name in self.features:
            found, goal = own.get(name), other.get(name)
            if found is None or goal is None or found.shape != goal.shape:
                shapes = [None if one is None else tuple(one.shape) for one in (found, goal)]
                raise SpecError(
                    f"feature {name!r}: the model returned {shapes[0]} there, the teacher {shapes[1]} (None: nothing); "
                    "choose layers that both call, with outputs of the same shape"
                )
            found, goal = _wide(found), _wide(goal)
            gaps.append(jnp.mean((found - goal) ** 2) / jnp.maximum(jnp.mean(goal**2), jnp.finfo(goal.dtype).tiny))
        return jnp.stack(gaps).mean()


def _wide(array: Any) -> jax.Array:
    """Convert half precision to float32, so that all parts of a loss have one dtype."""
    found = jnp.asarray(array)
    return found.astype("float32") if found.dtype.itemsize < 4 else found


def logits_of(outputs: Any, whose: str) -> Any:
    """Return the first array that a model returns."""
    found = next((leaf for leaf in jax.tree.leaves(outputs) if is_array(leaf) or isinstance(leaf, jax.Array)), None)
    if found is None:
        raise SpecError(f"{whose} returned a {type(outputs).__name__} without an array; pass loss= as a function")
    return found
