"""Compression and files of Flax NNX models."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import jax
from flax import nnx

from deeptn.errors import FormatError, PlanError
from deeptn.files import StoredLayer, StoredModel
from deeptn.files import model_file as core
from deeptn.models import Report, Target, resolve

from ..layers import check_data, fitted, read
from .graph import check_alone, like, parts, swap, variables, write
from .layers import TNConv, TNEmbed, TNLayer, TNLinear, shape_of, to_kernel, to_weight, weight_of

M = TypeVar("M", bound=nnx.Module)

LAYERS: tuple[type[TNLayer], ...] = (TNLinear, TNConv, TNEmbed)
DENSE = tuple(layer.like for layer in LAYERS)


def compress(
    model: M, targets: Mapping[str, Target], ignore: Iterable[str] = (), fit: Any = "auto"
) -> tuple[M, Report]:
    """Return a copy of a model in which chosen layers have generated weights, and a report.

    Parameters
    ----------
    model : nnx.Module
        Left as it is.
    targets : mapping of str to deeptn.Topology, deeptn.Network or str
        Which layers (`flax.nnx.Linear`, `Conv`, `Embed`) become what. A key is a layer's path (``"encoder.layers.0"``),
        a glob (``"encoder.*"``) or ``"re:…"``. If several match, an exact name wins, then the first.
    ignore : iterable of str
        Patterns of layers to leave alone.
    fit : {"auto"}, deeptn.Fit or None
        ``"auto"``: the closed form where the family has one, else a fit by gradient. None: random cores.

    Returns
    -------
    model : nnx.Module
    report : deeptn.report.Report

    Raises
    ------
    deeptn.PlanError
        If a pattern matches no layer, or a layer shares its kernel or bias with another module.

    Notes
    -----
    Cores are variables of the class that the kernel has, `nnx.Param` if that one has a constructor of its own. Metadata
    of the kernel, such as its sharding, fits none of them and is left behind.

    Examples
    --------
    >>> import deeptn as dtn
    >>> from flax import nnx
    >>> model = nnx.Sequential(nnx.Linear(400, 120, rngs=nnx.Rngs(0)), nnx.relu)
    >>> small, report = compress(model, {"layers.0": dtn.TensorTrain(rank=4)})
    >>> report.params_before, report.params_after
    (48000, 424)
    """
    check_data(nnx.state(model))
    small = nnx.clone(model)
    everywhere = parts(small, nnx.Module)
    dense: dict[str, Any] = {}
    for name in (*parts(model, nnx.Module, once=True), *everywhere):  # a clone has forgotten the order
        part = everywhere.get(name)
        if type(part) in DENSE and not any(part is other for other in dense.values()):
            dense[name] = part
    if "" in dense:
        raise PlanError("the model is a single layer; use its stand-in's from_dense")
    weights = {name: weight_of(layer) for name, layer in dense.items()}
    plan = resolve({name: tuple(weight.shape) for name, weight in weights.items()}, targets, ignore)
    check_alone(small, {name: dense[name] for name in plan}, ", or add it to ignore")
    made, rows = fitted(plan, weights, fit, 0)
    before = _count(small)
    swap(small, {dense[name]: _stand_in(dense[name])._of(dense[name], *parts) for name, parts in made.items()})
    return small, Report(tuple(rows), before, _count(small))


def fold(model: M) -> M:
    """Return a copy of a model with dense layers in the place of all generated ones.

    Examples
    --------
    >>> from flax import nnx
    >>> model = nnx.Sequential(TNLinear(16, 8, rngs=nnx.Rngs(0)))
    >>> type(fold(model).layers[0]).__name__
    'Linear'
    """
    check_data(nnx.state(model))
    whole = nnx.clone(model)
    swap(whole, {part: part.to_dense() for part in parts(whole, TNLayer, once=True).values()})
    return whole


def save_model(model: nnx.Module, path: str | os.PathLike[str]) -> None:
    """Write a model with generated layers to a file that every front-end reads (see `deeptn.save_model`).

    Parameters, statistics and variables of your own are stored under the names and in the shapes that PyTorch has for
    them: ``"layers.0.weight"`` for the kernel of a dense layer, ``"norm.running_mean"`` for a mean. The states of
    random generators, of metrics and of optimizers are not, nor are caches, intermediates, and arrays that stand in no
    variable. A module of several names is stored once, under all of them.

    Raises
    ------
    deeptn.PlanError
        If the model has no generated layer, a variable is no array or number, or two would have one name.

    Examples
    --------
    >>> import os, tempfile, deeptn as dtn
    >>> from flax import nnx
    >>> path = os.path.join(tempfile.mkdtemp(), "m.safetensors")
    >>> save_model(nnx.Sequential(TNLinear(16, 8, rngs=nnx.Rngs(0))), path)
    >>> dtn.load_model(path).layers["layers.0"].kind
    'linear'
    """
    check_data(nnx.state(model))
    layers = {}
    for name, part in parts(model, TNLayer).items():
        bias = None if part.bias is None else part.bias[...]
        layers[name] = StoredLayer(part.kind, part.network, part.arrays, bias)
    tensors: dict[str, Any] = {}
    made: dict[int, Any] = {}
    for name, (own, value) in variables(model).items():
        if id(value) not in made:  # what several names share is converted once, and stored once
            made[id(value)] = _to_torch(own, like(value))
        tensors[name] = made[id(value)]
    core.save_model(path, StoredModel(layers, tensors))


def load_model(dense_model: M, path: str | os.PathLike[str], names: Mapping[str, str] | None = None) -> M:
    """Read a model that any front-end wrote.

    Parameters
    ----------
    dense_model : nnx.Module
        Of the architecture before compression, or with the same generated layers; left as it is. The dtypes are its
        own, whatever the file has. One of `flax.nnx.eval_shape` will do, if the file has all of its arrays.
    path : path
    names : mapping of str to str, optional
        Names of modules in the file to their names here, where they differ: ``{"0": "layers.0"}``.

    Raises
    ------
    deeptn.FormatError
        If the file is damaged or does not fit the model.
    deeptn.PlanError
        If a layer that is replaced shares its kernel or bias with another module.

    Examples
    --------
    >>> import os, tempfile
    >>> from flax import nnx
    >>> path = os.path.join(tempfile.mkdtemp(), "m.safetensors")
    >>> save_model(nnx.Sequential(TNLinear(16, 8, rngs=nnx.Rngs(0))), path)
    >>> load_model(nnx.Sequential(nnx.Linear(16, 8, rngs=nnx.Rngs(1))), path).layers[0].network.num_params
    156
    """
    stored = core.load_model(path).renamed(names or {})
    model = nnx.clone(dense_model)
    everywhere = parts(model, nnx.Module)
    swaps: dict[Any, Any] = {}
    read_as: dict[int, str] = {}
    for name, layer in stored.layers.items():
        old = everywhere.get(name)
        if id(old) in read_as:
            core.check_same(stored.layers, read_as[id(old)], name)
            continue
        swaps[old] = _generated(name, old, layer)
        read_as[id(old)] = name
    check_alone(model, {read_as[id(old)]: old for old, made in swaps.items() if made is not old})
    swap(model, {old: made for old, made in swaps.items() if made is not old})
    core.check_complete(stored, parts(model, TNLayer))
    held = variables(model)
    missing = sorted(held.keys() - stored.tensors.keys())
    surplus = sorted(stored.tensors.keys() - held.keys())
    surplus = [name for name in surplus if not name.endswith("num_batches_tracked")]  # PyTorch's counter
    if missing or surplus:
        raise FormatError(f"the tensors do not fit the model: missing {missing[:3]}, surplus {surplus[:3]}")
    for name, (own, value) in held.items():
        if id(value) in read_as:
            core.check_same(stored.tensors, read_as[id(value)], name)
            continue
        old = like(value)
        found = _from_torch(own, read(stored.tensors[name], old, name))
        if found.shape != old.shape:
            raise FormatError(f"tensor {name!r} has shape {stored.tensors[name].shape}, the model's {old.shape}")
        write(value, found)
        read_as[id(value)] = name
    for place, leaf in jax.tree_util.tree_leaves_with_path(nnx.state(model)):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            name = jax.tree_util.keystr(place, simple=True, separator=".")
            raise FormatError(f"{name!r} of the model has a shape, but no data, and the file does not hold it")
    return model


def _generated(name: str, old: Any, layer: StoredLayer) -> TNLayer:
    """The layer of a file, made of the dense one that it stands for, or written into a generated one."""
    made = None
    if isinstance(old, TNLayer) and old.network == layer.network:
        made = old
        for param, array in layer.params.items():
            write(old.cores[param], read(array, like(old.cores[param]), f"{name}.cores.{param}"))
    elif type(old) in DENSE and shape_of(old) == layer.network.shape:
        as_kernel = like(getattr(old, _stand_in(old).attribute))
        cores = {param: read(array, as_kernel, f"{name}.cores.{param}") for param, array in layer.params.items()}
        made = _stand_in(old)._of(old, layer.network, cores)
    if made is None or made.kind != layer.kind or (made.bias is None) != (layer.bias is None):
        raise FormatError(
            f"the file has a {layer.kind} layer {name!r} of shape {layer.network.shape}"
            f"{'' if layer.bias is None else ' with a bias'}; the model has {type(old).__name__} there"
            f"{' of another network' if isinstance(old, TNLayer) else ''}"
        )
    if layer.bias is not None:
        write(made.bias, read(layer.bias, like(made.bias), f"{name}.bias"))
    return made


def _stand_in(dense: Any) -> type[TNLayer]:
    return next(layer for layer in LAYERS if isinstance(dense, layer.like))


def _to_torch(own: str, array: jax.Array) -> jax.Array:
    return to_weight(array) if own == "kernel" and array.ndim > 1 else array


def _from_torch(own: str, array: jax.Array) -> jax.Array:
    return to_kernel(array) if own == "kernel" and array.ndim > 1 else array


def _count(model: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
