"""The seam to models: what a framework shows of one, and how it is changed.

`compress`, `fold`, `save_model` and `load_model` are written once on `ModelView`; every framework has an adapter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np

from ..arrays import from_raw, numpy_dtype
from ..base import Array, Params, ParamsLike, Shape, path_of
from ..errors import PlanError
from ..fitting import Fit, FitResult
from ..network import Network


@dataclass(frozen=True)
class Weight:
    """A weight of a model that a network can generate, or generates already.

    Attributes
    ----------
    names : tuple of str
        Of its layer, or of the weight itself where it is one of several in a module; all that it has, the first being
        the one that rules and reports go by.
    kind : str
        Of the layer, as files have it: ``"linear"``, ``"conv2d"``, ``"embedding"``, …; ``"weight"`` for one by itself.
    shape : tuple of int
        In PyTorch's order of axes: ``(outputs, inputs, *kernel size)``.
    dtype : str or None
        None: the view rounds what it is given.
    read : callable
        Returns the weight, of that shape, as an array of any library that deeptn knows.
    own : str
        The entry that holds the dense weight, below the name of the layer; empty for a weight by itself.
    bias : bool
        Whether the layer has an entry ``"bias"``.
    network : Network or None
        What generates it; None for a dense weight.
    refused : str or None
        Why it cannot become generated or dense, as the end of a sentence about the layer, with a remedy.

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

    @property
    def name(self) -> str:
        """The first name."""
        return self.names[0]

    def entry(self, own: str, name: str | None = None) -> str:
        """Name of an entry of the layer in the model."""
        return path_of(self.name if name is None else name, own)

    @property
    def cores(self) -> dict[str, str]:
        """Entries of the cores, by the names of the network's parameters."""
        return (
            {}
            if self.network is None
            else {core: self.entry(f"cores.{core}") for core in self.network.spec.param_shapes}
        )

    @property
    def owned(self) -> set[str]:
        """Entries that belong to the layer, under all of its names."""
        own = [self.own] if self.network is None else [f"cores.{core}" for core in self.cores]
        return {self.entry(key, name) for name in self.names for key in (*own, *["bias"] * self.bias)}


class Entry(NamedTuple):
    """An array of a model that files hold: a weight, a core, a bias, a statistic.

    Attributes
    ----------
    shape : tuple of int
        In PyTorch's order of axes.
    dtype : str or None
        None: the view rounds what it is given.
    tie : hashable
        Entries of one tie are one array.
    read : callable
        Returns the array, or raises `PlanError` where it cannot be stored.
    trained : bool
        Whether it counts among the parameters.
    refused : str or None
        Why no file can fill it, as the end of a sentence about the entry.

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
    """What a weight becomes: a network and its cores, NumPy arrays or those of the view's library.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.LowRank(rank=1), (4, 6))
    >>> Generated(net, net.init()).network.num_params
    10
    """

    network: Network
    params: ParamsLike

    def arrays(self, library: str) -> Params:
        """The cores as arrays of the view's library; those that are not NumPy's are its own."""
        cores = self.params.items()
        return {name: from_raw(core, library) if isinstance(core, np.ndarray) else core for name, core in cores}


class ModelView(Protocol):
    """A model as deeptn sees it. `deeptn.testing.check_model_view` holds the laws.

    Attributes
    ----------
    model : object
        The model as it is now: changed in place, or another one after every change, as is usual in its framework.

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
        """Return what can be generated, or is."""
        ...

    def entries(self) -> dict[str, Entry]:
        """Return what a file holds of the model, by the names that PyTorch would give."""
        ...

    def replace(self, changes: Mapping[str, Generated | None]) -> None:
        """Let networks generate weights, by their first names; None makes a generated one dense. All, or none."""
        ...

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Fill entries with arrays of their shapes and dtypes."""
        ...

    def fit(self, net: Network, weight: Array, params: Any = None, how: Fit | None = None) -> FitResult:
        """Fit a network to a weight by gradient, as `deeptn_torch.fit` does."""
        ...

    def seed(self, given: Any, /) -> int:
        """Make a seed of what the framework has for randomness (a number, a generator, a key); None: a fresh one."""
        ...


def tied(what: str, other: str) -> str:
    """Why a layer whose weight or bias is used elsewhere too cannot be replaced."""
    return f"shares its {what} with {other!r}; untie them"


def refuse(name: str, why: str) -> NoReturn:
    """Raise `PlanError` for a part of a model."""
    raise PlanError(f"{name!r} {why}")


def count(view: ModelView) -> int:
    """Number of trained entries of all arrays, those of one tie once."""
    return sum({entry.tie: math.prod(entry.shape) for entry in view.entries().values() if entry.trained}.values())


def at_rest(view: ModelView) -> int:
    """Bytes of all arrays, those of one tie once: what a file holds beside its header."""
    entries = view.entries().values()
    return sum({entry.tie: math.prod(entry.shape) * _itemsize(entry.dtype) for entry in entries}.values())


def _itemsize(dtype: str | None) -> int:
    """Bytes of a number; 1 for float8, which views do not name, 0 for what is not a number (keys of `jax.random`)."""
    try:
        return numpy_dtype(dtype).itemsize if dtype else 1
    except TypeError:
        return 0
