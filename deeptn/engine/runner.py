"""The runner: executes a program on arrays of any library, large states in a few buffers that it uses again."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from typing import Any, TypeAlias

from autoray import do, get_dtype_name, get_lib_fn, infer_backend

from ..arrays import constant
from ..base import Array
from ..errors import MissingBackendError, ProgramError
from ..spec import activations, pad_axes
from .program import Activate, Contract, Crop, Join, Pad, Permute, Program, Step, View

#: From so many elements on, results are written into buffers, and activations are done in place, piece by piece.
LARGE = 2**18

#: On a CPU, XLA multiplies matrices of so many columns faster one by one; it would move a batch of others.
WIDE = 2**12

#: Programs that hold more elements at once are refused: no machine has so much memory.
IMPOSSIBLE = 2**44

#: Entry points of this group replace `run_plain` for the library that they are named after.
GROUP = "deeptn.runners"

Runner: TypeAlias = Callable[[Program, Sequence[Array]], Array]

#: By library: what was registered, or found when it was first needed.
_RUNNERS: dict[str, Runner] = {}

#: Added to a mean square before the root, so that an all-zero state stays zero. Below float32's smallest useful square.
TINY = 1e-36


def run(program: Program, inputs: Sequence[Array]) -> Array:
    """Execute a program on arrays of one library.

    Parameters
    ----------
    program : Program
        The steps.
    inputs : sequence of array
        One for each of ``program.inputs``, all of one library, dtype and device.

    Returns
    -------
    array
        Of the same library, dtype and device. Half-precision arrays are contracted in float32 and rounded once.

    Raises
    ------
    ProgramError
        If no machine has the memory for it.
    """
    if program.cost.peak > IMPOSSIBLE:
        elements, flops = (math.log10(count) for count in (program.cost.peak, program.cost.flops))
        raise ProgramError(
            f"the network needs 10^{elements:.0f} elements at once and 10^{flops:.0f} flops in the best order that was "
            "found; give it smaller bonds, or fewer cycles"
        )
    backend = infer_backend(inputs[0])
    dtype = get_dtype_name(inputs[0])
    if dtype not in ("float16", "bfloat16"):
        return runner_of(backend)(program, inputs)
    wide = [do("astype", array, "float32", like=backend) for array in inputs]
    return do("astype", runner_of(backend)(program, wide), dtype, like=backend)


def runner_of(backend: str) -> Runner:
    """What runs programs on arrays of a library: what was registered, else the entry point, else `run_plain`.

    Examples
    --------
    >>> runner_of("numpy").__name__
    'run_plain'
    """
    if backend not in _RUNNERS:
        _RUNNERS[backend] = _entry_point(backend)
    return _RUNNERS[backend]


def register_runner(backend: str, run: Runner) -> None:
    """Let programs on arrays of a library be run by a function of the library's front-end.

    A front-end does this when it is imported, so that it works from a checkout too, where nothing is installed and no
    entry point is there to be found.

    Parameters
    ----------
    backend : str
        As autoray names the library.
    run : callable
        Takes a program and its inputs, and returns the result, as `run_plain` does.

    Examples
    --------
    >>> register_runner("numpy", run_plain)
    """
    _RUNNERS[backend] = run


def _entry_point(backend: str) -> Runner:
    for entry in importlib.metadata.entry_points(group=GROUP, name=backend):
        try:
            return entry.load()
        except (ImportError, MissingBackendError):
            break
    return run_plain


def run_plain(program: Program, inputs: Sequence[Array]) -> Array:
    """Execute a program step by step; what tracers and transformations of any library can follow."""
    lib = library(infer_backend(inputs[0]))
    pool = Pool(lib) if lib.backend == "numpy" else None
    return execute(program, program.steps, start(program, inputs, lib), lib, pool)


class Library:
    """The few operations that a program needs of an array library.

    Parameters
    ----------
    backend : str
        As autoray names it.
    """

    def __init__(self, backend: str):
        self.backend = backend
        self.permute = get_lib_fn(backend, "transpose")
        self.stack = get_lib_fn(backend, "stack")
        self._matmul = get_lib_fn(backend, "matmul")
        if backend == "torch":
            self._mm, self._bmm = get_lib_fn(backend, "mm"), get_lib_fn(backend, "bmm")

    def matmul(self, x: Array, y: Array, out: Array | None = None) -> Array:
        """``x @ y``; two matrices, two stacks, or a matrix that meets a batch of matrices."""
        matmul = self._matmul
        if self.backend == "torch":
            matmul = self._mm if x.ndim == y.ndim == 2 else self._bmm
            if x.ndim < y.ndim:
                x = x.expand(y.shape[0], -1, -1)  # torch would fold the batch, and move the larger operand for it
        elif self.backend == "jax" and x.ndim < y.ndim and y.shape[2] >= WIDE:
            x = do("broadcast_to", x, (y.shape[0], *x.shape), like="jax")
        elif self.backend == "jax" and x.ndim < y.ndim:
            return do("einsum", "ij,ajc->aic", x, y, like="jax")
        return matmul(x, y) if out is None else matmul(x, y, out=out)

    def empty(self, size: int, like: Array) -> Array:
        """A flat array beside `like`."""
        if self.backend == "torch":
            return like.new_empty(size)
        return do("empty", size, dtype=like.dtype, like=self.backend)

    def view(self, array: Array, view: View) -> Array:
        """An operand as the matrix that is multiplied."""
        if view.items is not None:
            array = array[view.items if isinstance(view.items, int) else slice(*view.items)]
        if view.perm is not None:
            array = self.permute(array.reshape(view.axes), view.perm)
        if array.shape != view.shape:
            array = array.reshape(view.shape)
        return array.swapaxes(-1, -2) if view.transposed else array

    def crop(self, array: Array, step: Crop) -> Array:
        """The first entries along each axis."""
        return array.reshape(step.axes)[tuple(slice(0, n) if n >= 0 else slice(None) for n in step.shape)]

    def pad(self, array: Array, shape: Sequence[int]) -> Array:
        """Append zeros to every axis, but not to a first one of size -1."""
        return pad_axes(array, shape[shape[0] < 0 :])

    def settled(self, array: Array) -> Array:
        """A permuted array, in order in memory of its own."""
        return array.copy() if self.backend == "numpy" else array

    def join(self, x: Array, y: Array, product: bool) -> Array:
        """Sum or product of two arrays, element by element."""
        return x * y if product else x + y

    def inverse_rms(self, x: Array, in_pieces: bool = False) -> Array:
        """One divided by the root of the mean square of an array's entries."""
        total: Any = 0.0
        if self.backend == "torch" and not in_pieces and x.ndim:
            # torch's plain steps are those of exported models, and onnxruntime loses digits in one long sum.
            total = do("real", do("sum", do("sum", x * do("conj", x), -1)))
        else:
            for part in pieces(x) if in_pieces else (x.reshape(-1),):
                total = total + do("real", do("vdot", part, part))
        return 1.0 / do("sqrt", total / math.prod(x.shape) + TINY)

    def activate(self, x: Array, activation: str | None, scale: Array | None, out: Array | None = None) -> Array:
        """An element-wise function of ``scale · x``. With `out`, which may be `x` itself, piece by piece."""
        function = activations.resolve(activation) if activation is not None else None
        if out is None:
            y = x if scale is None else x * scale
            y = y if function is None else function(y)
            return x * 1 if y is x else y  # the two states have their own memory
        for part, place in pieces(x, out):
            part = part if scale is None else part * scale
            place[...] = part if function is None else function(part)
        return out


