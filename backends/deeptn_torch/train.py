"""Train a model by a recipe, and heal a compressed one; your own loop works just as well."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, SupportsFloat

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from deeptn.arrays import from_raw
from deeptn.base import PathLike
from deeptn.errors import DeepTNError, FormatError, SpecError
from deeptn.init import weight_exponents
from deeptn.models import (
    Data,
    History,
    about_of,
    as_data,
    carry_out,
    check_loss,
    check_recipe,
    check_score,
    check_teacher,
    rows_of,
)
from deeptn.network import Network
from deeptn.recipe import HEALING, Recipe

from .layers import TNLayer, layers_of
from .objective import Loss, Objective


def train(
    model: nn.Module,
    data: Any,
    recipe: Recipe,
    seed: int = 0,
    on_step: Callable[[], object] | None = None,
    *,
    loss: Loss = None,
    teacher: nn.Module | None = None,
    features: Iterable[str] = (),
    validation: Any = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    checkpoint: PathLike | None = None,
) -> History:
    """Train a model in place with Adam.

    Parameters
    ----------
    model : nn.Module
        Parameters without ``requires_grad`` stay as they are.
    data : object
        Inputs and labels with one row per example: a tuple ``(x, y)``, or an object with ``train_x`` and ``train_y``;
        or any iterable of batches that can be iterated in every epoch, such as a `DataLoader`. A batch is a list or
        tuple whose last entry has the labels, or a mapping of keyword arguments with ``"labels"``. Without labels, the
        model learns from the teacher alone.
    recipe, seed, on_step, checkpoint
        As for `deeptn.models.carry_out`; the seed determines the order of the rows, for every model alike. A
        checkpoint also has the states of torch's generator and of that of a `DataLoader`, so that dropout and shuffling
        go on as they would have.
    loss : {"cross_entropy", "mse"} or callable, optional
        Cross entropy takes class numbers, for the last axis of the outputs, and mse numbers; by default, the dtype of
        the labels decides. A function gets what the model returns, and the labels.
    teacher : nn.Module, optional
        For ``recipe.distill`` and `features`; used in evaluation mode, without gradients.
    features : iterable of str
        Names or patterns of layers of both models, whose outputs should agree; see ``recipe.features``.
    validation : object, optional
        Other data, of the same kinds: after every epoch, minus its mean loss is the score. The parameters with the best
        score are kept.
    evaluate : callable, optional
        In place of `validation`: takes the model, returns a score; higher is better.

    Returns
    -------
    deeptn.models.History
        Losses, scores and times of the epochs.

    Raises
    ------
    deeptn.DeepTNError
        As for `deeptn.models.carry_out`; also if a teacher is missing or no parameter can be trained. `SpecError` if a
        weight cannot decay or grow as the recipe requires, or data, labels and outputs do not fit together.

    Examples
    --------
    >>> from deeptn_torch import TNLinear
    >>> x = torch.randn(64, 8)
    >>> model = nn.Sequential(TNLinear(8, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> history = train(model, (x[:48], x[:48, :1]), Recipe(epochs=2, batch=16), validation=(x[48:], x[48:, :1]))
    >>> len(history.epochs), model.training
    (2, False)
    """
    check_recipe(recipe, teacher, seed)
    check_score(recipe, validation, evaluate)
    _refuse_examples(data, recipe)
    rows, others = as_data(data, recipe.batch), None if validation is None else as_data(validation, recipe.batch)
    _check(model, recipe, checkpoint is not None)
    objective = Objective(model, teacher, recipe, loss, features)
    modes = {module: module.training for module in (() if teacher is None else teacher.modules())}
    try:
        if teacher is not None:
            check_teacher(list(layers_of(model)), list(layers_of(teacher)))
            teacher.eval()
        model.train()
        with objective.watching():
            trainer = _Trainer(model, rows, recipe, seed, objective, others, evaluate)
            about = about_of(loss, teacher is not None, objective.features, validation, evaluate)
            return carry_out(recipe, trainer, seed, on_step, checkpoint, rows=rows.count, **about)
    finally:
        model.eval()
        for module, mode in modes.items():
            module.training = mode


def heal(
    model: nn.Module,
    teacher: nn.Module,
    data: Any,
    recipe: Recipe = HEALING,
    seed: int = 0,
    on_step: Callable[[], object] | None = None,
    *,
    loss: Loss = None,
    features: Iterable[str] = (),
    validation: Any = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    checkpoint: PathLike | None = None,
) -> History:
    """Train a compressed model in place to do what the original one did, its teacher.

    That is `train` with a teacher, which says what the parameters mean. By default, half of the loss comes from the
    labels, half from the teacher's outputs.

    Examples
    --------
    >>> import deeptn as dtn
    >>> from deeptn_torch import compress
    >>> model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    >>> small, report = compress(model, {"0": dtn.TTMatrix(rank=2)})
    >>> batches = list(torch.randn(8, 64, 16))  # without labels
    >>> history = heal(small, model, batches[:6], Recipe(epochs=5, lr=0.02), validation=batches[6:])
    >>> history.epochs[0].loss > history.epochs[-1].loss
    True
    """
    if not isinstance(teacher, nn.Module):
        raise SpecError(
            f"the teacher is the original model, got a {type(teacher).__name__}; write heal(model, teacher, data)"
        )
    if teacher is model:
        raise SpecError("model and teacher are the same; keep the original, as compress does, and not compress_")
    return train(
        model,
        data,
        recipe,
        seed,
        on_step,
        loss=loss,
        teacher=teacher,
        features=features,
        validation=validation,
        evaluate=evaluate,
        checkpoint=checkpoint,
    )


def _refuse_examples(data: Any, recipe: Recipe) -> None:
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        raise SpecError(
            f"a {type(data).__name__} yields single examples; write DataLoader(data, batch_size={recipe.batch}, "
            "shuffle=True)"
        )


class _Trainer:
    """The `deeptn.models.Trainer` for PyTorch."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        recipe: Recipe,
        seed: int,
        objective: Objective,
        others: Data | None,
        evaluate: Callable[[nn.Module], float] | None,
    ):
        self.model, self.data, self.recipe, self.objective = model, data, recipe, objective
        self.others, self.evaluate = others, evaluate
        self.generator = torch.Generator().manual_seed(seed)
        self.optimizer: Any = torch.optim.Adam(core_groups(model, recipe))
        self.steps = len(data)

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

    def batches(self, epoch: int) -> Iterable[Any]:
        order = None if self.data.count is None else torch.randperm(self.data.count, generator=self.generator)
        return self.data.batches(order)

    def step(self, batch: Any, share: float, beta: float) -> float:
        groups = self.optimizer.param_groups
        for group in groups:
            group["lr"], group["betas"] = group["peak"] * share, (beta, 0.999)
        loss = self.objective(batch)
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

    def score(self) -> float | None:
        if self.others is None and self.evaluate is None:
            return None
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            with torch.no_grad():
                return self._score()
        finally:
            for module, mode in modes.items():
                module.training = mode

    def _score(self) -> float:
        if self.evaluate is not None:
            found = self.evaluate(self.model)
            if not isinstance(found, SupportsFloat):
                raise SpecError(f"evaluate must return a number, higher is better; got a {type(found).__name__}")
            return float(found)
        assert self.others is not None
        order = None if self.others.count is None else torch.arange(self.others.count)
        losses = [(float(self.objective(batch)), rows_of(batch)) for batch in self.others.batches(order)]
        return -sum(loss * rows for loss, rows in losses) / sum(rows for _, rows in losses)

    def tensors(self) -> dict[str, Tensor]:
        found = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{number}.{key}": value for key, value in state.items()}
        if torch.cuda.is_initialized():
            found["cuda_rng"] = torch.cuda.get_rng_state()
        found |= {f"data_rng.{k}": own.get_state() for k, own in enumerate(_generators(self.data))}
        return found | {"generator": self.generator.get_state(), "rng": torch.get_rng_state()}

    def model_tensors(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict())

    def restore_model(self, tensors: Mapping[str, np.ndarray]) -> None:
        self.model.load_state_dict({name: from_raw(array, "torch") for name, array in tensors.items()})

    def undoing(self) -> Callable[[], None]:
        layers = [(layer, vars(layer) | {"_modules": dict(layer.named_children())}) for layer in _trained(self.model)]
        tensors = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

        def undo() -> None:
            for layer, state in layers:
                layer.__setstate__(state)
            self.model.load_state_dict(tensors)

        return undo

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        found = {name: from_raw(array, "torch") for name, array in tensors.items()}
        optimizer = self.optimizer.state_dict() | {"state": {}}
        for name, tensor in found.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".")
                optimizer["state"].setdefault(int(number), {})[key] = tensor
        state = {name[6:]: found[name] for name in found if name.startswith("model.")}
        own = {name: (tensor.shape, tensor.dtype) for name, tensor in self.model.state_dict().items()}
        if own != {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}:
            raise FormatError("its tensors have other names, shapes or dtypes")
        params = dict(enumerate(p for group in self.optimizer.param_groups for p in group["params"]))
        for number, averages in optimizer["state"].items():
            shape = params[number].shape
            wanted = {"step": torch.Size(), "exp_avg": shape, "exp_avg_sq": shape}
            if {key: tensor.shape for key, tensor in averages.items()} != wanted:
                raise FormatError("Adam's averages have other names or shapes")
        if not optimizer["state"]:
            raise FormatError("it has none of Adam's averages")
        self.model.load_state_dict(state)
        self.optimizer.load_state_dict(optimizer)
        for k, generator in enumerate(_generators(self.data)):
            generator.set_state(found[f"data_rng.{k}"])
        self.generator.set_state(found["generator"])
        torch.set_rng_state(found["rng"])
        if "cuda_rng" in found and torch.cuda.is_available():
            torch.cuda.set_rng_state(found["cuda_rng"])


def _generators(data: Data) -> list[torch.Generator]:
    """Return the generators of a `DataLoader` and its samplers."""
    loader = getattr(data, "items", None)
    holders = [loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
    holders.append(getattr(holders[-1], "sampler", None))
    found = {id(own): own for own in (getattr(holder, "generator", None) for holder in holders)}
    return [own for own in found.values() if isinstance(own, torch.Generator)]


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
