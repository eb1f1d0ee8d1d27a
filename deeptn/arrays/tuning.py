"""The numbers that depend on the kind of device: one table for each, chosen by where the arrays are."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, eq=False, kw_only=True)
class Tuning:
    """Where the engine changes its ways on one kind of device. They decide about time and memory, not about results.

    Compared by identity, so that a table is a cheap part of the key under which a program is kept.

    Attributes
    ----------
    device : str
        What it is for.
    write : int
        Search: weight of an element written against a multiplication. With a state of 2^24 entries the time goes into
        moving it, not into arithmetic; cotengra's "combo" objective with this factor fuses small tensors into blocks
        first.
    step : int
        Search: weight of a step against a multiplication. To dispatch it takes a few microseconds.
    block : int
        Search: largest volume of the indices over which a block of small tensors is contracted with a large one. The
        product of a 2^5 x 2^5 block with the state takes as long as moving the state; wider blocks cost more than they
        save.
    stack : int
        Search: largest number of elements of a stack of equal tensors that are contracted side by side.
    few : int
        Placement: so few elements are not permuted for the step that follows, only for their own: a permuted copy costs
        a step.
    behind : int
        Placement: matrices of at least so many columns are multiplied where they lie, however many rows they have.
    recompute : int
        Gradient: from so many elements of intermediate results on they are recomputed instead of kept. A buffer that
        the system has to provide costs more time than the product that fills it, and memory besides.
    large : int
        Run: from so many elements on, results are written into buffers that are used again, and activations are done in
        place, in pieces of this size, which fit into a cache.
    small : int
        Run: a program that writes fewer elements spends its time on dispatching the steps; PyTorch leaves it to NumPy.
    product : int
        Run: from so many multiplications on, PyTorch's product of two matrices is faster than NumPy's.
    wide : int
        Run: XLA multiplies matrices of so many columns faster one by one; it would move a batch of others.
    compiled : int
        Initialisation: with more cores than this, XLA takes longer for all of it than for its operations one by one.

    Examples
    --------
    >>> from dataclasses import replace
    >>> replace(CPU, large=2**20).large, CPU.large
    (1048576, 262144)
    """

    device: str
    write: int
    step: int
    block: int
    stack: int
    few: int
    behind: int
    recompute: int
    large: int
    small: int
    product: int
    wide: int
    compiled: int


#: Measured on one to four cores of about 2020.
CPU = Tuning(
    device="cpu",
    write=64,
    step=2**20,
    block=2**5,
    stack=2**16,
    few=2**14,
    behind=2**5,
    recompute=2**24,
    large=2**18,
    small=2**20,
    product=2**17,
    wide=2**12,
    compiled=2**8,
)

#: Those of a CPU, until they have been measured.
GPU = replace(CPU, device="gpu")
