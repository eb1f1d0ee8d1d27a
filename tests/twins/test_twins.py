"""Whatever works on a dense module works on its twin, or is refused with a sentence."""

from __future__ import annotations

import pytest

from . import CASES, OPERATIONS, expected, outcome

#: What PyTorch says where the CPU lacks instructions: LSTM in bfloat16 needs AVX-512.
LACKING = "could not create a primitive descriptor"

PARAMS = [
    pytest.param(name, kind, marks=[pytest.mark.slow] if OPERATIONS[name].slow else [], id=f"{name}-{kind}")
    for name, kind in CASES
]


@pytest.mark.parametrize(("name", "kind"), PARAMS)
def test_twins(name, kind):
    found = outcome(name, kind)
    result, sentence = expected(name, kind)
    if found.result == "both refuse" != result and LACKING in found.sentence:
        pytest.skip(f"this CPU cannot do that with the dense module: {found.sentence}")
    assert found.result == result, found
    assert sentence in found.sentence


def test_the_table_is_long():
    assert len(OPERATIONS) >= 70
    groups = [found.group for found in OPERATIONS.values()]
    assert all(groups.count(group) >= 5 for group in groups)
