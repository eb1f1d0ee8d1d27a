"""Compression and files of Flax NNX models."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import jax
from flax import nnx

from deeptn import FormatError, PlanError, StoredLayer, StoredModel
from deeptn import serialize as core
from deeptn.params import cast, from_raw
from deeptn.plan import Target, resolve
from deeptn.report import Report

from ..layers import fitted
from .layers import TNConv, TNEmbed, TNLayer, TNLinear, to_kernel, to_weight, weight_of

M = TypeVar("M", bound=nnx.Module)

LAYERS: tuple[type[TNLayer], ...] = (TNLinear, TNConv, TNEmbed)
DENSE = tuple(layer.like for layer in LAYERS)

#: Variables that are no part of a trained model.
PASSING = (nnx.RngState, nnx.Cache, nnx.Intermediate)


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
    Cores are variables of the class that the kernel has (`nnx.Param`). Metadata of the kernel, such as its sharding,
    fits none of them and is left behind.

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
    dense: dict[str, Any] = {}
    for name, part in _parts(small, nnx.Module).items():
        if type(part) in DENSE and not any(part is other for other in dense.values()):
            dense[name] = part
    if "" in dense:
        raise PlanError("the model is a single layer; use its stand-in's from_dense")
    weights = {name: weight_of(layer) for name, layer in dense.items()}
    plan = resolve({name: tuple(weight.shape) for name, weight in weights.items()}, targets, ignore)
    for name in plan:
        _check_alone(small, name, dense[name])
    made, rows = fitted(plan, weights, fit, 0)
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
    _swap(whole, {part: part.to_dense() for part in _parts(whole, TNLayer).values()})
    return whole


def save_model(model: nnx.Module, path: str | os.PathLike[str]) -> None:
    """Write a model with generated layers to a file that every front-end reads (see `deeptn.save_model`).

    Parameters, statistics and variables of your own are stored under the names and in the shapes that PyTorch has for
    them: ``"layers.0.weight"`` for the kernel of a dense layer, ``"norm.running_mean"`` for a mean; the states of
    random generators, caches and intermediates are not.

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
    for name, part in _parts(model, TNLayer).items():
        bias = None if part.bias is None else part.bias[...]
        layers[name] = StoredLayer(part.kind, part.network, part.arrays, bias)
    tensors, seen = {}, {}
    for name, (kind, value) in _variables(model).items():
        if id(value) not in seen:  # what several names share is converted once, and stored once
            seen[id(value)] = _to_torch(kind, value[...])
        tensors[name] = seen[id(value)]
    core.save_model(path, StoredModel(layers, tensors))


def load_model(dense_model: M, path: str | os.PathLike[str], names: Mapping[str, str] | None = None) -> M:
    """Read a model that any front-end wrote.

    Parameters
    ----------
    dense_model : nnx.Module
        Of the architecture before compression; left as it is. The dtypes are its own, whatever the file has.
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
    dense = _parts(model, nnx.Module)
    swaps = {}
    for name, layer in stored.layers.items():
        old = dense.get(name)
        made = None
        if type(old) in DENSE and tuple(weight_of(old).shape) == layer.network.shape:
            _check_alone(model, name, old)
            dtype = weight_of(old).dtype
            cores = {param: _read(array, dtype, f"{name}.{param}") for param, array in layer.params.items()}
            made = _stand_in(old)._of(old, layer.network, cores)
        if made is None or made.kind != layer.kind or (made.bias is None) != (layer.bias is None):
            raise FormatError(
                f"the file has a {layer.kind} layer {name!r} of shape {layer.network.shape}"
                f"{'' if layer.bias is None else ' with a bias'}; the model has {type(old).__name__} there"
            )
        if layer.bias is not None:
            made.bias[...] = _read(layer.bias, made.bias.dtype, f"{name}.bias")
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
        found = _from_torch(kind, _read(stored.tensors[name], value.dtype, name))
        if found.shape != value.shape:
            raise FormatError(f"tensor {name!r} has shape {stored.tensors[name].shape}, the model's {value.shape}")
        value[...] = found
    return model


def _stand_in(dense: Any) -> type[TNLayer]:
    return next(layer for layer in LAYERS if isinstance(dense, layer.like))


def _parts(model: nnx.Module, kind: type) -> dict[str, Any]:
    """Modules or variables by all of their paths; what is inside a generated layer left out."""
    found: dict[str, Any] = {}

    def walk(part: Any, path: str, above: tuple[int, ...]) -> None:
        if isinstance(part, kind):
            if path in found:
                raise PlanError(f"two parts of the model are called {path!r}; keys with dots are not told from paths")
            found[path] = part
        if isinstance(part, TNLayer) or id(part) in above:
            return
        if isinstance(part, (list, tuple)):
            children: Any = enumerate(part)
        elif isinstance(part, (nnx.Pytree, dict)):
            children = (part if isinstance(part, dict) else vars(part)).items()
        else:
            return
        for name, child in children:
            walk(child, f"{path}.{name}" if path else str(name), (*above, id(part)))

    walk(model, "", ())
    return found


#: PyTorch's names for the variables of modules.
_NAMES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def _variables(model: nnx.Module) -> dict[str, tuple[str, Any]]:
    """Parameters and statistics outside of generated layers, by PyTorch's names, with NNX's own."""
    for name in _parts(model, nnx.ConvTranspose):
        raise PlanError(f"{name!r} is a transposed convolution, whose kernel PyTorch has in another form")
    found: dict[str, tuple[str, Any]] = {}
    for path, value in _parts(model, nnx.Variable).items():
        if isinstance(value, PASSING):
            continue
        module, _, own = path.rpartition(".")
        theirs = _NAMES.get(own, own)
        place = f"{module}.{theirs}" if module else theirs
        if place in found:
            raise PlanError(f"two variables of {module!r} would both be stored as {theirs!r}; rename {own!r}")
        found[place] = own, value
    return found


def _check_alone(model: nnx.Module, name: str, layer: Any) -> None:
    """Refuse a layer whose kernel or bias also stands elsewhere."""
    own = {id(value): what for what, value in vars(layer).items() if isinstance(value, nnx.Variable)}
    for other, module in _parts(model, nnx.Module).items():
        for value in vars(module).values() if module is not layer else ():
            if id(value) in own:
                raise PlanError(
                    f"layer {name!r} shares its {own[id(value)]} with {other!r}; untie them, or add {name!r} to ignore"
                )


def _to_torch(own: str, array: jax.Array) -> jax.Array:
    return to_weight(array) if own == "kernel" and array.ndim > 1 else array


def _from_torch(own: str, array: jax.Array) -> jax.Array:
    return to_kernel(array) if own == "kernel" and array.ndim > 1 else array


def _read(array: Any, dtype: Any, what: str) -> jax.Array:
    return from_raw(cast(array, dtype.name, what), "jax")


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
