"""Grow networks without changing their weight: more layers, larger bonds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..arrays import convert_params, relative_error, to_numpy
from ..base import Params, ParamsLike, positive_int
from ..errors import SpecError
from ..network import Network, network
from ..params import check_params
from ..spec import Node
from ..topologies import Topology, describe


class Growth(NamedTuple):
    """A larger network for the same weight.

    Attributes
    ----------
    net : Network
    params : dict of str to array
        In the library, dtype and device of the old parameters.
    error : float
        ``‖W_new - W_old‖ / ‖W_old‖`` of the returned parameters, measured in double precision.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.TensorTrain(rank=2), (8, 8))
    >>> larger, params, error = dtn.fitting.widen(net, net.init(seed=0), 4)
    >>> larger.num_params, error < 1e-12
    (104, True)
    """

    net: Network
    params: Params
    error: float


def grow(net: Network, params: ParamsLike, size: int, noise: float | None = None, seed: int = 0) -> Growth:
    """Enlarge a network to a size of its family without changing W: more layers, larger bonds, more terms.

    The family defines how the larger network takes over the weight (`Topology.grown`). If a bond grows, the new entries
    are noise on one side and zeros on the other, which keep the noise out of W. A new layer passes its input through.
    Normalizing the enlarged state only rescales W for homogeneous activations (ReLU, leaky ReLU), and a parameter of
    the last stage compensates for the factor; for other activations W changes, by the `error` that is returned.

    Parameters
    ----------
    net : Network
        Network with a topology; in a `Sum` or `Product`, the last term grows.
    params : mapping of str to array
    size : int
        Layers of a `BrickWall`; rank or terms of other families. A network of at least this size is returned unchanged.
    noise : float, optional
        Standard deviation of the noise. For bonds that grow, in units of the root mean square of the node (default
        0.1); for new layers, in absolute terms (default 0, because it changes W).
    seed : int
        Seed of the noise.

    Returns
    -------
    Growth

    Raises
    ------
    SpecError
        If the network has no topology, or its family cannot take over the weight: a one-layer brick wall with an
        activation cannot add a layer without changing W, and nodes that share a parameter may no longer share it.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.BrickWall(layers=2), (8, 8))
    >>> grown = dtn.fitting.grow(net, net.init(seed=0), 4)
    >>> grown.net.topology.layers, grown.error < 1e-5
    (4, True)
    """
    family, size = _family(net, "grow"), positive_int(size, "size")
    check_params(net.spec, params)
    if size <= family.size:
        return Growth(net, {name: params[name] for name in net.spec.param_shapes}, 0.0)
    return grown_into(net, params, _resized(net, size), noise, seed)


def deepen(net: Network, params: ParamsLike, noise: float = 0.0, seed: int = 0) -> Growth:
    """Add a layer without changing W; see `grow`.

    Parameters
    ----------
    net : Network
        Network of a family whose size is a number of layers: a `BrickWall` (with an activation, at least two layers).
    params : mapping of str to array
    noise : float
        Standard deviation of normal noise on the entries of the new nodes; any noise changes W.
    seed : int
        Seed of the noise.

    Returns
    -------
    Growth

    Raises
    ------
    SpecError
        As for `grow`; also if the larger network has no new nodes.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.BrickWall(layers=2), (8, 8))
    >>> deeper = dtn.fitting.deepen(net, net.init(seed=0))
    >>> deeper.net.topology.layers, deeper.error < 1e-6
    (3, True)
    """
    family = _family(net, "deepen")
    check_params(net.spec, params)
    larger = _resized(net, family.size + 1)
    if _nodes(larger) == _nodes(net):
        raise SpecError(
            f"deepen adds layers, but {describe(larger.topology)} has the same nodes as {describe(family)}"
            "; use widen to enlarge bonds"
        )
    return grown_into(net, params, larger, noise, seed)


def widen(net: Network, params: ParamsLike, size: int, noise: float = 0.1, seed: int = 0) -> Growth:
    """Enlarge the bonds of a network without changing W; see `grow`.

    Parameters
    ----------
    net : Network
        Network of a family sized by a rank or a number of terms (`TensorTrain`, `Tree`, `MERA`, `Tucker`, `CP`, …).
    params : mapping of str to array
    size : int
        The new rank, no smaller than the old one.
    noise : float
        Standard deviation of the noise, in units of the root mean square of the node.
    seed : int
        Seed of the noise.

    Returns
    -------
    Growth

    Raises
    ------
    SpecError
        As for `grow`; also for a smaller size, or if the new network has different nodes.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.Tree(rank=2), (16, 16))
    >>> wider = dtn.fitting.widen(net, net.init(seed=0), 4)
    >>> net.num_params, wider.net.num_params, wider.error < 1e-6
    (52, 208, True)
    """
    family = _family(net, "widen")
    check_params(net.spec, params)
    larger = _resized(net, positive_int(size, "size"))
    if _nodes(larger) != _nodes(net):
        raise SpecError(
            f"widen enlarges bonds, but {describe(larger.topology)} has other nodes than "
            f"{describe(family)}; use grow or deepen to add layers"
        )
    return grown_into(net, params, larger, noise, seed)


def shrunk(net: Network, change: Callable[[int], int]) -> Network | None:
    """Return the network of the same family with a smaller size; None if it does not have fewer parameters.

    Examples
    --------
    >>> import deeptn as dtn
    >>> shrunk(dtn.network(dtn.TensorTrain(rank=(2, 4, 3)), (2, 2, 2, 2)), lambda size: size // 2).topology.rank
    (1, 2, 1)
    """
    family = net.topology
    if family is None or family.size < 2:
        return None
    value = getattr(family, family.size_field)
    if isinstance(value, tuple) and family.bonds(net.spec):
        smaller = family.with_bonds([max(1, change(size)) for size in value])
    else:
        smaller = family.resized(change(family.size))
    found = network(smaller, net.shape, net.layout)
    return found if found.num_params < net.num_params else None


def _family(net: Network, what: str) -> Topology:
    if net.topology is None:
        raise SpecError(f"{what} changes the size of a topology, but this network has no topology")
    return net.topology


def _resized(net: Network, size: int) -> Network:
    return network(_family(net, "grow").resized(size), net.shape, net.layout)


def _nodes(net: Network) -> set[str]:
    return {node.name for node in net.spec.nodes}


def with_scale(net: Network) -> Network:
    """Add a scalar parameter, a node without indices, that multiplies the whole weight.

    The other cores could absorb this factor, but with it an optimizer step that rescales W need not change all of them.

    Parameters
    ----------
    net : Network
        Network without a node or parameter named ``scale``.

    Returns
    -------
    Network
        The network without its topology, with one more parameter: ``scale``, of shape ``()``.

    Raises
    ------
    SpecError
        If a node or parameter is already named ``scale``.

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> net = dtn.fitting.with_scale(dtn.network(dtn.TensorTrain(rank=2), (8, 8)))
    >>> params = net.init(seed=0)
    >>> twice = params | {"scale": 2 * params["scale"]}
    >>> bool(np.allclose(net.materialize(twice), 2 * net.materialize(params)))
    True
    """
    spec = net.spec
    taken = {node.name for node in spec.nodes} | set(spec.param_shapes)
    names = {number: f"scale{k or ''}" for k, number in enumerate(spec.summands)}
    if clash := taken & {"scale", *names.values()}:
        raise SpecError(f"the network already has a node or parameter {min(clash)!r}")
    stages = list(spec.stages)
    for number, name in names.items():
        nodes = (*stages[number].nodes, Node(name, (), param="scale"))
        stages[number] = replace(stages[number], nodes=nodes)
    return Network(replace(spec, stages=tuple(stages)), net.layout)


def grown_into(net: Network, params: ParamsLike, larger: Network, noise: float | None = None, seed: int = 0) -> Growth:
    """Let the family fill the larger network, convert back to the library of `params`, and measure the error."""
    family, size = _family(net, "grow"), _family(larger, "grow").size
    arrays = {name: to_numpy(params[name]) for name in net.spec.param_shapes}
    before = _decoded(net, arrays)
    found = family.grown(size, larger.spec, arrays, noise, np.random.default_rng(seed))
    if not larger.is_linear:
        found = _take_back_factors(larger, found, before)
    made = convert_params(found, params[next(iter(arrays))])
    return Growth(larger, made, relative_error(_decoded(larger, made), before))


def _take_back_factors(net: Network, params: dict[str, np.ndarray], goal: np.ndarray) -> dict[str, np.ndarray]:
    """Scale each stage in the sum that makes up W, so that W is closest to the goal.

    Normalization may have introduced a factor. The scale goes into a parameter that only one node uses.
    """
    uses = Counter(node.param for node in net.spec.nodes if node.param is not None)
    candidates = [
        [n.param for n in net.spec.stages[k].nodes if n.param and uses[n.param] == 1] for k in net.spec.summands
    ]
    own = [names[0] for names in candidates if names]
    if not own:
        return params
    off = {name: np.zeros_like(params[name]) for name in own}
    rest = _decoded(net, params | off) if len(own) < len(candidates) else 0.0
    parts = [_decoded(net, params | off | {name: params[name]}) - rest for name in own]
    # Least squares for what is missing; if the factors are not determined, the smallest change of them.
    lack = goal - rest - sum(parts)
    gram = np.array([[np.vdot(a, b) for b in parts] for a in parts])
    change = np.linalg.lstsq(gram, np.array([np.vdot(a, lack) for a in parts]), rcond=None)[0]
    change = change if np.iscomplexobj(goal) else change.real
    return params | {name: params[name] * (1.0 + number) for name, number in zip(own, change)}


def _decoded(net: Network, params: ParamsLike) -> np.ndarray:
    """Return the weight in double precision."""
    return np.asarray(net.materialize({name: to_numpy(params[name]) for name in net.spec.param_shapes}))
