"""The interface to models: what a framework shows of a model, and how to change it.

`compress`, `fold`, `save_model` and `load_model` are written once, for `ModelView`; every framework has an adapter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np

from ..arrays import from_raw, numpy_dtype
from ..base import Array, Params, ParamsLike, Shape, path_of
from ..errors import DeepTNError, PlanError
from ..fitting import Covariance, Fit, FitResult
from ..network import Network


@dataclass(frozen=True)
class Weight:
    """A weight of a model that a network generates or could generate.

    Attributes
    ----------
    names : tuple of str
        All names of its layer, or of the weight itself if its module has several. Rules and reports use the first.
    kind : str
        Kind of the layer, as in files: ``"linear"``, ``"conv2d"``, ``"embedding"``, …; ``"weight"`` for a lone weight.
    shape : tuple of int
        In PyTorch's order of axes: ``(outputs, inputs, *kernel size)``.
    dtype : str or None
        If None, the view casts what it receives.
    read : callable
        Returns the weight in that shape, as an array of any library that deeptn supports.
    own : str
        Name of the dense weight's entry, relative to the layer; empty for a lone weight.
    bias : bool
        Whether the layer has an entry ``"bias"``.
    network : Network or None
        Network that generates the weight; None for a dense weight.
    refused : str or None
        Why it cannot become generated or dense: the end of a sentence that starts with the layer, with a remedy.
    affine : bool
        Whether the layer adds its bias to W x and does nothing else, so that the bias can make up for errors of W.

    Examples
    --------
    >>> import numpy as np
    >>> weight = Weight(("fc", "again"), "linear", (4, 6), "float32", lambda: np.ones((4, 6)), bias=True)
    >>> weight.entry("bias"), sorted(weight.owned)
    ('fc.bias', ['again.bias', 'again.weight', 'fc.bias', 'fc.weight'])
    """

    names: tuple[str, ...]
    kind: str
    shape: Shape
    dtype: str | None
    read: Callable[[], Array]
    own: str = "weight"
    bias: bool = False
    network: Network | None = None
    refused: str | None = None
    affine: bool = False

    @property
    def name(self) -> str:
        """The first name, used by rules and reports."""
        return self.names[0]

    def entry(self, own: str, name: str | None = None) -> str:
        """Return the full name in the model of one of the layer's entries."""
        return path_of(self.name if name is None else name, own)

    @property
    def cores(self) -> dict[str, str]:
        """Names of the cores' entries, by the names of the network's parameters."""
        return (
            {}
            if self.network is None
            else {core: self.entry(f"cores.{core}") for core in self.network.spec.param_shapes}
        )

    @property
    def owned(self) -> set[str]:
        """Names of all entries that belong to the layer, under each of its names."""
        own = [self.own] if self.network is None else [f"cores.{core}" for core in self.cores]
        return {self.entry(key, name) for name in self.names for key in (*own, *["bias"] * self.bias)}


class Entry(NamedTuple):
    """An array of a model that files store: a weight, a core, a bias, a statistic.

    Attributes
    ----------
    shape : tuple of int
        In PyTorch's order of axes.
    dtype : str or None
        If None, the view casts what it receives.
    tie : hashable
        Entries with the same tie share one array.
    read : callable
        Returns the array, or raises `PlanError` if it cannot be stored.
    trained : bool
        Whether it counts as a parameter.
    refused : str or None
        Why no file can fill it: the end of a sentence that starts with the entry.

    Examples
    --------
    >>> import numpy as np
    >>> Entry((2,), "float32", "norm.weight", lambda: np.ones(2, "float32")).trained
    True
    """

    shape: Shape
    dtype: str | None
    tie: Hashable
    read: Callable[[], Array]
    trained: bool = True
    refused: str | None = None


class Generated(NamedTuple):
    """What a weight becomes: a network and its cores, as arrays of NumPy or of the view's library.

    `kind` is that of the layer in the file from which they come, if they come from a file.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.LowRank(rank=1), (4, 6))
    >>> Generated(net, net.init()).network.num_params
    10
    """

    network: Network
    params: ParamsLike
    kind: str | None = None

    def arrays(self, library: str) -> Params:
        """Return the cores as arrays of the view's library, converting those of NumPy."""
        cores = self.params.items()
        return {name: from_raw(core, library) if isinstance(core, np.ndarray) else core for name, core in cores}


