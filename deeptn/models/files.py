"""Save models of any framework to files, and fill models from files."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import files
from ..arrays import cast, numpy_dtype, relative_error, to_raw
from ..base import PathLike, Shape
from ..errors import FormatError
from ..files import Cores, StoredLayer, StoredModel, rounded_model
from ..network import Network
from .compress import check_free
from .view import Entry, Generated, ModelView, Weight, widened

#: Counters that only PyTorch has, of normalizations and of `AveragedModel`; they may be missing from a file or a model.
COUNTERS = ("num_batches_tracked", "n_averaged")


def save_model(view: ModelView, path: PathLike, cores: Cores | None = None) -> dict[str, float]:
    """Write a model with generated layers to a file that every front-end can read (see `deeptn.save_model`).

    Parameters
    ----------
    view : ModelView
        An array shared by several names is stored once.
    path : path
        File to write. An existing file is replaced completely or not at all.
    cores : {"float16", "bfloat16", "int8"}, optional
        Store the cores in fewer bytes, int8 with a scale for each core. A model that loads the file has them in its own
        dtype, rounded: this saves bytes at rest, not at run time.

    Returns
    -------
    dict of str to float
        ``‖W - W'‖ / ‖W‖`` of every generated weight between the cores of the model and those in the file; empty if they
        are stored as they are.

    Raises
    ------
    PlanError
        If the model has no generated layer, or contains something that a file cannot store.

    Examples
    --------
    >>> import os, tempfile, deeptn as dtn
    >>> from torch import nn
    >>> from deeptn_torch import TNLinear
    >>> from deeptn_torch.view import TorchModel
    >>> path = os.path.join(tempfile.mkdtemp(), "small.safetensors")
    >>> save_model(TorchModel(nn.Sequential(TNLinear(16, 8), nn.ReLU())), path)
    {}
    >>> dtn.load_model(path).layers["0"].kind
    'linear'
    """
    stored = to_stored(view)
    files.save_model(stored, path, cores)
    return {} if cores is None else rounding_errors(stored, cores)


def rounding_errors(model: StoredModel, cores: Cores) -> dict[str, float]:
    """Return by how much every generated weight changes if a file stores its cores in fewer bytes.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.BrickWall(layers=2), (16, 16))
    >>> model = StoredModel({"fc": StoredLayer("linear", net, net.init(), None)}, {})
    >>> [0 < rounding_errors(model, cores)["fc"] < limit for cores, limit in (("float16", 1e-3), ("int8", 0.05))]
    [True, True]
    """
    found = rounded_model(model, cores)

    def weight(layer: StoredLayer) -> Any:
        return layer.network.materialize({name: widened(to_raw(core)) for name, core in layer.params.items()})

    return {name: relative_error(weight(found.layers[name]), weight(layer)) for name, layer in model.layers.items()}


def load_model(view: ModelView, path: PathLike, names: Mapping[str, str] | None = None) -> Any:
    """Fill a model from a file written by any front-end. If the file does not fit, nothing changes.

    Parameters
    ----------
    view : ModelView
        A model with the architecture before compression, or with the same generated layers. It keeps its dtypes.
    path : path
    names : mapping of str to str, optional
        Maps names of modules in the file to their names in the model, if they differ: ``{"layers.0": "0"}``. An empty
        name removes a prefix or adds one: ``{"_orig_mod": ""}`` for a file of a model from `torch.compile`.

    Returns
    -------
    object
        The model of the view.

    Raises
    ------
    FormatError
        If the file is damaged or does not fit the model.
    PlanError
        If a layer has to be replaced and cannot be; see `compress`.

    Examples
    --------
    >>> import os, tempfile
    >>> from torch import nn
    >>> from deeptn_torch import TNLinear
    >>> from deeptn_torch.view import TorchModel
    >>> path = os.path.join(tempfile.mkdtemp(), "small.safetensors")
    >>> errors = save_model(TorchModel(nn.Sequential(TNLinear(16, 8), nn.ReLU())), path)
    >>> load_model(TorchModel(nn.Sequential(nn.Linear(16, 8), nn.ReLU())), path)[0].network.num_params
    156
    """
    from_stored(view, files.load_model(path).renamed(names or {}))
    return view.model


def to_stored(view: ModelView) -> StoredModel:
    """Return what a file stores of a model, as NumPy arrays; names that share an array get the same one."""
    weights = [weight for weight in view.weights() if weight.network is not None]
    entries = view.entries()
    arrays: dict[Hashable, np.ndarray] = {}

    def read(name: str) -> np.ndarray:
        tie = entries[name].tie
        if tie not in arrays:
            arrays[tie] = to_raw(entries[name].read())
        return arrays[tie]

    layers: dict[str, StoredLayer] = {}
    for weight in weights:
        assert weight.network is not None
        cores = {core: read(name) for core, name in weight.cores.items()}
        layer = StoredLayer(weight.kind, weight.network, cores, read(weight.entry("bias")) if weight.bias else None)
        layers |= dict.fromkeys(weight.names, layer)
    owned = set().union(*(weight.owned for weight in weights))
    return StoredModel(layers, {name: read(name) for name in entries if name not in owned})


def size_of(view: ModelView, networks: Mapping[str, Network]) -> int:
    """Return the bytes of the file of a model, if networks generate more of its weights. No weight is read.

    Examples
    --------
    >>> import deeptn as dtn
    >>> from torch import nn
    >>> from deeptn_torch.view import TorchModel
    >>> view = TorchModel(nn.Linear(400, 120))
    >>> size_of(view, {}), size_of(view, {"": dtn.network(dtn.LowRank(rank=2), (120, 400))})
    (192760, 5192)
    """
    entries, weights = view.entries(), view.weights()
    ties: dict[Hashable, np.ndarray] = {}
    layers: dict[str, StoredLayer] = {}
    owned: set[str] = set()

    def empty(name: str) -> np.ndarray:
        entry = entries[name]
        return ties.setdefault(entry.tie, _empty(entry.shape, entry.dtype or "uint8"))

    for weight in weights:
        net = weight.network or networks.get(weight.name)
        if net is not None:
            dtype = weight.dtype or "float32"
            if weight.network is None:
                cores = {core: _empty(shape, dtype) for core, shape in net.spec.param_shapes.items()}
            else:
                cores = {core: empty(name) for core, name in weight.cores.items()}
            bias = empty(weight.entry("bias")) if weight.bias else None
            layers |= dict.fromkeys(weight.names, StoredLayer(weight.kind, net, cores, bias))
            owned |= weight.owned
    return files.size_of_model(StoredModel(layers, {name: empty(name) for name in entries if name not in owned}))


def _empty(shape: Shape, dtype: str) -> np.ndarray:
    """Return an array that takes the memory of one entry."""
    return np.broadcast_to(np.zeros((), numpy_dtype(dtype)), shape)


def from_stored(view: ModelView, source: StoredModel) -> None:
    """Fill a model with the contents of a file: everything, or nothing."""
    entries, weights = view.entries(), view.weights()
    for name, entry in entries.items():
        if entry.refused:
            raise FormatError(f"the file does not fit the model, whose {name!r} {entry.refused}")
    found = _layers(source, weights, getattr(view, "lone_weight", lambda name: None))
    arrays = found.arrays | _rest(source, entries, set().union(*(weight.owned for weight in found.taken)))
    for name, array in arrays.items():
        shape, dtype = entries[name].shape, entries[name].dtype
        if shape != array.shape:
            raise FormatError(
                f"the tensors of the file do not fit the model: {name!r} has shape {array.shape}, the model's {shape}"
            )
        arrays[name] = _as(dtype, array, name)
    view.replace(found.changes)
    view.write(arrays)


class _Layers(NamedTuple):
    """Weights that a file's generated layers fill, the replacements needed, and the arrays to write afterwards."""

    taken: list[Weight]
    changes: dict[str, Generated]
    arrays: dict[str, np.ndarray]


