"""Compression and files of Equinox models."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from deeptn.errors import FormatError, PlanError
from deeptn.files import StoredLayer, StoredModel
from deeptn.files import model_file as core
from deeptn.models import Report, Target, resolve

from ..layers import check_data, fitted, read
from .layers import TNConv1d, TNConv2d, TNConv3d, TNEmbedding, TNLayer, TNLinear

M = TypeVar("M")

LAYERS: tuple[type[TNLayer], ...] = (TNLinear, TNConv1d, TNConv2d, TNConv3d, TNEmbedding)
DENSE = tuple(layer.like for layer in LAYERS)


def compress(
    model: M, targets: Mapping[str, Target], ignore: Iterable[str] = (), fit: Any = "auto"
) -> tuple[M, Report]:
    """Return a model in which chosen layers have generated weights, and a report.

    Parameters
    ----------
    model : equinox.Module or any pytree of them
    targets : mapping of str to deeptn.Topology, deeptn.Network or str
        Which layers (`equinox.nn.Linear`, convolutions, embeddings) become what. A key is a layer's path
        (``"layers.0"``), a glob (``"layers.*"``) or ``"re:…"``. If several match, an exact name wins, then the first.
    ignore : iterable of str
        Patterns of layers to leave alone.
    fit : {"auto"}, deeptn.Fit or None
        ``"auto"``: the closed form where the family has one, else a fit by gradient. None: random cores.

    Returns
    -------
    model
        A copy.
    report : deeptn.report.Report

    Raises
    ------
    deeptn.PlanError
        If a pattern matches no layer.

    Examples
    --------
    >>> import equinox as eqx, jax, deeptn as dtn
    >>> model = eqx.nn.MLP(400, 10, 120, 1, key=jax.random.key(0))
    >>> small, report = compress(model, {"layers.0": dtn.TensorTrain(rank=4)})
    >>> report.params_before, report.params_after
    (48000, 424)
    """
    check_data(model)
    dense = _dense(model)
    if "" in dense:
        raise PlanError("the model is a single layer; use its stand-in's from_dense")
    weights = {name: layer.weight for name, layer in dense.items()}
    plan = resolve({name: tuple(weight.shape) for name, weight in weights.items()}, targets, ignore)
    made, rows = fitted(plan, weights, fit, 0)
    swaps = {name: _stand_in(dense[name])._of(dense[name], *parts) for name, parts in made.items()}
    small = _swapped(model, swaps, DENSE)
    return small, Report(tuple(rows), _count(model), _count(small))


def fold(model: M) -> M:
    """Return a model with dense layers in the place of all generated ones.

    Examples
    --------
    >>> import equinox as eqx, jax
    >>> model = eqx.nn.Sequential([TNLinear(16, 8, key=jax.random.key(0))])
    >>> type(fold(model).layers[0]).__name__
    'Linear'
    """
    check_data(model)
    return _swapped(model, {name: layer.to_dense() for name, layer in _layers(model, (TNLayer,)).items()})


def save_model(model: Any, path: str | os.PathLike[str]) -> None:
    """Write a model with generated layers to a file that every front-end reads (see `deeptn.save_model`).

    Names are paths (``"layers.0.weight"``). Arrays only: what a model holds beside them is not stored, nor is the state
    of stateful layers (`equinox.nn.BatchNorm`), which Equinox keeps outside of the model.

    Examples
    --------
    >>> import equinox as eqx, jax, os, tempfile, deeptn as dtn
    >>> path = os.path.join(tempfile.mkdtemp(), "m.safetensors")
    >>> save_model(eqx.nn.Sequential([TNLinear(16, 8, key=jax.random.key(0))]), path)
    >>> dtn.load_model(path).layers["layers.0"].kind
    'linear'
    """
    check_data(model)
    layers, tensors = {}, {}
    for name, part in _parts(model, (TNLayer, eqx.nn.ConvTranspose)).items():
        if isinstance(part, TNLayer):
            bias = None if part.bias is None else part.bias.reshape(-1)
            layers[name] = StoredLayer(part.kind, part.network, part.cores, bias)
        elif isinstance(part, eqx.nn.ConvTranspose):
            raise PlanError(f"{name!r} is a transposed convolution, whose kernel PyTorch has in another form")
        elif eqx.is_array(part):
            if jnp.issubdtype(part.dtype, jax.dtypes.prng_key):
                raise PlanError(f"{name!r} is a key of jax.random; store jax.random.key_data of it")
            flat = name.endswith(".bias") and part.ndim > 1  # of a convolution, (channels, 1, …)
            tensors[name] = part.reshape(-1) if flat else part
    core.save_model(path, StoredModel(layers, tensors))


def load_model(dense_model: M, path: str | os.PathLike[str], names: Mapping[str, str] | None = None) -> M:
    """Read a model that any front-end wrote.

    Parameters
    ----------
    dense_model : equinox.Module or any pytree of them
        Of the architecture before compression, or with the same generated layers; left as it is. The dtypes are its
        own, whatever the file has. One of `equinox.filter_eval_shape` will do.
    path : path
    names : mapping of str to str, optional
        Names of modules in the file to their names here, where they differ: ``{"0": "layers.0"}``.

    Raises
    ------
    deeptn.FormatError
        If the file is damaged or does not fit the model.

    Examples
    --------
    >>> import equinox as eqx, jax, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "m.safetensors")
    >>> save_model(eqx.nn.Sequential([TNLinear(16, 8, key=jax.random.key(0))]), path)
    >>> model = eqx.nn.Sequential([eqx.nn.Linear(16, 8, key=jax.random.key(1))])
    >>> load_model(model, path).layers[0].network.num_params
    156
    """
    stored = core.load_model(path).renamed(names or {})
    places = _dense(dense_model) | _layers(dense_model, (TNLayer,))
    swaps = {}
    for name, layer in stored.layers.items():
        old = places.get(name)
        made = None
        if isinstance(old, TNLayer) and old.network == layer.network:
            cores = {p: read(array, old.cores[p], f"{name}.cores.{p}") for p, array in layer.params.items()}
            made = eqx.tree_at(lambda made: made.cores, old, cores)
        elif old is not None and not isinstance(old, TNLayer) and tuple(old.weight.shape) == layer.network.shape:
            cores = {p: read(array, old.weight, f"{name}.cores.{p}") for p, array in layer.params.items()}
            made = _stand_in(old)._of(old, layer.network, cores)
        if made is None or made.kind != layer.kind:
            came = "none" if old is None else f"{type(old).__name__} {tuple(old.weight.shape)}"
            raise FormatError(
                f"the file has a {layer.kind} layer {name!r} of shape {layer.network.shape}; the model has {came} there"
                f"{' of another network' if isinstance(old, TNLayer) else ''}"
            )
        if (layer.bias is None) != (made.bias is None):
            raise FormatError(f"layer {name!r}: one of the file and the model has a bias, the other has none")
        if layer.bias is not None:
            bias = read(layer.bias, made.bias, f"{name}.bias").reshape(made.bias.shape)
            made = eqx.tree_at(lambda made: made.dense.bias, made, bias)
        swaps[name] = made
    model = _swapped(dense_model, swaps, DENSE)
    core.check_complete(stored, _layers(model, (TNLayer,)))
    arrays = {name: part for name, part in _parts(model).items() if _is_array(part)}
    if arrays.keys() != stored.tensors.keys():
        missing, surplus = sorted(arrays.keys() - stored.tensors.keys()), sorted(stored.tensors.keys() - arrays.keys())
        raise FormatError(f"the tensors do not fit the model: missing {missing[:3]}, surplus {surplus[:3]}")
    for name, old in arrays.items():
        flat = name.endswith(".bias") and stored.tensors[name].shape == (old.size,)
        if not flat and old.shape != stored.tensors[name].shape:
            raise FormatError(f"tensor {name!r} has shape {stored.tensors[name].shape}, the model's {old.shape}")
    return _swapped(model, {n: read(stored.tensors[n], old, n).reshape(old.shape) for n, old in arrays.items()})


def _dense(model: Any) -> dict[str, Any]:
    """Layers that can be generated: those that compute what their class does, with a weight of their own."""
    found = _layers(model, DENSE)
    return {
        name: layer
        for name, layer in found.items()
        if _is_array(layer.weight) and type(layer).__call__ is _stand_in(layer).like.__call__
    }


def _is_array(part: Any) -> bool:
    return eqx.is_array(part) or isinstance(part, jax.ShapeDtypeStruct)


def _stand_in(dense: Any) -> type[TNLayer]:
    return next(layer for layer in LAYERS if isinstance(dense, layer.like))


def _parts(model: Any, kinds: tuple[type, ...] = (TNLayer,)) -> dict[str, Any]:
    """Leaves by their paths, modules of some classes being leaves."""
    found: dict[str, Any] = {}
    for path, part in jax.tree_util.tree_flatten_with_path(model, is_leaf=lambda part: isinstance(part, kinds))[0]:
        if _name(path) in found:
            raise PlanError(f"two parts of the model have the path {_name(path)!r}; rename a key")
        found[_name(path)] = part
    return found


def _layers(model: Any, kinds: tuple[type, ...]) -> dict[str, Any]:
    return {name: part for name, part in _parts(model, kinds).items() if isinstance(part, kinds)}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _swapped(model: M, swaps: Mapping[str, Any], kinds: tuple[type, ...] = ()) -> M:
    """A model with other parts at some paths; those of `kinds` and generated layers are swapped as a whole."""
    return jax.tree_util.tree_map_with_path(
        lambda path, part: swaps.get(_name(path), part),
        model,
        is_leaf=lambda part: isinstance(part, (TNLayer, *kinds)),
    )


def _count(model: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(model) if eqx.is_inexact_array(leaf))
