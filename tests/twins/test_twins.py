"""Whatever works on a dense module works on its twin, or is refused with a sentence."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest

from . import attachments, copies, functions, inputs, memory, modes, moves, tracing, training, wrappers  # noqa: F401
from .operations import OPERATIONS, REFUSALS, outcome

CASES = [
    pytest.param(name, kind, marks=[pytest.mark.slow] if found.slow else [], id=f"{name}-{kind}")
    for name, found in OPERATIONS.items()
    for kind in found.kinds
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_twins(name, kind):
    found = outcome(name, kind)
    expected = [
        sentence
        for (operation, pattern), sentence in REFUSALS.items()
        if operation == name and fnmatchcase(kind, pattern)
    ]
    if expected:
        assert found.result == "refused", f"expected a refusal, but the operation {found.result}"
        assert re.search(expected[0], found.sentence), found.sentence
    else:
        assert found.result != "refused", found.sentence
