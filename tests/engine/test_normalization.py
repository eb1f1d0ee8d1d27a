"""Test the division by the root mean square over the whole range of a dtype, and its gradient."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import deeptn as dtn
from deeptn.arrays import convert_params, inverse_rms, library_of, to_numpy
from deeptn.engine import activate
from deeptn.testing import reference

from ..tables import BUFFERED, use

#: Factors so large or so small that squares of the entries overflow or vanish.
FACTORS = {
    "float32": (1e-30, 1e-17, 1e20, 1e30),
    "complex64": (1e-30, 1e-17, 1e20, 1e30),
    "float64": (1e-280, 1e-160, 1e160, 1e280),
    "complex128": (1e-280, 1e-160, 1e160, 1e280),
}


def in_64_bits(like: str) -> Any:
    """Return a context in which a library has float64; skip the test if the library is not installed."""
    lib = pytest.importorskip(like)
    return lib.enable_x64(True) if like == "jax" else contextlib.nullcontext()


def wall(dtype: str, activation: str | None) -> tuple[dtn.Network, dict[str, np.ndarray], str]:
    """Return a brick wall, its parameters, and the name of one that is read before the first normalization."""
    net = dtn.network(dtn.BrickWall(layers=3, activation="tanh"), (16, 16))
    params = net.init(seed=0, dtype=dtype)
    *stages, last = net.spec.stages
    spec = replace(net.spec, stages=(*(replace(stage, activation=activation) for stage in stages), last))
    net = dtn.Network(spec, net.layout)
    return net, params, next(str(node.param) for node in net.spec.stages[0].nodes if node.param)


def scaled(params: dict[str, np.ndarray], name: str, factor: float) -> dict[str, np.ndarray]:
    """Multiply one array by a factor."""
    return params | {name: params[name] * params[name].dtype.type(factor)}


@pytest.mark.parametrize("dtype", FACTORS)
def test_plain_steps_give_the_same(dtype, monkeypatch):
    pytest.importorskip("torch")
    choose("plain", monkeypatch)
    test_a_factor_on_one_core_has_no_effect("torch", dtype)


@pytest.mark.few(4)
@pytest.mark.parametrize("dtype", FACTORS)
def test_a_factor_on_one_core_has_no_effect(library, dtype):
    net, params, name = wall(dtype, None)
    expected = to_numpy(net.materialize(params))
    with in_64_bits(library):
        for factor in FACTORS[dtype]:
            arrays = scaled(params, name, factor)
            found = to_numpy(net.materialize(convert_params(arrays, library, dtype)))
            assert np.allclose(found, expected, rtol=1e-3, atol=1e-5), factor
            assert np.allclose(reference(net, arrays), expected, rtol=1e-3, atol=1e-5), factor


@pytest.mark.parametrize("like", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", FACTORS)
def test_buffers_and_pieces_give_the_same(like, dtype, monkeypatch):
    pytest.importorskip(like)
    use(monkeypatch, BUFFERED)
    test_a_factor_on_one_core_has_no_effect(like, dtype)


def test_every_scale_of_a_state(library):
    state = np.random.default_rng(0).normal(size=257).astype("float32")
    expected = state / np.sqrt(np.mean(state.astype("float64") ** 2))
    for exponent in (*range(-32, 37, 4), 38):
        array = convert_params({"x": state * np.float32(10.0**exponent)}, library, "float32")["x"]
        found = activate(array, None, normalize=True)
        assert "float32" in str(found.dtype)
        assert np.allclose(to_numpy(found), expected, rtol=2e-6), exponent


@pytest.mark.parametrize(("entry", "expected"), [(0.0, 0.0), (np.nan, np.nan), (np.inf, np.nan)])
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
def test_zeros_stay_zeros_and_other_entries_show(library, entry, expected, activation):
    state = np.zeros(5, dtype="float32")
    state[2] = entry
    found = activate(convert_params({"x": state}, library, "float32")["x"], activation, normalize=True)
    assert np.array_equal(to_numpy(found), np.full(5, expected), equal_nan=True)


def test_a_zero_core_gives_zeros_in_the_oracle_too():
    net, params, name = wall("float64", "tanh")
    assert (reference(net, scaled(params, name, 0)) == 0).all()
    assert np.isnan(reference(net, scaled(params, name, np.nan))).all()


@pytest.mark.few(26)
@pytest.mark.parametrize("dtype", FACTORS)
@pytest.mark.parametrize("value", ["largest", "smallest", "sparse", "subnormal"])
def test_the_ends_of_the_range(library, dtype, value):
    limits = np.finfo(dtype)
    state = np.zeros(4096, dtype=dtype)
    state[: 1 if value == "sparse" else None] = {
        "largest": limits.max,
        "smallest": 4 * limits.tiny,
        "sparse": 4 * limits.tiny,  # one divided by the root mean square does not fit into the dtype
        "subnormal": 1e-3 * float(limits.tiny),
    }[value] * (1 - 1j if limits.dtype != np.dtype(dtype) else 1)
    wide = state.astype("longdouble" if limits.dtype == np.dtype(dtype) else "clongdouble")
    expected = (wide / np.sqrt(np.mean(np.abs(wide) ** 2))).astype(dtype)
    if value == "subnormal" and library == "jax":  # XLA takes these for zeros
        expected = 0 * expected
    with in_64_bits(library):
        found = activate(convert_params({"x": state}, library, dtype)["x"], None, normalize=True)
        assert np.allclose(to_numpy(found), expected, rtol=1e-3)


def test_one_scale_or_a_lift_and_a_scale():
    assert inverse_rms(0.0, np.full(3, 2.0**-120, dtype="float32")) == (2.0**120, 1.0)
    assert inverse_rms(0.0, np.full(3, 2.0**-140, dtype="float32")) == (2.0**76, 2.0**64)


def choose(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose how torch runs programs: in NumPy, in its own operations and pieces, as on a GPU, as plain steps."""
    if engine == "jax":
        return
    runner = importlib.import_module("deeptn_torch.engine.runner")
    if engine == "pieces":
        use(monkeypatch, BUFFERED)
    elif engine == "gpu":
        monkeypatch.setattr(runner, "operations_for", lambda program, leaves: runner.TORCH_ON_GPU)
    elif engine == "plain":
        monkeypatch.setattr(runner, "is_transformed", lambda inputs: True)