def _layers(source: StoredModel, weights: Sequence[Weight], lone: Callable[[str], Weight | None]) -> _Layers:
    found = _Layers([], {}, {})
    places = {name: weight for weight in weights for name in weight.names}
    first: dict[str, str] = {}
    for name, layer in source.layers.items():
        weight = _place(name, layer, places.get(name) or lone(name))
        if first.setdefault(weight.name, name) != name:  # a module with two names
            _check_same(source.layers, first[weight.name], name)
            continue
        found.taken.append(weight)
        if weight.network is None:
            check_free(weight)
            cores = {core: _as(weight.dtype, a, f"{name}.cores.{core}") for core, a in layer.params.items()}
            found.changes[weight.name] = Generated(layer.network, cores, layer.kind)
        else:
            found.arrays.update({weight.cores[core]: array for core, array in layer.params.items()})
        if layer.bias is not None:
            found.arrays[weight.entry("bias")] = layer.bias
    missing = [weight.name for weight in weights if weight.network is not None and weight.name not in first]
    if missing:
        raise FormatError(f"the file has no generated layers {missing[:3]}, which the model has")
    return found


def _place(name: str, layer: StoredLayer, weight: Weight | None) -> Weight:
    """Return the weight of the model that a layer of the file belongs to."""
    net = layer.network
    fits = weight is not None and net.shape == weight.shape and _same_kind(layer.kind, weight.kind)
    if weight is None or not fits or weight.network not in (None, net):
        came = "none" if weight is None else f"a {weight.kind!r} layer of shape {weight.shape}"
        came += " with another network" * fits
        raise FormatError(
            f"the file has a {layer.kind!r:.20} layer {name!r} of shape {net.shape}; the model has {came} there"
        )
    if (layer.bias is not None) != weight.bias:
        here, there = ("a bias", "none") if weight.bias else ("no bias", "one")
        raise FormatError(f"the layer {name!r} of the model has {here}, but the file has {there}")
    return weight


