"""Front-ends for array libraries: what they must provide, how to find them, and the laws that they must obey.

Test your own front-end in two lines::

    def test_cupy():
        check_front_end(CuPyFrontEnd())
"""

from __future__ import annotations

import importlib.metadata
import itertools
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .. import files
from ..arrays import from_raw, library, to_numpy, to_raw
from ..base import Array, Params, loaded
from ..files import StoredLayer, StoredModel
from ..init import target_std
from ..models import ModelView, StoredView, load_model, save_model, to_stored
from ..network import Network, network
from ..topologies import MERA, BrickWall, TensorTrain, Tree, Tucker

#: Group of entry points. Each is called without arguments and returns a `FrontEnd`.
GROUP = "deeptn.frontends"

#: Largest allowed error of an output relative to its largest entry, by dtype of the cores.
TOLERANCES = {"float64": 1e-10, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}

#: Name of the layer in its model.
LAYER = "layer"

#: Number of rows of the inputs.
ROWS = 5


class FrontEnd(Protocol):
    """What the laws need from a front-end: a model with one linear layer, its view, and what it computes.

    The laws reach everything else (cores, bias, files) through the view, as `compress` and `save_model` do. They do not
    test all of a front-end (convolutions, training), only what the rest is built on.

    Attributes
    ----------
    name : str
        Name of the entry point.
    library : str
        Array library that it works with, by autoray's name.

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> front_end = front_ends()["jax"]
    >>> model = front_end.linear(dtn.network("TTMatrix", (10, 64)), bias=True, seed=0)
    >>> front_end.call(model, dtn.arrays.from_raw(np.ones((5, 64), "float32"), front_end.library)).shape
    (5, 10)
    """

    name: str
    library: str

    @property
    def view(self) -> Callable[[Any], ModelView]:
        """The class (or function) that makes the view of a model."""
        ...

    def linear(self, network: Network, bias: bool, seed: int) -> Any:
        """Make a model with one layer, ``"layer"``: ``y = x @ W.T + b``, where W of ``network.shape`` is generated."""
        ...

    def call(self, model: Any, x: Array) -> Array:
        """Return ``y`` of shape (rows, outputs) for ``x`` of shape (rows, inputs)."""
        ...

    def gradient(self, model: Any, x: Array, dy: Array) -> Mapping[str, Array] | None:
        """Return the gradient of ``sum(dy * y)`` by core name, or None if the library has no gradients."""
        ...


class PureFunctions:
    """Networks with cores and biases but no layer around them: what deeptn's core alone does for a library.

    Parameters
    ----------
    library : str
        Array library to work with, by autoray's name.
    init : callable, optional
        Draws the cores of a network from a seed; by default `deeptn.Network.init`, for NumPy, PyTorch and JAX.

    Examples
    --------
    >>> import deeptn as dtn
    >>> check_front_end(PureFunctions("numpy"), [dtn.network("TTMatrix", (6, 8))])
    """

    view = StoredView

    def __init__(self, library: str = "numpy", init: Callable[[Network, int], Params] | None = None):
        self.name = self.library = library
        self._init = init

    def linear(self, network: Network, bias: bool, seed: int) -> StoredModel:
        cores = network.init(seed, like=self.library) if self._init is None else self._init(network, seed)
        zeros = from_raw(np.zeros(network.shape[0], "float32"), self.library) if bias else None
        return StoredModel({LAYER: StoredLayer("linear", network, cores, zeros)}, {})

    def call(self, model: StoredModel, x: Array) -> Array:
        layer = model.layers[LAYER]
        y = layer.network.apply(layer.params, x)
        return y if layer.bias is None else y + layer.bias

    def gradient(self, model: StoredModel, x: Array, dy: Array) -> dict[str, np.ndarray] | None:
        arrays, layer = library(self.library), model.layers[LAYER]
        if not arrays.has_gradients:
            return None
        return arrays.pull_back(lambda cores: layer.network.apply(cores, x), layer.params, arrays.to_raw(dy))[1]


def front_ends() -> dict[str, FrontEnd]:
    """Return the installed front-ends by entry point name, without those whose library is missing.

    Returns
    -------
    dict of str to FrontEnd

    Examples
    --------
    >>> {"torch", "jax"} <= front_ends().keys()
    True
    """
    found: dict[str, FrontEnd] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        make = loaded(entry, "front-end")
        with suppress(ImportError):  # a front-end may import its library when it is made
            if make is not None:
                found[entry.name] = make()
    return found


