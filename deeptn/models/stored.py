"""A view of the contents of a file, without model code."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..arrays import DTYPES, convert_params, dtype_of, from_raw, library_of, to_raw
from ..base import Array, Params, ParamsLike, loaded
from ..errors import MissingBackendError, PlanError
from ..files import LONE, StoredLayer, StoredModel, as_read, place_of, unread
from ..fitting import Covariance, Fit, FitResult, fit_by_gradient
from ..network import Network, network
from ..params import check_params
from .view import Entry, Generated, Weight

#: Last part of the name of a layer's weight, and of its bias, as in PyTorch.
WEIGHT, BIAS = ".weight", ".bias"

#: Entry points of functions that fit by gradient, by library.
GROUP = "deeptn.fits"

#: Libraries to fit with if several are installed: PyTorch's short fits take less time than JAX's compilation.
FIRST = ("torch",)

#: Last parts of the names of floating-point tensors that no training changes.
STATISTICS = ("running_mean", "running_var")

#: Parts of names by which embedding tables are recognized.
TABLES = ("embed", "wte", "wpe")


def guess_kind(name: str, ndim: int) -> str:
    """Guess the kind of a layer from the name and the number of axes of its weight.

    Examples
    --------
    >>> guess_kind("fc1", 2), guess_kind("features.0", 4), guess_kind("embeddings.word_embeddings", 2)
    ('linear', 'conv2d', 'embedding')
    """
    if ndim > 2:
        return f"conv{ndim - 2}d"
    return "embedding" if any(word in name.rpartition(".")[2].lower() for word in TABLES) else "linear"


def fit_arrays(
    net: Network, weight: Array, params: Any = None, how: Fit | None = None, covariance: Covariance | None = None
) -> FitResult:
    """Fit a network to a weight without a front-end: in NumPy, or with the gradients of an installed library.

    Parameters
    ----------
    net, weight, params, how, covariance
        As for `deeptn_torch.fit`; arrays of any library.

    Returns
    -------
    FitResult
        Arrays of the weight's library.

    Raises
    ------
    MissingBackendError
        If the fit needs gradients, and neither PyTorch nor JAX with optax is installed.

    Examples
    --------
    >>> import deeptn as dtn
    >>> fit_arrays(dtn.network(dtn.CP(rank=1), (4, 6)), np.ones((4, 6))).error < 1e-6
    True
    """
    wanted = (Fit() if how is None else how).resolved(net, covariance)
    if wanted.method == "als" or not wanted.steps:
        return fit_by_gradient(net, weight, params, how, library_of(weight).name, _stay, covariance)
    library, fit = _gradient_fit()

    def moved(arrays: ParamsLike, to: str) -> Params:
        return {name: from_raw(to_raw(array), to) for name, array in arrays.items()}

    found = fit(net, from_raw(to_raw(weight), library), params and moved(params, library), how, covariance)
    return found._replace(params=moved(found.params, library_of(weight).name))


class StoredView:
    """A `deeptn.files.StoredModel` as a `ModelView`: what a file contains, without model code.

    Every floating-point tensor with two or more axes is a weight that a network can generate. The tensors
    ``"fc.weight"`` and ``"fc.bias"`` make the layer ``"fc"``; its kind is a guess (`guess_kind`). A weight with another
    name is a lone weight.

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> view = StoredView(StoredModel({}, {"fc.weight": np.ones((4, 6)), "fc.bias": np.ones(4)}))
    >>> dtn.models.compress(view, {"fc": dtn.LowRank(rank=1)})[0].layers["fc"].network.num_params
    10
    """

    def __init__(self, model: StoredModel):
        self.model = model

    def weights(self) -> list[Weight]:
        generated: dict[Hashable, list[str]] = {}
        for name, layer in self.model.layers.items():
            generated.setdefault(_layer_tie(layer), []).append(name)
        dense: dict[Hashable, list[str]] = {}
        arrays = unread(self.model.tensors)
        for name, array in arrays.items():
            if _is_weight(array):
                dense.setdefault(_tie(name, array), []).append(name)
        found = [self._generated(tuple(names)) for names in generated.values()]
        return found + [self._dense(names, arrays) for names in dense.values()]

    def _generated(self, names: tuple[str, ...]) -> Weight:
        layer = self.model.layers[names[0]]
        net, dtype = layer.network, dtype_of(next(iter(layer.params.values())))
        read, own = partial(net.materialize, layer.params), "" if layer.kind == LONE else WEIGHT[1:]
        return Weight(names, layer.kind, net.shape, dtype, read, own, layer.bias is not None, net)

    def _dense(self, names: Sequence[str], arrays: Mapping[str, Array]) -> Weight:
        shape, dtype = tuple(arrays[names[0]].shape), dtype_of(arrays[names[0]])

        def read() -> Array:
            return self.model.tensors[names[0]]

        layers = tuple(name.removesuffix(WEIGHT) for name in names)
        if "" in layers or not all(name.endswith(WEIGHT) for name in names):
            return Weight(tuple(names), LONE, shape, dtype, read, own="")
        bias = arrays.get(layers[0] + BIAS) if len(layers) == 1 else None
        has_bias = bias is not None and tuple(bias.shape) == shape[:1] and dtype_of(bias) in DTYPES
        return Weight(layers, guess_kind(layers[0], len(shape)), shape, dtype, read, bias=has_bias)

    def entries(self) -> dict[str, Entry]:
        whole = self.model._replace(tensors=unread(self.model.tensors))
        return {name: _entry(name, array) for name, array in whole.state().items()}

    def replace(self, changes: Mapping[str, Generated | None]) -> None:
        layers, tensors = dict(self.model.layers), dict(unread(self.model.tensors))
        weights = {weight.name: weight for weight in self.weights()}
        for first, change in changes.items():
            weight = weights[first]
            if change is None:
                dense, bias = weight.read(), layers[first].bias
                for name in weight.names:
                    del layers[name]
                    tensors[weight.entry(weight.own, name)] = dense
                    tensors |= {} if bias is None else {name + BIAS: bias}
                continue
            if change.network.shape != weight.shape:
                raise PlanError(f"layer {first!r} has a weight of shape {weight.shape}, not {change.network.shape}")
            check_params(change.network.spec, change.params)
            like = tensors[weight.entry(weight.own)]
            bias = self.model.tensors[first + BIAS] if weight.bias else None
            tensors.pop(first + BIAS if weight.bias else "", None)
            cores: Params = {name: to_raw(core) for name, core in change.params.items()}
            if any(core.dtype != getattr(like, "dtype", None) for core in cores.values()):
                cores = convert_params(cores, like)
            layer = StoredLayer(weight.kind, change.network, cores, bias)
            for name in weight.names:
                del tensors[weight.entry(weight.own, name)]
                layers[name] = layer
        self.model = StoredModel(layers, as_read(tensors, self.model.tensors))

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        state = self.model.state()
        ties = {name: _tie(name, array) for name, array in state.items()}
        given = {ties[name]: from_raw(array, library_of(state[name]).name) for name, array in arrays.items()}
        new = {name: given.get(ties[name], array) for name, array in state.items()}
        made: dict[Hashable, StoredLayer] = {}
        layers: dict[str, StoredLayer] = {}
        for name, layer in self.model.layers.items():
            cores = {core: new[f"{name}.cores.{core}"] for core in layer.params}
            bias = None if layer.bias is None else new[name + BIAS]
            layers[name] = made.setdefault(_layer_tie(layer), layer._replace(params=cores, bias=bias))
        self.model = StoredModel(layers, {name: new[name] for name in self.model.tensors})

    fit = staticmethod(fit_arrays)

    def seed(self, given: int | None) -> int:
        return int(np.random.default_rng(given).integers(2**62))


def _is_weight(array: Array) -> bool:
    return dtype_of(array) in DTYPES and len(array.shape) > 1 and 0 not in array.shape


def _entry(name: str, array: Array) -> Entry:
    dtype = dtype_of(array)
    trained = dtype in DTYPES and name.rpartition(".")[2] not in STATISTICS
    return Entry(tuple(array.shape), dtype, _tie(name, array), lambda: array, trained)


def _tie(name: str, array: Array) -> Hashable:
    """Return what is equal for two names of one array."""
    return place_of(name, array) if isinstance(array, np.ndarray) else id(array)


def _layer_tie(layer: StoredLayer) -> Hashable:
    arrays = layer.params if layer.bias is None else layer.params | {"bias": layer.bias}
    return layer.network, tuple(_tie(name, array) for name, array in arrays.items())


def _stay(loss_of: Callable[[Params], Array], start: Params, like: Array, how: Fit) -> tuple[Params, list[float]]:
    """Take no steps."""
    return start, [float(loss_of(start))]


def can_fit() -> bool:
    """Return whether an installed front-end can fit networks by gradient.

    Examples
    --------
    >>> can_fit()
    True
    """
    try:
        fit_arrays(network("LowRank", (2, 2)), np.ones((2, 2)), None, Fit(method="lbfgs", steps=1))
    except (ImportError, OSError):  # a library is missing, or broken
        return False
    return True


def _gradient_fit() -> tuple[str, Callable[..., FitResult]]:
    """Return the fit of an installed front-end, and the name of its library."""
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name not in FIRST):
        fit = loaded(entry, "fit")
        if fit is not None:
            return entry.name, fit
    raise MissingBackendError("torch", "torch")
