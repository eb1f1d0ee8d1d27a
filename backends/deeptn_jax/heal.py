"""Train whole models of Equinox and Flax NNX by a recipe, and heal compressed ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from deeptn.base import PathLike, optional
from deeptn.errors import DeepTNError, SpecError
from deeptn.init import weight_exponents
from deeptn.models import (
    Batch,
    Data,
    History,
    about_of,
    as_data,
    carry_out,
    check_recipe,
    check_score,
    check_teacher,
    rows_of,
    select,
)
from deeptn.network import Network
from deeptn.recipe import Recipe

from .objective import Loss, Objective
from .train import JaxTrainer, as_arrays
from .view import called_by


class Module(Protocol):
    """What training needs of a model of some library.

    Attributes
    ----------
    params : dict of str to pytree
        What is trained: the cores of each generated layer under its name, other arrays under theirs.
    networks : dict of str to Network
        Those of the generated layers.
    state : object
        What a call may change, and what it only reads.
    names : list of str
        Layers that can be features.
    """

    params: dict[str, Any]
    networks: dict[str, Network]
    state: Any
    names: list[str]

    def call(
        self, params: Any, state: Any, batch: Batch, key: Any, features: tuple[str, ...]
    ) -> tuple[Any, dict[str, Any], Any]:
        """Return outputs, the outputs of layers, and the new state; in evaluation mode if the key is None."""
        ...

    def model(self, params: Any, state: Any) -> Any:
        """Return the model, in evaluation mode."""
        ...


def train_module(
    module: Module,
    data: Any,
    recipe: Recipe,
    seed: int = 0,
    on_step: Callable[[], object] | None = None,
    *,
    loss: Loss = None,
    teacher: Module | None = None,
    features: Iterable[str] = (),
    validation: Any = None,
    evaluate: Callable[[Any], float] | None = None,
    checkpoint: PathLike | None = None,
) -> tuple[Any, History]:
    """Train a model; the arguments are those of `deeptn_torch.train`. Return the model and the history."""
    check_recipe(recipe, teacher, seed)
    if teacher is not None:
        check_teacher(module.networks, teacher.networks)
    adam = optional("optax", "jax").scale_by_adam
    check_score(recipe, validation, evaluate)
    if recipe.grow:
        raise SpecError("Recipe.grow is for deeptn_torch.train and deeptn_jax.train; leave it out here")
    if not module.params:
        raise DeepTNError("the model has no floating-point arrays; there is nothing to train")
    if recipe.decay:
        for net in module.networks.values():
            weight_exponents(net.spec)
    rows, others = as_data(data, recipe.batch), None if validation is None else as_data(validation, recipe.batch)
    objective = Objective(recipe, loss, teacher is not None, _names(module, teacher, features))

    def loss_of(nets: Any, params: Any, state: Any, batch: Batch, key: Any, fixed: Any = None) -> Any:
        outputs, own, state = module.call(params, state, batch, key, objective.features)
        wanted, other = None, {}
        if teacher is not None and fixed is not None and (objective.share(batch.target) or objective.features):
            wanted, other, _ = teacher.call(fixed[0], fixed[1], batch, None, objective.features)
            wanted, other = jax.lax.stop_gradient((wanted, other))
        return objective(outputs, batch.target, wanted, own, other), state

    shapes: list[Any] = []

    def check(batch: Batch) -> None:
        if not shapes and batch.target is not None:
            shapes.append(jax.eval_shape(lambda: module.call(module.params, module.state, batch, None, ())[0]))
        if shapes:
            objective.check(shapes[0], batch.target)

    fixed = None if teacher is None else (teacher.params, teacher.state)
    trainer = JaxTrainer(
        adam, loss_of, dict(module.params), dict(module.networks), rows, recipe, seed, module.state, fixed, check
    )
    trainer.scored = _score(module, loss_of, fixed, others, evaluate, check)
    about = about_of(loss, teacher is not None, objective.features, validation, evaluate)
    history = carry_out(recipe, trainer, seed, on_step, checkpoint, rows=rows.count, **about)
    return module.model(trainer.params, trainer.held), history


def _score(
    module: Module,
    loss_of: Callable[..., Any],
    fixed: Any,
    others: Data | None,
    evaluate: Callable[[Any], float] | None,
    check: Callable[[Batch], None],
) -> Callable[[Any, Any], float] | None:
    """Return the function from parameters and state to a score, if there is one."""
    if evaluate is not None:

        def evaluated(params: Any, state: Any) -> float:
            found = evaluate(module.model(params, state))
            if not hasattr(found, "__float__"):
                raise SpecError(f"evaluate must return a number, higher is better; got a {type(found).__name__}")
            return float(found)

        return evaluated
    if others is None:
        return None
    more = () if fixed is None else (fixed,)
    loss = jax.jit(lambda params, state, batch, *more: loss_of(None, params, state, batch, None, *more)[0])

    def validated(params: Any, state: Any) -> float:
        losses: list[tuple[float, int]] = []
        for batch in others.batches(None if others.count is None else np.arange(others.count)):
            given = Batch.of(as_arrays(batch))
            check(given)
            losses.append((float(loss(params, state, given, *more)), rows_of(batch)))
        return -sum(value * rows for value, rows in losses) / sum(rows for _, rows in losses)

    return validated


def _names(module: Module, teacher: Module | None, features: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the features."""
    features = [features] if isinstance(features, str) else list(features)
    if features and teacher is None:
        raise DeepTNError("features are those of a teacher; pass teacher=")
    if teacher is None:
        return ()
    both = [name for name in module.names if name in teacher.names]
    return tuple(name for found in select(features, both, "features").values() for name in found)


class Recorder:
    """Keeps what layers return, while a model is called."""

    def __init__(self):
        self.seen: dict[str, Any] = {}

    def layer(self, layer: Any, name: str) -> Any:
        """Return an object like a layer, of a subclass that keeps what it returns under a name."""

        def call(own: Any, *args: Any, **options: Any) -> Any:
            self.seen[name] = found = type(layer).__call__(own, *args, **options)
            return found

        return called_by(layer, call)

    def taken(self, features: Iterable[str]) -> dict[str, Any]:
        """Return what was kept of some layers, and forget the rest."""
        found = {name: self.seen[name] for name in features if name in self.seen}
        self.seen.clear()
        return found


def grouped(arrays: Mapping[str, Any], networks: Mapping[str, Network]) -> dict[str, Any]:
    """Return arrays by name, with the cores of each generated layer in one dictionary.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.LowRank(rank=1), (2, 2))
    >>> sorted(grouped({"fc.cores.U": 1, "fc.cores.V": 2, "fc.bias": 3}, {"fc": net})["fc"])
    ['U', 'V']
    """
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        layer, cores, core = name.rpartition(".cores.") if ".cores." in name else ("", "", name)
        if not cores and name.startswith("cores."):
            cores, core = "cores.", name.removeprefix("cores.")
        if cores and layer in networks:
            found.setdefault(layer, {})[core] = array
        else:
            found[name] = array
    return found
