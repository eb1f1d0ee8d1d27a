"""Train Flax NNX models, and heal compressed ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from flax import nnx

from deeptn.base import PathLike
from deeptn.errors import SpecError
from deeptn.models import Batch, History, expect_model
from deeptn.recipe import HEALING, Recipe

from ..heal import Recorder, grouped, train_module
from ..objective import Loss
from .graph import parts, swap
from .layers import TNLayer

M = TypeVar("M", bound=nnx.Module)


class NNXModule:
    """A Flax NNX model as a `deeptn_jax.heal.Module`: its `nnx.Param` are trained, everything else is its state."""

    def __init__(self, model: Any):
        expect_model(model, "a model of Flax NNX", isinstance(model, nnx.Module))
        self.recorder = Recorder()
        self.plain, self.forms = nnx.clone(model), {}
        modules = {name: part for name, part in parts(self.plain, nnx.Module, once=True).items() if name}
        self.names = [name for name, part in modules.items() if callable(part)]
        self.networks = {name: layer.network for name, layer in parts(self.plain, TNLayer, once=True).items()}
        trained, self.state = self._split(self.plain, (), True)
        self.params = grouped(trained, self.networks)

    def _split(self, model: Any, features: tuple[str, ...], training: bool) -> tuple[dict[str, Any], Any]:
        """Return the trained arrays by path, and the rest; note the form that `_merged` needs."""
        form, trained, rest = nnx.split(model, nnx.Param, ...)
        flat = nnx.to_flat_state(trained)
        names = {".".join(str(key) for key in path if key != "dense"): path for path, _ in flat}
        self.forms[features, training] = form, dict(flat), names
        return {name: dict(flat)[path].get_raw_value() for name, path in names.items()}, rest

    def _form(self, features: tuple[str, ...], training: bool) -> Any:
        if (features, training) not in self.forms:
            model = nnx.clone(self.plain)
            if features:
                modules = parts(model, nnx.Module, once=True)
                swap(model, {id(modules[name]): self.recorder.layer(modules[name], name) for name in features})
            if not training:
                model.eval()
            self._split(model, features, training)
        return self.forms[features, training]

    def _merged(self, params: Any, state: Any, features: tuple[str, ...], training: bool) -> Any:
        form, flat, names = self._form(features, training)
        values = {}
        for name, array in params.items():
            values |= (
                {f"{name}.cores.{core}" if name else f"cores.{core}": one for core, one in array.items()}
                if (name in self.networks)
                else {name: array}
            )
        trained = nnx.from_flat_state([(path, flat[path].replace(values[name])) for name, path in names.items()])
        return nnx.merge(form, trained, state, copy=True)

    def model(self, params: Any, state: Any) -> Any:
        found = self._merged(params, state, (), True)
        found.eval()
        return found

    def call(
        self, params: Any, state: Any, batch: Batch, key: Any, features: tuple[str, ...]
    ) -> tuple[Any, dict[str, Any], Any]:
        model = self._merged(params, state, features, key is not None)
        self.recorder.seen.clear()
        outputs = model(*batch.args, **batch.kwargs)
        return outputs, self.recorder.taken(features), nnx.split(model, nnx.Param, ...)[2]


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
    """Train a copy of a Flax NNX model with Adam, and return it with the history.

    Variables of the class `nnx.Param` are trained; a call may change all others, such as statistics and the streams of
    dropout. The other arguments are those of `deeptn_torch.train`.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> model = nnx.Sequential(nnx.Linear(4, 1, rngs=nnx.Rngs(0)))
    >>> model, history = train(model, (x[:48], x[:48, :1]), Recipe(epochs=3, lr=0.02), validation=(x[48:], x[48:, :1]))
    >>> history.epochs[0].loss > history.epochs[2].loss
    True
    """
    guide = None if teacher is None else NNXModule(teacher)
    return train_module(
        NNXModule(model),
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
    """Train a copy of a compressed model to do what the original one did, its teacher; see `deeptn_torch.heal`.

    Examples
    --------
    >>> import jax, deeptn as dtn
    >>> from deeptn_jax.nnx import compress
    >>> model = nnx.Sequential(nnx.Linear(8, 16, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(16, 4, rngs=nnx.Rngs(1)))
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
