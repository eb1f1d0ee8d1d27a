"""Contract pairs of equal shape side by side: a regular network level by level instead of tensor by tensor.

For small tensors, most of the time goes into dispatching a step, whatever it multiplies. Contractions that look the
same (same shapes, same axes summed over) therefore become one product of two stacks.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from ..arrays import CPU, Tuning

#: For more neighboring pairs than this, a search for levels takes longer than it can save.
PAIRS = 4096

#: A pair of tensor numbers; the result of each contraction gets the next free number (static single assignment).
Pair: TypeAlias = tuple[int, int]

#: Groups of contractions, each one step: those of a group look the same and depend only on earlier groups.
Path: TypeAlias = tuple[tuple[Pair, ...], ...]


class _Contraction:
    """A partly contracted network. Axes are in the order in which a matrix product leaves them.

    The parameters are those of `schedule`.
    """

    def __init__(
        self,
        inputs: Sequence[tuple[int, ...]],
        output: Sequence[int],
        sizes: Sequence[int],
        singles: int,
        tuning: Tuning,
    ):
        self.sizes = sizes
        self.tuning = tuning
        self.orders = list(inputs)
        self.volumes = [self.volume(order) for order in inputs]
        self.count = Counter(ix for order in inputs for ix in order)
        self.count.update(output)
        # Tensors of one kind can be stacked: parameters of one shape in any order, results of one group in order.
        shapes: dict[tuple[int, ...], int] = {}
        self.kinds = [shapes.setdefault(tuple(sizes[ix] for ix in order), len(shapes)) for order in inputs]
        for k in range(singles):
            self.kinds[k] = -1 - k
        self.kind = len(inputs)
        self.place = [-1] * len(inputs)
        self.groups: list[tuple[Pair, ...]] = []
        self.cost = 0

    def volume(self, indices: Iterable[int]) -> int:
        return math.prod(map(self.sizes.__getitem__, indices))

    def look(self, pair: Pair) -> tuple[object, ...]:
        """Return a key that is equal for contractions that can be merged into one step."""
        left, right = (self.orders[k] for k in pair)
        at = tuple((place, right.index(ix)) for place, ix in enumerate(left) if ix in right)
        alike = all(self.count[left[place]] == 2 for place, _ in at)
        return (self.kinds[pair[0]], self.kinds[pair[1]], at, () if alike else pair)

    def price(self, pair: Pair) -> tuple[int, int]:
        """Return the weighted cost of one contraction and the number of elements in its result."""
        left, right = (self.orders[k] for k in pair)
        summed = [ix for ix in left if ix in right and self.count[ix] == 2]
        everything = self.volume(set(left) | set(right))
        result = everything // self.volume(summed)
        return everything + self.tuning.write * result, result

    def fit(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Choose, in order, as many of some contractions that look the same as fit into one step."""
        chosen: list[Pair] = []
        used: set[int] = set()
        largest = max(self.price(pairs[0])[1], *(self.volumes[k] for k in pairs[0]))
        most = self.tuning.stack // largest
        for pair in pairs:
            if len(chosen) >= max(1, most):
                break
            if not used.intersection(pair) and all(
                self.in_step([p[side] for p in chosen], pair[side]) for side in (0, 1)
            ):
                chosen.append(pair)
                used.update(pair)
        return chosen

    def in_step(self, chosen: Sequence[int], new: int) -> bool:
        """Return whether the chosen tensors of a stack and one more follow each other at equal distances."""
        places = [self.place[k] for k in (*chosen, new)]
        if len(places) == 1 or places[0] < 0:
            return True
        return places[1] > places[0] and places[-1] - places[-2] == places[1] - places[0]

    def merge(self, group: Sequence[Pair]) -> None:
        """Contract some pairs in one step."""
        self.cost += self.tuning.step
        self.kind += 1
        for place, (i, j) in enumerate(group):
            left, right = self.orders[i], self.orders[j]
            self.cost += self.price((i, j))[0]
            for ix in set(left) & set(right):
                self.count[ix] -= 1
            kept = [ix for ix in left if ix not in right or self.count[ix] > 1]
            order = (*kept, *(ix for ix in right if ix not in left))
            self.orders.append(order)
            self.volumes.append(self.volume(order))
            self.kinds.append(self.kind if len(group) > 1 else -1 - len(self.orders))
            self.place.append(place)
        self.groups.append(tuple(group))


