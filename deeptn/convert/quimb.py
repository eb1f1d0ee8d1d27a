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
from .tensors import Part, import_tensors, stage_tensors

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
        A tensor may repeat an index (its diagonal) if all of its entries are finite. An index that one tensor alone has
        is summed over unless it is open.
    output : sequence of str, optional
        The open indices, in the order of the legs. By default ``tn.outer_inds()``; those of a state, such as the
        ``psi`` of a circuit, in the order of its sites: k0, k1, k2, … For the matrix of an operator, write
        ``[*tn.upper_inds, *tn.lower_inds]``. Without `output`, hyper-indices are open only if they belong to sites.
    shape : sequence of int, optional
        Shape of the weight: consecutive legs form an axis. By default one axis per open index; without any, the network
        generates a scalar, of shape ().
    layout : Layout, optional
        Use instead of `shape` if the legs are arranged differently; its legs are the open indices, one by one.
    activation, normalize : str, optional
        Activation and normalization between the networks of a sequence.

    Returns
    -------
    net : Network
    params : dict of str to array
        The tensors' own arrays. Integers and booleans are converted to floating point; arrays of different dtypes are
        promoted to one.

    Raises
    ------
    SpecError
        If an open index belongs to no tensor or is repeated, or the tensors have arrays of different libraries or of a
        dtype that parameters cannot have.
    LayoutError
        If the legs do not make up the shape.

    Examples
    --------
    >>> import numpy as np, quimb.tensor as qtn, deeptn as dtn
    >>> mps = qtn.MPS_rand_state(6, bond_dim=4, seed=1)
    >>> net, params = dtn.from_quimb(mps, shape=(8, 8))
    >>> net.materialize(params).shape, net.num_params
    ((8, 8), 144)

    A network without open indices:

    >>> net, params = dtn.from_quimb(mps.H & mps)
    >>> net.shape, bool(np.isclose(net.materialize(params), mps.H @ mps))
    ((), True)
    """
    networks = [_as_network(one) for one in (tn if isinstance(tn, (list, tuple)) else [tn])]
    if not networks:
        raise SpecError("tn is an empty sequence; expected a quimb TensorNetwork for each stage")
    parts: list[Part] = []
    for number, network in enumerate(networks):
        where = f" of network {number}" if len(networks) > 1 else ""
        part = Part([], [], sum("FACTOR" in t.tags and "STATE" not in t.tags for t in network.tensors) if number else 0)
        for place, tensor in enumerate(network.tensors):
            if number and "STATE" in tensor.tags:
                part.states.append(tuple(tensor.inds))
            elif not number or "FACTOR" not in tensor.tags:
                tags = f" ({', '.join(map(repr, tensor.tags))})" if tensor.tags else ""
                part.tensors.append((f"tensor {place}{where}{tags}", tuple(tensor.inds), tensor.data))
        parts.append(part)
    if output is None:
        last = _open_indices(networks[-1])
    else:
        last = (output,) if isinstance(output, str) and output in networks[-1].ind_map else tuple(output)
    for ix in last:
        if last.count(ix) > 1:
            raise SpecError(f"output repeats the index {ix!r}; name every open index once")
    net, params = import_tensors(parts, last, shape, layout, activation, normalize)
    names = iter(list(params))
    for network, part in zip(networks, parts):
        own = list(itertools.islice(names, len(part.tensors)))
        exponent = getattr(network, "exponent", 0.0)
        params |= dict(zip(own, _spread([params[name] for name in own], exponent)))
    return net, params


def _as_network(tn: Any) -> Any:
    """Return a quimb network; a single tensor becomes one."""
    if hasattr(tn, "as_network"):
        tn = tn.as_network()
    if not hasattr(tn, "tensors") or not hasattr(tn, "outer_inds"):
        hint = "; write circuit.psi" if hasattr(tn, "psi") else ""
        raise SpecError(f"tn must be a quimb TensorNetwork or a list of them, got {type(tn).__name__}{hint}")
    return tn


def _open_indices(network: Any) -> tuple[str, ...]:
    """Return the open indices of a network: those of a state site by site, then all others in quimb's order.

    The indices of sites are open even if several tensors share them, as after a simplification.
    """
    named = [[*getattr(network, field, ())] for field in ("site_inds", "upper_inds", "lower_inds")]
    sites, operator = ([ix for ix in found if ix in network.ind_map] for found in (named[0], named[1] + named[2]))
    return tuple(dict.fromkeys((*sites, *network.outer_inds(), *operator)))
