"""Decode only some rows of a weight: restrict the row legs of a linear network to a range, or to single digits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from autoray import do

from ..arrays import CPU, Tuning, check_alike, constant, dtype_of, library_of
from ..base import Array, ParamsLike, cached
from ..errors import SpecError
from ..spec import Layout, Leg, NetworkSpec, Node, rows_of
from .compiler import compile_network
from .program import Program
from .runner import run

#: For each row leg, its first digit and the number of digits.
Block: TypeAlias = tuple[tuple[int, int], ...]


def row_legs(layout: Layout) -> tuple[Leg, ...]:
    """Return the legs of axis 0, most significant first; `LayoutError` for a scalar, which has no axes."""
    rows_of(layout.shape)
    return tuple(leg for leg in layout.axis_legs if leg.axis == 0)


def blocks_of(start: int, stop: int, sizes: Sequence[int]) -> Iterator[Block]:
    """Split the rows ``start … stop - 1`` into blocks: leading digits fixed, a range of the next digit, the rest free.

    Examples
    --------
    >>> list(blocks_of(2, 8, (2, 4)))
    [((0, 1), (2, 2)), ((1, 1), (0, 4))]
    """
    if start >= stop:
        return
    if not sizes:
        yield ()
        return
    unit = math.prod(sizes[1:])
    first, last = -(-start // unit), stop // unit
    if first > last:  # within one digit
        yield from _with_digit(last, blocks_of(start - last * unit, stop - last * unit, sizes[1:]))
        return
    if start < first * unit:
        yield from _with_digit(first - 1, blocks_of(start - (first - 1) * unit, unit, sizes[1:]))
    if first < last:
        yield ((first, last - first), *((0, size) for size in sizes[1:]))
    if last * unit < stop:
        yield from _with_digit(last, blocks_of(0, stop - last * unit, sizes[1:]))


def _with_digit(digit: int, blocks: Iterator[Block]) -> Iterator[Block]:
    return (((digit, 1), *block) for block in blocks)


def decode_rows(spec: NetworkSpec, layout: Layout, params: ParamsLike, start: int, stop: int) -> Array:
    """Decode the rows ``start … stop - 1`` of a linear network's weight (at least one row)."""
    _check_cores(params)
    sizes = [leg.size for leg in row_legs(layout)]
    parts = [decode_block(spec, layout, params, block) for block in blocks_of(start, stop, sizes)]
    return parts[0] if len(parts) == 1 else do("concatenate", parts)


def decode_blocks(spec: NetworkSpec, layout: Layout, params: ParamsLike, limit: int) -> Iterator[tuple[slice, Array]]:
    """Decode a linear network's weight in the largest blocks of rows that need no more than `limit` bytes each.

    Raises
    ------
    SpecError
        If a single row needs more.
    """
    _check_cores(params)
    sizes = [leg.size for leg in row_legs(layout)]
    width, tuning = item_size(params), library_of(_first(params)).tuning
    row = width * math.prod(layout.padded_shape[1:])
    peak = 0
    for counts in block_sizes(sizes):
        if max(counts, default=1) == 1 or math.prod(counts) * row <= limit:
            block = tuple((0, count) for count in counts)
            peak = width * block_program(spec, layout, block, tuning).cost.peak
            if peak <= limit:
                return _decode_all(spec, layout, params, walk(counts, sizes))
    raise SpecError(f"max_bytes = {limit}, but one row needs {peak} bytes")


def _decode_all(
    spec: NetworkSpec, layout: Layout, params: ParamsLike, blocks: Iterable[Block]
) -> Iterator[tuple[slice, Array]]:
    start, rows = 0, layout.shape[0]
    for block in blocks:
        if start >= rows:
            return
        stop = min(rows, start + math.prod(count for _, count in block))
        yield slice(start, stop), decode_block(spec, layout, params, block)[: stop - start]
        start = stop


def item_size(params: ParamsLike) -> int:
    """Return the bytes per element during a contraction; half precision is widened to float32."""
    return {"float64": 8, "complex64": 8, "complex128": 16}.get(dtype_of(_first(params)), 4)


def _check_cores(params: ParamsLike) -> None:
    """Raise `SpecError`, which names a parameter, unless all have the same library and dtype."""
    check_alike((f"parameter {name!r}" for name in params), list(params.values()))


def _first(params: ParamsLike) -> Array:
    return next(iter(params.values()))


