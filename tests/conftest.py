"""What all tests share. No framework is imported here: the tests of the core run where there is none."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core is busy with a worker of its own
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # programs that run once
os.environ["DEEPTN_CACHE"] = "off"  # the tests search for themselves

import hypothesis
import numpy as np
import pytest

from deeptn import DeepTNError
from deeptn.arrays import to_numpy

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("ci")

LIBRARIES = ("numpy", "torch", "jax")
DTYPES = ("float64", "float32", "float16", "bfloat16", "complex64", "complex128")

#: What does not work, by (library, dtype): the error that is expected. A back-end that gains a feature fails here.
UNSUPPORTED = {
    ("numpy", "bfloat16"): "which NumPy does not have",
    ("jax", "float64"): "jax_enable_x64",
    ("jax", "complex128"): "jax_enable_x64",
}


def check_error(call, error: type[Exception], message: str) -> None:
    """Whether a call raises an error with a message; of deeptn's family, but for PyTorch's own ValueError."""
    with pytest.raises(error, match=message) as caught:
        call()
    if error is not ValueError:
        assert isinstance(caught.value, DeepTNError)


@pytest.fixture(name="torch")
def torch_if_installed():
    """PyTorch; a test that asks for it is skipped where it is not installed."""
    return pytest.importorskip("torch")


@pytest.fixture(name="jax")
def jax_if_installed():
    """JAX; a test that asks for it is skipped where it is not installed."""
    return pytest.importorskip("jax")


@pytest.fixture(params=LIBRARIES)
def library(request) -> str:
    """The name of an array library."""
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture
def x64(jax):
    """JAX with double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def forget_compiled():
    """Programs that JAX has compiled for a file would fill the memory in the next one."""
    yield
    if jax := sys.modules.get("jax"):
        jax.clear_caches()


def close(found, expected, tolerance: float) -> bool:
    """Largest difference relative to the largest entry."""
    found, expected = to_numpy(found), to_numpy(expected)
    assert found.shape == expected.shape
    return bool(np.abs(found - expected).max(initial=0.0) <= tolerance * max(1.0, np.abs(expected).max(initial=0.0)))
