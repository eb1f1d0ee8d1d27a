"""How a larger network takes over the parameters of a smaller one."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..base import Shape
from ..errors import SpecError
from ..spec import NetworkSpec, Node


def take_over(
    larger: NetworkSpec, params: Mapping[str, np.ndarray], noise: float | None, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return parameters with which a larger network generates the same weight as a smaller one.

    A parameter of both networks keeps its entries. Where a bond grows, the new entries are zeros in the node that reads
    it and normal noise in the node that makes it, so that the weight does not change, but the zeros have gradients. A
    node that the smaller network does not have is the identity from its inputs to its outputs.

    Parameters
    ----------
    larger : NetworkSpec
    params : mapping of str to array
        Parameters of the smaller network, under their names in the larger one.
    noise : float or None
        Standard deviation of the noise: for new entries of a parameter, relative to its root mean square (by default
        0.1); for new nodes, absolute (by default 0; otherwise the weight changes).
    generator : numpy.random.Generator

    Raises
    ------
    SpecError
        If a parameter is missing from the larger network, or smaller there.
    """
    if missing := sorted(set(params) - set(larger.param_shapes)):
        raise SpecError(f"the larger network has no parameter {missing[0]!r}, but the smaller one has it")
    zeros = _zero_holders(larger)
    found: dict[str, np.ndarray] = {}
    for node in larger.nodes:
        if node.param is None or node.param in found:
            continue
        shape = larger.node_shape(node)
        if node.param not in params:
            found[node.param] = _identity(node, shape)
            if noise:
                found[node.param] = found[node.param] + noise * generator.standard_normal(shape)
            continue
        array = params[node.param]
        if array.ndim != len(shape) or any(a > b for a, b in zip(array.shape, shape)):
            raise SpecError(f"node {node.name!r} has the shape {array.shape} and cannot grow to {shape}")
        scale = (0.1 if noise is None else noise) * math.sqrt(float(np.mean(np.abs(array) ** 2)))
        grown = np.asarray(scale * generator.standard_normal(shape), array.dtype)
        grown[tuple(slice(n) for n in array.shape)] = array
        for axis, ix in enumerate(node.indices):
            if zeros.get(ix) == node.name:
                grown[(slice(None),) * axis + (slice(array.shape[axis], None),)] = 0.0
        found[node.param] = grown
    return found


def _zero_holders(spec: NetworkSpec) -> dict[str, str]:
    """Return, for every bond, the node that gets the zeros: the last that reads it, else the last that has it."""
    nodes = [node for node in spec.nodes if node.param is not None]
    read = {ix for node in nodes for ix in node.inputs}
    return {ix: node.name for node in nodes for ix in node.indices if ix in node.inputs or ix not in read}


def _identity(node: Node, shape: Shape) -> np.ndarray:
    """Return the identity from a node's inputs to its outputs, in the order of its axes."""
    sizes = dict(zip(node.indices, shape))
    order = [*node.outputs, *node.inputs]
    matrix = np.eye(math.prod(sizes[ix] for ix in node.outputs), math.prod(sizes[ix] for ix in node.inputs))
    return matrix.reshape([sizes[ix] for ix in order]).transpose([order.index(ix) for ix in node.indices])
