"""How JAX runs a program: the plain steps, stage by stage under `jax.checkpoint` where states are recomputed."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from deeptn.arrays import library_of
from deeptn.engine import Program, Run, execute, run_plain, start


def run(program: Program, inputs: Sequence[jax.Array]) -> jax.Array:
    """Execute a program on arrays; registered as the runner for JAX.

    Parameters
    ----------
    program : deeptn.engine.Program
    inputs : sequence of jax.Array
        In the order of ``program.inputs``; tracers of any transformation.

    Returns
    -------
    jax.Array
        With ``program.recompute`` a gradient keeps the states between the stages only (not where stages are joined).

    Examples
    --------
    >>> import jax, deeptn as dtn
    >>> net = dtn.network(dtn.BrickWall(layers=2), (8, 8))
    >>> params = net.init(like="jax")
    >>> steps = jax.make_jaxpr(jax.grad(lambda p: net.materialize(p, recompute=True).sum()))(params)
    >>> "remat" in str(steps) or "checkpoint" in str(steps)
    True
    """
    if not program.recompute or program.crossing:
        return run_plain(program, inputs)
    lib = library_of(inputs[0])
    state = held = None
    for number, segment in enumerate(program.segments):
        last = number + 1 == len(program.segments)
        # The one register through which the activation enters the next segment.
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
