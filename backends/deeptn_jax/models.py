"""Compress, fold, save and load whole Equinox and Flax NNX models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from deeptn import models
from deeptn.base import PathLike
from deeptn.files import Cores
from deeptn.fitting import How
from deeptn.models import Calibration, Matching, Report, Rules, Workers

from .view import view_of

M = TypeVar("M")


def compress(
    model: M,
    targets: Rules,
    ignore: Iterable[str] = (),
    fit: How = "auto",
    key: Any = None,
    workers: Workers | int | None = None,
    calibration: Calibration | Matching | None = None,
) -> tuple[M, Report]:
    """Return a model in which chosen layers have generated weights, and a report; see `deeptn.models.compress`.

    Names are paths (``"layers.0"``) of linear layers, convolutions, embeddings and registered layers
    (`register_layer`), in an `nnx.Module` or any pytree of Equinox modules. Random cores are drawn with `key`: a key of
    `jax.random` (in NNX ``rngs.params()``) or an integer, by default a fresh one.

    In NNX, cores are variables of the same class as the kernel, or `nnx.Param` if that class has its own constructor.
    Metadata of the kernel, such as its sharding, does not fit the cores and is dropped.

    Examples
    --------
    >>> import equinox as eqx, jax, deeptn as dtn
    >>> from deeptn_jax.equinox import compress
    >>> model = eqx.nn.MLP(400, 10, 120, 1, key=jax.random.key(0))
    >>> small, report = compress(model, {"layers.0": dtn.TensorTrain(rank=4)})
    >>> report.params_before, report.params_after
    (48000, 424)
    """
    working = view_of(model) if isinstance(calibration, Matching) else None
    return models.compress(view_of(model), targets, ignore, fit, key, workers, calibration, working)


def calibrate(
    model: Any,
    data: Any,
    held_out: Any = None,
    targets: Iterable[str] = ("*",),
    ignore: Iterable[str] = (),
    damping: float = 0.01,
) -> Calibration:
    """Run a model on data, and return the second moments of the inputs of its weights, for ``compress(calibration=)``.

    The model runs in inference mode; in Equinox, under `jax.vmap` over the first axis of a batch. If yours is called
    in another way, pass a function of the model as `data`. For parameters and errors see `deeptn.models.calibrate`.

    Examples
    --------
    >>> import equinox as eqx, jax, deeptn as dtn
    >>> from deeptn_jax.equinox import calibrate, compress
    >>> model = eqx.nn.MLP(40, 10, 12, 1, key=jax.random.key(0))
    >>> batches = jax.random.normal(jax.random.key(1), (6, 16, 40)) * jax.numpy.arange(40)
    >>> calibration = calibrate(model, list(batches[:4]), held_out=list(batches[4:]))
    >>> small, report = compress(model, {"layers.0": dtn.TTMatrix(rank=4)}, calibration=calibration)
    >>> report.layers[0].output_error < report.layers[0].error
    True
    """
    view: Any = view_of(model)
    return models.calibrate(view, data, held_out, targets, ignore, damping)


def fold(model: M, targets: Iterable[str] | None = None) -> M:
    """Return a model in which dense layers replace all generated ones, or those that `targets` selects.

    Examples
    --------
    >>> from flax import nnx
    >>> from deeptn_jax.nnx import TNLinear, fold
    >>> type(fold(nnx.Sequential(TNLinear(16, 8, rngs=nnx.Rngs(0)))).layers[0]).__name__
    'Linear'
    """
    return models.fold(view_of(model), targets)[0]


def save_model(model: Any, path: PathLike, cores: Cores | None = None) -> dict[str, float]:
    """Write a model with generated layers to a file that every front-end can read (see `deeptn.save_model`).

    Names are paths (``"layers.0.weight"``). In NNX, they follow PyTorch: ``"layers.0.weight"`` for a kernel,
    ``"norm.running_mean"`` for a mean; shapes follow PyTorch too. A module with several names is stored once, under all
    of them. `cores` and the result are those of `deeptn.models.save_model`. Not stored: anything that is not an array;
    the state of Equinox's stateful layers (`equinox.nn.BatchNorm`), which is outside the model; in NNX, anything
    outside a variable, caches, intermediates, and the states of random generators, metrics and optimizers.

    Examples
    --------
    >>> import os, tempfile
    >>> from flax import nnx
    >>> from deeptn_jax.nnx import TNLinear, save_model
    >>> path = os.path.join(tempfile.mkdtemp(), "small.safetensors")
    >>> save_model(nnx.Sequential(TNLinear(16, 8, rngs=nnx.Rngs(0))), path)
    {}
    """
    return models.save_model(view_of(model), path, cores)


def load_model(dense_model: M, path: PathLike, names: Mapping[str, str] | None = None) -> M:
    """Return a copy of a model, filled from a file that any front-end wrote; see `deeptn.models.load_model`.

    It keeps the dtypes of the model. A model from `equinox.filter_eval_shape` is enough, and so is one from
    `flax.nnx.eval_shape` if the file contains all of its arrays.

    Examples
    --------
    >>> import equinox as eqx, jax, os, tempfile
    >>> from deeptn_jax.equinox import TNLinear, load_model, save_model
    >>> path = os.path.join(tempfile.mkdtemp(), "small.safetensors")
    >>> errors = save_model([TNLinear(16, 8, key=jax.random.key(0))], path, cores="float16")
    >>> load_model([eqx.nn.Linear(16, 8, key=jax.random.key(1))], path)[0].network.num_params
    156
    """
    return models.load_model(view_of(dense_model), path, names)