def default_networks() -> tuple[Network, ...]:
    """Return the networks that `check_front_end` tries: small ones, with and without activations and padding.

    Examples
    --------
    >>> {net.is_linear for net in default_networks()}, any(n.layout.padded_shape != n.shape for n in default_networks())
    ({False, True}, True)
    """
    return (
        network(BrickWall(layers=2), (10, 12)),
        network(BrickWall(layers=2, activation=None), (8, 16)),
        network(Tree(rank=3), (6, 10)),
        network(MERA(rank=3), (6, 8)),
        network(TensorTrain(rank=3), (12, 10)),
        network(Tucker(rank=2), (5, 7)),
    )


def check_front_end(front_end: FrontEnd, networks: Iterable[Network] | None = None, seed: int = 0) -> None:
    """Check the laws that every front-end must obey, on layers with and without a bias.

    Arrays survive a round trip through the library. Cores have the names and shapes of the spec. The output is
    ``x @ W.T + b``, with W decoded by NumPy in double precision, and the gradient matches its finite differences. Drawn
    cores reach the standard deviation that `deeptn.Network.init` promises. The same seed gives the same cores, another
    seed gives others. A layer filled from a file, written by the front-end or by NumPy, has exactly the same bits.

    Parameters
    ----------
    front_end : FrontEnd
    networks : iterable of Network, optional
        Networks for weights with two axes; by default `default_networks`.
    seed : int

    Raises
    ------
    AssertionError
        If a law is broken; the message names the law, the front-end, the network and what was found. Errors of the
        front-end itself propagate, with a note that names these.

    Examples
    --------
    >>> import deeptn as dtn
    >>> check_front_end(front_ends()["jax"], [dtn.network(dtn.TTMatrix(rank=2), (6, 8))])
    """
    chosen = default_networks() if networks is None else networks
    for net, bias in itertools.product(chosen, (True, False)):
        case = _Case(front_end, net, bias, seed)
        for name, law in LAWS.items():
            where = f"law {name!r} of the front-end {front_end.name!r}, {net!r}, {'a' if bias else 'no'} bias"
            try:
                law(case)
            except AssertionError as error:
                raise AssertionError(f"{where}: {error}") from error
            except Exception as error:
                error.add_note(where)
                raise


