"""Training a classifier by a recipe; a loop of one's own is as good."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from deeptn_demo.data import Images
from torch import Tensor, nn

from deeptn.base import write_atomically
from deeptn.errors import DeepTNError, FormatError, SpecError
from deeptn.files import fingerprint
from deeptn.init import weight_exponents
from deeptn.recipe import Recipe

from .layers import TNLayer


def train(
    model: nn.Module,
    data: Images,
    recipe: Recipe,
    seed: int,
    on_step: Callable[[], object] = lambda: None,
    *,
    teacher: nn.Module | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> None:
    """Train a classifier in place: Adam, cross entropy.

    Parameters
    ----------
    model : nn.Module
        Parameters without ``requires_grad`` stay as they are.
    data : Images
    recipe : deeptn.Recipe
    seed : int
        Of the order of the images; the same seed gives every model the same batches.
    on_step : callable
        Called after every step.
    teacher : nn.Module, optional
        For ``recipe.distill``; used in evaluation mode, without a gradient.
    checkpoint : path, optional
        Written after every epoch; training goes on from there if the file exists. It holds tensors and plain data.

    Raises
    ------
    deeptn.DeepTNError
        If the loss is no longer finite, a teacher is missing, or no parameter is trained.
    deeptn.SpecError
        If a weight cannot decay or grow as the recipe says.
    deeptn.FormatError
        If the checkpoint is none of this recipe, seed and model.

    Examples
    --------
    >>> from deeptn_torch import TNLinear
    >>> x, y = torch.randn(32, 8), torch.arange(32) % 2
    >>> model = nn.Sequential(TNLinear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> train(model, Images("noise", x, y, x, y), Recipe(epochs=2, batch=16), seed=0)
    >>> model.training
    False
    """
    if recipe.distill and teacher is None:
        raise DeepTNError(f"Recipe.distill = {recipe.distill} compares with a teacher; pass teacher=")
    rows = len(data.train_x)
    generator = torch.Generator().manual_seed(seed)
    _check(model, recipe)
    optimizer = _optimizer(model, recipe, None)
    first = 0
    networks = {name: fingerprint(m.network) for name, m in model.named_modules() if isinstance(m, TNLayer)}
    about = {"recipe": repr(recipe), "seed": seed, "rows": rows, "networks": networks}
    if checkpoint is not None and Path(checkpoint).exists():
        state = _read(checkpoint, about)
        first = state["epoch"]
        for epoch in range(first):
            optimizer = _grow(model, recipe, epoch, optimizer)
        try:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise FormatError(f"{checkpoint}: a checkpoint of another model: {error}") from error
        generator.set_state(state["generator"])
        torch.set_rng_state(state["rng"])
    total = recipe.steps(rows)
    per_epoch = total // recipe.epochs
    taught = None if teacher is None else teacher.training
    if teacher is not None:
        teacher.eval()
    model.train()
    for epoch in range(first, recipe.epochs):
        optimizer = _grow(model, recipe, epoch, optimizer)
        order = torch.randperm(rows, generator=generator)
        for number, chosen in enumerate(order.split(recipe.batch), epoch * per_epoch):
            share, beta = recipe.at(number, total)
            for group in optimizer.param_groups:
                group["lr"], group["betas"] = group["peak"] * share, (beta, 0.999)
            x, y = data.train_x[chosen], data.train_y[chosen]
            loss = _loss(model, teacher, x, y, recipe)
            if not bool(torch.isfinite(loss)):
                raise DeepTNError(
                    f"the training loss became {float(loss.detach())}; lower the learning rate {recipe.lr}"
                )
            optimizer.zero_grad()
            loss.backward()
            if recipe.clip is not None:
                trained = (p for group in optimizer.param_groups for p in group["params"])
                nn.utils.clip_grad_norm_(trained, recipe.clip)
            optimizer.step()
            if recipe.decay:
                shrink(model, 1.0 - optimizer.param_groups[0]["lr"] * recipe.decay)
            on_step()
        if checkpoint is not None:
            _write(checkpoint, about | {"epoch": epoch + 1}, model, optimizer, generator)
    model.eval()
    if teacher is not None:
        teacher.train(bool(taught))


def _loss(model: nn.Module, teacher: nn.Module | None, x: Tensor, y: Tensor, recipe: Recipe) -> Tensor:
    logits = model(x)
    loss = F.cross_entropy(logits, y)
    if teacher is None or not recipe.distill:
        return loss
    with torch.no_grad():
        wanted = F.log_softmax(teacher(x) / recipe.temperature, 1)
    found = F.log_softmax(logits / recipe.temperature, 1)
    divergence = F.kl_div(found, wanted, reduction="batchmean", log_target=True)
    return (1 - recipe.distill) * loss + recipe.distill * recipe.temperature**2 * divergence


def core_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: the cores of all generated layers with ``recipe.core_lr``, then the others.

    Parameters
    ----------
    model : nn.Module
    recipe : deeptn.Recipe

    Returns
    -------
    list of dict
        ``params`` (those with ``requires_grad``), ``lr`` and ``peak``, the peak learning rate.

    Examples
    --------
    >>> from deeptn_torch import TNLinear
    >>> groups = core_groups(nn.Sequential(TNLinear(8, 8), nn.Linear(8, 2)), Recipe(epochs=1, lr=0.001, core_lr=0.01))
    >>> [(len(group["params"]), group["lr"]) for group in groups]
    [(10, 0.01), (3, 0.001)]
    """
    found = {id(core): core for layer in _layers(model) for core in layer.cores.parameters() if core.requires_grad}
    cores = list(found.values())
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in found]
    rates = (recipe.lr if recipe.core_lr is None else recipe.core_lr, recipe.lr)
    return [{"params": params, "lr": lr, "peak": lr} for params, lr in zip((cores, others), rates)]


