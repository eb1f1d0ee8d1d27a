"""Front-ends for array libraries: what one has to offer, where they are found, and the laws that every one keeps.

The test of a front-end of your own is two lines::

    def test_cupy():
        check_front_end(CuPyFrontEnd())
"""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..arrays import to_numpy
from ..base import Array
from ..files import StoredLayer, StoredModel, load_model, save_model
from ..init import target_std
from ..network import Network, network
from ..topologies import MERA, BrickWall, TensorTrain, Tree, Tucker

#: Entry points of this group are called without arguments and return a `FrontEnd`.
GROUP = "deeptn.frontends"

#: Largest difference of an output relative to its largest entry, by the dtype of the cores.
TOLERANCES = {"float64": 1e-10, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}

#: The name of the layer in files.
LAYER = "layer"

#: Rows of the inputs.
ROWS = 5


class FrontEnd(Protocol):
    """What the laws ask of a front-end: a linear layer that is made, called, differentiated, written and read.

    A layer is whatever the library calls one. A front-end has more to it (convolutions, compression, training); the
    laws look at what the rest is built on.

    Attributes
    ----------
    name : str
        That of the entry point.

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> front_end = front_ends()["jax"]
    >>> layer = front_end.linear(dtn.network("TTMatrix", (10, 64)), bias=True, seed=0)
    >>> front_end.call(layer, front_end.array(np.ones((5, 64), "float32"))).shape
    (5, 10)
    """

    name: str

    def array(self, x: np.ndarray) -> Array:
        """Copy to the library, in the same dtype."""
        ...

    def numpy(self, x: Array) -> np.ndarray:
        """Copy from the library, in the same dtype."""
        ...

    def linear(self, network: Network, bias: bool, seed: int) -> Any:
        """Make a layer ``y = x @ W.T + b``, its weight of shape ``network.shape`` being generated."""
        ...

    def cores(self, layer: Any) -> dict[str, Array]:
        """Return the tensors of a layer's network, by the names of ``network.spec.param_shapes``."""
        ...

    def bias(self, layer: Any) -> Array | None:
        """Return the bias, of shape ``(network.shape[0],)``, if the layer has one."""
        ...

    def call(self, layer: Any, x: Array) -> Array:
        """Return ``y`` of shape (rows, outputs) for ``x`` of shape (rows, inputs)."""
        ...

    def gradient(self, layer: Any, x: Array, dy: Array) -> dict[str, Array] | None:
        """Return the gradient of ``sum(dy * y)`` for every core; None where the library has no derivatives."""
        ...

    def save(self, layer: Any, path: str | os.PathLike[str]) -> None:
        """Write a model whose one layer is named ``"layer"``; see `deeptn.save_model`."""
        ...

    def load(self, path: str | os.PathLike[str]) -> Any:
        """Read such a file, whoever wrote it; see `deeptn.load_model`."""
        ...


