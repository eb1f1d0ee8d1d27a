"""Train a classifier by a recipe; your own loop works just as well."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deeptn.arrays import from_raw
from deeptn.base import PathLike
from deeptn.errors import DeepTNError, FormatError, SpecError
from deeptn.init import weight_exponents
from deeptn.models import carry_out, check_loss, check_teacher
from deeptn.network import Network
from deeptn.recipe import Recipe

from .layers import TNLayer, layers_of


class Examples(Protocol):
    """A training set: inputs of shape (N, ...) and class numbers of shape (N,)."""

    @property
    def train_x(self) -> Tensor: ...

    @property
    def train_y(self) -> Tensor: ...


def train(
    model: nn.Module,
    data: Examples,
    recipe: Recipe,
    seed: int,
    on_step: Callable[[], object] | None = None,
    *,
    teacher: nn.Module | None = None,
    checkpoint: PathLike | None = None,
) -> None:
    """Train a classifier in place with Adam and cross entropy.

    Parameters
    ----------
    model : nn.Module
        Parameters without ``requires_grad`` stay as they are.
    data : object
        Has tensors ``train_x`` of shape (N, ...) and ``train_y`` of shape (N,), the class numbers.
    recipe, seed, on_step, checkpoint
        As for `deeptn.models.carry_out`; the seed determines the order of the rows, for every model alike.
    teacher : nn.Module, optional
        For ``recipe.distill``; used in evaluation mode, without gradients.

    Raises
    ------
    deeptn.DeepTNError
        As for `deeptn.models.carry_out`; also if a teacher is missing or no parameter can be trained. `SpecError` if a
        weight cannot decay or grow as the recipe requires.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from deeptn_torch import TNLinear
    >>> data = SimpleNamespace(train_x=torch.randn(32, 8), train_y=torch.arange(32) % 2)
    >>> model = nn.Sequential(TNLinear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> train(model, data, Recipe(epochs=2, batch=16), seed=0)
    >>> model.training
    False
    """
    check_teacher(recipe, teacher)
    if not (hasattr(data, "train_x") and hasattr(data, "train_y")):
        raise SpecError(
            f"data must have tensors train_x and train_y, got {type(data).__name__}; "
            "write types.SimpleNamespace(train_x=x, train_y=y)"
        )
    _check(model, recipe, checkpoint is not None)
    taught = teacher is not None and teacher.training
    model.train()
    if teacher is not None:
        teacher.eval()
    carry_out(recipe, _Trainer(model, data, recipe, seed, teacher), seed, on_step, checkpoint)
    model.eval()
    if teacher is not None:
        teacher.train(taught)


class _Trainer:
    """The `deeptn.models.Trainer` for PyTorch."""

    def __init__(self, model: nn.Module, data: Examples, recipe: Recipe, seed: int, teacher: nn.Module | None):
        self.model, self.data, self.recipe, self.teacher = model, data, recipe, teacher
        self.generator = torch.Generator().manual_seed(seed)
        self.optimizer: Any = torch.optim.Adam(core_groups(model, recipe))
        self.rows = len(data.train_x)

    @property
    def networks(self) -> dict[str, Network]:
        return {name: part.network for name, part in self.model.named_modules() if isinstance(part, TNLayer)}

    def grow(self, size: int, epoch: int) -> None:
        """Grow the trained layers; Adam keeps its state for all parameters that remain."""
        for layer in _trained(self.model):
            layer.grow(size)
        before, self.optimizer = self.optimizer, torch.optim.Adam(core_groups(self.model, self.recipe))
        kept = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        self.optimizer.state.update({p: state for p, state in before.state.items() if id(p) in kept})

    def order(self, epoch: int) -> Tensor:
        return torch.randperm(self.rows, generator=self.generator)

    def step(self, chosen: Tensor, share: float, beta: float) -> float:
        groups = self.optimizer.param_groups
        for group in groups:
            group["lr"], group["betas"] = group["peak"] * share, (beta, 0.999)
        x, y = self.data.train_x[chosen], self.data.train_y[chosen]
        loss = self._loss(x, y)
        found = float(loss.detach())
        check_loss(found, self.recipe)  # before the step, so that an error leaves the model unchanged
        self.optimizer.zero_grad()
        loss.backward()
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_((p for group in groups for p in group["params"]), self.recipe.clip)
        self.optimizer.step()
        if self.recipe.decay:
            shrink(self.model, 1.0 - groups[0]["lr"] * self.recipe.decay)
        return found

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        recipe, logits = self.recipe, self.model(x)
        loss = F.cross_entropy(logits, y)
        if self.teacher is None or not recipe.distill:
            return loss
        with torch.no_grad():
            wanted = F.log_softmax(self.teacher(x) / recipe.temperature, 1)
        found = F.log_softmax(logits / recipe.temperature, 1)
        divergence = F.kl_div(found, wanted, reduction="batchmean", log_target=True)
        return (1 - recipe.distill) * loss + recipe.distill * recipe.temperature**2 * divergence

    def tensors(self) -> dict[str, Tensor]:
        found = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{number}.{key}": value for key, value in state.items()}
        return found | {"generator": self.generator.get_state(), "rng": torch.get_rng_state()}

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        found = {name: from_raw(array, "torch") for name, array in tensors.items()}
        optimizer = self.optimizer.state_dict() | {"state": {}}
        for name, tensor in found.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".")
                optimizer["state"].setdefault(int(number), {})[key] = tensor
        try:
            self.model.load_state_dict({name[6:]: found[name] for name in found if name.startswith("model.")})
            self.optimizer.load_state_dict(optimizer)
        except (RuntimeError, ValueError) as error:
            raise FormatError(str(error)) from error
        self.generator.set_state(found["generator"])
        torch.set_rng_state(found["rng"])


def core_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Return parameter groups for an optimizer: all cores, with ``recipe.core_lr``, then all other parameters.

    Each has ``params`` (those with ``requires_grad``), ``lr`` and ``peak``, the peak learning rate.

    Examples
    --------
    >>> from deeptn_torch import TNLinear
    >>> groups = core_groups(nn.Sequential(TNLinear(8, 8), nn.Linear(8, 2)), Recipe(epochs=1, lr=0.001, core_lr=0.01))
    >>> [(len(group["params"]), group["lr"]) for group in groups]
    [(10, 0.01), (3, 0.001)]
    """
    found = {id(core): core for layer in layers_of(model) for core in layer.cores.parameters() if core.requires_grad}
    cores = list(found.values())
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in found]
    return [{"params": params, "lr": lr, "peak": lr} for params, lr in zip((cores, others), recipe.rates)]


