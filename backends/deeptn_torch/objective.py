"""The loss of a batch: of labels, of a teacher's outputs, and of a teacher's features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deeptn.errors import DeepTNError, SpecError
from deeptn.models import Batch, check_labels, loss_for, select
from deeptn.recipe import Recipe

from .batches import explain_dtype, logits_of, moved

#: ``"cross_entropy"``, ``"mse"``, or a function of outputs and labels; None chooses by the dtype of the labels.
Loss: TypeAlias = str | Callable[[Any, Any], Tensor] | None

#: The class number that `torch.nn.functional.cross_entropy` ignores.
IGNORED = -100


class Objective:
    """The loss of a batch for a model, and possibly a teacher."""

    def __init__(
        self, model: nn.Module, teacher: nn.Module | None, recipe: Recipe, loss: Loss, features: Iterable[str]
    ):
        self.model, self.teacher, self.recipe, self.loss = model, teacher, recipe, loss
        self.features = _named(model, teacher, features)
        self._seen: dict[nn.Module, Any] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep the outputs of the layers that are features."""

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            self._seen[module] = logits_of(output)

        with ExitStack() as stack:
            for module in {id(module): module for pair in self.features.values() for module in pair}.values():
                stack.callback(module.register_forward_hook(keep).remove)
            yield

    def __call__(self, given: Any) -> Tensor:
        batch = Batch.of(moved(given, self.model))
        self._seen.clear()
        try:
            outputs = self.model(*batch.args, **batch.kwargs)
        except RuntimeError as error:
            explain_dtype(error, batch, self.model)
            raise
        parts: list[Tensor] = []
        # Without labels, a teacher has classes only if the user says so.
        kind, share = "cross_entropy" if self.loss == "cross_entropy" else "mse", self._share(batch)
        if batch.target is not None:
            loss, kind = self._of_labels(outputs, batch.target)
            parts.append((1 - share) * loss)
        if self.teacher is not None and (share or self.features):
            with torch.no_grad():
                wanted = self.teacher(*batch.args, **batch.kwargs)
            if share:
                parts.append(share * self._of_teacher(outputs, wanted, kind))
            if self.features:
                parts.append(self.recipe.features * self._of_features())
        if not parts:
            raise SpecError("the batches have no labels: pass (inputs, labels), or a teacher")
        return torch.stack(parts).sum()

    def _share(self, batch: Batch) -> float:
        """Return the share of the teacher in the loss: all of it without labels, or nothing beside features."""
        if self.teacher is None:
            return 0.0
        return self.recipe.distill if batch.target is not None or self.features else 1.0

    def _of_labels(self, outputs: Any, target: Any) -> tuple[Tensor, str]:
        integer = isinstance(target, Tensor) and not target.is_floating_point() and not target.is_complex()
        if callable(self.loss):
            loss = self.loss(outputs, target)
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                came = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
                raise SpecError(f"the loss must return a tensor with one entry, got {came}")
            return loss.squeeze(), "cross_entropy" if integer else "mse"
        found = _checked(outputs, "the model")
        kind = loss_for(self.loss, found, target, integer)
        if kind == "mse":
            return F.mse_loss(found, target.to(found.dtype)), kind
        used = target[target != IGNORED]
        if not used.numel():
            return found.sum() * 0, kind
        check_labels(int(used.min()), int(used.max()), found.shape[-1])
        return F.cross_entropy(found.flatten(0, -2), target.long().flatten(), ignore_index=IGNORED), kind

    def _of_teacher(self, outputs: Any, wanted: Any, kind: str) -> Tensor:
        found, goal = _checked(outputs, "the model"), _checked(wanted, "the teacher")
        if found.shape != goal.shape:
            raise SpecError(
                f"the teacher returned shape {tuple(goal.shape)}, but the model {tuple(found.shape)}; they must agree"
            )
        if kind == "mse":
            return F.mse_loss(found, goal)
        heat = self.recipe.temperature
        logits, goals = (F.log_softmax(z.flatten(0, -2) / heat, -1) for z in (found, goal))
        return heat**2 * F.kl_div(logits, goals, reduction="batchmean", log_target=True)

    def _of_features(self) -> Tensor:
        gaps = []
        for name, (own, other) in self.features.items():
            found, goal = self._seen.get(own), self._seen.get(other)
            if found is None or goal is None or found.shape != goal.shape:
                shapes = [None if one is None else tuple(one.shape) for one in (found, goal)]
                raise SpecError(
                    f"feature {name!r}: the model returned {shapes[0]} there, the teacher {shapes[1]} (None: nothing); "
                    "choose layers that both call, with outputs of the same shape"
                )
            gaps.append(F.mse_loss(found, goal) / goal.square().mean().clamp_min(torch.finfo(goal.dtype).tiny))
        return torch.stack(gaps).mean()


def _checked(outputs: Any, whose: str) -> Tensor:
    found = logits_of(outputs)
    if found is None:
        raise SpecError(f"{whose} returned a {type(outputs).__name__} without a tensor; pass loss= as a function")
    return found


def _named(
    model: nn.Module, teacher: nn.Module | None, features: Iterable[str]
) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Return the modules whose outputs are compared, by name."""
    features = [features] if isinstance(features, str) else list(features)
    if features and teacher is None:
        raise DeepTNError("features are those of a teacher; pass teacher=")
    if teacher is None:
        return {}
    own, other = dict(model.named_modules()), dict(teacher.named_modules())
    both = [name for name in own if name in other]
    names = [name for found in select(features, both, "features").values() for name in found]
    return {name: (own[name], other[name]) for name in names}