@dataclass(frozen=True)
class _Case:
    """A layer under test, with its arrays as NumPy arrays."""

    front_end: FrontEnd
    network: Network
    has_bias: bool
    seed: int

    @cached_property
    def layer(self) -> StoredLayer:
        return self.seen(self.model)

    @cached_property
    def model(self) -> Any:
        return self.front_end.linear(self.network, self.has_bias, self.seed)

    @property
    def dtype(self) -> np.dtype:
        return next(iter(self.layer.params.values())).dtype

    def array(self, x: np.ndarray) -> Array:
        return from_raw(x, self.front_end.library)

    def seen(self, model: Any) -> StoredLayer:
        stored = to_stored(self.front_end.view(model))
        assert stored.layers.keys() == {LAYER}, f"generated layers {list(stored.layers)} instead of {[LAYER]}"
        assert not stored.tensors, f"tensors {list(stored.tensors)} in addition to cores and bias"
        return stored.layers[LAYER]

    def drawn(self, columns: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal((ROWS, columns)).astype(self.dtype)

    def weight(self, cores: Mapping[str, np.ndarray]) -> np.ndarray:
        return self.network.materialize({name: to_numpy(core) for name, core in cores.items()})

    def compare(self, model: Any, layer: StoredLayer) -> None:
        """Compare the output of a model with ``x @ W.T + b``."""
        x = self.drawn(self.network.shape[1], self.seed)
        expected = to_numpy(x) @ self.weight(layer.params).T + (0.0 if layer.bias is None else to_numpy(layer.bias))
        found = to_numpy(self.front_end.call(model, self.array(x)))
        assert found.shape == expected.shape, f"output of shape {found.shape} instead of {expected.shape}"
        gap = np.abs(found - expected).max() / np.abs(expected).max()
        assert gap <= TOLERANCES[self.dtype.name], f"the output differs by {gap:.1e} of its largest entry"

    def check_read(self, path: Path, stored: StoredLayer) -> None:
        """Check that another layer, filled from a file, equals the stored one."""
        model = load_model(self.front_end.view(self.front_end.linear(self.network, self.has_bias, self.seed + 1)), path)
        _equal(self.seen(model), stored)
        self.compare(model, stored)


def _check_cores(case: _Case) -> None:
    layer = case.layer
    assert layer.kind == "linear", f"the view says {layer.kind!r} instead of 'linear'"
    assert layer.network == case.network, f"the view has {layer.network!r}"
    found = {name: core.shape for name, core in layer.params.items()}
    assert found == case.network.spec.param_shapes, f"cores {found} instead of {case.network.spec.param_shapes}"
    expected = case.network.shape[:1] if case.has_bias else None
    assert getattr(layer.bias, "shape", None) == expected, f"bias {layer.bias!r} instead of one of shape {expected}"


def _check_arrays(case: _Case) -> None:
    x = case.drawn(3, case.seed)
    _equal_arrays({"x": to_raw(case.array(x))}, {"x": x})


def _check_output(case: _Case) -> None:
    case.compare(case.model, case.layer)


def _check_gradient(case: _Case) -> None:
    """Check the derivative along a random direction of every core."""
    rows, columns = case.network.shape
    x, dy = case.drawn(columns, case.seed), case.drawn(rows, case.seed + 1)
    gradient = case.front_end.gradient(case.model, case.array(x), case.array(dy))
    if gradient is None:
        return
    cores = {name: to_numpy(core) for name, core in case.layer.params.items()}
    shapes = {name: to_raw(array).shape for name, array in gradient.items()}
    assert shapes == case.network.spec.param_shapes, f"gradients {shapes} instead of {case.network.spec.param_shapes}"
    generator, size = np.random.default_rng(case.seed), 1e-6
    for name, core in cores.items():
        step = generator.standard_normal(core.shape)
        moved = [case.weight(cores | {name: core + sign * size * step}) for sign in (1.0, -1.0)]
        expected = float((to_numpy(dy) * (to_numpy(x) @ (moved[0] - moved[1]).T)).sum()) / (2.0 * size)
        terms = to_numpy(gradient[name]) * step
        scale = max(abs(expected), float(np.abs(terms).sum()))
        close = abs(terms.sum() - expected) <= 20 * TOLERANCES[case.dtype.name] * scale + 1e-6
        assert close, f"derivative {terms.sum():.6g} along core {name!r} instead of {expected:.6g}"


def _check_init(case: _Case) -> None:
    weight = case.weight(case.layer.params)
    found, goal = float(np.sqrt(np.mean(np.abs(weight) ** 2))), target_std(case.network.layout)
    assert abs(found - goal) <= 0.1 * goal, f"the weight has the root mean square {found:.3g} instead of {goal:.3g}"


def _check_seed(case: _Case) -> None:
    cores = case.layer.params
    again, other = (
        case.seen(case.front_end.linear(case.network, case.has_bias, case.seed + shift)).params for shift in (0, 1)
    )
    assert all(np.array_equal(again[name], cores[name]) for name in cores), "different cores from the same seed"
    assert any(not np.array_equal(other[name], cores[name]) for name in cores), "the same cores from different seeds"


def _check_load(case: _Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_model(case.front_end.view(case.model), path := Path(folder) / "model.safetensors")
        case.check_read(path, case.layer)


def _check_file(case: _Case) -> None:
    """Check a file written from NumPy, with a bias that no initializer gives."""
    params = {name: core.astype(case.dtype) for name, core in case.network.init(case.seed + 2).items()}
    bias = case.drawn(case.network.shape[0], case.seed + 2)[0] if case.has_bias else None
    stored = StoredLayer("linear", case.network, params, bias)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        files.save_model(StoredModel({LAYER: stored}, {}), path)
        case.check_read(path, stored)


def _equal(found: StoredLayer, expected: StoredLayer) -> None:
    _equal_arrays({**found.params, "bias": found.bias}, {**expected.params, "bias": expected.bias})


def _equal_arrays(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Check that arrays agree bit by bit, dtypes included."""
    assert found.keys() == expected.keys(), f"arrays {list(found)} instead of {list(expected)}"
    for name, array in expected.items():
        other = found[name]
        kinds = [None if some is None else (some.dtype.name, some.shape) for some in (other, array)]
        assert kinds[0] == kinds[1], f"{name!r} is {kinds[0]} instead of {kinds[1]}"
        assert array is None or other.tobytes() == array.tobytes(), f"{name!r} has different entries"


#: The laws that `check_front_end` checks, by name, in this order.
LAWS: dict[str, Callable[[_Case], None]] = {
    "cores": _check_cores,
    "arrays": _check_arrays,
    "output": _check_output,
    "gradient": _check_gradient,
    "init": _check_init,
    "seed": _check_seed,
    "load": _check_load,
    "file": _check_file,
}