def schedule(
    pairs: Sequence[Pair],
    inputs: Sequence[tuple[int, ...]],
    output: Sequence[int],
    sizes: Sequence[int],
    singles: int,
    tuning: Tuning = CPU,
) -> tuple[int, Path]:
    """Group the contractions of a path.

    Parameters
    ----------
    pairs : sequence of (int, int)
        A path in static single assignment form.
    inputs : sequence of tuple of int
        Indices of each tensor.
    output : sequence of int
        Open indices.
    sizes : sequence of int
        Size of every index.
    singles : int
        Number of leading tensors that are never stacked.
    tuning : Tuning
        The weights of a written element and of a step, and the size limit of a stack.

    Returns
    -------
    cost : int
        Multiplications, plus ``tuning.write`` per written element and ``tuning.step`` per step.
    groups : tuple of tuple of (int, int)
        The same contractions, renumbered.
    """
    contraction = _Contraction(inputs, output, sizes, singles, tuning)
    number = {k: k for k in range(len(inputs))}  # number in the path -> number in the groups
    reader = {k: len(inputs) + step for step, pair in enumerate(pairs) for k in pair}
    missing = {len(inputs) + step: sum(k >= len(inputs) for k in pair) for step, pair in enumerate(pairs)}
    ready = [result for result, count in missing.items() if not count]
    while ready:
        alike: dict[object, dict[Pair, int]] = defaultdict(dict)
        for result in ready:
            i, j = sorted(number[k] for k in pairs[result - len(inputs)])
            alike[contraction.look((i, j))][i, j] = result
        ready = []
        for results in alike.values():
            while results:
                group = contraction.fit(sorted(results))
                contraction.merge(group)
                for k, pair in enumerate(group, len(contraction.orders) - len(group)):
                    result = results.pop(pair)
                    number[result] = k
                    if result in reader:
                        missing[reader[result]] -= 1
                        if not missing[reader[result]]:
                            ready.append(reader[result])
    return contraction.cost, tuple(contraction.groups)


def is_schedule(
    path: Path,
    inputs: Sequence[tuple[int, ...]],
    output: Sequence[int],
    sizes: Sequence[int],
    singles: int,
    tuning: Tuning = CPU,
) -> bool:
    """Return whether groups contract everything, each in one step, as those of `schedule` do.

    Examples
    --------
    >>> chain = ((0, 1), (1, 2), (2, 3), (3, 4))
    >>> path = (((0, 1), (2, 3)), ((4, 5),))
    >>> is_schedule(path, chain, (0, 4), (2, 2, 2, 2, 2), 0), is_schedule(path[:1], chain, (0, 4), (2, 2, 2, 2, 2), 0)
    (True, False)
    """
    contraction = _Contraction(inputs, output, sizes, singles, tuning)
    left = set(range(len(inputs)))
    for group in path:
        pairs = [pair for pair in group if pair[0] < pair[1] and left.issuperset(pair)]
        if not group or len(pairs) < len(group):
            return False
        if len({contraction.look(pair) for pair in group}) > 1 or contraction.fit(group) != [*group]:
            return False
        contraction.merge(group)
        left.difference_update(*group)
        left.update(range(len(contraction.orders) - len(group), len(contraction.orders)))
    return len(left) == 1


def merge_alike(
    inputs: Sequence[tuple[int, ...]],
    output: Sequence[int],
    sizes: Sequence[int],
    singles: int,
    growth: int,
    tuning: Tuning = CPU,
) -> list[Pair] | None:
    """Return a greedy path that contracts many pairs at a time if they look the same.

    Each round takes the group that costs the least per contraction. The cost includes `growth` times ``tuning.write``
    for each element by which the tensors grow.

    Parameters
    ----------
    inputs, output, sizes, singles, tuning
        See `schedule`.
    growth : int

    Returns
    -------
    list of (int, int)
        A path in static single assignment form; None if there are more than `PAIRS` neighboring pairs.
    """
    contraction = _Contraction(inputs, output, sizes, singles, tuning)
    alive = set(range(len(inputs)))
    holders: dict[int, set[int]] = defaultdict(set)
    for k, order in enumerate(inputs):
        for ix in order:
            holders[ix].add(k)
    pairs = {(i, j) for held in holders.values() for i in held for j in held if i < j}
    if len(pairs) > PAIRS:
        return None
    known = {pair: contraction.look(pair) for pair in pairs}
    while len(alive) > 1:
        if not known:  # no bonds are left: take the smallest two
            i, j = sorted(sorted(alive, key=lambda k: (contraction.volumes[k], k))[:2])
            known = {(i, j): contraction.look((i, j))}
        alike: dict[object, list[Pair]] = defaultdict(list)
        for pair, look in known.items():
            alike[look].append(pair)
        best, group = math.inf, []
        for found in alike.values():
            found.sort()
            price, result = contraction.price(found[0])
            grows = growth * tuning.write * (result - sum(contraction.volumes[k] for k in found[0]))
            if tuning.step / len(found) + price + grows >= best:
                continue
            fitting = contraction.fit(found)
            value = tuning.step / len(fitting) + price + grows
            if value < best or (value == best and fitting < group):
                best, group = value, fitting
        touched = {k for pair in group for k in pair}
        first = len(contraction.orders)
        contraction.merge(group)
        alive -= touched
        known = {pair: look for pair, look in known.items() if touched.isdisjoint(pair)}
        for k in touched:
            for ix in contraction.orders[k]:
                holders[ix].discard(k)
        for k in range(first, len(contraction.orders)):
            alive.add(k)
            for ix in contraction.orders[k]:
                for other in holders[ix]:
                    known[(other, k)] = ()
                holders[ix].add(k)
        # Pairs that the group did not touch look as before: any third tensor with one of their indices still exists.
        known = {pair: look or contraction.look(pair) for pair, look in known.items()}
    return [pair for group in contraction.groups for pair in group]
