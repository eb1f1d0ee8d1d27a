"""Test what deeptn needs from array libraries, with the stand-in as a library that it does not know."""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import deeptn as dtn
from deeptn.arrays import CPU, GPU, OtherArrays, dtype_of, library_of, target
from deeptn.arrays import library as named
from deeptn.base import CACHE

from . import standin

NAMES = ("numpy", "torch", "jax", "tests.standin")


def made(name: str, array: np.ndarray) -> Any:
    """Return an array of a library, or skip the test if it is not installed."""
    return named(pytest.importorskip(name).__name__).from_raw(array)


@pytest.mark.parametrize("name", NAMES)
def test_an_array_has_a_library_a_dtype_and_a_place(name):
    array = made(name, np.ones((2, 3), "float32"))
    found = library_of(array)
    assert found is named(name)
    assert (found.name, found.dtype(array), dtype_of(array), found.tuning) == (name, "float32", "float32", CPU)
    assert isinstance(found, OtherArrays) == (name == "tests.standin")


@pytest.mark.parametrize("name", NAMES)
def test_bits_go_there_and_back(name):
    raw = np.random.default_rng(0).standard_normal((3, 2)).astype("float16")
    array = made(name, raw)
    found = named(name).to_raw(array)
    assert found.dtype == raw.dtype
    np.testing.assert_array_equal(found, raw)


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_bits_of_bfloat16(name):
    raw = np.arange(6.0).astype(ml_dtypes.bfloat16).reshape(2, 3)
    array = made(name, raw)
    assert dtype_of(array) == "bfloat16"
    assert named(name).to_raw(array).tobytes() == raw.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_constants_lie_beside_an_array(name):
    beside = made(name, np.ones(2, "float32"))
    found = named(name).constant((1.0, 2.0, 3.0, 4.0), (2, 2), beside)
    assert library_of(found) is named(name)
    assert dtype_of(found) == "float32"
    np.testing.assert_array_equal(named(name).to_raw(found), [[1, 2], [3, 4]])


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_gradients(name):
    x = made(name, np.array([1.0, 2.0], "float32"))
    value, grads = named(name).pull_back(lambda p: p["x"] * p["x"], {"x": x}, np.array([1.0, 3.0], "float32"))
    np.testing.assert_array_equal(value, [1.0, 4.0])
    np.testing.assert_array_equal(grads["x"], [2.0, 12.0])


@pytest.mark.parametrize("name", ["numpy", "tests.standin"])
def test_libraries_without_derivatives_say_so(name):
    assert not named(name).has_gradients
    with pytest.raises(dtn.SpecError, match="use PyTorch or JAX"):
        named(name).pull_back(lambda p: p["x"], {}, np.ones(1))


class OnDevice:
    """An array of a library that deeptn does not know; only DLPack tells its device."""

    def __init__(self, kind: int):
        self.kind = kind

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0


@pytest.mark.parametrize(("kind", "expected"), [(1, CPU), (3, CPU), (2, GPU), (10, GPU)])
def test_the_table_goes_by_the_device(kind, expected):
    assert library_of(OnDevice(kind)).tuning is expected


def test_tensors_that_are_not_on_the_cpu(torch):
    assert library_of(torch.ones(2, device="meta")).tuning is GPU


def test_tracers_lie_where_jax_would_put_them(jax):
    seen = []
    jax.jit(lambda x: seen.append(library_of(x).tuning) or x)(1.0)
    assert seen == [CPU]


def test_arrays_of_unknown_libraries_are_no_target():
    with pytest.raises(dtn.SpecError, match="is not a supported library or array"):
        target(standin.asarray(np.ones(2)), None, None)


def test_programs_are_compiled_by_the_table():
    net = dtn.network(dtn.BrickWall(layers=2), (64, 64))
    eager = net.program("materialize", tuning=dataclasses.replace(CPU, recompute=1))
    assert eager.recompute
    assert not net.program("materialize").recompute
    single = net.cost(tuning=dataclasses.replace(CPU, stack=1))
    assert single.steps > net.cost().steps  # no contractions are stacked
    before = CACHE.misses
    net.program("materialize")
    assert before == CACHE.misses


@pytest.mark.parametrize("dtype", ["float64", "complex128", "int64", "uint64"])
def test_jax_does_not_narrow(dtype):
    jax = pytest.importorskip("jax")
    raw = np.arange(4).astype(dtype)
    if raw.dtype.kind in "iu":  # small integers lose nothing
        assert made("jax", raw).tolist() == [0, 1, 2, 3]
        raw = raw + np.asarray(2**40, dtype)
    with pytest.raises(dtn.SpecError, match=f"JAX would narrow {dtype}"):
        made("jax", raw)
    with jax.enable_x64(True):
        assert np.array_equal(named("jax").to_raw(made("jax", raw)), raw)
