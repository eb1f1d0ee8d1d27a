"""Run programs in JAX: as plain steps, or stage by stage under `jax.checkpoint` if states are recomputed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax

from deeptn.arrays import library_of
from deeptn.engine import Program, Run, execute, run_plain, start

#: Attribute of a program with the function that runs it.
JITTED = "_jitted"


def run(program: Program, inputs: Sequence[jax.Array]) -> jax.Array:
    """Execute a program on arrays, in the order of ``program.inputs``; registered as the runner for JAX.

    Layers with equal networks share one program, which JAX traces and differentiates once for all of them; outside of
    `jax.jit`, it is compiled as a whole instead of step by step.
    """
    own = vars(program)
    if JITTED not in own:
        own.setdefault(JITTED, jax.jit(partial(_run, program)))  # what JAX keeps is released with the program
    return own[JITTED](list(inputs))


def _run(program: Program, inputs: list[jax.Array]) -> jax.Array:
    """Run a program; with ``program.recompute``, a gradient keeps only the states between stages.

    It keeps all states if stages are joined.
    """
    if not program.recompute or program.crossing:
        return run_plain(program, inputs)
    lib = library_of(inputs[0])
    state = held = None
    for number, segment in enumerate(program.segments):
        last = number + 1 == len(program.segments)
        # The only register that the next segment reads: the operand of its activation.
        (following,) = (program.result,) if last else program.segments[number + 1][0].reads

        @jax.checkpoint
        def stage(state, inputs, held=held, segment=segment, following=following):
            registers = start(program, inputs, lib)
            if held is not None:
                registers[held] = state
            result = execute(program, segment, Run(registers, lib), {following})
            return registers[following] if result is None else result

        state, held = stage(state, list(inputs)), following
    assert state is not None
    return state