def _trained(model: nn.Module) -> list[TNLayer]:
    return [layer for layer in layers_of(model) if any(core.requires_grad for core in layer.cores.parameters())]


def _check(model: nn.Module, recipe: Recipe, stored: bool) -> None:
    """Raise before the first step if a later one would fail."""
    if not any(p.requires_grad for p in model.parameters()):
        raise DeepTNError("no parameter of the model has requires_grad; there is nothing to train")
    for name, value in model.state_dict().items() if stored else ():
        if not isinstance(value, Tensor):
            raise DeepTNError(f"checkpoints store tensors; {name!r} of the state_dict is not one, so omit checkpoint=")
    if recipe.decay:
        shrink(model, 1.0)
    if recipe.grow:
        held: set[int] = set()
        for layer in _trained(model):
            cores = {id(core) for core in layer.cores.parameters()}
            if cores & held:
                raise SpecError("two layers share cores, which growth would untie; train them without Recipe.grow")
            held |= cores
            trial = copy.deepcopy(layer)
            with torch.random.fork_rng(devices=()):
                for _, size in recipe.grow:
                    trial.grow(size)


def shrink(model: nn.Module, factor: float) -> None:
    """Scale every generated weight with trainable cores by a factor, by scaling the cores of its last stage.

    Raises `SpecError` if the last stage of a network shares parameters with others, or layers share only some cores.

    Examples
    --------
    >>> from deeptn_torch import TNLinear
    >>> layer = TNLinear(8, 8)
    >>> before = layer.weight.detach()
    >>> shrink(layer, 0.5)
    >>> torch.allclose(layer.weight, before / 2, atol=1e-6)
    True
    """
    done: set[int] = set()
    for layer in layers_of(model):
        own = {id(core) for core in layer.cores.parameters()}
        if own <= done:  # all of them shared with an earlier layer
            continue
        if own & done:
            raise SpecError("two layers share some of their cores, so their weights cannot be scaled separately")
        done |= own
        powers = weight_exponents(layer.network.spec)
        with torch.enable_grad():  # computes constrained cores; requires_grad then tells whether they train
            cores = {name: layer.cores[name] for name in powers}
        if all(core.requires_grad for core in cores.values()):
            layer.load_cores({name: core.detach() * factor ** powers[name] for name, core in cores.items()})
