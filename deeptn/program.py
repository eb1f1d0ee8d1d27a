"""Programs: a flat tuple of steps, and the runner that executes it on any array type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from autoray import do, get_dtype_name, infer_backend

from . import activations
from ._typing import Array
from .cost import Cost
from .params import constant

#: Name of the index that numbers the rows of an input, and of the array that holds the input. No identifiers, so no
#: parameter can have the second one; the compiler refuses an index of the first.
BATCH = "(batch)"
INPUT = "(input)"

# Added to a mean square before the root, so that an all-zero state stays zero. Below float32's smallest useful square.
_TINY = 1e-36


@dataclass(frozen=True, slots=True)
class View:
    """An operand as a matrix (or a batch of them): permute, reshape, transpose the last two axes."""

    register: int
    perm: tuple[int, ...] | None
    shape: tuple[int, ...]
    transposed: bool


@dataclass(frozen=True, slots=True)
class Contract:
    """``result = left @ right``, reshaped; a matrix may meet a batch. `free`: registers read for the last time."""

    left: View
    right: View
    shape: tuple[int, ...]
    result: int
    free: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Permute:
    """``result = transpose(register)``; without `perm` a copy."""

    register: int
    perm: tuple[int, ...] | None
    result: int
    free: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Activate:
    """``result = activation(register / rms(register))``."""

    register: int
    activation: str | None
    normalize: bool
    result: int
    free: tuple[int, ...] = ()


Step: TypeAlias = Contract | Permute | Activate


@dataclass(frozen=True)
class Program:
    """A compiled network.

    Attributes
    ----------
    inputs : tuple of str
        Register k starts as the array of this name: the parameters, then `INPUT` where there is one.
    constants : tuple of (int, shape, values)
        Registers with fixed entries.
    steps : tuple of Step
        Executed in order.
    result : int
        Register of the result.
    cost : Cost
        Counted while compiling.
    """

    inputs: tuple[str, ...]
    constants: tuple[tuple[int, tuple[int, ...], tuple[float, ...]], ...]
    steps: tuple[Step, ...]
    result: int
    cost: Cost


def run(program: Program, arrays: Mapping[str, Array]) -> Array:
    """Execute a program on arrays of one library.

    Parameters
    ----------
    program : Program
        The steps.
    arrays : mapping of str to array
        An array for each of ``program.inputs``, all of one library, dtype and device.

    Returns
    -------
    array
        Of the same library, dtype and device. Half-precision arrays are contracted in float32 and rounded once.
    """
    registers: list[Any] = [None] * (len(program.inputs) + len(program.constants) + len(program.steps))
    dtype = get_dtype_name(arrays[program.inputs[0]])
    half = dtype in ("float16", "bfloat16")
    for number, name in enumerate(program.inputs):
        registers[number] = do("astype", arrays[name], "float32") if half else arrays[name]
    sample = registers[0]
    backend = infer_backend(sample)
    for number, shape, values in program.constants:
        registers[number] = constant(values, shape, sample)
    for step in program.steps:
        if type(step) is Contract:
            x = _view(registers[step.left.register], step.left, backend)
            y = _view(registers[step.right.register], step.right, backend)
            if len(step.left.shape) < len(step.right.shape) and backend == "torch":
                x = x.expand(
                    y.shape[0], -1, -1
                )  # torch.matmul would fold the batch, and move the larger operand for it
            result = do("reshape", do("matmul", x, y, like=backend), step.shape, like=backend)
        elif type(step) is Permute:
            array = registers[step.register]
            result = array * 1 if step.perm is None else do("transpose", array, step.perm, like=backend)
        else:
            assert type(step) is Activate
            result = activate(registers[step.register], step.activation, step.normalize)
        registers[step.result] = result
        for number in step.free:
            registers[number] = None
    result = registers[program.result]
    return do("astype", result, dtype) if half else result


def _view(array: Array, view: View, backend: str) -> Array:
    if view.perm is not None:
        array = do("transpose", array, view.perm, like=backend)
    array = do("reshape", array, view.shape, like=backend)
    return do("swapaxes", array, -1, -2, like=backend) if view.transposed else array


def activate(x: Array, activation: str | None, normalize: bool) -> Array:
    """What stands between two stages: division by the root mean square, then the element-wise function."""
    if normalize:
        size = do("abs", x) if "complex" in get_dtype_name(x) else x
        x = x / do("sqrt", do("mean", size * size) + _TINY)
    return x if activation is None else activations.resolve(activation)(x)
