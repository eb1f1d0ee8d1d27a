"""Alternating least squares (ALS): find one core at a time exactly while the others are fixed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..arrays import HASTY, norm_of
from ..base import Params, cached, track
from ..engine import Program, compile_network, run
from ..errors import SpecError
from ..network import Network
from ..spec import Leg, NetworkSpec, Node, Stage
from .covariance import Coupling, LegMetric
from .growth import shrunk

#: A core whose bonds multiply to more than this is not updated: its equations would be too large.
MOST = 2500

#: Weight of the previous core in its own equations, relative to their mean diagonal, so that they have one solution.
PROXIMAL = 1e-10

#: A fit from scratch tries at most this many random starts, and only so many that a sweep of all costs fewer flops.
STARTS, EFFORT = 24, 4e9

#: A fit with a smaller error is left as it is.
EXACT = 1e-12

#: By default, all sweeps together cost at most so many flops, for a closed form and from scratch; but see `LEAST`.
POLISH_FLOPS, SCRATCH_FLOPS = 2e11, 2e12

#: A fit from scratch has at least this many sweeps.
LEAST = 20

#: Sweeps that each start gets at first.
FIRST = 10

#: A fit from scratch ends when a sweep lowers the error by less than this fraction of it.
FINE = 1e-5

TARGET, METRIC, CONJ, TWIN = "__target", "__metric", "__conj", "__twin"


def is_multilinear(net: Network) -> bool:
    """Return whether W is linear in every parameter, so that `alternate` can fit it.

    Examples
    --------
    >>> import deeptn as dtn
    >>> uniform = dtn.TensorTrain(rank=2, shared=True)
    >>> [is_multilinear(dtn.network(family, (16, 16))) for family in ("CP", "BrickWall", uniform)]
    [True, False, False]
    """
    uses = [node.param for node in net.spec.nodes if node.param is not None]
    return net.is_linear and len(uses) == len(set(uses))


def can_alternate(net: Network, coupling: Coupling | None = None) -> bool:
    """Return whether `alternate` updates every core: W is linear in each, and none has too many bonds.

    Legs that a covariance couples count as bonds.

    Examples
    --------
    >>> import deeptn as dtn
    >>> [can_alternate(dtn.network(dtn.PEPS(rank=rank), (32, 32))) for rank in (2, 8)]
    [True, False]
    """
    cores = [node for node in net.spec.nodes if node.param]
    if not is_multilinear(net) or any(_bonds(net.spec, node) > MOST for node in cores):
        return False
    return coupling is None or sum(map(len, _updates(net.spec, coupling))) == len(cores)


def _bonds(spec: NetworkSpec, core: Node) -> int:
    """Return the number of unknowns that the equations of a core couple."""
    legs = {leg.name for leg in spec.legs} | {ix for number in spec.summands for ix in spec.stages[number].output}
    return math.prod(spec.index_sizes[ix] for ix in core.indices if ix not in legs)


def alternate(
    net: Network,
    weight: np.ndarray,
    params: Params,
    sweeps: int = 100,
    tolerance: float = 1e-4,
    metric: LegMetric | None = None,
) -> tuple[Params, list[float]]:
    """Improve the parameters of a multilinear network by alternating least squares.

    Every update is the exact minimum over one core. After a few sweeps, a longer step in the direction of the last
    sweep is tried as well. In the padding of a layout, the target takes the values that the network has there, so that
    only the entries of the weight count.

    Parameters
    ----------
    net : Network
        See `is_multilinear`.
    weight : array of shape ``net.shape``
        NumPy array, neither tiny nor huge (see `deeptn.fitting.closed_forms.unit_of`), and not zero.
    params : dict of str to array
        The starting point, NumPy arrays.
    sweeps : int
        Maximum number of sweeps over all cores.
    tolerance : float
        Stop when a sweep lowers the error by less than this fraction of it.
    metric : LegMetric, optional
        Covariance C of the inputs; see `deeptn.fitting.covariance.metric_of`.

    Returns
    -------
    params : dict of str to array
        In double precision; the best found, never worse than the start.
    errors : list of float
        ``‖W - W'‖ / ‖W‖`` at the start and after every sweep; with a metric, ``‖(W - W') C^½‖ / ‖W C^½‖``.

    Notes
    -----
    Sources: Kolda & Bader, SIAM Review 51, 455 (2009), section 3.4 (CP); Holtz, Rohwedder & Schneider, SIAM J. Sci.
    Comput. 34, A683 (2012) (tensor trains); Rajih, Comon & Harshman, SIAM J. Matrix Anal. Appl. 30, 1128 (2008) (longer
    steps).
    """
    fitter = _Fitter(net, weight, metric)
    found = {name: np.asarray(array, fitter.dtype) for name, array in params.items()}
    parts = fitter.parts(found)
    errors = [fitter.error(parts)]
    best = errors[0], found
    for sweep in track(range(sweeps), "alternating least squares"):
        if errors[-1] < EXACT:
            break
        before = found
        found, parts = fitter.sweep(found, parts)
        error = fitter.error(parts)
        if sweep > 2:
            step = math.sqrt(sweep + 1) - 1
            longer = {name: array + step * (array - before[name]) for name, array in found.items()}
            beyond = fitter.parts(longer)
            if (reached := fitter.error(beyond)) < error:
                found, parts, error = longer, beyond, reached
        errors.append(error)
        if error < best[0]:
            best = error, found
        if not errors[-2] - error > tolerance * errors[-2]:
            break
    return best[1], errors


def default_sweeps(net: Network, scratch: bool, coupling: Coupling | None = None) -> int:
    """Return the maximum number of sweeps: 100, or less if they would take long."""
    limit = (SCRATCH_FLOPS if scratch else POLISH_FLOPS) / max(1.0, _sweep_flops(net.spec, coupling))
    return min(100, max(LEAST if scratch else 0, int(limit)))


def _sweep_flops(spec: NetworkSpec, coupling: Coupling | None = None) -> float:
    return sum(update.flops for updates in _updates(spec, coupling) for update in updates)


def from_scratch(
    net: Network, weight: np.ndarray, sweeps: int, seed: int = 0, metric: LegMetric | None = None
) -> tuple[Params, list[float]]:
    """Fit a multilinear network without a given start: the best of several.

    These are the network of half the size, fitted in the same way and enlarged, and random cores. All get a few sweeps
    of `alternate`, the better half twice as many more, and so on. A small network gets more random starts than a large
    one. Return the parameters and the errors at the start and after every sweep.
    """
    rms = norm_of(weight) / math.sqrt(weight.size)
    dtype = str(np.result_type(weight, np.float64))
    flops = _sweep_flops(net.spec, metric and metric.coupling)
    count = max(1, min(STARTS, int(EFFORT / max(1.0, flops))))
    starts: list[tuple[Params, list[float]]] = [
        (net.init(seed + number, dtype=dtype, std=rms), []) for number in range(count)
    ]
    smaller = shrunk(net, lambda size: size // 2)
    if smaller is not None:
        found, _ = from_scratch(smaller, weight, sweeps, seed, metric)
        assert net.topology is not None
        assert smaller.topology is not None
        generator = np.random.default_rng(0)
        with contextlib.suppress(SpecError):  # some families cannot grow from size 1
            starts.append((smaller.topology.grown(net.topology.size, net.spec, found, None, generator), []))
    done, more = 0, FIRST
    while True:
        more = min(more, sweeps - done)
        runs = [(*alternate(net, weight, start, more, FINE, metric), before) for start, before in starts]
        tried = sorted(((params, before[:-1] + errors) for params, errors, before in runs), key=lambda one: min(one[1]))
        done, more = done + more, 2 * more
        if done >= sweeps:
            return tried[0]
        starts = tried[: max(2, len(tried) // 2)]


def balanced(net: Network, params: Params) -> Params:
    """Scale the cores of a multilinear network so that all have the same norm, without changing W."""
    found = dict(params)
    for number in net.spec.summands:
        names = [node.param for node in net.spec.stages[number].nodes if node.param is not None]
        norms = [norm_of(params[name]) for name in names]
        if all(norms):
            mean = math.exp(sum(map(math.log, norms)) / len(norms))
            found |= {name: params[name] * (mean / norm) for name, norm in zip(names, norms)}
    return found


class _Fitter:
    """The programs and the target of one fit."""

    def __init__(self, net: Network, weight: np.ndarray, metric: LegMetric | None = None):
        self.dtype = np.result_type(weight, np.float64)
        self.goal = net.layout.to_legs(np.asarray(weight, self.dtype))
        self.metric = metric
        self.norm = norm_of(weight) if metric is None else metric.norm(self.goal) or norm_of(weight)
        self.padding = None
        if net.layout.is_padded:
            self.padding = ~net.layout.to_legs(np.ones(weight.shape, bool))
        self.spec = net.spec
        self.decodes = _decodes(net.spec)

    def parts(self, params: Params) -> list[np.ndarray]:
        """Return the tensors that sum to W."""
        return [run(program, [params[name] for name in program.inputs]) for program in self.decodes]

    def error(self, parts: Sequence[np.ndarray]) -> float:
        rest = self.goal - sum(parts)
        if self.padding is not None:
            rest[self.padding] = 0.0
        return (float(np.linalg.norm(rest)) if self.metric is None else self.metric.norm(rest)) / self.norm

    def sweep(self, params: Params, parts: Sequence[np.ndarray]) -> tuple[Params, list[np.ndarray]]:
        """Update every core once; return the parameters and the tensors that sum to W."""
        params, parts = dict(params), list(parts)
        goal = self.goal if self.padding is None else np.where(self.padding, sum(parts), self.goal)
        metric = self.metric
        for number, updates in enumerate(_updates(self.spec, metric and metric.coupling)):
            rest = goal - sum(part for k, part in enumerate(parts) if k != number) if len(parts) > 1 else goal
            extra = {} if metric is None else {TARGET + METRIC: metric.times(rest), METRIC: metric.tensor}
            for update in updates:
                params[update.param] = update(params, {TARGET: rest} | extra)
            decode = self.decodes[number]
            parts[number] = run(decode, [params[name] for name in decode.inputs])
        return params, parts


@dataclass(frozen=True)
class _Update:
    """The least-squares problem of one core: ``gram @ core = right`` for every value of its batch indices.

    Indices of the core are batched if they are legs that other cores have too; legs that no other core has are columns
    of the right-hand side; all others are the unknowns that one equation couples. A covariance couples the legs of
    inputs as well; but it makes no difference to a core that has all of them. One that is diagonal gives every value of
    such a leg its own weight, so these are batched.
    """

    param: str
    order: tuple[int, ...]
    shape: tuple[int, ...]
    sides: tuple[int, int, int]
    right: Program
    gram: Program | None

    @property
    def flops(self) -> float:
        """Floating-point operations, of which a step counts as many as in the search for a contraction order."""
        grams = 2 / 3 * self.sides[0] * float(self.sides[1]) ** 3
        costs = [program.cost for program in (self.right, self.gram) if program is not None]
        return sum(cost.flops + 2 * HASTY.step * cost.steps for cost in costs) + grams

    def __call__(self, params: Params, goals: Params) -> np.ndarray:
        def arrays(program: Program) -> list[np.ndarray]:
            return [
                goals[name] if name in goals
                else params[name.removesuffix(CONJ)].conj() if name.endswith(CONJ)
                else params[name]
                for name in program.inputs
            ]  # fmt: skip

        right = run(self.right, arrays(self.right)).transpose(self.order).reshape(self.sides)
        if self.gram is None:
            solved = right
        else:
            old = params[self.param].transpose(self.order).reshape(self.sides)
            bonds = self.sides[1]
            gram = run(self.gram, arrays(self.gram)).reshape(-1, bonds, bonds)
            weight = PROXIMAL * np.trace(gram, axis1=1, axis2=2).real[:, None, None] / bonds + np.finfo(float).tiny
            solved = np.linalg.solve(gram + weight * np.eye(bonds), right + weight * old)
        return solved.reshape(self.shape).transpose(np.argsort(self.order))


def _stages(spec: NetworkSpec) -> list[list[Node]]:
    """Return the nodes of every stage that is added to W, with the legs under the same names."""
    names = [leg.name for leg in spec.legs]
    stages = [spec.stages[number] for number in spec.summands]
    return [[_renamed(node, dict(zip(stage.output, names))) for node in stage.nodes] for stage in stages]


@cached
def _decodes(spec: NetworkSpec) -> list[Program]:
    """Return the programs of the tensors that sum to W."""
    names = tuple(leg.name for leg in spec.legs)
    return [_program(spec, nodes, names) for nodes in _stages(spec)]


@cached
def _updates(spec: NetworkSpec, coupling: Coupling | None = None) -> list[list[_Update]]:
    """Return the updates of the cores of each of these tensors, with a covariance or without."""
    stages, coupling = _stages(spec), coupling or Coupling((), diagonal=False)
    found = [[_update(spec, nodes, node, coupling) for node in nodes if node.param is not None] for nodes in stages]
    return [[update for update in updates if update is not None] for updates in found]


def _renamed(node: Node, names: dict[str, str], suffix: str = "") -> Node:
    """Return a node with some of its indices renamed, and a suffix on its parameter."""
    param = None if node.param is None else node.param + suffix
    indices = tuple(names.get(ix, ix) for ix in node.indices)
    return Node(node.name + suffix, indices, param=param, constant=node.constant)


def _program(spec: NetworkSpec, nodes: Sequence[Node], output: tuple[str, ...]) -> Program:
    sizes = {ix: spec.index_sizes[ix.removesuffix(TWIN)] for node in nodes for ix in node.indices}
    legs = tuple(Leg(ix, sizes.pop(ix), 0) for ix in output)
    return compile_network(
        NetworkSpec(legs, (Stage(tuple(nodes), output),), tuple(sizes.items())), output, tuning=HASTY
    )


def _update(spec: NetworkSpec, nodes: Sequence[Node], core: Node, coupling: Coupling) -> _Update | None:
    """Return the update of one core; None if its equations are too large."""
    assert core.param is not None
    sizes = spec.index_sizes
    legs = {leg.name for leg in spec.legs}
    others = [node for node in nodes if node is not core]
    held = {ix for node in others for ix in node.indices}
    inputs = () if set(coupling.legs) <= set(core.indices) else coupling.legs
    single, coupled = (inputs, ()) if coupling.diagonal else ((), inputs)
    batch = [ix for ix in core.indices if ix in legs and (ix in held or ix in single)]
    bonds = [ix for ix in core.indices if ix not in legs or ix in coupled]
    own = [ix for ix in core.indices if ix in legs and ix not in held and ix not in inputs]
    sides = [math.prod(sizes[ix] for ix in part) for part in (batch, bonds, own)]
    if sides[1] > MOST:
        return None
    order = [*batch, *bonds, *own]
    conjugated = [_renamed(node, {}, CONJ) for node in others]
    target = Node(TARGET + METRIC if inputs else TARGET, tuple(leg.name for leg in spec.legs))
    right = _program(spec, [*conjugated, target], core.indices)
    gram = None
    if others:
        twins = {ix: ix + TWIN for ix in (held - legs) | set(coupled)}
        copies = [_renamed(node, twins) for node in others]
        metric = [Node(METRIC, (*inputs, *(twins[ix] for ix in coupled)))] if inputs else []
        gram = _program(spec, [*conjugated, *copies, *metric], (*batch, *bonds, *(twins[ix] for ix in bonds)))
    places = tuple(core.indices.index(ix) for ix in order)
    return _Update(core.param, places, tuple(sizes[ix] for ix in order), (sides[0], sides[1], sides[2]), right, gram)
