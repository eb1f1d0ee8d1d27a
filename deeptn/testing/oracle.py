"""Decode networks by their definition, with `numpy.einsum`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from cotengra import array_contract_path

from ..base import ParamsLike
from ..network import Network
from ..spec import activations


def reference(net: Network, params: ParamsLike) -> np.ndarray:
    """Decode a network by its definition, stage by stage with `numpy.einsum`, without programs, views or buffers.

    Parameters
    ----------
    net : Network
    params : mapping of str to array
        NumPy arrays.

    Returns
    -------
    numpy.ndarray of shape ``net.shape``

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.Tree(rank=2), (6, 8))
    >>> params = net.init(dtype="float64")
    >>> bool(np.allclose(reference(net, params), net.materialize(params)))
    True
    """
    spec = net.spec
    results: list[np.ndarray] = []
    for number, stage in enumerate(spec.stages):
        tensors = [(results[source], spec.stages[source].output) for source in spec.sources(number)]
        for node in stage.nodes:
            shape = spec.node_shape(node)
            array = np.reshape(node.constant, shape) if node.constant is not None else params[str(node.param)]
            tensors.append((np.asarray(array), node.indices))
        state = _einsum(tensors, stage.output)
        for other in stage.multiply:
            state = state * results[other]
        for other in stage.add:
            state = state + results[other]
        if stage.normalize:
            state = _normalized(state)
        results.append(state if stage.activation is None else activations.resolve(stage.activation)(state))
    order = sorted(range(len(spec.legs)), key=lambda k: net.layout.permutation[k])
    weight = results[-1].transpose(order).reshape(net.layout.padded_shape)
    return weight[tuple(slice(n) for n in net.shape)]


def _normalized(state: np.ndarray) -> np.ndarray:
    """Divide by the root mean square, and by the largest entry first, so that no square overflows; zeros stay zeros."""
    peak = np.abs(state).max()
    if peak == 0 or not np.isfinite(peak):
        return state * (peak - peak)
    state = state / peak
    return state / np.sqrt(np.mean(np.abs(state) ** 2))


def _einsum(tensors: Sequence[tuple[np.ndarray, tuple[str, ...]]], output: tuple[str, ...]) -> np.ndarray:
    """Contract two tensors at a time, in the order from cotengra's greedy search."""
    arrays, held = [array for array, _ in tensors], [indices for _, indices in tensors]
    count = Counter(ix for indices in (*held, output) for ix in indices)
    sizes = {ix: n for array, indices in tensors for ix, n in zip(indices, array.shape)}
    for pair in array_contract_path(held, output, sizes, optimize="greedy") if len(held) > 1 else ():
        first, second = ((arrays.pop(k), held.pop(k)) for k in sorted(map(int, pair), reverse=True))
        count.subtract(first[1] + second[1])
        keep = tuple(ix for ix in dict.fromkeys(first[1] + second[1]) if count[ix])
        count.update(keep)
        arrays.append(_call([first, second], keep))
        held.append(keep)
    return _call([(arrays[0], held[0])], output)


def _call(tensors: Sequence[tuple[np.ndarray, tuple[str, ...]]], output: tuple[str, ...]) -> np.ndarray:
    numbers: dict[str, int] = {}
    operands: list[Any] = []
    for array, indices in tensors:
        operands += [array, [numbers.setdefault(ix, len(numbers)) for ix in indices]]
    return np.einsum(*operands, [numbers[ix] for ix in output], optimize=len(tensors) > 1)
