"""Train Equinox models, and heal compressed ones."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import equinox as eqx
import jax

from deeptn.base import PathLike
from deeptn.errors import SpecError
from deeptn.models import Batch, History, expect_model, path_of
from deeptn.recipe import HEALING, Recipe

from ..heal import Recorder, train_module
from ..objective import Loss
from .layers import TNLayer
from .view import parts, swapped

M = TypeVar("M")


class EquinoxModule:
    """An Equinox model as a `deeptn_jax.heal.Module`: all of its floating-point arrays are trained."""

    def __init__(self, model: Any):
        expect_model(model, "a model of Equinox", not jax.tree_util.all_leaves([model]))
        self.whole, self.recorder = model, Recorder()
        layers = {path: part for path, part in parts(model, (TNLayer,)).items() if isinstance(part, TNLayer)}
        self.networks = {name: layer.network for name, layer in layers.items()}
        self.cores = {
            path_of(name, "cores", core): (name, core) for name, layer in layers.items() for core in layer.cores
        }
        self.state = None
        self.params: dict[str, Any] = {}
        for path, leaf in parts(model).items():
            if path in self.cores:
                name, core = self.cores[path]
                self.params.setdefault(name, {})[core] = leaf
            elif eqx.is_inexact_array(leaf):
                self.params[path] = leaf
        self.names = [name for name, part in _modules(model).items() if name and callable(part)]
        self.takes_key = callable(model) and "key" in inspect.signature(model).parameters

    def _filled(self, params: Any) -> Any:
        flat = {path: params[name][core] for path, (name, core) in self.cores.items()}
        flat |= {path: array for path, array in params.items() if path not in self.networks}
        return swapped(self.whole, flat)

    def model(self, params: Any, state: Any) -> Any:
        return eqx.nn.inference_mode(self._filled(params))

    def call(
        self, params: Any, state: Any, batch: Batch, key: Any, features: tuple[str, ...]
    ) -> tuple[Any, dict[str, Any], Any]:
        model = self._filled(params)
        for name in features:
            model = _replaced(model, name, self.recorder.layer(_modules(model)[name], name))
        if key is None:
            model = eqx.nn.inference_mode(model)
        rows = jax.tree.leaves((batch.args, batch.kwargs))[0].shape[0]
        keys = jax.random.split(key, rows) if key is not None and self.takes_key else None

        def one(args: Any, kwargs: Any, key: Any) -> Any:
            self.recorder.seen.clear()
            more = {} if key is None else {"key": key}
            found = model(*args, **kwargs, **more)
            return found, self.recorder.taken(features)

        outputs, seen = jax.vmap(one)(batch.args, batch.kwargs, keys)
        return outputs, seen, state


def _modules(model: Any) -> dict[str, Any]:
    """Return the modules inside a model by path."""
    found: dict[str, Any] = {}

    def walk(part: Any, path: str) -> None:
        if isinstance(part, eqx.Module):
            found[path] = part
            if isinstance(part, TNLayer):
                return
        below, _ = jax.tree_util.tree_flatten_with_path(part, is_leaf=lambda other: other is not part)
        for keys, child in below:
            if child is not part:
                walk(child, path_of(path, jax.tree_util.keystr(keys, simple=True, separator=".")))

    walk(model, "")
    return found


def _replaced(model: Any, name: str, new: Any) -> Any:
    """Return a model with another module at a path."""
    old = _modules(model)[name]
    done: list[bool] = []

    def swap(part: Any) -> Any:
        if part is old and not done:
            done.append(True)
            return new
        return part

    return jax.tree.map(swap, model, is_leaf=lambda part: part is old)


def train(
    model: M,
    data: Any,
    recipe: Recipe,
    seed: int = 0,
    on_step: Callable[[], object] | None = None,
    *,
    loss: Loss = None,
    teacher: Any = None,
    features: Iterable[str] = (),
    validation: Any = None,
    evaluate: Callable[[M], float] | None = None,
    checkpoint: PathLike | None = None,
) -> tuple[M, History]:
    """Train an Equinox model with Adam, and return it, in inference mode, with the history.

    All floating-point arrays are trained. The model is called under `jax.vmap` over the first axis of a batch, with
    ``key=`` if it takes one; evaluation is in inference mode. The other arguments are those of `deeptn_torch.train`.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> model = eqx.nn.MLP(4, 1, 8, 1, key=jax.random.key(0))
    >>> model, history = train(model, (x[:48], x[:48, :1]), Recipe(epochs=3, lr=0.02), validation=(x[48:], x[48:, :1]))
    >>> history.epochs[0].loss > history.epochs[2].loss
    True
    """
    guide = None if teacher is None else EquinoxModule(teacher)
    return train_module(
        EquinoxModule(model),
        data,
        recipe,
        seed,
        on_step,
        loss=loss,
        teacher=guide,
        features=features,
        validation=validation,
        evaluate=evaluate,
        checkpoint=checkpoint,
    )


def heal(
    model: M,
    teacher: Any,
    data: Any,
    recipe: Recipe = HEALING,
    seed: int = 0,
    on_step: Callable[[], object] | None = None,
    *,
    loss: Loss = None,
    features: Iterable[str] = (),
    validation: Any = None,
    evaluate: Callable[[M], float] | None = None,
    checkpoint: PathLike | None = None,
) -> tuple[M, History]:
    """Train a compressed model to do what the original one did, its teacher; see `deeptn_torch.heal`.

    Examples
    --------
    >>> import deeptn as dtn
    >>> from deeptn_jax.equinox import compress
    >>> model = eqx.nn.MLP(8, 4, 16, 1, key=jax.random.key(0))
    >>> small, report = compress(model, {"layers.0": dtn.LowRank(rank=2)})
    >>> x = jax.random.normal(jax.random.key(1), (64, 8))  # without labels
    >>> small, history = heal(small, model, x, Recipe(epochs=5, lr=0.02, batch=16))
    >>> history.epochs[0].loss > history.epochs[-1].loss
    True
    """
    if teacher is model:
        raise SpecError("model and teacher are the same; pass the original model as the teacher")
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
