"""Predict what a contraction costs before it runs, and choose the faster of two ways to use a weight."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

from ..base import Shape
from ..spec import rows_of

Mode = Literal["materialize", "apply"]

#: Operations whose cost can be computed.
CostMode = Literal["materialize", "apply", "gather"]


@dataclass(frozen=True)
class Cost:
    """Cost of one call, counted from the program.

    Attributes
    ----------
    params : int
        Trainable entries.
    flops : int
        Floating-point operations: a multiplication and an addition count as two (complex ones count like real ones).
    write : int
        Elements written, including permuted copies.
    peak : int
        Largest number of elements alive at the same time, including parameters and inputs.
    steps : int
        Contractions, permutations and activations.

    Examples
    --------
    >>> import deeptn as dtn
    >>> dtn.network(dtn.LowRank(rank=3), (7, 11)).cost()
    Cost(params=54, flops=462, write=77, peak=131, steps=1)
    """

    params: int
    flops: int
    write: int
    peak: int
    steps: int

    def to_dict(self) -> dict[str, int]:
        """Return plain data for JSON."""
        return asdict(self)

    def with_product(self, shape: Shape, batch: int) -> Cost:
        """Return this cost (of decoding a weight of this shape) plus that of one dense product with `batch` rows."""
        size, rows, columns = math.prod(shape), rows_of(shape), math.prod(shape[1:])
        return Cost(
            self.params,
            self.flops + 2 * batch * size,
            self.write + batch * rows,
            max(self.peak, self.params + size + batch * (columns + rows)),
            self.steps + 1,
        )


@dataclass(frozen=True)
class Choice:
    """Which of the two ways to multiply by W should be faster, and why.

    Attributes
    ----------
    mode : {"materialize", "apply"}
        ``"materialize"`` decodes W and multiplies; ``"apply"`` contracts the network with the input.
    seconds : dict of str to float
        Estimated time of each possible way [s].
    reason : str
        Explanation in one sentence.

    Examples
    --------
    >>> import deeptn as dtn
    >>> dtn.network(dtn.TTMatrix(rank=8), (4096, 4096)).choose(batch=32).mode
    'apply'
    """

    mode: Mode
    seconds: dict[str, float]
    reason: str

    def __str__(self) -> str:
        return f"{self.mode}: {self.reason}"


@dataclass(frozen=True)
class Machine:
    """Speed of an array library on some machine.

    Attributes
    ----------
    step : float
        Time to dispatch a step [s].
    flop : float
        Time of one floating-point operation in a large product [s].
    element : float
        Time to write an element of a tensor that fits into the caches or goes into a reused buffer [s].
    fresh : float
        Time to write an element of a tensor of `FRESH` or more elements into newly allocated memory [s].
    """

    step: float
    flop: float
    element: float
    fresh: float

    def __str__(self) -> str:
        figures = f"{1e6 * self.step:.2g} µs per step, {1e-9 / self.flop:.3g} Gflop/s"
        return f"{figures}, {1e-9 / self.element:.2g} G elements/s ({1e-9 / self.fresh:.2g} for large tensors)"

    def to_dict(self) -> dict[str, float]:
        """Return plain data for JSON."""
        return asdict(self)


#: From this many elements on (32 MiB of float32), the system reclaims a buffer as soon as it is freed.
FRESH = 2**23

#: One CPU core from about 2020, for choices that must not differ between machines.
TYPICAL = Machine(5e-6, 2e-11, 1e-9, 1e-9)


def seconds(cost: Cost, machine: Machine = TYPICAL) -> float:
    """Estimate the time of one call with a linear model of dispatch, arithmetic and memory traffic."""
    element = machine.fresh if cost.peak >= FRESH else machine.element
    return cost.steps * machine.step + cost.flops * machine.flop + cost.write * element


#: The reason given if decoding is the only way.
DECODED_ANYWAY = "the network has activations, so W has to be decoded to be used"


def faster(decode: Cost, apply: Cost, batch: int, machine: Machine) -> Choice:
    """Choose between two ways to multiply `batch` rows by W."""
    ways: dict[Mode, Cost] = {"materialize": decode, "apply": apply}
    estimates: dict[str, float] = {mode: seconds(cost, machine) for mode, cost in ways.items()}
    mode: Mode = "apply" if estimates["apply"] < estimates["materialize"] else "materialize"
    texts = [
        f"{estimates[way]:.1e} s to {verb} ({cost.steps} steps, {cost.flops:,} flops, {cost.write:,} elements)"
        for verb, (way, cost) in zip(("decode W and multiply", "apply"), ways.items())
    ]
    return Choice(mode, estimates, f"{batch} rows take about {' and '.join(texts)} at {machine}")