library = cache(Library)


class Pool:
    """Buffers of one call. A key holds one until it is given back; the next key that asks for that size gets it."""

    def __init__(self, library: Library):
        self._library = library
        self._held: dict[Any, Array] = {}
        self._free: dict[int, list[Array]] = {}

    def take(self, key: Any, shape: tuple[int, ...], like: Array) -> Array | None:
        """A buffer of this shape, or None where the result is small or its size unknown."""
        size = math.prod(shape)
        if size < LARGE:  # -1 among the axes included
            return None
        free = self._free.get(size)
        buffer = self._held[key] = free.pop() if free else self._library.empty(size, like)
        return buffer.reshape(shape)

    def give(self, key: Any) -> bool:
        """Take back what `key` holds, if anything."""
        buffer = self._held.pop(key, None)
        if buffer is not None:
            self._free.setdefault(math.prod(buffer.shape), []).append(buffer)
        return buffer is not None

    def adopt(self, matrix: Array) -> None:
        """Take a matrix, or its transpose, that lies in one piece and that nobody needs any more."""
        size = math.prod(matrix.shape)
        if size >= LARGE:
            whole = matrix if matrix.is_contiguous() else matrix.swapaxes(-1, -2)
            if whole.is_contiguous():
                self._free.setdefault(size, []).append(whole.reshape(-1))

    def move(self, old: Any, new: Any) -> bool:
        """Hand a buffer on; whether there was one."""
        if old not in self._held:
            return False
        self._held[new] = self._held.pop(old)
        return True


