"""The smallest network of a family that reaches an accuracy, measured by closed forms and short fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..base import Shape
from ..budget import at_budget, at_common_size
from ..engine import seconds
from ..errors import DeepTNError
from ..network import Network, network
from ..spec import Layout
from ..topologies import LowRank, Topology
from .curves import STEPS, Candidate, layouts_of, measured

#: The search for a size ends when it is known to this fraction.
PRECISION = 0.02

#: For weights of more entries, one way to choose bonds is tried: the one that was better for the largest network.
LARGE = 2**20

#: A fit is short if decoding the weight as often as it has steps should take at most so long [s], on a typical machine.
#: With gradients, that is a few seconds. Larger networks are not tried.
PATIENCE = 0.15

#: Why a level is not reached.
NONE_SMALLER = "no network is smaller than the weight"
NOT_REACHED = "no smaller network reaches it"


@dataclass
class Sizes:
    """What a family needs for a weight.

    Attributes
    ----------
    reached : dict of float to Candidate
        The smallest network found for each level; levels that no network smaller than the weight reaches are missing.
    note : str
        Why levels are missing.
    error : float or None
        The smallest error measured.
    limited : bool
        Whether larger networks might reach more, but are too large for a short fit.

    Examples
    --------
    >>> import deeptn as dtn
    >>> smallest(np.ones((4, 4)), dtn.TTMatrix(), [10, 20])
    Sizes(reached={}, note='no network is smaller than the weight', error=None, limited=False)
    """

    reached: dict[float, Candidate] = field(default_factory=dict[float, Candidate])
    note: str = ""
    error: float | None = None
    limited: bool = False


def allowed(level: float) -> float:
    """Return the relative error of a level in decibels: 0.1 for 20."""
    return 10 ** (-level / 20)


def smallest_ranks(spectrum: Sequence[float], shape: Shape, family: LowRank, levels: Sequence[float]) -> Sizes:
    """Return the smallest ranks that reach the levels, exactly, from the normalized singular values of a weight.

    Examples
    --------
    >>> found = smallest_ranks([0.8, 0.6, 0, 0, 0, 0], (6, 6), LowRank(), [1, 5])
    >>> [(level, one.name, round(one.error, 3)) for level, one in found.reached.items()]
    [(1, 'LowRank(rank=1)', 0.6), (5, 'LowRank(rank=2)', 0.0)]
    """
    tails = np.sqrt(np.cumsum(np.square(spectrum)[::-1])[::-1])
    errors = [*map(float, tails), 0.0]
    size, found = math.prod(shape), Sizes(note=NOT_REACHED)
    most = (size - 1) // network(family.resized(1), shape).num_params
    if most < 1:
        return Sizes(note=NONE_SMALLER)
    found.error = errors[min(most, len(tails))]
    for level in levels:
        rank = max(1, int((tails > allowed(level)).sum()))
        if rank <= most:
            found.reached[level] = Candidate(network(family.resized(rank), shape), errors[rank])
    return found


def smallest(weight: np.ndarray, family: Topology, levels: Sequence[float], seed: int = 0) -> Sizes:
    """Search for the smallest networks of a family that reach some levels, over its layouts.

    First the largest network that is smaller than the weight is tried; if it reaches the level, bisection finds a size
    within `PRECISION` of the smallest. This takes for granted that the error falls with the size. A family without a
    good closed form is tried as long as the fit is short (`PATIENCE`).

    Parameters
    ----------
    weight : array
        NumPy array, finite.
    family : Topology
        Its size is ignored.
    levels : sequence of float
        Accuracies ``-20 log10(‖W - W'‖ / ‖W‖)``, ascending.
    seed : int
        Seed of the starting points of fits by gradient.

    Examples
    --------
    >>> import deeptn as dtn
    >>> W = np.kron(np.diag([1.0, 0.5, 0.1, 0.02]), np.ones((8, 8)))
    >>> found = smallest(W, dtn.TTMatrix(), [10, 20, 40]).reached
    >>> [(level, one.network.num_params, round(one.error, 3)) for level, one in found.items()]
    [(10, 80, 0.0), (20, 80, 0.0), (40, 80, 0.0)]
    """
    try:
        layouts = list(layouts_of(family, weight.shape))
        searches = [_Search(weight, family, layout, seed) for layout in layouts]
    except DeepTNError as error:
        return Sizes(note=str(error))
    fitting = [search for search in searches if search.least < weight.size]
    if not fitting:
        return Sizes(note=NONE_SMALLER)
    found = Sizes(note=NOT_REACHED)
    fitting.sort(key=_Search.error_at_most)  # for the others, one measurement may show that they need more
    different = {search.same_if: search for search in reversed(fitting)}
    for search in reversed(different.values()):
        for level in levels:
            better = search.better(level, found.reached.get(level))
            if better is not None:
                found.reached[level] = better
    errors = [one.error for search in fitting for one in search.known.values() if math.isfinite(one.error)]
    found.error = min(errors, default=None)
    most = max(search.most for search in fitting)
    found.limited = any(search.limited for search in fitting)
    if not errors:
        found.note = "too large for a short fit" if found.limited else "has neither a closed form nor a fit"
    elif found.limited:
        found.note = f"short fits of up to {most:,} parameters do not reach it"
    found.reached = {level: found.reached[level] for level in levels if level in found.reached}
    return found


class _Search:
    """The networks of a family with one layout, measured when they are needed."""

    def __init__(self, weight: np.ndarray, family: Topology, layout: Layout, seed: int):
        self.weight, self.family, self.layout, self.seed = weight, family, layout, seed
        self.known: dict[Network, Candidate] = {}
        self.tried: dict[int, Candidate | None] = {}
        self.ways = (at_budget, at_common_size)
        first = network(family.resized(1), weight.shape, layout)
        self.least = first.num_params
        self.most = weight.size - 1 if family.closed_form_suffices else self._affordable()
        self.limited = not family.closed_form_suffices and self.most < weight.size - 1

    def _affordable(self) -> int:
        """Return the number of parameters up to which a short fit is short; 0 if even the smallest network's is not."""
        found, budget, top = 0, self.least, self.weight.size - 1
        while budget <= top:
            net = at_common_size(self.family, self.weight.shape, budget, self.layout)
            if STEPS * seconds(net.cost()) > PATIENCE:
                break
            found = budget
            if budget == top:
                break
            budget = min(2 * budget, top)
        return found

    def at(self, budget: int) -> Candidate | None:
        """Return the best network within a budget: with bonds that use it up, or with one size for all bonds."""
        if budget not in self.tried:
            if budget < self.least:
                return None
            given = (self.family, self.weight.shape, budget, self.layout)
            networks = dict.fromkeys(way(*given) for way in self.ways)
            new = [net for net in networks if net not in self.known]
            self.known |= {one.network: one for one in measured(self.weight, new, self.seed) if one.network}
            here = [self.known[net] for net in networks if net in self.known]
            best = self.tried[budget] = min(here, key=lambda one: one.error, default=None)
            if best is not None and len(self.ways) > 1 and self.weight.size > LARGE:
                self.ways = (at_budget,) if best.network == at_budget(*given) else (at_common_size,)
        return self.tried[budget]

    def error_at_most(self) -> float:
        """Return the error of the largest network; infinity if there is none."""
        found = self.at(self.most)
        return math.inf if found is None else found.error

    @property
    def same_if(self) -> tuple[float, ...]:
        """The numbers that are equal for two layouts with the same networks up to the order of their legs."""
        found = self.at(self.most)
        return (self.least,) if found is None else (self.least, params_of(found), float(f"{found.error:.9g}"))

    def better(self, level: float, than: Candidate | None) -> Candidate | None:
        """Return the smallest network that reaches a level; None if there is none smaller than a given one."""

        def reaches(one: Candidate | None) -> bool:
            return one is not None and one.error <= allowed(level)

        most = self.most if than is None else min(self.most, params_of(than) - 1)
        found = self.at(most)
        if found is None or not reaches(found):
            return None
        high = params_of(found)
        failed = {tried: one for tried, one in self.tried.items() if tried < high and not reaches(one)}
        low = max(failed, default=self.least - 1)
        last = failed.get(low)
        wrong = 1.0 if last is None else last.error
        guess = True
        while high - low > max(1, PRECISION * low):
            middle = _between(low, high, wrong, found.error, allowed(level)) if guess else math.isqrt(low * high)
            middle, guess = min(max(low + 1, middle), high - 1), not guess
            one = self.at(middle)
            if one is not None and reaches(one):
                found, high = one, params_of(one)
            else:
                low, wrong = middle, wrong if one is None else one.error
        return found


def params_of(one: Candidate) -> int:
    """Return the number of parameters of a candidate that has a network."""
    assert one.network is not None
    return one.network.num_params


def _between(low: int, high: int, wrong: float, right: float, goal: float) -> int:
    """Guess the size at which the error falls to `goal`: by a straight line through decibels and parameters."""
    if not right < goal < wrong < math.inf or right <= 0:
        return math.isqrt(low * high)
    share = math.log(wrong / goal) / math.log(wrong / right)
    return low + round(share * (high - low) * (1 + PRECISION / 2))