def _layers(model: nn.Module) -> Iterator[TNLayer]:
    return (module for module in model.modules() if isinstance(module, TNLayer))


def _optimizer(model: nn.Module, recipe: Recipe, before: torch.optim.Optimizer | None) -> torch.optim.Adam:
    """Adam for all parameters; what it knows of those that were there before stays."""
    optimizer = torch.optim.Adam(core_groups(model, recipe))
    if before is not None:
        kept = {id(p) for group in optimizer.param_groups for p in group["params"]}
        optimizer.state.update({p: state for p, state in before.state.items() if id(p) in kept})
    return optimizer


def _check(model: nn.Module, recipe: Recipe) -> None:
    """Find out before the first step what could not be done later."""
    if not any(p.requires_grad for p in model.parameters()):
        raise DeepTNError("no parameter of the model has requires_grad; there is nothing to train")
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


def _trained(model: nn.Module) -> Iterator[TNLayer]:
    return (layer for layer in _layers(model) if any(core.requires_grad for core in layer.cores.parameters()))


def _grow(model: nn.Module, recipe: Recipe, epoch: int, optimizer: torch.optim.Adam) -> torch.optim.Adam:
    """Let the layers that are trained grow where the recipe says so before this epoch."""
    sizes = [size for when, size in recipe.grow if when == epoch]
    if not sizes:
        return optimizer
    for layer in _trained(model):
        layer.grow(max(sizes))
    return _optimizer(model, recipe, optimizer)


def shrink(model: nn.Module, factor: float) -> None:
    """Multiply every generated weight whose cores are trained by a factor, by scaling the cores of its last stage.

    Raises
    ------
    deeptn.SpecError
        If a network shares the parameters of its last stage with others, or a layer some of its cores.

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
    for layer in _layers(model):
        own = {id(core) for core in layer.cores.parameters()}
        if own <= done:  # all of them shared with a layer before
            continue
        if own & done:
            raise SpecError("two layers share some of their cores; their weights cannot be scaled apart")
        done |= own
        powers = weight_exponents(layer.network.spec)
        with torch.enable_grad():  # a constrained core is made anew here, and tells whether it is trained
            cores = {name: layer.cores[name] for name in powers}
        if all(core.requires_grad for core in cores.values()):
            layer.load_cores({name: core.detach() * factor ** powers[name] for name, core in cores.items()})


def _write(
    path: str | os.PathLike[str], about: dict[str, Any], model: nn.Module, optimizer: Any, generator: torch.Generator
) -> None:
    state = about | {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "rng": torch.get_rng_state(),
    }
    write_atomically(path, lambda file: torch.save(state, file))


def _read(path: str | os.PathLike[str], about: dict[str, Any]) -> dict[str, Any]:
    try:
        state: Any = torch.load(path, weights_only=True)
        found = {key: state[key] for key in about}
        if missing := {"epoch", "model", "optimizer", "generator", "rng"} - set(state):
            raise KeyError(*missing)
    except OSError:
        raise
    except Exception as error:  # whatever torch makes of a damaged file
        raise FormatError(f"{path}: no checkpoint of training ({type(error).__name__})") from error
    if found != about:
        differ = [key for key in about if found[key] != about[key]]
        raise FormatError(
            f"{path}: a checkpoint of another {differ[0]}: {found[differ[0]]}, expected {about[differ[0]]}; "
            "name another file, and pass the model as it was at the start"
        )
    return state


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
