"""The table of operations: what users do to modules."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from .sides import KINDS, Side, compare, held, twins

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


def operation(group: str, **options: Any) -> Callable[[Run], Run]:
    """Add a function to the table; its documentation is its text on the page."""

    def add(run: Run) -> Run:
        text = (run.__doc__ or "").strip().rstrip(".")
        OPERATIONS[run.__name__.strip("_")] = Operation(group, text, run, **options)
        return run

    return add


#: What the dense module does and its twin refuses: patterns of operations and kinds, with the sentence that it says.
REFUSALS: dict[tuple[str, str], str] = {}


@dataclass(frozen=True)
class Outcome:
    """What became of an operation: it works, both refuse it, or only the twin does, with a sentence."""

    result: str
    sentence: str = ""


def outcome(name: str, kind: str) -> Outcome:
    """Run an operation on both twins. Raise `AssertionError` if the results differ, or the twin holds more memory."""
    found = OPERATIONS[name]
    dense, twin = twins(kind)
    wanted, refusal = _run(found.run, dense)
    before = held()
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
    extra = held() - before
    # The gradients, and a weight that is kept, with copies of its cores.
    own = sum(p.numel() * p.itemsize for p in (*dense.model.parameters(), *twin.model.parameters()))
    assert extra <= 8 * own + 2**14, f"{extra} bytes are held afterwards"
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
