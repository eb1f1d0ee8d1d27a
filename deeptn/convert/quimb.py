"""Convert networks to and from quimb."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import to_numpy
from ..base import Array, Params, ParamsLike
from ..errors import SpecError
from ..network import Network
from ..params import check_params
from ..spec import Layout
from .tensors import import_tensors, stage_tensors

if TYPE_CHECKING:
    import quimb.tensor as qtn


def to_quimb(net: Network, params: ParamsLike) -> list[Any]:
    """Return the network as quimb tensor networks, one per stage.

    Parameters
    ----------
    net : Network
    params : mapping of str to array
        Arrays of any library; they are not copied.

    Returns
    -------
    list of quimb.tensor.TensorNetwork
        Each tensor is tagged with its node's name and ``"STAGE{k}"``. The activated result of an earlier stage is one
        more tensor, tagged ``"STATE"``, or ``"FACTOR"`` if it is only multiplied element by element. The last network
        has the legs as outer indices (name those that are hyper-indices in ``output_inds``). If the last stage adds
        others, W is the sum over ``net.spec.summands``.

    Raises
    ------
    SpecError
        If the parameters do not belong to the network.

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> net = dtn.network(dtn.BrickWall(layers=2), (4, 4))
    >>> params = net.init(dtype="float64")
    >>> *_, last = dtn.to_quimb(net, params)
    >>> W = last.contract(output_inds=[leg.name for leg in net.layout.axis_legs]).data.reshape(4, 4)
    >>> bool(np.allclose(W, net.materialize(params)))
    True
    """
    import quimb.tensor as qtn

    check_params(net.spec, params)
    return [
        qtn.TensorNetwork([qtn.Tensor(array, ix, tags=(name, f"STAGE{number}")) for name, ix, array in tensors])
        for number, tensors in enumerate(stage_tensors(net.spec, params))
    ]


def _spread(arrays: list[Array], exponent: Any) -> list[Array]:
    """Multiply a product of arrays by a power of ten, so that all get the same size (if that is known)."""
    if not isinstance(exponent, (int, float, np.number)):  # an array, perhaps traced
        return [array * 10.0 ** (exponent / len(arrays)) for array in arrays]
    if exponent == 0:
        return arrays
    if not math.isfinite(exponent):  # quimb's exponent of a network of zeros is -inf
        return [array * 10.0 ** float(exponent) for array in arrays]
    try:
        sizes = [math.log10(np.abs(to_numpy(array)).max()) for array in arrays]
    except (TypeError, ValueError, RuntimeError):  # traced, or zero
        sizes = [0.0] * len(arrays)
    size = (float(exponent) + sum(sizes)) / len(arrays)
    return [_scaled(array, size - own) for array, own in zip(arrays, sizes)]


def _scaled(array: Array, exponent: float) -> Array:
    """Multiply by a power of ten, in steps that no dtype of 32 bits or more is too narrow for."""
    steps = math.ceil(abs(exponent) / 30.0)
    for _ in range(steps):
        array = array * 10.0 ** (exponent / steps)
    return array


def from_quimb(
    tn: qtn.TensorNetwork | Sequence[qtn.TensorNetwork],
    output: Sequence[str] | None = None,
    shape: Sequence[int] | None = None,
    layout: Layout | None = None,
    activation: str | None = None,
    normalize: str | None = None,
) -> tuple[Network, Params]:
    """Make a network from any quimb tensor network, or from several, one per stage.

    Parameters
    ----------
    tn : quimb.tensor.TensorNetwork, or a sequence of them
        Hyper-indices are kept. Tensors become nodes ``T0, T1, …`` in the order of ``tn.tensors``. In a sequence, as
        `to_quimb` returns it, the tensor tagged ``"STATE"`` is the result of the previous network; a network
        without one starts a new term. Terms are summed, except those that a tensor tagged ``"FACTOR"`` represents.
    output : sequence of str, optional
        The open indices, in the order of the legs; ``tn.outer_inds()`` by default.
    shape : sequence of int, optional
        Shape of the weight: consecutive legs form an axis. By default one axis per open index.
    layout : Layout, optional
        Use instead of `shape` if the legs are arranged differently; its legs are the open indices, one by one.
    activation, normalize : str, optional
        Activation and normalization between the networks of a sequence.

    Returns
    -------
    net : Network
    params : dict of str to array
        The tensors' own arrays.

    Raises
    ------
    SpecError
        If an open index is missing from `output`, or belongs to no tensor.
    LayoutError
        If the legs do not make up the shape.

    Examples
    --------
    >>> import quimb.tensor as qtn, deeptn as dtn
    >>> mps = qtn.MPS_rand_state(6, bond_dim=4, seed=1)
    >>> net, params = dtn.from_quimb(mps, shape=(8, 8))
    >>> net.materialize(params).shape, net.num_params
    ((8, 8), 144)
    """
    networks: list[Any] = list(tn) if isinstance(tn, (list, tuple)) else [tn]
    stages = []
    for number, network in enumerate(networks):
        if not hasattr(network, "tensors") or not hasattr(network, "outer_inds"):
            raise SpecError(f"tn must be a quimb TensorNetwork or a list of them, got {type(network).__name__}")
        names = ["STATE" if "STATE" in t.tags else "FACTOR" if "FACTOR" in t.tags else "" for t in network.tensors]
        names = names if number else [""] * len(names)
        tensors = [(tuple(t.inds), t.data) for name, t in zip(names, network.tensors) if not name]
        states = [tuple(t.inds) for name, t in zip(names, network.tensors) if name == "STATE"]
        stages.append((tensors, states, names.count("FACTOR")))
    last = tuple(networks[-1].outer_inds() if output is None else output)
    net, params = import_tensors(stages, last, shape, layout, activation, normalize)
    names = iter(list(params))
    for network, (tensors, _, _) in zip(networks, stages):
        own = list(itertools.islice(names, len(tensors)))
        exponent = getattr(network, "exponent", 0.0)
        params |= dict(zip(own, _spread([params[name] for name in own], exponent)))
    return net, params
