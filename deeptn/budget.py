"""Find the largest network of a family within a parameter budget."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from .base import positive_int
from .errors import SpecError
from .network import Network, network
from .spec import Layout
from .topologies import Topology, describe
from .topologies import topology as as_topology

#: Value of bond sizes: takes an array of shape (candidates, bonds), and returns one number per candidate.
Value: TypeAlias = Callable[[np.ndarray], np.ndarray]

#: Share of the budget that `at_budget` aims for.
ENOUGH = 0.97

#: Up to `FEW` bonds, `BondSizes.spend` changes them by more; with more than `MANY`, it changes two at once, not three.
FEW, MANY = 6, 16


def at_budget(topology: Topology | str, shape: Sequence[int], params: int, layout: Layout | None = None) -> Network:
    """Return the largest network of a family with at most `params` parameters.

    Only the topology's ``size_field`` (layers, rank) changes. First all bonds get the same size, as large as possible.
    If the family takes one size for each bond (`Topology.bonds`), they then share what is left of the budget.

    Parameters
    ----------
    topology : Topology or str
        The family; the size in it is ignored, its other fields stay as they are.
    shape : sequence of int
        Shape of the weight.
    params : int
        The budget. A family that stops growing (its ranks are full) is returned at its largest.
    layout : Layout, optional
        By default the topology's own layout.

    Returns
    -------
    Network

    Raises
    ------
    SpecError
        If the smallest network of the family has more parameters; the message states that minimum.

    See Also
    --------
    deeptn.decompose : Choose the bonds for a given weight.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.at_budget("TensorTrain", (120, 400), params=1000)
    >>> net.topology.rank, net.num_params
    ((2, 4, 5, 6, 7, 7, 7, 7, 7, 7, 7, 6, 6, 3, 2), 1000)
    >>> dtn.at_budget("BrickWall", (120, 400), params=1000).topology.layers
    4
    >>> dtn.at_budget("LowRank", (120, 400), params=144)
    Traceback (most recent call last):
    deeptn.errors.SpecError: a LowRank network of shape (120, 400) has at least 520 parameters (rank=1), more than 144
    """
    net = at_common_size(topology, shape, params, layout)
    bonds = BondSizes.of(net, params)
    if bonds is None:
        return net
    found = bonds.spend(bonds.falling, bonds.search(bonds.falling, bonds.start))
    return net if np.array_equal(found, bonds.start) else bonds.network(found)


def at_common_size(
    topology: Topology | str, shape: Sequence[int], params: int, layout: Layout | None = None
) -> Network:
    """Do as `at_budget` does, with one size for all bonds."""
    family = as_topology(topology)
    budget = positive_int(params, "params")

    def build(size: int) -> Network:
        return network(family.resized(size), shape, layout)

    best = build(1)
    if best.num_params > budget:
        raise SpecError(
            f"a {type(family).__name__} network of shape {best.shape} has at least {best.num_params} parameters "
            f"({describe(best.topology).partition('(')[2]}, more than {budget}"
        )
    low, high = 1, 2
    while True:  # double until the budget is exceeded, or until the network stops growing
        candidate = build(high)
        if candidate.num_params > budget:
            break
        if candidate.num_params == best.num_params:
            return best
        low, best, high = high, candidate, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        candidate = build(middle)
        if candidate.num_params <= budget:
            low, best = middle, candidate
        else:
            high = middle
    return best


class BondSizes:
    """The sizes that the bonds of a family can have within a budget.

    Parameters are counted without building networks: every parameter is a product of bond sizes and a factor.

    Attributes
    ----------
    start : array of int
        The sizes in the given network.
    limits : array of int
        The largest useful size of each bond.
    affordable : array of int
        The size that each bond could have if all others had size 1, if that is less.
    """

    def __init__(self, net: Network, names: Sequence[str], budget: int):
        self.net, self.names, self.budget = net, names, budget
        sizes = net.spec.index_sizes
        self.start = np.array([sizes[name] for name in names])
        places = {name: k for k, name in enumerate(names)}
        self.nodes: list[tuple[int, list[int]]] = []
        for node in net.spec.nodes:
            held = [places[ix] for ix in node.indices if ix in places]
            self.nodes.append((math.prod(sizes[ix] for ix in node.indices if ix not in places), held))
        slope = np.zeros(len(names))
        for factor, held in self.nodes:
            slope[held] += factor
        self.limits = np.full(len(names), budget)
        for _ in names:  # a bond is at most as large as the rest of each of its nodes
            self.limits = np.minimum(self.limits, self._rest(self.limits.astype(float)).min(0)).astype(int)
        self.affordable = np.maximum(1, np.minimum(self.limits, budget // slope)).astype(int)

    @classmethod
    def of(cls, net: Network, budget: int) -> BondSizes | None:
        """Return the sizes for a network within a budget; None if its family has one size for all bonds."""
        names = () if net.topology is None else net.topology.bonds(net.spec)
        return cls(net, names, budget) if names else None

    def network(self, sizes: np.ndarray) -> Network:
        """Build the network with these bonds."""
        family = self.net.topology
        assert family is not None
        return network(family.with_bonds([int(size) for size in sizes]), self.net.shape, self.net.layout)

    def count(self, sizes: np.ndarray) -> np.ndarray:
        """Return the numbers of parameters for an array of sizes; its last axis are the bonds."""
        return sum(
            (factor * np.prod(sizes[..., held].astype(float), axis=-1) for factor, held in self.nodes),
            start=np.zeros(sizes.shape[:-1]),
        )

    def _rest(self, sizes: np.ndarray) -> np.ndarray:
        """Return, for every node and every bond, the product of the node's other sizes; inf if it lacks the bond."""
        found = np.full((len(self.nodes), *sizes.shape), np.inf)
        for row, (factor, held) in zip(found, self.nodes):
            for k in held:
                row[..., k] = factor * np.prod(sizes[..., [j for j in held if j != k]], axis=-1)
        return found

    def allowed(self, sizes: np.ndarray) -> np.ndarray:
        """Return which sizes are within the budget, and not larger than useful."""
        fits = (sizes >= 1).all(-1) & (sizes <= self.limits).all(-1) & (self.count(sizes) <= self.budget)
        fits[fits] = (sizes[fits] <= self._rest(sizes[fits].astype(float)).min(0)).all(-1)
        return fits

    def falling(self, sizes: np.ndarray) -> np.ndarray:
        """Return the logarithm of the norm kept of a weight whose squared singular values fall in a straight line."""
        share = sizes / self.limits
        return np.log(share * (2 - share)).sum(-1)

    @property
    def proportional(self) -> np.ndarray:
        """The largest sizes within the budget that are proportional to `limits`, rounded down to at least 1."""
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            fits = self.count(np.maximum(1, np.floor(middle * self.limits))) <= self.budget
            low, high = (middle, high) if fits else (low, middle)
        return np.maximum(1, np.floor(low * self.limits)).astype(int)

    def search(self, value: Value, start: np.ndarray) -> np.ndarray:
        """Enlarge bonds, those of the most value for their parameters first; then move parameters between bonds.

        A local maximum of the value within the budget: no bond can grow, alone or at the expense of another.
        """
        grow, trade = self._moves()
        sizes = np.minimum(start, self.limits)
        while True:
            moved = sizes + grow
            moved = moved[self.allowed(moved)]
            if not len(moved):
                break
            gain = (value(moved) - value(sizes)) / (self.count(moved) - self.count(sizes))
            sizes = moved[gain.argmax()]
        while True:
            moved = sizes + np.concatenate([grow, trade])
            moved = moved[self.allowed(moved)]
            values = value(moved)
            if not len(moved) or values.max() <= value(sizes) + 1e-12:
                return sizes
            sizes = moved[values.argmax()]

    def _moves(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the changes that enlarge one bond by a power of two, and those that trade some of one for another."""
        count = len(self.names)
        one = np.eye(count, dtype=int)
        steps = 2 ** np.arange(max(1, int(self.limits.max()).bit_length()))
        few = np.array([1, 2, 3, 4, 6, 8])
        trade = one[:, None] * few[:, None, None, None, None] - one * few[:, None, None, None]
        trade = trade.reshape(-1, count)
        return (steps[:, None, None] * one).reshape(-1, count), trade[(trade > 0).any(-1) & (trade < 0).any(-1)]

    def full_nearby(self, sizes: np.ndarray) -> np.ndarray:
        """Return the sizes that differ by one trade between two bonds and leave too little to enlarge the first."""
        trade = self._moves()[1]
        more = (trade > 0).astype(int)
        moved = sizes + trade
        fits = self.allowed(moved)
        return moved[fits & ~self.allowed(moved + more)]

    def spend(self, value: Value, sizes: np.ndarray) -> np.ndarray:
        """Use almost all of the budget: change up to three bonds to reach `ENOUGH` of it, at the best value.

        Return the sizes unchanged if they use as much already, or if no such change does.
        """
        if self.count(sizes) >= ENOUGH * self.budget:
            return sizes
        count = len(self.names)
        some = min(3, count) if count <= MANY else 2
        places = np.array(list(itertools.combinations(range(count), some)))
        changes = np.array(list(itertools.product(range(-5, 9) if count <= FEW else range(-2, 4), repeat=some)))
        moved = np.tile(sizes, (len(places), len(changes), 1))
        np.put_along_axis(moved, places[:, None], sizes[places][:, None] + changes, axis=-1)
        moved = moved.reshape(-1, count)
        moved = moved[self.allowed(moved)]
        moved = moved[self.count(moved) >= ENOUGH * self.budget]
        return moved[value(moved).argmax()] if len(moved) else sizes
