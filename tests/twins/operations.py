"""The table of operations: what users do to modules."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import torch

from .sides import KINDS, Side, compare, counting, twins

#: Does something to one of the twins, and returns what must be the same for both.
Run: TypeAlias = Callable[[Side], Any]


@dataclass(frozen=True)
class Operation:
    """An operation, by the group of the table that it belongs to; `slow` ones compile, export or start processes."""

    group: str
    text: str
    run: Run
    slow: bool = False
    kinds: Collection[str] = KINDS
    tolerance: float = 2e-4


OPERATIONS: dict[str, Operation] = {}
NORMS = ("weight_norm", "orthogonal", "spectral_norm")
#: Modules that become layers with a generated weight, and do not have it inside.
PLAIN = ("Linear", "Linear, apply", "Conv2d", "Embedding")


def operation(group: str, **options: Any) -> Callable[[Run], Run]:
    """Add a function to the table; its documentation is its text on the page."""

    def add(run: Run) -> Run:
        text = (run.__doc__ or "").strip().rstrip(".")
        OPERATIONS[run.__name__.strip("_")] = Operation(group, text, run, **options)
        return run

    return add


ON_TOP = "cannot follow the network that generates the weight"
NO_PARAMETER = "is generated, so it is not among the parameters of its module; parametrize a core, generate the weight"

#: What the dense module does and its twin refuses: an operation, a pattern of kinds, and what the sentence contains.
REFUSALS: list[tuple[str, str, str]] = [
    ("pruned_weight", "*", "is generated, so its entries cannot be pruned; prune the cores, or call fold_ first"),
    *((norm, kind, NO_PARAMETER) for norm in NORMS for kind in ("Linear*", "Conv2d", "Embedding")),
    *((f"legacy_{norm}", "*", NO_PARAMETER) for norm in NORMS[::2]),
    *((norm, kind, ON_TOP) for norm in NORMS[:2] for kind in ("LSTM", "GRU", "MultiheadAttention")),
    *(("complex_module", kind, "which has no meaning for complex64") for kind in ("Linear", "Conv2d", "LSTM")),
    *(
        ("scripted", kind, "torch.jit.script cannot read generated layers")
        for kind in ("Linear*", "Conv2d", "Embedding")
    ),
    ("scripted", "LSTM", "torch.jit.script cannot read generated layers"),
]

#: What the dense module refuses as well.
BOTH_REFUSE: list[tuple[str, str]] = [
    ("wrong_size", "*"),
    ("scalar", "*"),
    *((name, "Embedding") for name in ("checkpointed_reentrant", "frozen_with_gradients", "weight_frozen")),
    *((name, "MultiheadAttention") for name in ("clones_with_graphs", "gradient_penalty", "fsdp1_meta")),
    *((name, kind) for name in ("forward_mode", "compiled_forward_mode") for kind in ("LSTM", "MultiheadAttention")),
    *(("compiled_gradient", kind) for kind in ("LSTM", "GRU")),
    *((f"{name}_then_double", kind) for name in ("traced", "exported") for kind in ("LSTM", "GRU")),
    ("numpy_sizes", "LSTM"),
    ("tensor_sizes", "LSTM"),
    ("tensor_sizes", "Conv2d"),
]


def expected(name: str, kind: str) -> tuple[str, str]:
    """Return the result that is expected of an operation, and what the sentence of a refusal contains."""
    for operation, pattern, sentence in REFUSALS:
        if operation == name and fnmatchcase(kind, pattern):
            return "refused", sentence
    both = any(operation == name and fnmatchcase(kind, pattern) for operation, pattern in BOTH_REFUSE)
    return "both refuse" if both else "works", ""


@dataclass(frozen=True)
class Outcome:
    """What became of an operation: it works, both refuse it, or only the twin does, with a sentence."""

    result: str
    sentence: str = ""


def outcome(name: str, kind: str) -> Outcome:
    """Run an operation on both twins. Raise `AssertionError` if the results differ, or the twin holds more memory."""
    found = OPERATIONS[name]
    dense, twin = twins(kind)
    own = sum(p.numel() * p.itemsize for p in (*dense.model.parameters(), *twin.model.parameters()))
    with counting() as held:
        wanted, refusal = _run(found.run, dense)
        made, error = _run(found.run, twin)
        if refusal is not None:
            assert error is not None, f"the dense module refuses this ({refusal}), but its twin does not: {made}"
            return Outcome("both refuse", _line(error))
        if error is not None:
            if isinstance(error, AssertionError):
                raise error
            return Outcome("refused", _line(error))
        compare(twins(kind)[1], wanted, made, found.tolerance)
        del wanted, made
        # Other parameters and their gradients, and weights that are kept, with copies of their cores.
        assert held() <= 8 * own + 2**14, f"{held()} bytes are held afterwards"
    return Outcome("works")


def _run(run: Run, side: Side) -> tuple[Any, Exception | None]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        torch.manual_seed(3)
        try:
            return run(side), None
        except Exception as error:  # frameworks raise errors of many types
            return None, error


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
