"""Einsum equations, there and back."""

from __future__ import annotations

from collections.abc import Sequence

from autoray import do
from cotengra import get_symbol

from ..base import Array, Params, ParamsLike
from ..errors import SpecError
from ..network import Network
from ..params import check_params
from ..spec import Layout
from ..topologies import Graph
from .tensors import import_tensors, stage_tensors


def from_einsum(
    equation: str, *arrays: Array, shape: Sequence[int] | None = None, layout: Layout | None = None
) -> tuple[Network, Params]:
    """Make a network of an einsum equation and its arrays.

    Without arrays, `deeptn.Graph.from_einsum` makes a topology of an equation.

    Parameters
    ----------
    equation : str
        As for `numpy.einsum`, with ``->`` and without an ellipsis, for example ``"abx,bcy->acxy"``. No operand names
        an index twice; an index in more than two operands is a hyper-index.
    *arrays : array
        One for each operand, of any library. They become nodes ``T0, T1, …``.
    shape, layout
        As for `deeptn.from_quimb`.

    Returns
    -------
    net : Network
    params : dict of str to array

    Raises
    ------
    SpecError
        If equation and arrays do not fit.

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> U, V = np.ones((4, 2)), np.ones((2, 6))
    >>> net, params = dtn.from_einsum("ax,xb->ab", U, V)
    >>> net.shape, bool((net.materialize(params) == U @ V).all())
    ((4, 6), True)
    """
    graph = Graph.from_einsum(equation)
    (nodes,), (output,) = graph.nodes, graph.output
    if len(nodes) != len(arrays):
        raise SpecError(f"the equation {equation!r:.80} has {len(nodes)} operands, got {len(arrays)} arrays")
    for number, ((_, indices), array) in enumerate(zip(nodes, arrays)):
        if len(indices) != len(do("shape", array)):
            raise SpecError(f"operand {number} is {''.join(indices)!r}, its array has the shape {do('shape', array)}")
    tensors = [(indices, array) for (_, indices), array in zip(nodes, arrays)]
    return import_tensors([(tensors, [], 0)], output, shape, layout)


def to_einsum(net: Network, params: ParamsLike) -> list[tuple[str, list[Array]]]:
    """Return the network as einsum equations with their arrays, one per stage.

    Parameters
    ----------
    net : Network
    params : mapping of str to array

    Returns
    -------
    list of (str, list of array)
        For each stage the equation and its operands; the activated result of an earlier stage that enters is one of
        them. Above 52 indices the symbols are not letters; `opt_einsum` and `cotengra` read them, NumPy does not.
        Where the last stage adds others, W is the sum over ``net.spec.summands``.

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> net = dtn.network(dtn.TensorTrain(rank=2), (4, 4))
    >>> params = net.init(dtype="float64")
    >>> ((equation, arrays),) = dtn.to_einsum(net, params)
    >>> equation, bool(np.allclose(np.einsum(equation, *arrays).reshape(4, 4), net.materialize(params)))
    ('ab,bcd,def,fg->aceg', True)
    """
    check_params(net.spec, params)
    equations = []
    for stage, tensors in zip(net.spec.stages, stage_tensors(net.spec, params)):
        symbols: dict[str, str] = {}
        for _, indices, _ in tensors:
            for ix in indices:
                symbols.setdefault(ix, get_symbol(len(symbols)))
        words = ["".join(symbols[ix] for ix in indices) for _, indices, _ in tensors]
        equation = f"{','.join(words)}->{''.join(symbols[ix] for ix in stage.output)}"
        equations.append((equation, [array for _, _, array in tensors]))
    return equations