def start(program: Program, inputs: Sequence[Array], lib: Library) -> list[Any]:
    """Registers with the inputs, the constants and the stacks."""
    registers: list[Any] = [*inputs]
    for shape, values in program.constants:
        registers.append(constant(values, shape, inputs[0]))
    for stack in program.stacks:
        registers.append(lib.stack([registers[number] for number in stack]))
    return [*registers, *[None] * len(program.steps)]


def execute(
    program: Program,
    steps: Sequence[Step],
    registers: list[Any],
    lib: Library,
    pool: Pool | None,
    keep: Collection[int] = (),
    tape: dict[int, Any] | None = None,
) -> Array:
    """Execute some steps of a program.

    Parameters
    ----------
    program : Program
    steps : sequence of Step
        All of its steps, or those of a segment.
    registers : list
        See `start`; filled on the way, and emptied after the last read.
    lib : Library
    pool : Pool, optional
        Where large results are written.
    keep : collection of int
        Registers that stay.
    tape : dict, optional
        Filled, by the register of the result, with the operand of an activation (its result where that is enough) and
        what it is multiplied by; and with the operands of a product, where a gradient does not make them again.

    Returns
    -------
    array
        The result of the program, None before it is there.
    """
    for step in steps:
        if type(step) is Contract:
            x = lib.view(registers[step.left.register], step.left)
            y = lib.view(registers[step.right.register], step.right)
            out = None if pool is None else pool.take(step.result, step.shape, y)
            result = lib.matmul(x, y, out)
            if tape is not None and not program.recompute:
                tape[step.result] = x, y
            del x, y, out
        elif type(step) is Permute:
            array = registers[step.register].reshape(step.axes)
            result = array * 1 if step.perm is None else lib.permute(array, step.perm)
            if step.result in program.joined:  # others read it too, and the buffer below will hold something else
                result = lib.settled(result)
        elif type(step) is Crop:
            result = lib.crop(registers[step.register], step)
        elif type(step) is Pad:
            result = lib.pad(registers[step.register].reshape(step.axes), step.shape)
        elif type(step) is Join:
            x, y = registers[step.left], registers[step.right]
            result = lib.join(x, y.reshape(x.shape), step.product)
            if tape is not None and not program.recompute:
                tape[step.result] = x, y
            del x, y
        else:
            assert type(step) is Activate
            array = registers[step.register]
            scale = lib.inverse_rms(array, pool is not None) if step.normalize else None
            free = step.register in step.free and (tape is None or step.in_place)
            out = None
            if pool is not None:
                moved = free and pool.move(step.register, step.result)
                out = array if moved else pool.take(step.result, array.shape, array)
            result = lib.activate(array, step.activation, scale, out)
            if tape is not None:
                tape[step.result] = result if step.in_place else array, scale
            del array, out
        registers[step.result] = result
        for number in step.free:
            if number not in keep:
                registers[number] = None
                if pool is not None:
                    pool.give(number)
    result = registers[program.result]
    return None if result is None else result.reshape(program.shape)


def activate(x: Array, activation: str | None, normalize: bool) -> Array:
    """What stands between two stages: division by the root mean square, then the element-wise function."""
    lib = library(infer_backend(x))
    return lib.activate(x, activation, lib.inverse_rms(x) if normalize else None)


def pieces(*arrays: Array) -> Iterator[Any]:
    """Walk through arrays of equal size in pieces that fit into a cache."""
    flat = [array.reshape(-1) for array in arrays]
    for begin in range(0, flat[0].shape[0], LARGE):
        part = [array[begin : begin + LARGE] for array in flat] if len(flat[0]) > LARGE else flat
        yield part[0] if len(part) == 1 else part
