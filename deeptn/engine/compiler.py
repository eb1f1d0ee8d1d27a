"""Compile a network into a program that keeps tensors in memory the way they are multiplied."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..arrays import CPU, Tuning, View
from ..base import Shape, cached
from ..errors import ProgramError
from ..spec import NetworkSpec, Node, Stage
from .cost import Cost
from .placement import Order, Pairing, apart, by_rank, monotone, pairings, wishes_of
from .program import BATCH, INPUT, Program
from .search import search
from .stacking import Path
from .steps import Activate, Contract, Crop, Join, Pad, Permute, Step


@cached
def compile_network(
    spec: NetworkSpec,
    output: Order,
    columns: Order | None = None,
    batch: int = 1,
    recompute: bool | None = None,
    crop: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
    pad: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
    tuning: Tuning = CPU,
) -> Program:
    """Compile a network.

    Parameters
    ----------
    spec : NetworkSpec
        The network.
    output : tuple of str
        Order of the result's axes: all legs, or those not in `columns` (after the batch axis).
    columns : tuple of str, optional
        Legs over which a linear network is contracted with an input. The axes of the input are `BATCH`, then these.
    batch : int
        Number of input rows. The search assumes the next power of two; the steps work for any number, and the cost
        is for exactly this one.
    recompute : bool, optional
        Whether the backward pass recomputes the intermediate results of each stage; by default if all of them
        together have at least ``tuning.recompute`` elements.
    crop : (tuple of int, tuple of int), optional
        Shape to which the final result is reshaped, and the shape to which it is then cropped; both without the batch.
    pad : (tuple of int, tuple of int), optional
        Shape of the input, and the shape to which it is zero-padded before the contraction; both without the batch.
    tuning : Tuning
        Constants for the device that the arrays are on.

    Raises
    ------
    ProgramError
        If `columns` is given for a network with activations, which can only be decoded.
    """
    if columns is not None and not spec.is_linear:
        raise ProgramError("a network with activations has to be decoded before it can be applied; use materialize")
    compiler = _Compiler(spec, None if columns is None else (BATCH, *columns), batch, tuning)
    if columns is not None:
        output = (BATCH, *output)
    results: list[_Tensor] = []
    plans = compiler.plan(output)
    if pad is not None and pad[0] != pad[1]:
        compiler.pad(*pad)
    for number, plan in enumerate(plans):
        result = compiler.stage(plan, compiler.entries(number, results))
        for others, product in ((plan.stage.multiply, True), (plan.stage.add, False)):
            for other in others:
                result = compiler.join(number, result, other, results[other], product)
        if plan.stage.activation or plan.stage.normalize:
            result = compiler.activate(plan.stage, result)
        results.append(result)
    return compiler.finish(results[-1], recompute, crop)


@dataclass(frozen=True)
class _Tensor:
    """Where a tensor is (a register, or one or more items of a stack), and the order of its (first item's) axes."""

    register: int
    order: Order
    items: int | tuple[int, int, int] | None = None
    stack: int = 1


@dataclass(frozen=True)
class _Plan:
    """A stage and its contraction path. `tensors` are those of the nodes; `orders` begins with the incoming states.

    If `ordered`, the axes of the result must be in the order `output`.
    """

    stage: Stage
    tensors: tuple[_Tensor, ...]
    orders: tuple[Order, ...]
    output: Order
    path: Path
    ordered: bool


class _Compiler:
    """Collects registers and steps. It orders indices so that big tensors are multiplied without being permuted."""

    def __init__(self, spec: NetworkSpec, entry: Order | None, batch: int, tuning: Tuning):
        if BATCH in spec.index_sizes:
            raise ProgramError(f"the network has an index named {BATCH!r}, which is reserved; rename it")
        self.spec = spec
        self.tuning = tuning
        self.sizes = spec.index_sizes | {BATCH: batch}
        self.searched = self.sizes | {BATCH: 1 << (batch - 1).bit_length()}
        self.inputs = list(spec.param_shapes)
        self.number_of = {name: k for k, name in enumerate(self.inputs)}
        self.elements: list[int] = [math.prod(s) for s in spec.param_shapes.values()]
        self.entry: _Tensor | None = None
        if entry is not None:
            self.entry = _Tensor(len(self.inputs), entry)
            self.inputs.append(INPUT)
            self.elements.append(self.volume(entry))
        self.constants: list[tuple[tuple[int, ...], tuple[float, ...]]] = []
        self.stacks: list[tuple[int, ...]] = []
        self.steps: list[Any] = []
        self.flops = 0
        self.write = 0

    def plan(self, output: Order) -> list[_Plan]:
        """Search for a path for each stage, and stack the parameters that are contracted side by side."""
        plans = []
        for number, stage in enumerate(self.spec.stages):
            tensors = tuple(_Tensor(self.register_of(node), node.indices) for node in stage.nodes)
            if self.entry is not None:
                orders = [self.entry.order]
            else:
                orders = [self.spec.stages[source].output for source in self.spec.sources(number)]
            orders = (*orders, *(node.indices for node in stage.nodes))
            ordered = number in self.spec.summands
            wanted = output if ordered else stage.output
            used = sorted({ix for order in orders for ix in order})
            sizes = tuple((ix, self.searched[ix]) for ix in used)
            path = search(orders, wanted, sizes, len(orders) - len(tensors), self.tuning)
            plans.append(_Plan(stage, tensors, orders, wanted, path, ordered))
        stacks: dict[tuple[int, ...], list[int]] = {}
        stacked: dict[tuple[int, int], tuple[tuple[int, ...], int]] = {}
        for number, plan in enumerate(plans):
            singles = len(plan.orders) - len(plan.tensors)
            for group in plan.path:
                for side in (0, 1) if len(group) > 1 else ():
                    for pair in group:
                        k = pair[side] - singles
                        if k < len(plan.tensors):
                            shape = tuple(self.sizes[ix] for ix in plan.tensors[k].order)
                            stack = stacks.setdefault(shape, [])
                            stacked[number, k] = shape, len(stack)
                            stack.append(plan.tensors[k].register)
        registers = {shape: len(self.elements) + k for k, shape in enumerate(stacks)}
        for shape, stack in stacks.items():
            self.stacks.append(tuple(stack))
            self.elements.append(len(stack) * math.prod(shape))
            self.write += self.elements[-1]
        for number, plan in enumerate(plans):
            tensors = list(plan.tensors)
            for k, tensor in enumerate(tensors):
                if (number, k) in stacked:
                    shape, item = stacked[number, k]
                    tensors[k] = replace(tensor, register=registers[shape], items=item)
            plans[number] = replace(plan, tensors=tuple(tensors))
        return plans

    def entries(self, number: int, results: Sequence[_Tensor]) -> list[_Tensor]:
        """Return the tensors that enter a stage in addition to its nodes."""
        if self.entry is not None:
            return [self.entry]
        return [results[source] for source in self.spec.sources(number)]

    def pad(self, axes: tuple[int, ...], shape: Shape) -> None:
        """Append zeros to the input."""
        assert self.entry is not None
        rows, register = self.sizes[BATCH], self.entry.register
        self.elements[register] = rows * math.prod(axes)
        padded = self.add(Pad, rows * math.prod(shape), operand=register, axes=(-1, *axes), shape=(-1, *shape))
        self.entry = replace(self.entry, register=padded)

    def join(self, number: int, result: _Tensor, other: int, joined: _Tensor, product: bool) -> _Tensor:
        """Append a sum or product with the result of another stage, whose axes are matched by position."""
        names = dict(zip(self.spec.stages[other].output, self.spec.stages[number].output))
        order = tuple(names.get(ix, ix) for ix in joined.order)
        register = joined.register
        if order != result.order:
            axes, perm = self.permutation(order, result.order)
            register = self.add(Permute, self.volume(order), operand=register, axes=axes, perm=perm)
        left = result.register
        return _Tensor(self.add(Join, self.volume(order), left=left, right=register, product=product), result.order)

    def register_of(self, node: Node) -> int:
        if node.param is not None:
            return self.number_of[node.param]
        assert node.constant is not None
        self.constants.append((self.spec.node_shape(node), node.constant))
        self.elements.append(len(node.constant))
        return len(self.elements) - 1

    def volume(self, indices: Any) -> int:
        return math.prod(map(self.sizes.__getitem__, indices))

    def add(self, make: Callable[..., Step], elements: int, **fields: Any) -> int:
        """Append a step whose result has `elements` elements, and count its work."""
        number = len(self.elements)
        step = make(result=number, **fields)
        self.steps.append(step)
        self.elements.append(elements)
        flops, copied = step.work(self.elements)
        self.flops += flops
        self.write += elements + copied
        return number

    def stage(self, plan: _Plan, entries: Sequence[_Tensor]) -> _Tensor:
        """Append the contraction of one stage; `entries` are the states that enter it."""
        tensors = [*entries, *plan.tensors]
        orders = [*(entry.order for entry in entries), *plan.orders[len(entries) :]]
        flat = [pair for group in plan.path for pair in group]
        joins = pairings(orders, plan.output, flat)
        wishes = wishes_of(orders, joins, flat, plan.output, self.volume)
        done = 0
        for group in plan.path:
            first, members = joins[done], joins[done : done + len(group)]
            done += len(group)
            left, right = (self.side_by_side([tensors[pair[side]] for pair in group]) for side in (0, 1))
            result = self.contract(first, left, right, wishes[first.result])
            # The axes of all members of a group are in the same order as those of the first.
            places = [first.order.index(ix) for ix in result.order]
            for item, join in enumerate(members):
                order = tuple(join.order[place] for place in places)
                tensors.append(_Tensor(result.register, order, item if len(group) > 1 else None))
        result = tensors[-1]
        if plan.ordered and result.order != plan.output:
            axes, perm = self.permutation(result.order, plan.output)
            number = self.add(Permute, self.volume(plan.output), operand=result.register, axes=axes, perm=perm)
            result = _Tensor(number, plan.output)
        if plan.ordered and not flat:  # a copy: the result must never be a view of a parameter
            axes = self.shape(plan.output) or (1,)  # NumPy turns products of arrays without axes into numbers
            number = self.add(Permute, self.volume(plan.output), operand=result.register, axes=axes, perm=None)
            result = _Tensor(number, plan.output)
        return result

    def side_by_side(self, tensors: Sequence[_Tensor]) -> _Tensor:
        """Combine some or all items of a stack into one operand."""
        first, count = tensors[0], len(tensors)
        if count == 1:
            return first
        places = [tensor.items for tensor in tensors]
        start, second = places[:2]
        assert isinstance(start, int)
        assert isinstance(second, int)
        items = (start, start + count * (second - start), second - start)
        whole = count * self.volume(first.order) == self.elements[first.register]
        return _Tensor(first.register, first.order, None if whole else items, count)

    def contract(self, join: Pairing, left: _Tensor, right: _Tensor, wish: Mapping[str, int]) -> _Tensor:
        """Append one pairwise contraction, or a stack of them: a matrix product of two views."""
        batch = join.batch(wish)
        if not batch and self.volume(left.order) < self.volume(right.order):
            left, right = right, left
        keep_left, keep_right = join.only(left.order, right.order), join.only(right.order, left.order)
        if not batch and left.stack == 1 and (inner := self.between(join, left.order, right.order, wish)):
            return self.contract_inside(left, inner, right, by_rank(keep_right, wish))
        if monotone((keep_left, keep_right), wish):
            left, keep_left, right, keep_right = right, keep_right, left, keep_left
        size = self.volume(batch + keep_left + keep_right)
        if self.volume(left.order) <= size and (size > self.tuning.few or not apart(left.order, keep_left)):
            keep_left = by_rank(keep_left, wish)
        if self.volume(right.order) <= size and (size > self.tuning.few or not apart(right.order, keep_right)):
            keep_right = by_rank(keep_right, wish)
        big = left if self.volume(left.order) >= self.volume(right.order) else right
        summed = tuple(ix for ix in big.order if ix in join.summed)
        stack = left.stack
        lead = (stack,) if stack > 1 else (self.dimension(batch),) if batch else ()
        views = []
        for tensor, keep, kept_first in ((left, keep_left, True), (right, keep_right, False)):
            rows, columns = (keep, summed) if kept_first else (summed, keep)
            flipped = tensor.order == batch + columns + rows
            target = tensor.order if flipped else batch + rows + columns
            axes, perm = self.permutation(tensor.order, target)
            if axes is not None and perm is not None and stack > 1:
                axes, perm = (stack, *axes), (0, *(place + 1 for place in perm))
            groups = (columns, rows) if flipped else (rows, columns)
            shape = (*lead, *(self.dimension(group) for group in groups))
            views.append(View(tensor.register, axes, perm, shape, flipped, tensor.items))
        order = batch + keep_left + keep_right
        shape = (*lead, self.dimension(keep_left), self.dimension(keep_right))
        number = self.add(Contract, stack * self.volume(order), left=views[0], right=views[1], shape=shape)
        return _Tensor(number, order)

    def between(self, join: Pairing, big: Order, small: Order, wish: Mapping[str, int]) -> tuple[int, int] | None:
        """Locate the summed indices in the larger operand, if a small matrix should be multiplied there; else None."""
        places = [k for k, ix in enumerate(big) if ix in join.summed]
        if not places:
            return None
        start, stop = places[0], places[-1] + 1
        if len(places) < stop - start or start == 0 or stop == len(big):
            return None
        # With fewer columns, products of such small matrices are slower than a permuted copy, with a larger gradient.
        if self.volume(big[stop:]) < min(self.volume(big[start:stop]) // 8, self.tuning.behind):
            return None
        new = [wish.get(ix, 0) for ix in join.only(small, big)]
        before, behind = ([wish.get(ix, 0) for ix in part] for part in (big[:start], big[stop:]))
        if new and max(before) < min(new) and max(new) < min(behind):  # the result is in the desired order
            return start, stop
        # Otherwise only if moving the tensor costs more than leaving the result in this order.
        grown = 4 * self.volume(big) < self.volume(join.kept)
        return None if grown or self.volume(big) < 16 * self.volume(small) else (start, stop)

    def contract_inside(self, big: _Tensor, inner: tuple[int, int], small: _Tensor, keep: Order) -> _Tensor:
        """Multiply every slice of a large tensor by a small matrix, without permuting the large tensor."""
        before, summed, behind = big.order[: inner[0]], big.order[inner[0] : inner[1]], big.order[inner[1] :]
        flipped = small.order == summed + keep
        axes, perm = (None, None) if flipped else self.permutation(small.order, keep + summed)
        groups = (summed, keep) if flipped else (keep, summed)
        shape = tuple(self.dimension(group) for group in groups)
        left = View(small.register, axes, perm, shape, flipped, small.items)
        shape = tuple(self.dimension(group) for group in (before, summed, behind))
        right = View(big.register, None, None, shape, False, big.items)
        order = before + keep + behind
        shape = tuple(self.dimension(group) for group in (before, keep, behind))
        return _Tensor(self.add(Contract, self.volume(order), left=left, right=right, shape=shape), order)

    def dimension(self, group: Order) -> int:
        """Return the size of some indices fused into one axis; -1 if they include the batch, so any size works."""
        return -1 if BATCH in group else self.volume(group)

    def shape(self, order: Order) -> tuple[int, ...]:
        return tuple(self.dimension((ix,)) for ix in order)

    def permutation(self, order: Order, target: Order) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
        """Return the shape to permute, adjacent indices fused, and the permutation; (None, None) if nothing moves."""
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

    def activate(self, stage: Stage, state: _Tensor) -> _Tensor:
        fields = {"operand": state.register, "activation": stage.activation, "normalize": stage.normalize is not None}
        return _Tensor(self.add(Activate, self.volume(state.order), **fields), state.order)

    def finish(
        self, found: _Tensor, recompute: bool | None, crop: tuple[tuple[int, ...], tuple[int, ...]] | None
    ) -> Program:
        """Mark the last read of each register, count the elements alive at each step, and build the program."""
        inner = sum(self.elements[step.result] for step in self.steps if step.result != found.register)
        result, shape = found.register, self.shape(found.order)
        if crop is not None:
            lead = () if self.entry is None else (-1,)
            padded, shape = ((*lead, *axes) for axes in crop)
            if padded != shape:
                result = self.add(Crop, 0, operand=result, axes=padded, shape=shape)
        held = len(self.inputs) + len(self.constants) + len(self.stacks)
        joined = {number for step in self.steps if isinstance(step, Join) for number in step.reads}
        seen = {result}
        steps: list[Step] = []
        for step in reversed(self.steps):
            read = set(step.reads)
            free = tuple(sorted(number for number in read - seen if number >= held))
            seen |= read
            # Joined tensors may be read again after the buffer they were permuted from has been overwritten.
            settled = {"settled": True} if isinstance(step, Permute) and step.result in joined else {}
            steps.append(replace(step, free=free, **settled))
        steps.reverse()
        alive = peak = sum(self.elements[:held])
        for step in steps:
            alive += self.elements[step.result]
            peak = max(peak, alive)
            alive -= sum(self.elements[number] for number in step.free)
        if recompute is None:
            recompute = inner >= self.tuning.recompute
        cost = Cost(self.spec.num_params, self.flops, self.write, peak, len(self.stacks) + len(steps))
        arrays = tuple(self.inputs), tuple(self.constants), tuple(self.stacks)
        return Program(*arrays, tuple(steps), result, shape, cost, recompute)
