"""Order the indices of a tensor in memory so that the next contraction need not move them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Order: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Pairing:
    """The indices of one pairwise contraction: those of the result and those that are summed over.

    `order` lists the indices of the result in the order that `deeptn.engine.stacking` uses.
    """

    result: int
    order: Order
    kept: frozenset[str]
    shared: frozenset[str]
    summed: frozenset[str]

    def batch(self, wish: Mapping[str, int]) -> Order:
        """Return the indices shared by both operands that the result keeps, in a fixed order."""
        return tuple(sorted(self.shared & self.kept, key=lambda ix: (wish.get(ix, 0), ix)))

    @staticmethod
    def only(order: Order, other: Order) -> Order:
        return tuple(ix for ix in order if ix not in other)


def pairings(orders: Sequence[Order], output: Order, path: Sequence[tuple[int, int]]) -> list[Pairing]:
    """Follow the path and find the indices of each contraction."""
    count = Counter(ix for order in orders for ix in order)
    count.update(output)
    orders = list(orders)
    joins = []
    for i, j in path:
        shared = frozenset(orders[i]).intersection(orders[j])
        for ix in shared:
            count[ix] -= 1  # two tensors with this index become one
        summed = frozenset(ix for ix in shared if count[ix] == 1)
        order = tuple(ix for ix in orders[i] if ix not in summed)
        order += tuple(ix for ix in orders[j] if ix not in shared)
        joins.append(Pairing(len(orders), order, frozenset(order), shared, summed))
        orders.append(order)
    return joins


def wishes_of(
    orders: Sequence[Order], joins: Sequence[Pairing], path: Sequence[tuple[int, int]], output: Order, volume: Any
) -> list[dict[str, int]]:
    """Return, for every result, a rank for each index: its consumer would like the axes in ascending order of rank.

    This works backward from the final result; a consumer passes on the ranks that it received. A much larger operand
    should have its summed indices where the indices of the smaller one will end up, so that its axes need not move.
    Otherwise a consumer wants the indices it keeps and those it sums over in two blocks, in either order.
    """
    sets = [frozenset(order) for order in orders] + [join.kept for join in joins]
    volumes = [volume(indices) for indices in sets]
    wishes: list[dict[str, int]] = [{} for _ in sets]
    wishes[-1] = {ix: k for k, ix in enumerate(output)}
    for join, pair in zip(reversed(joins), reversed(path)):
        wish = wishes[join.result]
        batch = join.batch(wish)
        for child, other in (pair, pair[::-1]):
            if child < len(orders):  # an input: its order is fixed
                continue
            keep = sets[child] - join.shared
            levels = sorted({wish.get(ix, 0) for ix in keep})
            ranks = {ix: levels.index(wish.get(ix, 0)) for ix in keep}
            ranks |= {ix: k - len(batch) for k, ix in enumerate(batch)}
            places = [wish[ix] for ix in sets[other] - join.shared if ix in wish]
            if not batch and places and volumes[child] >= 16 * volumes[other]:
                low, high = min(places), max(places)
                if not any(low < wish.get(ix, low) < high for ix in keep):
                    wishes[child] = {ix: wish[ix] for ix in keep if ix in wish} | dict.fromkeys(join.summed, low)
                    continue
            summed_last = ranks | dict.fromkeys(join.summed, len(levels))
            summed_first = {ix: rank + (rank >= 0) for ix, rank in ranks.items()} | dict.fromkeys(join.summed, 0)
            shared = joins[child - len(orders)].shared
            blocks = [tuple(sets[k] - shared) for k in path[child - len(orders)]]
            fits = [monotone(blocks, ranks) is not None for ranks in (summed_last, summed_first)]
            wishes[child] = summed_first if fits == [False, True] else summed_last
    return wishes


def monotone(blocks: Sequence[Order], wish: Mapping[str, int]) -> bool | None:
    """Tell whether two blocks follow the desired ranks if swapped (True), as they are (False) or not at all (None)."""
    left, right = ([wish.get(ix, 0) for ix in block] for block in blocks)
    if not left or not right or max(left) <= min(right):
        return False
    return True if max(right) <= min(left) else None


def apart(order: Order, keep: Order) -> bool:
    """Return whether some indices are at the front or the back of a tensor, in this order."""
    return order[: len(keep)] == keep or order[len(order) - len(keep) :] == keep


def by_rank(order: Order, wish: Mapping[str, int]) -> Order:
    """Sort stably by the desired ranks."""
    return tuple(sorted(order, key=lambda ix: wish.get(ix, 0)))
