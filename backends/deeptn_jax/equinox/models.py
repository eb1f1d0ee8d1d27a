"""Whole Equinox models: their layers compressed and folded, their files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from deeptn import models
from deeptn.models import Report, Target

from .view import EquinoxModel

M = TypeVar("M")


def compress(
    model: M, targets: Mapping[str, Target], ignore: Iterable[str] = (), fit: Any = "auto", key: Any = None
) -> tuple[M, Report]:
    """Return a model in which chosen layers have generated weights, and a report; see `deeptn.models.compress`.

    The model is any pytree of modules; names are paths, ``"layers.0"``, of `equinox.nn.Linear`, convolutions,
    embeddings and layers of `register_layer`. Random cores are drawn by `key`, one of `jax.random` or an integer; by
    default a fresh one.

    Examples
    --------
    >>> import equinox as eqx, jax, deeptn as dtn
    >>> model = eqx.nn.MLP(400, 10, 120, 1, key=jax.random.key(0))
    >>> small, report = compress(model, {"layers.0": dtn.TensorTrain(rank=4)})
    >>> report.params_before, report.params_after
    (48000, 424)
    """
    return models.compress(EquinoxModel(model), targets, ignore, fit, key)


def fold(model: M, targets: Iterable[str] | None = None) -> M:
    """Return a model with dense layers in the place of generated ones, or of those that patterns select.

    Examples
    --------
    >>> import equinox as eqx, jax
    >>> from deeptn_jax.equinox import TNLinear
    >>> model = eqx.nn.Sequential([TNLinear(16, 8, key=jax.random.key(0))])
    >>> type(fold(model).layers[0]).__name__
    'Linear'
    """
    return models.fold(EquinoxModel(model), targets)[0]


def save_model(model: Any, path: str | os.PathLike[str]) -> None:
    """Write a model with generated layers to a file that every front-end reads (see `deeptn.save_model`).

    Names are paths (``"layers.0.weight"``). Arrays only: what a model holds beside them is not stored, nor is the state
    of stateful layers (`equinox.nn.BatchNorm`), which Equinox keeps outside of the model.

    Examples
    --------
    >>> import equinox as eqx, jax, os, tempfile, deeptn as dtn
    >>> from deeptn_jax.equinox import TNLinear
    >>> path = os.path.join(tempfile.mkdtemp(), "m.safetensors")
    >>> save_model(eqx.nn.Sequential([TNLinear(16, 8, key=jax.random.key(0))]), path)
    >>> dtn.load_model(path).layers["layers.0"].kind
    'linear'
    """
    models.save_model(EquinoxModel(model), path)


def load_model(dense_model: M, path: str | os.PathLike[str], names: Mapping[str, str] | None = None) -> M:
    """Return a model, filled with what any front-end wrote; see `deeptn.models.load_model`.

    The dtypes are its own, whatever the file has. One of `equinox.filter_eval_shape` will do.

    Examples
    --------
    >>> import equinox as eqx, jax, os, tempfile
    >>> from deeptn_jax.equinox import TNLinear
    >>> path = os.path.join(tempfile.mkdtemp(), "m.safetensors")
    >>> save_model(eqx.nn.Sequential([TNLinear(16, 8, key=jax.random.key(0))]), path)
    >>> model = eqx.nn.Sequential([eqx.nn.Linear(16, 8, key=jax.random.key(1))])
    >>> load_model(model, path).layers[0].network.num_params
    156
    """
    return models.load_model(EquinoxModel(dense_model), path, names)