def front_ends() -> dict[str, FrontEnd]:
    """Return the installed front-ends by the names of their entry points; those without their library are left out.

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
        with suppress(ImportError):
            found[entry.name] = entry.load()()
    return found


def default_networks() -> tuple[Network, ...]:
    """Return the networks that `check_front_end` tries: small ones, with activations and without, with padding too.

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
    """Check what holds for every front-end, for layers with a bias and without.

    Arrays come back from the library as they went there; cores have the names and shapes of the spec; the output is
    ``x @ W.T + b``, W being decoded by NumPy in double precision; the gradient is the difference quotient of that; a
    draw hits the standard deviation that `deeptn.Network.init` promises; the same seed gives the same cores, another
    one others; files hold the very bits, and are read as they were written, by a front-end or by NumPy.

    Parameters
    ----------
    front_end : FrontEnd
    networks : iterable of Network, optional
        For weights of two axes; by default `default_networks`.
    seed : int

    Raises
    ------
    AssertionError
        With the name of the law, the front-end, the network, and what was found. Errors of the front-end itself pass
        through with that as a note.

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
    """A layer under test, and how its arrays are seen in NumPy."""

    front_end: FrontEnd
    network: Network
    has_bias: bool
    seed: int

    @cached_property
    def layer(self) -> Any:
        return self.front_end.linear(self.network, self.has_bias, self.seed)

    @cached_property
    def dtype(self) -> np.dtype:
        return next(iter(self.cores(self.layer).values())).dtype

    def cores(self, layer: Any) -> dict[str, np.ndarray]:
        return self.seen(self.front_end.cores(layer))

    def bias(self, layer: Any) -> np.ndarray | None:
        bias = self.front_end.bias(layer)
        return None if bias is None else self.front_end.numpy(bias)

    def seen(self, arrays: dict[str, Array]) -> dict[str, np.ndarray]:
        return {name: self.front_end.numpy(array) for name, array in arrays.items()}

    def weight(self, cores: dict[str, np.ndarray]) -> np.ndarray:
        return self.network.materialize({name: to_numpy(core) for name, core in cores.items()})

    def drawn(self, columns: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal((ROWS, columns)).astype(self.dtype)

    def compare(self, layer: Any, cores: dict[str, np.ndarray], bias: np.ndarray | None) -> None:
        """The output of a layer against ``x @ W.T + b``."""
        x = self.drawn(self.network.shape[1], self.seed)
        expected = to_numpy(x) @ self.weight(cores).T + (0.0 if bias is None else to_numpy(bias))
        found = to_numpy(self.front_end.numpy(self.front_end.call(layer, self.front_end.array(x))))
        assert found.shape == expected.shape, f"output of shape {found.shape} instead of {expected.shape}"
        gap = np.abs(found - expected).max() / np.abs(expected).max()
        assert gap <= TOLERANCES[self.dtype.name], f"the output differs by {gap:.1e} of its largest entry"

    def saved(self, path: Path) -> StoredLayer:
        self.front_end.save(self.layer, path)
        layers = load_model(path).layers
        assert layers.keys() == {LAYER}, f"the file has the layers {list(layers)} instead of {[LAYER]}"
        return layers[LAYER]


def _check_arrays(case: _Case) -> None:
    x = case.drawn(3, case.seed)
    _equal({"x": case.front_end.numpy(case.front_end.array(x))}, {"x": x})


def _check_cores(case: _Case) -> None:
    found = {name: core.shape for name, core in case.cores(case.layer).items()}
    assert found == case.network.spec.param_shapes, f"cores {found} instead of {case.network.spec.param_shapes}"
    bias = case.bias(case.layer)
    expected = case.network.shape[:1] if case.has_bias else None
    assert getattr(bias, "shape", None) == expected, f"bias {bias!r} instead of one of shape {expected}"


def _check_output(case: _Case) -> None:
    case.compare(case.layer, case.cores(case.layer), case.bias(case.layer))


def _check_gradient(case: _Case) -> None:
    """Along a random direction of every core."""
    rows, columns = case.network.shape
    x, dy = case.drawn(columns, case.seed), case.drawn(rows, case.seed + 1)
    gradient = case.front_end.gradient(case.layer, case.front_end.array(x), case.front_end.array(dy))
    if gradient is None:
        return
    cores = {name: to_numpy(core) for name, core in case.cores(case.layer).items()}
    shapes = {name: array.shape for name, array in case.seen(gradient).items()}
    assert shapes == case.network.spec.param_shapes, f"gradients {shapes} instead of {case.network.spec.param_shapes}"
    generator, size = np.random.default_rng(case.seed), 1e-6
    for name, core in cores.items():
        step = generator.standard_normal(core.shape)
        moved = [case.weight(cores | {name: core + sign * size * step}) for sign in (1.0, -1.0)]
        expected = float((to_numpy(dy) * (to_numpy(x) @ (moved[0] - moved[1]).T)).sum()) / (2.0 * size)
        terms = to_numpy(case.front_end.numpy(gradient[name])) * step
        scale = max(abs(expected), float(np.abs(terms).sum()))
        close = abs(terms.sum() - expected) <= 20 * TOLERANCES[case.dtype.name] * scale + 1e-6
        assert close, f"derivative {terms.sum():.6g} along core {name!r} instead of {expected:.6g}"


def _check_init(case: _Case) -> None:
    weight = case.weight(case.cores(case.layer))
    found, goal = float(np.sqrt(np.mean(np.abs(weight) ** 2))), target_std(case.network.layout)
    assert abs(found - goal) <= 0.1 * goal, f"the weight has the root mean square {found:.3g} instead of {goal:.3g}"


def _check_seed(case: _Case) -> None:
    cores = case.cores(case.layer)
    again, other = (
        case.cores(case.front_end.linear(case.network, case.has_bias, case.seed + shift)) for shift in (0, 1)
    )
    assert all(np.array_equal(again[name], cores[name]) for name in cores), "other cores from the same seed"
    assert any(not np.array_equal(other[name], cores[name]) for name in cores), "the same cores from another seed"


def _check_save(case: _Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stored = case.saved(Path(folder) / "model.safetensors")
    assert stored.kind == "linear", f"the file says {stored.kind!r} instead of 'linear'"
    assert stored.network == case.network, f"the file has {stored.network!r}"
    _equal(stored.params, case.cores(case.layer))
    _equal({"bias": stored.bias}, {"bias": case.bias(case.layer)})


def _check_load(case: _Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stored = case.saved(path := Path(folder) / "model.safetensors")
        layer = case.front_end.load(path)
    _check_read(case, layer, stored)


def _check_file(case: _Case) -> None:
    """What NumPy writes, with a bias that no initializer has."""
    params = {name: core.astype(case.dtype) for name, core in case.network.init(case.seed + 2).items()}
    bias = case.drawn(case.network.shape[0], case.seed + 2)[0] if case.has_bias else None
    stored = StoredLayer("linear", case.network, params, bias)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_model(StoredModel({LAYER: stored}, {}), path)
        layer = case.front_end.load(path)
    _check_read(case, layer, stored)


def _check_read(case: _Case, layer: Any, stored: StoredLayer) -> None:
    """Whether a layer is the one that was stored."""
    _equal(case.cores(layer), stored.params)
    _equal({"bias": case.bias(layer)}, {"bias": stored.bias})
    case.compare(layer, stored.params, stored.bias)


def _equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Bit by bit, dtypes included."""
    assert found.keys() == expected.keys(), f"arrays {list(found)} instead of {list(expected)}"
    for name, array in expected.items():
        other = found[name]
        kinds = [None if some is None else (some.dtype.name, some.shape) for some in (other, array)]
        assert kinds[0] == kinds[1], f"{name!r} is {kinds[0]} instead of {kinds[1]}"
        assert array is None or other.tobytes() == array.tobytes(), f"{name!r} has other entries"


#: What `check_front_end` checks, by name, in this order.
LAWS: dict[str, Callable[[_Case], None]] = {
    "arrays": _check_arrays,
    "cores": _check_cores,
    "output": _check_output,
    "gradient": _check_gradient,
    "init": _check_init,
    "seed": _check_seed,
    "save": _check_save,
    "load": _check_load,
    "file": _check_file,
}
