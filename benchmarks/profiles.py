"""Measure where a training step of a small layer spends its time, with a clock around each array operation."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from deeptn_torch.engine import HOST
from deeptn_torch.engine.reverse import Reverse

#: An operation counts as one on the state if one of its arrays has at least this many entries.
STATE = 2**14

#: Operations of `HOST` by purpose.
KINDS = {
    "products": ("matmul", "sum_products"),
    "views and moves": ("view", "write", "permute"),
    "activation": ("activate", "normalizer"),
    "padding and cropping": ("pad", "crop"),
}


def profile(step: Callable[[], Any], repeats: int = 300) -> dict[str, dict[str, float]]:
    """Return the seconds and the number of operations per call, by kind, averaged over `repeats` calls.

    "activation" includes the activation's gradient. "rest" is the time outside all array operations: the engine itself,
    autograd, the parameters, the layer's dense product. The clocks themselves take about 5 %.
    """
    for _ in range(repeats // 3):
        step()
    with _clocks() as (seconds, counts):
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        total = time.perf_counter() - start
    seconds["rest"] = total - sum(seconds.values())
    return {kind: {"seconds": seconds[kind] / repeats, "operations": counts[kind] / repeats} for kind in seconds}


@contextmanager
def _clocks() -> Iterator[tuple[dict[str, float], Counter[str]]]:
    """Put a clock around each operation, and remove the clocks at the end."""
    seconds: dict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    depth = 0

    def clocked(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal depth
            depth += 1
            start = time.perf_counter()
            result = function(*args, **options)
            taken = time.perf_counter() - start
            depth -= 1
            if not depth:
                label = kind
                if kind == "products":
                    size = max(np.size(array) for array in (*args, result) if isinstance(array, np.ndarray))
                    label = f"products, {'with' if size >= STATE else 'without'} the state"
                seconds[label] += taken
                counts[label] += 1
            return result

        return call

    reverse = Reverse
    own, before = reverse.activation, dict(vars(HOST))
    try:
        for kind, names in KINDS.items():
            for name in names:
                setattr(HOST, name, clocked(getattr(HOST, name), kind))
        reverse.activation = clocked(own, "activation")  # type: ignore[method-assign]
        yield seconds, counts
    finally:
        reverse.activation = own  # type: ignore[method-assign]
        vars(HOST).clear()
        vars(HOST).update(before)
