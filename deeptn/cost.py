"""What a contraction costs, known before it runs, and the choice that follows from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Mode = Literal["materialize", "apply"]


@dataclass(frozen=True)
class Cost:
    """Cost of one call, counted from the program.

    Attributes
    ----------
    params : int
        Trainable entries.
    flops : int
        Floating-point operations: a multiplication and an addition count as two (complex ones are not told apart).
    write : int
        Elements written, permuted copies included.
    peak : int
        Largest number of elements alive at the same time, parameters and inputs included.
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
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Choice:
    """Which of the two ways to multiply by W is expected to be the faster, and why.

    Attributes
    ----------
    mode : {"materialize", "apply"}
        ``"materialize"`` decodes W and multiplies; ``"apply"`` contracts the network with the input.
    seconds : dict of str to float
        The model's estimate for each possible way.
    reason : str
        One sentence.

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


# One CPU core of about 2020: 50 Gflop/s, 1 G elements/s through memory, 5 µs to dispatch a step. Ratios matter only.
_FLOP, _ELEMENT, _STEP = 2e-11, 1e-9, 5e-6


def seconds(cost: Cost) -> float:
    """Estimate of the time of one call by a linear model of arithmetic, traffic and dispatch."""
    return cost.flops * _FLOP + cost.write * _ELEMENT + cost.steps * _STEP
