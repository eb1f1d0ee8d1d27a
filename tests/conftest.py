"""Fixtures and helpers for all tests. No framework is imported here, so that the core tests run without one."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # each core runs its own pytest worker
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiled programs run only once
os.environ["DEEPTN_CACHE"] = "off"  # tests run their own searches

import hypothesis
import numpy as np
import pytest

from deeptn import DeepTNError
from deeptn.arrays import to_numpy

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("ci")

LIBRARIES = ("numpy", "torch", "jax")
DTYPES = ("float64", "float32", "float16", "bfloat16", "complex64", "complex128")

#: Unsupported (library, dtype) pairs and the expected errors. If a back-end starts to support one, a test fails.
UNSUPPORTED = {
    ("numpy", "bfloat16"): "which NumPy does not have",
    ("jax", "float64"): "jax_enable_x64",
    ("jax", "complex128"): "jax_enable_x64",
}


def check_error(call, error: type[Exception], message: str) -> None:
    """Check that a call raises an error with a message, and a DeepTNError unless it is PyTorch's own ValueError."""
    with pytest.raises(error, match=message) as caught:
        call()
    if error is not ValueError:
        assert isinstance(caught.value, DeepTNError)


@pytest.fixture(name="torch")
def torch_if_installed():
    """Return PyTorch, or skip the test if it is not installed."""
    return pytest.importorskip("torch")


@pytest.fixture(name="jax")
def jax_if_installed():
    """Return JAX, or skip the test if it is not installed."""
    return pytest.importorskip("jax")


@pytest.fixture(params=LIBRARIES)
def library(request) -> str:
    """Return the name of an array library, or skip the test if it is not installed."""
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture
def x64(jax):
    """Enable double precision in JAX."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def forget_compiled():
    """Clear the programs that JAX compiled for a test file; otherwise they fill the memory during the next one."""
    yield
    if jax := sys.modules.get("jax"):
        jax.clear_caches()


def close(found, expected, tolerance: float) -> bool:
    """Check that the largest difference, relative to the largest entry, is within the tolerance."""
    found, expected = to_numpy(found), to_numpy(expected)
    assert found.shape == expected.shape
    return bool(np.abs(found - expected).max(initial=0.0) <= tolerance * max(1.0, np.abs(expected).max(initial=0.0)))