def decode_block(spec: NetworkSpec, layout: Layout, params: ParamsLike, block: Block) -> Array:
    """Decode the rows of a block, without the padding of the columns.

    Returns
    -------
    array of shape ``(number of rows, *shape[1:])``
    """
    ranges = {leg.name: part for leg, part in zip(row_legs(layout), block)}
    arrays = {}
    for node in spec.nodes:
        if node.param is not None:
            places = _places(spec, node, ranges)
            arrays[_name(node, places)] = params[node.param] if places is None else params[node.param][places]
    program = block_program(spec, layout, block, library_of(_first(params)).tuning)
    rows = run(program, [arrays[name] for name in program.inputs])
    rows = rows.reshape((math.prod(count for _, count in block), *layout.padded_shape[1:]))
    return rows[(slice(None), *(slice(0, n) for n in layout.shape[1:]))]


def block_program(spec: NetworkSpec, layout: Layout, block: Block, tuning: Tuning) -> Program:
    """Return the program for the rows of a block; without constant nodes, blocks of equal size share it."""
    ranges = {leg.name: part for leg, part in zip(row_legs(layout), block)}
    if all(node.param is not None for node in spec.nodes):
        ranges = {name: (0, count) for name, (_, count) in ranges.items()}
    return _block_program(spec, layout, tuple(ranges.items()), tuning)


@cached
def _block_program(
    spec: NetworkSpec, layout: Layout, items: tuple[tuple[str, tuple[int, int]], ...], tuning: Tuning
) -> Program:
    ranges = dict(items)
    legs = tuple(replace(leg, size=ranges[leg.name][1]) if leg.name in ranges else leg for leg in spec.legs)
    stages = tuple(
        replace(stage, nodes=tuple(_cut_node(spec, node, ranges) for node in stage.nodes)) for stage in spec.stages
    )
    order = tuple(leg.name for leg in layout.axis_legs)
    return compile_network(NetworkSpec(legs, stages, spec.sizes), order, tuning=tuning)


def _places(spec: NetworkSpec, node: Node, ranges: dict[str, tuple[int, int]]) -> tuple[slice, ...] | None:
    """Return the slice that a node keeps of each axis; None if it keeps everything."""
    sizes = spec.node_shape(node)
    found = tuple(ranges.get(ix, (0, size)) for ix, size in zip(node.indices, sizes))
    if all(count == size for (_, count), size in zip(found, sizes)):
        return None
    return tuple(slice(start, start + count) for start, count in found)


def _name(node: Node, places: tuple[slice, ...] | None) -> str:
    # Nodes that share a parameter may keep different parts of it.
    assert node.param is not None
    return node.param if places is None else f"{node.param}__of__{node.name}"


def _cut_node(spec: NetworkSpec, node: Node, ranges: dict[str, tuple[int, int]]) -> Node:
    places = _places(spec, node, ranges)
    if places is None:
        return node
    if node.param is not None:
        return replace(node, param=_name(node, places))
    array = np.asarray(node.constant).reshape(spec.node_shape(node))[places]
    return replace(node, constant=tuple(array.ravel().tolist()))


