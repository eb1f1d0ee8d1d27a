"""The compiler: a network becomes a program whose tensors lie in memory as they are multiplied."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from .contraction import search
from .cost import Cost
from .errors import ProgramError
from .program import BATCH, INPUT, Activate, Contract, Permute, Program, Step, View
from .spec import NetworkSpec, Stage

Order: TypeAlias = tuple[str, ...]

#: From so many elements of intermediate results on, a gradient makes them again instead of keeping them: beyond the
#: caches a fresh buffer costs more time than the product that fills it.
RECOMPUTE = 2**20


@lru_cache(maxsize=4096)
def compile_network(
    spec: NetworkSpec,
    output: Order,
    columns: Order | None = None,
    batch: int = 1,
    recompute: bool | None = None,
) -> Program:
    """Compile a network.

    Parameters
    ----------
    spec : NetworkSpec
        The network.
    output : tuple of str
        Order of the axes of the result: all legs, or those that `columns` leaves out (behind the batch).
    columns : tuple of str, optional
        Legs over which a linear network is contracted with an input, whose axes are `BATCH` and then these.
    batch : int
        Rows of the input. The search runs for the next power of two; the steps run for any number, the cost is for
        this one.
    recompute : bool, optional
        Whether a gradient makes the states within a stage again; by default where they have `RECOMPUTE` elements.

    Raises
    ------
    ProgramError
        If a network with activations is to be applied without decoding it.
    """
    if columns is not None and not spec.is_linear:
        raise ProgramError("a network with activations has to be decoded to be applied; write materialize")
    compiler = _Compiler(spec, batch)
    state: tuple[int, Order] | None = None
    if columns is not None:
        state = compiler.input((BATCH, *columns))
        output = (BATCH, *output)
    for number, stage in enumerate(spec.stages):
        final = number == len(spec.stages) - 1
        state = compiler.stage(stage, state, output if final else stage.output, ordered=final)
        if not final:
            state = compiler.activate(stage, state)
    assert state is not None
    return compiler.finish(*state, recompute)


class _Compiler:
    """Collects registers and steps. Indices are placed so that big tensors are multiplied as they lie in memory."""

    def __init__(self, spec: NetworkSpec, batch: int):
        self.spec = spec
        self.sizes = spec.index_sizes | {BATCH: batch}
        self.searched = self.sizes | {BATCH: 1 << (batch - 1).bit_length()}
        self.inputs = list(spec.param_shapes)
        self.number_of = {name: k for k, name in enumerate(self.inputs)}
        self.constants: list[tuple[int, tuple[int, ...], tuple[float, ...]]] = []
        self.steps: list[Any] = []
        self.elements: dict[int, int] = {k: math.prod(s) for k, s in enumerate(spec.param_shapes.values())}
        self.flops = 0
        self.write = 0
        if BATCH in spec.index_sizes:
            raise ProgramError(f"the network has an index named {BATCH!r}, which is reserved; rename it")

    def input(self, order: Order) -> tuple[int, Order]:
        """Make a register for the input; called before any other register is made."""
        number = self.number_of[INPUT] = len(self.inputs)
        self.inputs.append(INPUT)
        self.elements[number] = self.volume(order)
        return number, order

    def volume(self, indices: Any) -> int:
        return math.prod(self.sizes[ix] for ix in indices)

    def add(self, step_type: type, order: Order, copies: int = 0, **fields: Any) -> int:
        """Append a step; `copies` are elements written besides the result."""
        number = len(self.inputs) + len(self.constants) + len(self.steps)
        self.steps.append(step_type(result=number, **fields))
        self.elements[number] = self.volume(order)
        self.write += self.elements[number] + copies
        return number

    def stage(self, stage: Stage, state: tuple[int, Order] | None, output: Order, ordered: bool) -> tuple[int, Order]:
        """Append the contraction of one stage; return the register of its result and the order of its axes."""
        orders: list[Order] = [] if state is None else [state[1]]
        registers: list[int] = [] if state is None else [state[0]]
        for node in stage.nodes:
            orders.append(node.indices)
            if node.param is not None:
                registers.append(self.number_of[node.param])
            else:
                assert node.constant is not None
                number = len(self.inputs) + len(self.constants) + len(self.steps)
                self.constants.append((number, self.spec.node_shape(node), node.constant))
                self.elements[number] = len(node.constant)
                registers.append(number)
        used = sorted({ix for order in orders for ix in order})
        path = search(tuple(orders), output, tuple((ix, self.searched[ix]) for ix in used))
        joins = _joins(orders, output, path)
        wishes = _wishes(orders, joins, path, output, self.volume)
        for join, (i, j) in zip(joins, path):
            number, order = self.contract(join, registers[i], orders[i], registers[j], orders[j], wishes[join.result])
            registers.append(number)
            orders.append(order)
        register, order = registers[-1], orders[-1]
        if ordered and order != output:
            axes, perm = self.permutation(order, output)
            register, order = self.add(Permute, output, register=register, axes=axes, perm=perm), output
        if ordered and not path:  # a copy: what is returned is never a view of a parameter
            register = self.add(Permute, output, register=register, axes=self.shape(output), perm=None)
        return register, order

    def contract(
        self, join: _Join, i: int, left: Order, j: int, right: Order, wish: Mapping[str, int]
    ) -> tuple[int, Order]:
        """Append one pairwise contraction, a matrix product of two views."""
        batch = join.batch(wish)
        keep_left, keep_right = join.only(left, right), join.only(right, left)
        if not batch and self.volume(left) < self.volume(right):
            i, left, keep_left, j, right, keep_right = j, right, keep_right, i, left, keep_left
        if not batch and (inner := self.between(join, left, right)) is not None:
            return self.contract_inside(i, left, inner, j, right, _sorted(keep_right, wish))
        if _monotone((keep_left, keep_right), wish):
            i, left, keep_left, j, right, keep_right = j, right, keep_right, i, left, keep_left
        size = self.volume(batch + keep_left + keep_right)
        if self.volume(left) <= size:
            keep_left = _sorted(keep_left, wish)
        if self.volume(right) <= size:
            keep_right = _sorted(keep_right, wish)
        big = left if self.volume(left) >= self.volume(right) else right
        summed = tuple(ix for ix in big if ix in join.summed)
        copies = 0
        views = []
        for number, order, keep, kept_first in ((i, left, keep_left, True), (j, right, keep_right, False)):
            rows, columns = (keep, summed) if kept_first else (summed, keep)
            flipped = order == batch + columns + rows
            target = order if flipped else batch + rows + columns
            axes, perm = self.permutation(order, target)
            copies += self.volume(order) if perm else 0
            groups = (columns, rows) if flipped else (rows, columns)
            shape = tuple(self.dimension(g) for g in ((batch,) if batch else ()) + groups)
            views.append(View(number, axes, perm, shape, flipped))
        order = batch + keep_left + keep_right
        self.flops += 2 * self.volume(order + summed)
        shape = tuple(self.dimension(g) for g in ((batch,) if batch else ()) + (keep_left, keep_right))
        return self.add(Contract, order, copies, left=views[0], right=views[1], shape=shape), order

    def between(self, join: _Join, big: Order, small: Order) -> tuple[int, int] | None:
        """Where the summed indices lie in the larger operand, if they lie together, with enough before and behind."""
        places = [k for k, ix in enumerate(big) if ix in join.summed]
        if not places or self.volume(big) < 16 * self.volume(small):
            return None
        start, stop = places[0], places[-1] + 1
        inside = self.volume(big[start:stop])
        # Behind fewer entries a product of matrices that small is slower than a permuted copy, and its gradient larger.
        if len(places) < stop - start or start == 0 or 4 * self.volume(big[stop:]) < inside or stop == len(big):
            return None
        return start, stop

    def contract_inside(
        self, i: int, big: Order, inner: tuple[int, int], j: int, small: Order, keep: Order
    ) -> tuple[int, Order]:
        """Multiply every slice of a large tensor by a small matrix where its indices lie, so that nothing moves."""
        before, summed, behind = big[: inner[0]], big[inner[0] : inner[1]], big[inner[1] :]
        target = keep + summed
        flipped = small == summed + keep
        axes, perm = (None, None) if flipped else self.permutation(small, target)
        shape = (
            (self.dimension(summed), self.dimension(keep))
            if flipped
            else (self.dimension(keep), self.dimension(summed))
        )
        left = View(j, axes, perm, shape, flipped)
        right = View(i, None, None, tuple(self.dimension(group) for group in (before, summed, behind)), False)
        order = before + keep + behind
        self.flops += 2 * self.volume(order + summed)
        shape = tuple(self.dimension(group) for group in (before, keep, behind))
        return self.add(Contract, order, self.volume(small) if perm else 0, left=left, right=right, shape=shape), order

    def dimension(self, group: Order) -> int:
        """Size of some indices seen as one axis; -1 with the batch among them, so that any batch runs."""
        return -1 if BATCH in group else self.volume(group)

    def shape(self, order: Order) -> tuple[int, ...]:
        return tuple(self.dimension((ix,)) for ix in order)

    def permutation(self, order: Order, target: Order) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
        """The axes to permute and how, indices that stay together seen as one axis; None twice where nothing moves."""
        if order == target:
            return None, None
        groups: list[list[int]] = []
        for place in (order.index(ix) for ix in target):
            if groups and groups[-1][-1] + 1 == place:
                groups[-1].append(place)
            else:
                groups.append([place])
        ranked = sorted(groups)
        axes = tuple(self.dimension(tuple(order[k] for k in group)) for group in ranked)
        return axes, tuple(ranked.index(group) for group in groups)

    def activate(self, stage: Stage, state: tuple[int, Order]) -> tuple[int, Order]:
        fields = {"register": state[0], "activation": stage.activation, "normalize": stage.normalize is not None}
        self.flops += self.volume(state[1]) * (bool(stage.activation) + 3 * bool(stage.normalize))
        return self.add(Activate, state[1], **fields), state[1]

    def finish(self, result: int, order: Order, recompute: bool | None) -> Program:
        """Mark the last read of each register, follow the elements alive, and freeze."""
        seen = {result}
        steps: list[Step] = []
        for step in reversed(self.steps):
            reads = {step.left.register, step.right.register} if isinstance(step, Contract) else {step.register}
            free = tuple(sorted(reads - seen))
            seen |= reads
            fields = {name: getattr(step, name) for name in step.__slots__}
            steps.append(type(step)(**{**fields, "free": free}))
        steps.reverse()
        held = set(self.number_of.values()) | {number for number, _, _ in self.constants}
        alive = peak = sum(self.elements[number] for number in held)
        for step in steps:
            alive += self.elements[step.result]
            peak = max(peak, alive)
            alive -= sum(self.elements[number] for number in step.free if number not in held)
        if recompute is None:
            recompute = sum(self.elements[step.result] for step in steps if step.result != result) >= RECOMPUTE
        cost = Cost(self.spec.num_params, self.flops, self.write, peak, len(steps))
        return Program(
            tuple(self.inputs), tuple(self.constants), tuple(steps), result, self.shape(order), cost, recompute
        )


@dataclass(frozen=True)
class _Join:
    """The indices of one pairwise contraction: those of the result, and those that are summed over."""

    result: int
    kept: frozenset[str]
    shared: frozenset[str]
    summed: frozenset[str]

    def batch(self, wish: Mapping[str, int]) -> Order:
        """Indices of both operands that stay, in a fixed order."""
        return tuple(sorted(self.shared & self.kept, key=lambda ix: (wish.get(ix, 0), ix)))

    @staticmethod
    def only(order: Order, other: Order) -> Order:
        return tuple(ix for ix in order if ix not in other)


def _joins(orders: Sequence[Order], output: Order, path: Sequence[tuple[int, int]]) -> list[_Join]:
    """Follow the path with sets of indices."""
    count = Counter(ix for order in orders for ix in order)
    count.update(output)
    sets = [frozenset(order) for order in orders]
    joins = []
    for i, j in path:
        shared = sets[i] & sets[j]
        for ix in shared:
            count[ix] -= 1  # two holders become one
        summed = frozenset(ix for ix in shared if count[ix] == 1)
        kept = (sets[i] | sets[j]) - summed
        joins.append(_Join(len(sets), kept, shared, summed))
        sets.append(kept)
    return joins


def _wishes(
    orders: Sequence[Order], joins: Sequence[_Join], path: Sequence[tuple[int, int]], output: Order, volume: Any
) -> list[dict[str, int]]:
    """For every tensor a rank per index: in ascending rank is how its consumer would like the axes to lie.

    From the result backwards; a consumer passes on the ranks that it was itself asked for. A much larger operand is
    wished with the summed indices where those of the smaller one will stand, so that its axes need not move. Otherwise
    a consumer wants what it keeps and what it sums over in two blocks, either first.
    """
    sets = [frozenset(order) for order in orders] + [join.kept for join in joins]
    wishes: list[dict[str, int]] = [{} for _ in sets]
    wishes[-1] = {ix: k for k, ix in enumerate(output)}
    for join, pair in zip(reversed(joins), reversed(path)):
        wish = wishes[join.result]
        batch = join.batch(wish)
        for child, other in (pair, pair[::-1]):
            keep = sets[child] - join.shared
            levels = sorted({wish.get(ix, 0) for ix in keep})
            ranks = {ix: levels.index(wish.get(ix, 0)) for ix in keep}
            ranks |= {ix: k - len(batch) for k, ix in enumerate(batch)}
            places = [wish[ix] for ix in sets[other] - join.shared if ix in wish]
            if not batch and places and volume(sets[child]) >= 16 * volume(sets[other]):
                low, high = min(places), max(places)
                if not any(low < wish.get(ix, low) < high for ix in keep):
                    wishes[child] = {ix: wish[ix] for ix in keep if ix in wish} | dict.fromkeys(join.summed, low)
                    continue
            summed_last = ranks | dict.fromkeys(join.summed, len(levels))
            summed_first = {ix: rank + (rank >= 0) for ix, rank in ranks.items()} | dict.fromkeys(join.summed, 0)
            if child < len(orders):
                fits = [_sorted(orders[child], ranks) == orders[child] for ranks in (summed_last, summed_first)]
            else:
                inner = path[child - len(orders)]
                shared = joins[child - len(orders)].shared
                blocks = [tuple(sets[k] - shared) for k in inner]
                fits = [_monotone(blocks, ranks) is not None for ranks in (summed_last, summed_first)]
            wishes[child] = summed_first if fits == [False, True] else summed_last
    return wishes


def _monotone(blocks: Sequence[Order], wish: Mapping[str, int]) -> bool | None:
    """Whether two blocks follow the wished ranks when swapped (True), as they stand (False) or not at all (None)."""
    left, right = ([wish.get(ix, 0) for ix in block] for block in blocks)
    if not left or not right or max(left) <= min(right):
        return False
    return True if max(right) <= min(left) else None


def _sorted(order: Order, wish: Mapping[str, int]) -> Order:
    """Stable sort by the wished ranks."""
    return tuple(sorted(order, key=lambda ix: wish.get(ix, 0)))
