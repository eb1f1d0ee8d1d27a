"""Whole Flax NNX models: their layers compressed and folded, their files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from flax import nnx

from deeptn import models
from deeptn.models import Report, Target

from .view import NNXModel

M = TypeVar("M", bound=nnx.Module)


def compress(
    model: M, targets: Mapping[str, Target], ignore: Iterable[str] = (), fit: Any = "auto", key: Any = None
) -> tuple[M, Report]:
    """Return a copy of a model in which chosen weights are generated, and a report; see `deeptn.models.compress`.

    Names are paths, ``"encoder.layers.0"``, of `flax.nnx.Linear`, `Conv`, `Embed` and layers of `register_layer`.
    Random cores are drawn by `key`, one of `jax.random` (``rngs.params()``) or an integer; by default a fresh one.

    Cores are variables of the class that the kernel has, `nnx.Param` if that one has a constructor of its own. Metadata
    of the kernel, such as its sharding, fits none of them and is left behind.

    Examples
    --------
    >>> import deeptn as dtn
    >>> model = nnx.Sequential(nnx.Linear(400, 120, rngs=nnx.Rngs(0)), nnx.relu)
    >>> small, report = compress(model, {"layers.0": dtn.TensorTrain(rank=4)})
    >>> report.params_before, report.params_after
    (48000, 424)
    """
    return models.compress(NNXModel.of_copy(model), targets, ignore, fit, key)


def fold(model: M, targets: Iterable[str] | None = None) -> M:
    """Return a copy of a model with dense layers in the place of generated ones, or of those that patterns select.

    Examples
    --------
    >>> from deeptn_jax.nnx import TNLinear
    >>> model = nnx.Sequential(TNLinear(16, 8, rngs=nnx.Rngs(0)))
    >>> type(fold(model).layers[0]).__name__
    'Linear'
    """
    return models.fold(NNXModel.of_copy(model), targets)[0]


def save_model(model: nnx.Module, path: str | os.PathLike[str]) -> None:
    """Write a model with generated layers to a file that every front-end reads (see `deeptn.save_model`).

    Parameters, statistics and variables of your own are stored under the names and in the shapes that PyTorch has for
    them: ``"layers.0.weight"`` for the kernel of a dense layer, ``"norm.running_mean"`` for a mean. The states of
    random generators, of metrics and of optimizers are not, nor are caches, intermediates, and arrays that stand in no
    variable. A module of several names is stored once, under all of them.

    Examples
    --------
    >>> import os, tempfile, deeptn as dtn
    >>> from deeptn_jax.nnx import TNLinear
    >>> path = os.path.join(tempfile.mkdtemp(), "m.safetensors")
    >>> save_model(nnx.Sequential(TNLinear(16, 8, rngs=nnx.Rngs(0))), path)
    >>> dtn.load_model(path).layers["layers.0"].kind
    'linear'
    """
    models.save_model(NNXModel(model), path)


def load_model(dense_model: M, path: str | os.PathLike[str], names: Mapping[str, str] | None = None) -> M:
    """Return a copy of a model, filled with what any front-end wrote; see `deeptn.models.load_model`.

    The dtypes are its own, whatever the file has. One of `flax.nnx.eval_shape` will do, if the file has all arrays.

    Examples
    --------
    >>> import os, tempfile
    >>> from deeptn_jax.nnx import TNLinear
    >>> path = os.path.join(tempfile.mkdtemp(), "m.safetensors")
    >>> save_model(nnx.Sequential(TNLinear(16, 8, rngs=nnx.Rngs(0))), path)
    >>> load_model(nnx.Sequential(nnx.Linear(16, 8, rngs=nnx.Rngs(1))), path).layers[0].network.num_params
    156
    """
    return models.load_model(NNXModel.of_copy(dense_model), path, names)