@pytest.mark.few(1)
@pytest.mark.parametrize("engine", ["host", "pieces", "gpu", "plain", "jax"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["relu", "tanh", None])
def test_a_factor_divides_the_gradient_of_its_core_only(engine, dtype, activation, monkeypatch):
    like = "jax" if engine == "jax" else "torch"
    with in_64_bits(like):
        choose(engine, monkeypatch)
        net, params, name = wall(dtype, activation)
        cotangent = np.random.default_rng(1).normal(size=net.shape).astype(dtype)

        def gradients(factor: float) -> dict[str, np.ndarray]:
            arrays = convert_params(scaled(params, name, factor), like, dtype)
            return library_of(arrays[name]).pull_back(net.materialize, arrays, cotangent)[1]

        expected = gradients(1.0)
        for factor in FACTORS[dtype]:
            for key, found in gradients(factor).items():
                goal = expected[key] / (factor if key == name else 1)
                assert np.abs(found - goal).max() <= 1e-3 * np.abs(goal).max(), (factor, key)
        assert all((found == 0).all() for found in gradients(0.0).values())


@pytest.mark.parametrize("engine", ["host", "pieces", "plain"])
@pytest.mark.parametrize(("dtype", "factor", "size"), [("float32", 1e-39, 1e-9), ("float64", 1e-309, 1e-9)])
def test_a_factor_below_the_normal_numbers(engine, dtype, factor, size, monkeypatch):
    choose(engine, monkeypatch)
    net, params, name = wall(dtype, "tanh")
    cotangent = size * np.random.default_rng(1).normal(size=net.shape).astype(dtype)
    arrays = scaled(params, name, factor)
    results = []
    for given in (arrays, arrays | {name: (arrays[name].astype("longdouble") / factor).astype(dtype)}):
        tensors = convert_params(given, "torch", dtype)
        output, gradients = library_of(tensors[name]).pull_back(net.materialize, tensors, cotangent)
        results.append((to_numpy(output), gradients))
    (value, found), (same, expected) = results
    assert np.allclose(value, same, rtol=1e-3, atol=1e-4)
    for key, goal in expected.items():
        goal = goal.astype("longdouble") / (factor if key == name else 1)
        assert np.abs(found[key] - goal).max() <= 1e-3 * np.abs(goal).max(), key