def block_sizes(sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield the digits per row leg in one block, from the whole weight down to single rows."""
    yield tuple(sizes)
    for place, size in enumerate(sizes):
        for count in range(size - 1, 0, -1):
            yield (*[1] * place, count, *sizes[place + 1 :])


def walk(counts: Sequence[int], sizes: Sequence[int]) -> Iterator[Block]:
    """Iterate over all blocks of `counts` digits per leg, in row order."""
    parts = [
        [(start, min(count, size - start)) for start in range(0, size, count)] for count, size in zip(counts, sizes)
    ]
    return itertools.product(*parts)


#: The index that replaces the row legs of a node when rows are gathered.
ROW = "__row"


def row_numbers(rows: Any, like: Array, count: int) -> Array:
    """Return row numbers in the library of another array, as integers that represent every row of a weight.

    Parameters
    ----------
    rows : int, range, nested list of int, or array of any integer dtype
        In the library of `like`, or NumPy's.
    like : array
    count : int
        Number of rows of the weight.

    Raises
    ------
    SpecError
        For a mask or other numbers than integers, for arrays of another library, and if the library's integers are too
        narrow for the weight (JAX without 64-bit mode).

    Examples
    --------
    >>> import numpy as np
    >>> row_numbers(np.array([255], "uint8"), np.ones(1), 300).dtype.name
    'int64'
    >>> row_numbers([True, False], np.ones(1), 300)
    Traceback (most recent call last):
    deeptn.errors.SpecError: rows have the dtype bool; expected integers; for a mask, write rows=np.flatnonzero(mask)
    """
    lib = library_of(like)
    if count - 1 > np.iinfo(lib.integers).max:
        raise SpecError(f"{count:,} rows need wider integers than {lib.name}'s {lib.integers}; enable its 64-bit mode")
    rows = rows if hasattr(rows, "dtype") else _as_array(rows)
    theirs = library_of(rows)
    if not isinstance(rows, (np.ndarray, np.generic)) and theirs.name != lib.name:
        raise SpecError(f"rows are an array of {theirs.name}, the parameters of {lib.name}; convert one of them")
    dtype = theirs.dtype(rows)
    if dtype.strip("u0123456789") != "int":
        hint = "; for a mask, write rows=np.flatnonzero(mask)" if dtype == "bool" else ""
        raise SpecError(f"rows have the dtype {dtype}; expected integers{hint}")
    return lib.from_raw(rows.astype(lib.integers)) if theirs.name != lib.name else lib.astype(rows, lib.integers)


def _as_array(rows: Any) -> np.ndarray:
    """Convert numbers and nested lists of them to a NumPy array."""
    try:
        found = np.asarray(rows)
    except (TypeError, ValueError):  # a ragged list, or one of traced numbers
        found = np.asarray(None)
    if found.dtype.kind not in "biuf":
        raise SpecError(f"rows = {rows!r:.80}; expected integers, for example np.array([3, 5])")
    if found.dtype.kind != "b" and _holds_bool(rows):  # NumPy would make numbers of them
        raise SpecError(f"rows = {rows!r:.80}; expected integers, without True or False among them")
    return found if found.size else found.astype("int64")


def _holds_bool(rows: Any) -> bool:
    return isinstance(rows, (bool, np.bool_)) or (isinstance(rows, (list, tuple)) and any(map(_holds_bool, rows)))


def gather_rows(spec: NetworkSpec, layout: Layout, params: ParamsLike, rows: Array) -> Array:
    """Decode some rows of a linear network's weight, in any order.

    Every node is indexed with the digits of the requested rows, so that its row legs become one batch index.

    Parameters
    ----------
    spec, layout, params
        The network, its layout and its parameters.
    rows : integer array of shape (n,)
        Row numbers from 0 to ``shape[0] - 1``, in the same array library as the parameters; n is positive.

    Returns
    -------
    array of shape ``(n, *shape[1:])``
    """
    _check_cores(params)
    if not row_legs(layout):  # the weight has a single row
        return decode_rows(spec, layout, params, 0, 1)[rows * 0]
    count = rows.shape[0]
    size = 1 << (count - 1).bit_length()  # one search per power of two
    if size > count:
        rows = do("concatenate", (rows, do("broadcast_to", rows[:1], (size - count,))))
    digits, rest = {}, rows
    for leg in reversed(row_legs(layout)):
        digits[leg.name], rest = rest % leg.size, rest // leg.size
    arrays = {}
    for node in spec.nodes:
        places = [k for k, ix in enumerate(node.indices) if ix in digits]
        array = _array(spec, node, params)
        if places:
            order = (*places, *(k for k in range(len(node.indices)) if k not in places))
            array = do("transpose", array, order)[tuple(digits[node.indices[k]] for k in places)]
        arrays[node.name if places or node.param is None else node.param] = array
    program = gather_program(spec, layout, size, library_of(_first(params)).tuning)
    found = run(program, [arrays[name] for name in program.inputs])
    found = do("reshape", found, (size, *layout.padded_shape[1:]))
    return found[(slice(0, count), *(slice(0, n) for n in layout.shape[1:]))]


def _array(spec: NetworkSpec, node: Node, params: ParamsLike) -> Array:
    if node.param is not None:
        return params[node.param]
    assert node.constant is not None
    return constant(node.constant, spec.node_shape(node), _first(params))


@cached
def gather_program(spec: NetworkSpec, layout: Layout, size: int, tuning: Tuning = CPU) -> Program:
    """Return the program that decodes `size` rows of a linear network's weight."""
    taken = {leg.name for leg in row_legs(layout)}
    if not taken:
        return block_program(spec, layout, (), tuning)
    legs = (Leg(ROW, size, 0), *(leg for leg in spec.legs if leg.name not in taken))
    output = tuple(leg.name for leg in legs)

    def gathered(node: Node) -> Node:
        rest = tuple(ix for ix in node.indices if ix not in taken)
        if len(rest) == len(node.indices):
            return node if node.param is not None else Node(node.name, node.indices, param=node.name)
        return Node(node.name, (ROW, *rest), param=node.name)

    stages = (replace(s, nodes=tuple(map(gathered, s.nodes)), output=output) for s in spec.stages)
    columns = tuple(leg.name for leg in layout.axis_legs if leg.axis)
    return compile_network(NetworkSpec(legs, tuple(stages), spec.sizes), (ROW, *columns), tuning=tuning)
