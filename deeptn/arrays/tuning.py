"""Constants that depend on the kind of device: one table for each, chosen by where the arrays are."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, eq=False, kw_only=True)
class Tuning:
    """Thresholds and weights of the engine for one kind of device. They affect time and memory, not results.

    Tables are compared by identity, so that they are cheap to use in the cache keys of programs.

    Attributes
    ----------
    device : str
        Kind of device.
    write : int
        Search: cost of writing an element, in multiplications. With a state of 2^24 entries, most of the time goes into
        moving it, not into arithmetic; cotengra's "combo" objective with this factor fuses small tensors into blocks
        first.
    step : int
        Search: cost of a step, in multiplications. Dispatching one takes a few microseconds.
    block : int
        Search: largest volume of the indices over which a block of small tensors is contracted with a large one. The
        product of a 2^5 x 2^5 block with the state takes as long as moving the state; wider blocks cost more than they
        save.
    stack : int
        Search: largest number of elements in a stack of equal tensors that are contracted side by side.
    thorough : bool
        Search: whether to improve a greedy order and to compare it with others. That takes 20 ms and more, so a program
        that runs only a few times does without.
    few : int
        Placement: operands of a result with at most this many elements are permuted only if their own step needs it,
        not for the next one: a permuted copy costs a step.
    behind : int
        Placement: matrices with at least this many columns are multiplied without a copy, however many rows they have.
    recompute : int
        Gradient: intermediate results with at least this many elements in total are recomputed instead of kept. Getting
        a new buffer from the system takes longer than the product that fills it, and costs memory too.
    large : int
        Run: results with at least this many elements are written into reused buffers, and activations are done in
        place, in pieces of this size, which fit into a cache.
    small : int
        Run: a program that writes fewer elements spends its time on dispatching steps; PyTorch tensors then use NumPy.
    product : int
        Run: from this many multiplications on, PyTorch's product of two matrices is faster than NumPy's.
    wide : int
        Run: XLA is faster at multiplying matrices with at least this many columns one by one than at moving the batch.
    compiled : int
        Initialization: with more cores than this, XLA takes longer for all of it at once than operation by operation.

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
    thorough: bool
    few: int
    behind: int
    recompute: int
    large: int
    small: int
    product: int
    wide: int
    compiled: int


#: Measured on one to four cores from about 2020.
CPU = Tuning(
    device="cpu",
    write=64,
    step=2**20,
    block=2**5,
    stack=2**16,
    thorough=True,
    few=2**14,
    behind=2**5,
    recompute=2**24,
    large=2**18,
    small=2**20,
    product=2**17,
    wide=2**12,
    compiled=2**8,
)

#: For programs on the CPU that run only a few times.
HASTY = replace(CPU, thorough=False)

#: Measured on one NVIDIA H100 (``benchmarks/gpu.py``), where arithmetic is cheaper than memory and steps. The other
#: fields are the CPU's.
GPU = replace(CPU, device="gpu", write=2**8, step=2**22, block=2**6)
