"""Test what every layer can do, in every dtype and way of running it; see `matrix.py`."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from ..tiers import covering
from . import matrix

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "support.json"


def few() -> set[matrix.Case]:
    """Choose all eager cases of torch; every layer, network and dtype once per other way, and once in JAX; no ONNX."""
    layers, families, dtypes = list(matrix.LAYERS), list(matrix.FAMILIES), list(matrix.DTYPES)
    found: set[matrix.Case] = {("torch", *case, "eager") for case in itertools.product(layers, families, dtypes)}
    for framework, ways in matrix.WAYS.items():
        for some in [[way] for way in ways if way != "onnx"] if framework == "torch" else [ways]:
            axes = [layers, families, dtypes, some]
            for place in covering([len(axis) for axis in axes], 1):
                layer, family, dtype, way = (axis[k] for axis, k in zip(axes, place))
                found.add((framework, layer, family, dtype, way))
    return found


def cases():
    chosen, found = few(), []
    for case in matrix.CASES:
        why = matrix.reason(case)
        marks = [] if why is None else [pytest.mark.xfail(reason=why, strict=True)]
        marks += [] if case in chosen else [pytest.mark.slow]
        found.append(pytest.param(case, marks=marks, id="-".join(case).replace(" ", "_").replace(",", "")))
    return found


@pytest.mark.few(5)
@pytest.mark.parametrize("case", cases())
@pytest.mark.filterwarnings("ignore")
def test_case(case):
    matrix.check(case)


@pytest.mark.slow
@pytest.mark.parametrize("family", matrix.FAMILIES)
@pytest.mark.filterwarnings("ignore")
def test_inductor(family):
    matrix.check_torch("linear", matrix.FAMILIES[family], "float32", "compile", "inductor")


def test_the_table_in_the_documentation_is_that_of_the_matrix():
    found = {tuple(row["case"]): row["works"] for row in json.loads(RESULTS.read_text())["cases"]}
    assert found == {case: matrix.reason(case) is None for case in matrix.CASES}