def _same_kind(one: str, other: str) -> bool:
    """Return whether two kinds have the same weight: a file without model code does not know embeddings for sure."""
    return one == other or {one, other} <= {"linear", "embedding", "embedding_padded"}


def _rest(source: StoredModel, entries: Mapping[str, Entry], owned: set[str]) -> dict[str, np.ndarray]:
    """Return the tensors of a file by the entries that they fill, without those of its layers."""
    mine, theirs = entries.keys() - owned, source.tensors.keys() - owned
    both = [name for name in entries if name in mine & theirs]
    first: dict[Hashable, str] = {}
    for name in both:
        _check_same(source.tensors, first.setdefault(entries[name].tie, name), name)
    missing = sorted(name for name in mine - theirs if entries[name].tie not in first and not _counts(name))
    surplus = sorted(name for name in theirs - mine if not _counts(name))
    if missing or surplus:
        raise FormatError(f"the tensors of the file do not fit the model: missing {missing[:3]}, surplus {surplus[:3]}")
    return {name: source.tensors[name] for name in both}


def _counts(name: str) -> bool:
    return name.rpartition(".")[2] in COUNTERS


def _as(dtype: str | None, array: np.ndarray, what: str) -> np.ndarray:
    return array if dtype is None else cast(array, dtype, what)


def _check_same(read: Mapping[str, Any], one: str, other: str) -> None:
    """Raise `FormatError` unless a file has equal contents under two names that are shared in the model."""

    def content(found: Any) -> Any:
        if isinstance(found, StoredLayer):
            arrays = [*found.params.values(), *(() if found.bias is None else (found.bias,))]
            return found.network, [content(array) for array in arrays]
        return found.dtype, found.shape, found.tobytes()

    if read[one] is not read[other] and content(read[one]) != content(read[other]):
        raise FormatError(f"{one!r} and {other!r} are shared in the model, but differ in the file")
