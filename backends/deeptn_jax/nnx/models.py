"""Compression and files of Flax NNX models."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import jax
from flax import nnx

from deeptn import FormatError, PlanError, StoredLayer, StoredModel
from deeptn import serialize as core
from deeptn.params import from_raw
from deeptn.plan import Target
from deeptn.report import Report

from ..layers import fitted
from .layers import TNConv, TNEmbed, TNLayer, TNLinear, to_kernel, to_weight, weight_of

M = TypeVar("M", bound=nnx.Module)

LAYERS: tuple[type[TNLayer], ...] = (TNLinear, TNConv, TNEmbed)


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
        If a pattern matches no layer.

    Examples
    --------
    >>> import deeptn as dtn
    >>> from flax import nnx
    >>> model = nnx.Sequential(nnx.Linear(400, 120, rngs=nnx.Rngs(0)), nnx.relu)
    >>> small, report = compress(model, {"layers.0": dtn.TensorTrain(rank=4)})
    >>> report.params_before, report.params_after
    (48000, 424)
    """
    small = nnx.clone(model)
    dense = {name: part for name, part in _modules(small).items() if type(part) in {layer.like for layer in LAYERS}}
    if "" in dense:
        raise PlanError("the model is a single layer; use its stand-in's from_dense")
    weights = {name: weight_of(layer) for name, layer in dense.items()}
    made, rows = fitted(weights, targets, ignore, fit, 0)
    before = _count(small)
    _swap(small, {dense[name]: _stand_in(dense[name])._of(dense[name], *parts) for name, parts in made.items()})
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
    whole = nnx.clone(model)
    _swap(whole, {part: part.to_dense() for part in _modules(whole).values() if isinstance(part, TNLayer)})
    return whole


def save_model(model: nnx.Module, path: str | os.PathLike[str]) -> None:
    """Write a model with generated layers to a file that every front-end reads (see `deeptn.save_model`).

    Parameters and statistics (`nnx.Param`, `nnx.BatchStat`) are stored under the names and in the shapes that PyTorch
    has for them: ``"layers.0.weight"`` for the kernel of a dense layer, ``"norm.running_mean"`` for a mean.

    Examples
    --------
    >>> import os, tempfile, deeptn as dtn
    >>> from flax import nnx
    >>> path = os.path.join(tempfile.mkdtemp(), "m.safetensors")
    >>> save_model(nnx.Sequential(TNLinear(16, 8, rngs=nnx.Rngs(0))), path)
    >>> dtn.load_model(path).layers["layers.0"].kind
    'linear'
    """
    layers = {}
    for name, part in _modules(model).items():
        if isinstance(part, TNLayer):
            bias = None if part.bias is None else part.bias[...]
            layers[name] = StoredLayer(part.kind, part.network, part.arrays, bias)
    tensors = {name: _to_torch(kind, value[...]) for name, (kind, value) in _variables(model).items()}
    core.save_model(path, StoredModel(layers, tensors))


def load_model(dense_model: M, path: str | os.PathLike[str], names: Mapping[str, str] | None = None) -> M:
    """Read a model that any front-end wrote.

    Parameters
    ----------
    dense_model : nnx.Module
        Of the architecture before compression; left as it is.
    path : path
    names : mapping of str to str, optional
        Names of modules in the file to their names here, where they differ: ``{"0": "layers.0"}``.

    Raises
    ------
    deeptn.FormatError
        If the file is damaged or does not fit the model.

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
    dense = _modules(model)
    swaps = {}
    for name, layer in stored.layers.items():
        old = dense.get(name)
        fits = type(old) in {made.like for made in LAYERS} and tuple(weight_of(old).shape) == layer.network.shape
        made = _stand_in(old)._of(old, layer.network, _arrays(layer.params)) if fits else None
        if made is None or made.kind != layer.kind or (made.bias is None) != (layer.bias is None):
            raise FormatError(
                f"the file has a {layer.kind} layer {name!r} of shape {layer.network.shape}"
                f"{'' if layer.bias is None else ' with a bias'}; the model has {type(old).__name__} there"
            )
        if layer.bias is not None:
            made.bias[...] = from_raw(layer.bias, "jax")
        swaps[old] = made
    _swap(model, swaps)
    variables = _variables(model)
    if variables.keys() - stored.tensors.keys():
        missing = sorted(variables.keys() - stored.tensors.keys())
        raise FormatError(f"the tensors do not fit the model: missing {missing[:3]}")
    surplus = sorted(set(stored.tensors) - set(variables))
    surplus = [name for name in surplus if not name.endswith("num_batches_tracked")]  # PyTorch's counter
    if surplus:
        raise FormatError(f"the tensors do not fit the model: surplus {surplus[:3]}")
    for name, (kind, value) in variables.items():
        found = _from_torch(kind, from_raw(stored.tensors[name], "jax"))
        if found.shape != value.shape:
            raise FormatError(f"tensor {name!r} has shape {stored.tensors[name].shape}, the model's {value.shape}")
        value[...] = found
    return model


def _stand_in(dense: Any) -> type[TNLayer]:
    return next(layer for layer in LAYERS if isinstance(dense, layer.like))


def _modules(model: nnx.Module) -> dict[str, Any]:
    """Modules by their paths; what is inside a generated layer left out."""
    found: dict[str, Any] = {}
    inside: tuple[str, ...] = ()
    modules = {".".join(map(str, path)): part for path, part in nnx.iter_modules(model)}
    inside = tuple(f"{name}." for name, part in modules.items() if isinstance(part, TNLayer))
    for name, part in modules.items():
        if not name.startswith(inside or ("\0",)):
            found[name] = part
    return found


#: PyTorch's names for the variables of modules.
_NAMES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def _variables(model: nnx.Module) -> dict[str, tuple[str, Any]]:
    """Parameters and statistics outside of generated layers, by PyTorch's names, with NNX's own."""
    found = {}
    for name, module in _modules(model).items():
        for own, value in vars(module).items():
            if isinstance(value, (nnx.Param, nnx.BatchStat)) and not isinstance(module, TNLayer):
                if isinstance(module, nnx.ConvTranspose):
                    raise PlanError(f"{name!r} is a transposed convolution, whose kernel PyTorch has in another form")
                theirs = _NAMES.get(own, own)
                place = f"{name}.{theirs}" if name else theirs
                if place in found:
                    raise PlanError(f"two variables of {name!r} would both be stored as {theirs!r}; rename {own!r}")
                found[place] = own, value
    return found


def _to_torch(own: str, array: jax.Array) -> jax.Array:
    return to_weight(array) if own == "kernel" and array.ndim > 1 else array


def _from_torch(own: str, array: jax.Array) -> jax.Array:
    return to_kernel(array) if own == "kernel" and array.ndim > 1 else array


def _arrays(params: Mapping[str, Any]) -> dict[str, jax.Array]:
    return {name: from_raw(array, "jax") for name, array in params.items()}


def _swap(model: nnx.Module, swaps: Mapping[Any, Any]) -> None:
    """Put other modules in the place of some, wherever they stand."""
    by_identity = {id(old): new for old, new in swaps.items()}
    for _, parent in list(nnx.iter_modules(model)):
        for name, child in list(vars(parent).items()):
            if id(child) in by_identity:
                setattr(parent, name, by_identity[id(child)])
    left = [path for path, part in nnx.iter_modules(model) if id(part) in by_identity]
    if left:
        raise PlanError(f"{'.'.join(map(str, left[0]))!r} stands in a plain container; use nnx.List or nnx.Dict")


def _count(model: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
