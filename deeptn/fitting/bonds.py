"""Choose the sizes of bonds for a given weight and budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..budget import BondSizes, Value, at_budget, at_common_size
from ..network import Network
from ..spec import Layout, NetworkSpec
from ..topologies import Topology
from ..topologies.svd import squared_values

#: How often the closed form may be computed while nearby sizes are tried: at most `TRIALS` times, less often for a
#: weight of more than ``TRIED / TRIALS`` entries.
TRIALS, TRIED = 60, 2**22

#: How many nearby sizes are tried at a time.
NEARBY = 8


def within_budget(
    family: Topology, weight: np.ndarray, layout: Layout | None, budget: int, error: Callable[[Network], float]
) -> Network:
    """Return the network of a family within a budget that suits a weight best, as far as a search finds it.

    Where bonds do not split the network in two (a ring), the best of three is taken: `at_budget`'s sizes, one size for
    all bonds, and sizes close to it that use the budget. Elsewhere a search starts from `at_budget`'s sizes, and from
    those that keep as much of the weight's norm as possible, measured by the product over the bonds of the fraction
    that each would keep if the others were complete: the squares of the leading singular values of the weight, split at
    the bond. Then it moves parameters between bonds as long as the error falls.

    Parameters
    ----------
    family : Topology
    weight : array
        NumPy array, not zero.
    layout : Layout or None
    budget : int
    error : callable
        Returns the error of a network's closed form, or of a short fit.
    """
    common = at_common_size(family, weight.shape, budget, layout)
    default = at_budget(family, weight.shape, budget, layout)
    bonds = BondSizes.of(common, budget)
    if bonds is None:
        return default
    spectra = _spectra(common, bonds, weight)
    if spectra is None:
        level = bonds.network(bonds.spend(lambda sizes: -np.square(np.log(sizes / bonds.start)).sum(-1), bonds.start))
        return min({net.topology: net for net in (default, common, level)}.values(), key=error)
    value = _value(spectra)
    sizes = default.spec.index_sizes
    tried = {tuple(map(int, bonds.start)): common, tuple(sizes[name] for name in bonds.names): default}
    errors = {key: error(net) for key, net in tried.items()}

    def try_out(sizes: np.ndarray) -> None:
        key = tuple(map(int, sizes))
        if key not in tried:
            tried[key] = bonds.network(sizes)
            errors[key] = error(tried[key])

    few = np.maximum(1, bonds.start // 2)
    for start in (np.ones_like(few), few, bonds.start, bonds.proportional):
        sizes = bonds.search(value, start)
        try_out(sizes)
        try_out(bonds.spend(value, sizes))
    most = min(TRIALS, TRIED // weight.size)
    best = min(errors, key=errors.__getitem__)
    while len(tried) < most:
        nearby = bonds.full_nearby(np.array(best))
        for sizes in nearby[np.argsort(-value(nearby))][:NEARBY]:
            try_out(sizes)
        before, best = best, min(errors, key=errors.__getitem__)
        if best == before:
            break
    return tried[best]


def _value(spectra: Sequence[np.ndarray]) -> Value:
    """Return the function from sizes to the logarithm of the product of the fractions kept."""
    table = np.full((len(spectra), 1 + max(map(len, spectra))), -np.inf)
    for row, kept in zip(table, spectra):
        row[1 : 1 + len(kept)] = np.log(np.maximum(kept, np.finfo(float).tiny))
        row[1 + len(kept) :] = row[len(kept)]
    columns = np.arange(len(spectra))
    return lambda sizes: table[columns, np.minimum(sizes, table.shape[1] - 1)].sum(-1)


def _spectra(net: Network, bonds: BondSizes, weight: np.ndarray) -> list[np.ndarray] | None:
    """Return, for every bond and every size from 1, the fraction of the squared norm that the bond alone can keep.

    None if some bond does not split the network in two.
    """
    tensor = net.layout.to_legs(weight)
    total = float(np.vdot(tensor, tensor).real)
    spectra: list[np.ndarray] = []
    for name, most in zip(bonds.names, bonds.affordable):
        side = _side(net.spec, name)
        if side is None:
            return None
        order = [*side, *(k for k in range(tensor.ndim) if k not in side)]
        matrix = tensor.transpose(order).reshape(math.prod(tensor.shape[k] for k in side), -1)
        spectra.append(np.minimum(np.cumsum(squared_values(matrix, int(most))) / total, 1.0))
    return spectra


def _side(spec: NetworkSpec, bond: str) -> Sequence[int] | None:
    """Return the legs on one side of a bond, by number; None if the two sides are joined elsewhere."""
    ends = [node for node in spec.nodes if bond in node.indices]
    reached, waiting = {ends[0].name}, [ends[0]]
    while waiting:
        node = waiting.pop()
        for other in spec.nodes:
            if other.name not in reached and set(other.indices) & set(node.indices) - {bond}:
                reached.add(other.name)
                waiting.append(other)
    if len(ends) != 2 or ends[1].name in reached:
        return None
    held = {ix for node in spec.nodes if node.name in reached for ix in node.indices}
    return [k for k, leg in enumerate(spec.legs) if leg.name in held]
