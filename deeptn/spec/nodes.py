"""Nodes, and the stages that they form."""

# pyright: reportUnnecessaryIsInstance=false
# Arguments are checked at run time, whatever their annotations say.
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from ..base import boolean, is_integer
from ..errors import FormatError, SpecError
from . import activations

#: How many nodes may still be made, and how many there were, for each `limited_nodes` around the current code.
_left: ContextVar[tuple[list[int], ...]] = ContextVar("_left", default=())

#: Nodes that are made for one network of a file, and for all of them. Families make each node up to three times.
NODES, ALL_NODES = 2**14, 2**15


#: So many constant entries count as a node; they are made and converted, so they count twice.
ENTRIES = 200


@contextmanager
def limited_nodes(most: int = NODES) -> Generator[None]:
    """Raise `FormatError` if more nodes are made inside the ``with`` block: a short file can ask for endless networks.

    Examples
    --------
    >>> with limited_nodes(1):
    ...     Node("A", ("i",)) and Node("B", ("i",))
    Traceback (most recent call last):
    deeptn.errors.FormatError: the networks of the file have more nodes than deeptn reads and writes (1)
    """
    token = _left.set((*_left.get(), [most, most]))
    try:
        yield
    finally:
        _left.reset(token)


def count_nodes(made: int) -> None:
    """Count nodes that are made; see `limited_nodes`."""
    for left in _left.get():
        left[0] -= made
        if left[0] < 0:
            raise FormatError(f"the networks of the file have more nodes than deeptn reads and writes ({left[1]:,})")


def unit_matrix(rows: int, columns: int) -> tuple[float, ...]:
    """Return the entries of a matrix that is the identity where it can be; in files, they count as nodes, too.

    Examples
    --------
    >>> unit_matrix(2, 3)
    (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    """
    count_nodes(rows * columns // ENTRIES)
    return (((1.0,) + (0.0,) * columns) * min(rows, columns) + (0.0,) * (rows * columns))[: rows * columns]


@dataclass(frozen=True)
class Node:
    """A small tensor of a network.

    Parameters
    ----------
    name : str
        Unique in the network; a Python identifier (torch allows no dots in parameter names).
    indices : tuple of str
        One index per axis, no index twice.
    inputs : tuple of str, optional
        The indices that point towards the start of the network. Initializers treat the node as a matrix from inputs
        to outputs, for example orthogonal, isometric or near the identity. By default, all indices are outputs.
    param : str, optional
        Name of the parameter that fills the node; nodes with the same `param` share it. By default, `name`.
    constant : tuple of float, optional
        Fixed entries in C order. A constant node has no parameter.
    isometric : bool
        Marks a node that is an isometry from inputs to outputs in the textbook network (a unitary, like a
        disentangler, if both have the same size). The mark itself changes nothing.

    Examples
    --------
    >>> Node("L1_g0", ("o0", "o1", "i0", "i1"), inputs=("i0", "i1")).outputs
    ('o0', 'o1')
    """

    name: str
    indices: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    param: str | None = None
    constant: tuple[float, ...] | None = None
    isometric: bool = False

    def __post_init__(self):
        count_nodes(1)
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise SpecError(f"node name {self.name!r} is not an identifier; use letters, digits, '_', e.g. 'L1_g3'")
        for field in ("indices", "inputs"):
            value = getattr(self, field)
            if isinstance(value, str) or not all(isinstance(ix, str) and ix for ix in value):
                raise SpecError(f"node {self.name!r}: {field} must be a tuple of index names, got {value!r}")
            object.__setattr__(self, field, tuple(map(str, value)))
        object.__setattr__(self, "name", str(self.name))
        boolean(self.isometric, f"node {self.name!r}: isometric")
        if len(set(self.indices)) < len(self.indices):
            repeated = next(ix for ix, count in Counter(self.indices).items() if count > 1)
            raise SpecError(
                f"node {self.name!r} repeats the index {repeated!r}; take its diagonal (Graph: einsum=True)"
            )
        own = set(self.indices)
        alien = next((ix for ix in self.inputs if ix not in own), None)
        if alien is not None:
            raise SpecError(f"node {self.name!r}: the input {alien!r} is not one of its indices {self.indices}")
        if self.constant is not None:
            count_nodes(len(self.constant) // ENTRIES)
            if self.param is not None:
                raise SpecError(f"node {self.name!r} is constant and names a parameter; drop one of them")
            try:
                entries = tuple(float(x) + 0.0 for x in self.constant)  # no -0.0
            except (TypeError, ValueError, OverflowError) as error:
                raise SpecError(f"node {self.name!r}: its constant entries must be numbers: {error}") from error
            if not all(map(math.isfinite, entries)):
                raise SpecError(f"node {self.name!r}: its constant entries must be finite")
            object.__setattr__(self, "constant", entries)
        elif self.param is None:
            object.__setattr__(self, "param", self.name)
        elif not isinstance(self.param, str) or not self.param.isidentifier():
            raise SpecError(f"node {self.name!r}: parameter name {self.param!r} is not an identifier")
        else:
            object.__setattr__(self, "param", str(self.param))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The indices that are not inputs."""
        return tuple(ix for ix in self.indices if ix not in self.inputs)


@dataclass(frozen=True)
class Stage:
    """One multilinear tensor network.

    Parameters
    ----------
    nodes : tuple of Node
        The tensors. The result of the previous stage is one more tensor of this stage, with the indices in the
        `output` of that stage; an index that it shares with no node passes through.
    output : tuple of str
        Open indices, in the order of the axes of the result. Any number of tensors may share an index
        (a hyper-index); it is summed over unless it is open.
    activation : str, optional
        Element-wise function applied to the result.
    normalize : {"rms"}, optional
        Divide the result by its root mean square, before the activation.
    sources : tuple of int, optional
        Numbers of the earlier stages whose results are tensors of this stage, with the indices in their `output`.
        By default, the previous stage (none for the first stage).
    multiply, add : tuple of int
        Numbers of earlier stages. The contraction is multiplied, element by element, by the results in `multiply`;
        then those in `add` are added, before normalization and activation. Axes are matched by position in `output`.

    Examples
    --------
    >>> Stage((Node("U", ("i", "b")), Node("V", ("b", "j"))), output=("i", "j"), activation="relu").nodes[1].name
    'V'
    """

    nodes: tuple[Node, ...]
    output: tuple[str, ...]
    activation: str | None = None
    normalize: str | None = None
    sources: tuple[int, ...] | None = None
    multiply: tuple[int, ...] = ()
    add: tuple[int, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "nodes", tuple(self.nodes))
        object.__setattr__(self, "output", tuple(map(str, self.output)))
        for field in ("sources", "multiply", "add"):
            value = getattr(self, field)
            if value is not None:
                if isinstance(value, str) or not all(map(is_integer, value)):
                    raise SpecError(f"{field} of a stage must be a tuple of stage numbers, got {value!r:.80}")
                object.__setattr__(self, field, tuple(map(int, value)))
        if not all(isinstance(node, Node) for node in self.nodes):
            raise SpecError(f"nodes of a stage must be deeptn.Node objects, got {self.nodes!r:.80}")
        check_between(self.activation, self.normalize)
        for field in ("activation", "normalize"):
            value = getattr(self, field)
            object.__setattr__(self, field, None if value is None else str(value))


def check_between(activation: str | None, normalize: str | None) -> None:
    """Raise `SpecError` unless both values are valid for a `Stage`."""
    if activation is not None:
        activations.resolve(activation)
    if normalize is not None and normalize != "rms":
        raise SpecError(f"normalize = {normalize!r}; expected 'rms' or None")
