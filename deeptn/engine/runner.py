"""Execute a program on arrays of any library, reusing a few buffers for large states."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

from ..arrays import Operations, check_alike, library_of
from ..base import Array, loaded
from ..errors import ProgramError
from .pool import Pool
from .program import INPUT, Program
from .steps import Run, Step

#: Programs that need more elements at once are rejected: no machine has that much memory.
IMPOSSIBLE = 2**44

#: Entry points of this group replace `run_plain` for the library that they are named after.
GROUP = "deeptn.runners"

Runner: TypeAlias = Callable[[Program, Sequence[Array]], Array]

#: The runner of each library, either registered or found on first use.
_RUNNERS: dict[str, Runner] = {}

#: Dtypes that are contracted in float32, and rounded once.
HALF = ("float16", "bfloat16")


def run(program: Program, inputs: Sequence[Array]) -> Array:
    """Execute a program on arrays of one library.

    Parameters
    ----------
    program : Program
        The steps.
    inputs : sequence of array
        One for each name in ``program.inputs``, all of the same library, dtype and device.

    Returns
    -------
    array
        The result, of the same library, dtype and device. Half precision is contracted in float32 and rounded once.

    Raises
    ------
    ProgramError
        If the program needs more memory than any machine has.
    SpecError
        If the inputs differ in library, dtype or device; it names one.
    """
    names = ("x" if name == INPUT else f"parameter {name!r}" for name in program.inputs)
    check_alike(names, inputs)
    if program.cost.peak > IMPOSSIBLE:
        elements, flops = (math.log10(count) for count in (program.cost.peak, program.cost.flops))
        raise ProgramError(
            f"the network needs 10^{elements:.0f} elements at once and 10^{flops:.0f} flops in the best order found; "
            "make its bonds smaller or use fewer cycles"
        )
    lib = library_of(inputs[0])
    runner = runner_of(lib.name)
    dtype = lib.dtype(inputs[0])
    half = dtype in HALF
    try:
        result = runner(program, [lib.astype(array, "float32") for array in inputs] if half else inputs)
    except (RuntimeError, ValueError):
        check_alike(names, inputs, devices=True)
        raise
    return lib.astype(result, dtype) if half else result


def runner_of(name: str) -> Runner:
    """Return the runner for arrays of a library: the registered one, else the entry point, else `run_plain`.

    Examples
    --------
    >>> runner_of("numpy").__name__
    'run_plain'
    """
    if name not in _RUNNERS:
        _RUNNERS[name] = _entry_point(name)
    return _RUNNERS[name]


def register_runner(name: str, run: Runner) -> None:
    """Register a function of a front-end that runs programs on arrays of its library.

    A front-end does this when it is imported, so that it also works from a checkout, where nothing is installed and
    no entry point exists.

    Parameters
    ----------
    name : str
        Name of the library in autoray.
    run : callable
        Takes a program and its inputs, and returns the result, as `run_plain` does.

    Examples
    --------
    >>> register_runner("numpy", run_plain)
    """
    _RUNNERS[name] = run


def _entry_point(name: str) -> Runner:
    entries = importlib.metadata.entry_points(group=GROUP, name=name)
    found = (loaded(entry, "runner") for entry in entries)
    return next((runner for runner in found if runner is not None), run_plain)


def run_plain(program: Program, inputs: Sequence[Array]) -> Array:
    """Execute a program step by step, in operations that tracers and transformations of any library can follow."""
    lib = library_of(inputs[0])
    registers = start(program, inputs, lib)
    return execute(program, program.steps, Run(registers, lib, Pool(lib) if lib.buffers else None))


def start(program: Program, inputs: Sequence[Array], lib: Operations) -> list[Any]:
    """Create the registers, filled with the inputs, the constants and the stacks."""
    registers: list[Any] = [*inputs]
    if program.constants:
        beside = library_of(inputs[0])
        registers += [beside.constant(values, shape, inputs[0]) for shape, values in program.constants]
    for stack in program.stacks:
        registers.append(lib.stack([registers[number] for number in stack]))
    return [*registers, *[None] * len(program.steps)]


def execute(program: Program, steps: Sequence[Step], run: Run, keep: Collection[int] = ()) -> Array:
    """Execute some steps of a program.

    Parameters
    ----------
    program : Program
    steps : sequence of Step
        All steps of the program, or those of one segment.
    run : Run
        Its registers (see `start`) are filled as the steps run, and emptied after their last read.
    keep : collection of int
        Registers not to empty.

    Returns
    -------
    array
        The result of the program; None if it has not been computed yet.
    """
    registers, pool = run.registers, run.pool
    for step in steps:
        registers[step.result] = step.forward(run)
        for number in step.free:
            if number not in keep:
                registers[number] = None
                if pool is not None:
                    pool.give(number)
    result = registers[program.result]
    return None if result is None else result.reshape(program.shape)


def activate(x: Array, activation: str | None, normalize: bool) -> Array:
    """Apply the operations between two stages: division by the root mean square, then the element-wise function."""
    lib = library_of(x)
    x, scale, _ = lib.normalizer(x) if normalize else (x, None, 1.0)
    return lib.activate(x, activation, scale)