class ModelView(Protocol):
    """A model as deeptn sees it. `deeptn.testing.check_model_view` checks the laws that a view must obey.

    Attributes
    ----------
    model : object
        The current model: changed in place, or replaced by a new one with every change, as its framework does it.

    Examples
    --------
    >>> from torch import nn
    >>> from deeptn_torch.view import TorchModel
    >>> view: ModelView = TorchModel(nn.Sequential(nn.Linear(6, 4), nn.ReLU()))
    >>> [(weight.name, weight.kind, weight.shape) for weight in view.weights()], list(view.entries())
    ([('0', 'linear', (4, 6))], ['0.weight', '0.bias'])
    """

    model: Any

    def weights(self) -> list[Weight]:
        """Return the weights that are or can be generated."""
        ...

    def entries(self) -> dict[str, Entry]:
        """Return what a file stores of the model, under the names that PyTorch would use."""
        ...

    def replace(self, changes: Mapping[str, Generated | None]) -> None:
        """Let networks generate weights, keyed by first name; None makes a generated weight dense. All or nothing."""
        ...

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Fill entries with arrays that have their shapes and dtypes."""
        ...

    def fit(
        self,
        net: Network,
        weight: Array,
        params: Any = None,
        how: Fit | None = None,
        covariance: Covariance | None = None,
    ) -> FitResult:
        """Fit a network to a weight by gradient, as `deeptn_torch.fit` does."""
        ...

    def seed(self, given: Any, /) -> int:
        """Turn the framework's source of randomness (a number, a generator, a key) into a seed; None: a fresh seed."""
        ...


def tied(what: str, other: str) -> str:
    """Say why a layer whose weight or bias is also used elsewhere cannot be replaced."""
    return f"shares its {what} with {other!r}; untie them"


def refuse(name: str, why: str) -> NoReturn:
    """Raise `PlanError` for a part of a model."""
    raise PlanError(f"{name!r} {why}")


@contextmanager
def naming(layer: str) -> Iterator[None]:
    """Put the name of a layer in front of the message of any `DeepTNError`, and into a note of any other error.

    Examples
    --------
    >>> import deeptn as dtn
    >>> with naming("fc1"):
    ...     raise dtn.SpecError("weight has entries that are not finite")
    Traceback (most recent call last):
    deeptn.errors.SpecError: layer 'fc1': weight has entries that are not finite
    """
    try:
        yield
    except DeepTNError as error:
        if not str(error).startswith("layer "):
            error.args = (f"layer {layer!r}: {error}",)
        raise
    except Exception as error:
        error.add_note(f"in layer {layer!r}")
        raise


def widened(array: Array) -> Array:
    """Return a NumPy array in a dtype that NumPy's linear algebra has: float32 in place of narrower ones.

    Examples
    --------
    >>> widened(np.ones(2, "float16")).dtype, widened(np.ones(2)).dtype
    (dtype('float32'), dtype('float64'))
    """
    narrow = isinstance(array, np.ndarray) and (array.dtype.kind == "V" or array.dtype.itemsize < 4)
    return array.astype("float32") if narrow else array


def count(view: ModelView) -> int:
    """Count the trained entries of all arrays, tied ones once."""
    return sum({entry.tie: math.prod(entry.shape) for entry in view.entries().values() if entry.trained}.values())


def at_rest(view: ModelView) -> int:
    """Count the bytes of all arrays, tied ones once: the size of a file without its header."""
    entries = view.entries().values()
    return sum({entry.tie: math.prod(entry.shape) * _itemsize(entry.dtype) for entry in entries}.values())


def _itemsize(dtype: str | None) -> int:
    """Return bytes per number: 1 for None (float8, which views do not name), 0 for non-numbers (`jax.random` keys)."""
    try:
        return numpy_dtype(dtype).itemsize if dtype else 1
    except TypeError:
        return 0
