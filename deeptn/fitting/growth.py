"""Networks that grow and keep their weight: deeper, and with larger bonds."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..arrays import convert_params, relative_error, to_numpy
from ..base import Params, ParamsLike, positive_int
from ..errors import SpecError
from ..network import Network, network
from ..params import check_params
from ..spec import NetworkSpec, Node
from ..topologies import BrickWall, describe


class Growth(NamedTuple):
    """A larger network for the same weight.

    Attributes
    ----------
    net : Network
    params : dict of str to array
        Of the library, dtype and device of the old ones.
    error : float
        ``‖W_new - W_old‖ / ‖W_old‖``, of the parameters as they are returned, measured in double precision.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.TensorTrain(rank=2), (8, 8))
    >>> larger, params, error = dtn.widen(net, net.init(seed=0), 4)
    >>> larger.num_params, error < 1e-12
    (104, True)
    """

    net: Network
    params: Params
    error: float


def deepen(net: Network, params: ParamsLike, noise: float = 0.0, seed: int = 0) -> Growth:
    """Add a layer to a brick wall, of identity gates, that leaves W as it is.

    A linear wall gets it behind its first layer. With ReLU it stands behind the first activation, where
    σ(1·σ(x)) = σ(x); if the state is normalised, that only scales W, and a parameter of the last layer takes the factor
    back. For other activations W changes, by the `error` that is returned.

    Parameters
    ----------
    net : Network
        Of a `BrickWall`; with an activation it has two layers at least.
    params : mapping of str to array
    noise : float
        Standard deviation of normal noise on the entries of the new gates; W then changes.
    seed : int
        For the noise.

    Returns
    -------
    Growth

    Raises
    ------
    SpecError
        For another topology; for a wall of one layer with an activation, behind which no layer could go unnoticed.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.BrickWall(layers=2), (8, 8))
    >>> deeper = dtn.deepen(net, net.init(seed=0))
    >>> deeper.net.topology.layers, deeper.error < 1e-6
    (3, True)
    """
    family = net.topology
    if not isinstance(family, BrickWall):
        name = "a network without a topology" if family is None else describe(family)
        raise SpecError(f"deepen adds layers to a BrickWall, got {name}; widen enlarges the bonds of others")
    if family.layers == 1 and (family.activation is not None or family.bond is not None):
        raise SpecError(
            f"{describe(family)} has one layer, and no activation or wire behind which a layer could leave W as it is; "
            "start with layers=2"
        )
    check_params(net.spec, params)
    larger = network(replace(family, layers=family.layers + 1), net.shape, net.layout)
    generator = np.random.default_rng(seed)
    found = {}
    for name, shape in larger.spec.param_shapes.items():
        layer, gate = name.split("_")
        number = int(layer[1:])
        if number == 2:
            side = math.prod(shape[: len(shape) // 2])
            gates = np.eye(side).reshape(shape)
            found[name] = gates + noise * generator.standard_normal(shape) if noise else gates
        else:
            found[name] = to_numpy(params[name if number == 1 else f"L{number - 1}_{gate}"])
    return _finish(net, params, larger, found)


def widen(net: Network, params: ParamsLike, size: int, noise: float = 0.1, seed: int = 0) -> Growth:
    """Enlarge the bonds of a network without changing W.

    Where a bond grows, the node that reads it gets zeros in the new places and the one that makes it normal noise, so
    that nothing is added to W and yet the zeros have gradients. This holds between two stages too. If the state is
    normalised there, its old part changes by a factor, which only homogeneous activations (ReLU, leaky ReLU, none) pass
    on to W, from where it is taken back; for others W changes, by the `error` that is returned.

    Parameters
    ----------
    net : Network
        With a topology whose size is a rank or a number of terms (`TensorTrain`, `Tree`, `MERA`, `Tucker`, `CP`, …).
    params : mapping of str to array
    size : int
        The new rank, no smaller than the old one.
    noise : float
        Standard deviation of the noise, in units of the root mean square of the node.
    seed : int
        For the noise.

    Returns
    -------
    Growth

    Raises
    ------
    SpecError
        If the topology has no such size, or the new network has other nodes.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.Tree(rank=2), (16, 16))
    >>> wider = dtn.widen(net, net.init(seed=0), 4)
    >>> net.num_params, wider.net.num_params, wider.error < 1e-6
    (52, 208, True)
    """
    family = net.topology
    if family is None or isinstance(family, BrickWall) or not isinstance(getattr(family, family.size_field), int):
        name = "a network without a topology" if family is None else describe(family)
        raise SpecError(f"widen turns the rank or the terms of a topology, got {name}")
    check_params(net.spec, params)
    larger = network(family.resized(positive_int(size, "size")), net.shape, net.layout)
    old, new = net.spec, larger.spec
    names, grown_names = ([(node.name, node.param) for node in spec.nodes] for spec in (old, new))
    if names != grown_names:
        raise SpecError(f"{describe(larger.topology)} has other nodes than {describe(family)}; its bonds cannot grow")
    zeros = _zero_holders(new)
    generator = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    for before, node in zip(old.nodes, new.nodes):
        if node.param is None or node.param in found:
            continue
        array, shape = to_numpy(params[node.param]), new.node_shape(node)
        if before.indices != node.indices or any(a > b for a, b in zip(array.shape, shape)):
            raise SpecError(f"node {node.name!r} has the shape {array.shape}, and cannot grow to {shape}")
        scale = noise * math.sqrt(float(np.mean(np.abs(array) ** 2)))
        grown = scale * generator.standard_normal(shape).astype(array.dtype)
        grown[tuple(slice(n) for n in array.shape)] = array
        for axis, ix in enumerate(node.indices):
            if zeros.get(ix) == node.name:
                grown[(slice(None),) * axis + (slice(array.shape[axis], None),)] = 0.0
        found[node.param] = grown
    return _finish(net, params, larger, found)


def grow(net: Network, params: ParamsLike, size: int, noise: float | None = None, seed: int = 0) -> Growth:
    """Enlarge a network to a size of its family: `deepen` a brick wall layer by layer, `widen` any other.

    Parameters
    ----------
    net : Network
    params : mapping of str to array
    size : int
        Layers of a `BrickWall`, rank or terms of the others. A network of this size or above stays as it is.
    noise : float, optional
        As for `deepen` and `widen`, with their defaults.
    seed : int
        For the noise.

    Returns
    -------
    Growth
        Its error is that of all steps together.

    Raises
    ------
    SpecError
        As `deepen` and `widen`.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.BrickWall(layers=2), (8, 8))
    >>> grown = dtn.grow(net, net.init(seed=0), 4)
    >>> grown.net.topology.layers, grown.error < 1e-5
    (4, True)
    """
    size = positive_int(size, "size")
    how = {} if noise is None else {"noise": noise}
    family = net.topology
    now = getattr(family, family.size_field) if family is not None else None
    if isinstance(now, int) and now >= size:
        return Growth(net, {name: params[name] for name in net.spec.param_shapes}, 0.0)
    if not isinstance(family, BrickWall):
        return widen(net, params, size, seed=seed, **how)
    before = _decoded(net, params)
    for layer in range(family.layers, size):
        net, params, _ = deepen(net, params, seed=seed + layer, **how)
    return Growth(net, dict(params), relative_error(_decoded(net, params), before))


def with_scale(net: Network) -> Network:
    """Add a parameter by which the whole weight is multiplied, a node without indices.

    What it does the other cores can do too; but a step of an optimizer that changes the size of W then need not change
    them all.

    Parameters
    ----------
    net : Network
        Without a parameter named ``scale``.

    Returns
    -------
    Network
        Of no topology. One more parameter, ``scale``, of shape ``()``.

    Raises
    ------
    SpecError
        If a node or parameter is named ``scale`` already.

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> net = dtn.with_scale(dtn.network(dtn.TensorTrain(rank=2), (8, 8)))
    >>> params = net.init(seed=0)
    >>> twice = params | {"scale": 2 * params["scale"]}
    >>> bool(np.allclose(net.materialize(twice), 2 * net.materialize(params)))
    True
    """
    spec = net.spec
    taken = {node.name for node in spec.nodes} | set(spec.param_shapes)
    names = {number: f"scale{k or ''}" for k, number in enumerate(spec.summands)}
    if clash := taken & {"scale", *names.values()}:
        raise SpecError(f"the network has a node or parameter {min(clash)!r} already")
    stages = list(spec.stages)
    for number, name in names.items():
        nodes = (*stages[number].nodes, Node(name, (), param="scale"))
        stages[number] = replace(stages[number], nodes=nodes)
    return Network(replace(spec, stages=tuple(stages)), net.layout)


def _zero_holders(spec: NetworkSpec) -> dict[str, str]:
    """For every bond the node that gets the zeros: the last that takes it as an input, else the last that has it."""
    nodes = [node for node in spec.nodes if node.param is not None]
    read = {ix for node in nodes for ix in node.inputs}
    return {ix: node.name for node in nodes for ix in node.indices if ix in node.inputs or ix not in read}


def _finish(net: Network, params: ParamsLike, larger: Network, found: dict[str, np.ndarray]) -> Growth:
    """Take back a factor that normalisation brought in, measure the error, and go back to the library of `params`."""
    sample = params[next(iter(net.spec.param_shapes))]
    before, after = _decoded(net, params), _decoded(larger, found)
    if not larger.is_linear and len(larger.spec.summands) == 1:
        uses = Counter(node.param for node in larger.spec.nodes if node.param is not None)
        own = [node.param for node in larger.spec.stages[-1].nodes if node.param is not None and uses[node.param] == 1]
        size = float(np.vdot(after, after).real)
        if own and size:
            factor = np.vdot(after, before) / size
            found[own[0]] = found[own[0]] * (factor if np.iscomplexobj(before) else factor.real)
    made = convert_params(found, sample)
    return Growth(larger, made, relative_error(_decoded(larger, made), before))


def _decoded(net: Network, params: ParamsLike) -> np.ndarray:
    """The weight in double precision."""
    return np.asarray(net.materialize({name: to_numpy(params[name]) for name in net.spec.param_shapes}))
