"""What every layer can do, in every dtype and way of running it; see `matrix.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from . import matrix

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "support.json"


def cases(chosen):
    found = []
    for case in chosen:
        why = matrix.reason(case)
        marks = [] if why is None else [pytest.mark.xfail(reason=why, strict=True)]
        found.append(pytest.param(case, marks=marks, id="-".join(case).replace(" ", "_").replace(",", "")))
    return found


def in_ci(case) -> bool:
    """In every run: torch but for ONNX in full, the rest on two kinds of network in float32."""
    framework, _, family, dtype, way = case
    if framework == "torch" and way != "onnx":
        return True
    return family in ("brick wall, ReLU", "tensor train") and dtype == "float32"


@pytest.mark.parametrize("case", cases(case for case in matrix.CASES if in_ci(case)))
@pytest.mark.filterwarnings("ignore")
def test_case(case):
    matrix.check(case)


@pytest.mark.matrix
@pytest.mark.parametrize("case", cases(case for case in matrix.CASES if not in_ci(case)))
@pytest.mark.filterwarnings("ignore")
def test_other_case(case):
    matrix.check(case)


@pytest.mark.parametrize("family", matrix.FAMILIES)
@pytest.mark.filterwarnings("ignore")
def test_inductor(family):
    matrix.check_torch("linear", matrix.FAMILIES[family], "float32", "compile", "inductor")


def test_the_table_in_the_documentation_is_that_of_the_matrix():
    found = {tuple(row["case"]): row["works"] for row in json.loads(RESULTS.read_text())["cases"]}
    assert found == {case: matrix.reason(case) is None for case in matrix.CASES}
