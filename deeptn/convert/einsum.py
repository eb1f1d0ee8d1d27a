"""Convert networks to and from einsum equations."""

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
from .tensors import Part, import_tensors, stage_tensors


def from_einsum(
    equation: str, *arrays: Array, shape: Sequence[int] | None = None, layout: Layout | None = None
) -> tuple[Network, Params]:
    """Make a network from an einsum equation and its arrays.

    To make a topology from an equation without arrays, use `deeptn.Graph.from_einsum`.

    Parameters
    ----------
    equation : str
        As for `numpy.einsum`, without an ellipsis, for example ``"abx,bcy->acxy"``. An operand may repeat an index (its
        diagonal), an index in more than two operands is a hyper-index, and one that a single operand has is summed over
        unless it is open. A diagonal comes from a product with an identity, so all entries of its array must be finite.
        Without ``->``, those that appear once are open, in alphabetical order. Any characters can be indices, as in
        cotengra and opt_einsum. ``"ab,ba->"`` generates a scalar, of shape ().
    *arrays : array
        One array per operand, all from one library. They become nodes ``T0, T1, …``.
    shape, layout
        As for `deeptn.from_quimb`.

    Returns
    -------
    net : Network
    params : dict of str to array
        The arrays; integers, and arrays of different dtypes, are converted as in `from_quimb`.

    Raises
    ------
    SpecError
        If the equation and the arrays do not match, or the equation has an ellipsis or repeats an index in its output.

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> U, V = np.ones((4, 2)), np.ones((2, 6))
    >>> net, params = dtn.from_einsum("ax,xb->ab", U, V)
    >>> net.shape, bool((net.materialize(params) == U @ V).all())
    ((4, 6), True)

    A trace, and a sum over one axis of an array:

    >>> net, params = dtn.from_einsum("xxa,ab->a", np.ones((3, 3, 4)), np.ones((4, 5)))
    >>> net.materialize(params).tolist()
    [15.0, 15.0, 15.0, 15.0]
    """
    graph = Graph.from_einsum(equation)
    (nodes,), (output,) = graph.nodes, graph.output
    if len(nodes) != len(arrays):
        raise SpecError(f"the equation {equation!r:.80} has {len(nodes)} operands, got {len(arrays)} arrays")
    tensors = []
    for number, ((_, indices), array) in enumerate(zip(nodes, arrays)):
        shape_here = do("shape", array)
        if len(indices) != len(shape_here):
            raise SpecError(f"operand {number} is {''.join(indices)!r}, but its array has shape {shape_here}")
        tensors.append((f"tensor {number}", indices, array))
    return import_tensors([Part(tensors)], output, shape, layout)


def to_einsum(net: Network, params: ParamsLike) -> list[tuple[str, list[Array]]]:
    """Return the network as einsum equations with their arrays, one per stage.

    Parameters
    ----------
    net : Network
    params : mapping of str to array

    Returns
    -------
    list of (str, list of array)
        For each stage, the equation and its operands, including the activated results of earlier stages that it uses.
        Above 52 indices the symbols are not letters; `opt_einsum` and `cotengra` accept them, NumPy does not.
        If the last stage adds others, W is the sum over ``net.spec.summands``.

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
