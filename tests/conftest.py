from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # programs that run once
os.environ["DEEPTN_CACHE"] = "off"  # the tests search for themselves

import hypothesis
import numpy as np
import pytest
import torch

from deeptn.arrays import to_numpy

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("ci")
torch.set_num_threads(2)

LIBRARIES = ("numpy", "torch", "jax")
DTYPES = ("float64", "float32", "float16", "bfloat16", "complex64", "complex128")

#: What does not work, by (library, dtype): the error that is expected. A back-end that gains a feature fails here.
UNSUPPORTED = {
    ("numpy", "bfloat16"): "which NumPy does not have",
    ("jax", "float64"): "jax_enable_x64",
    ("jax", "complex128"): "jax_enable_x64",
}


@pytest.fixture(params=LIBRARIES)
def library(request) -> str:
    return request.param


@pytest.fixture
def x64():
    """JAX with double precision."""
    import jax

    with jax.enable_x64(True):
        yield


def close(found, expected, tolerance: float) -> bool:
    """Largest difference relative to the largest entry."""
    found, expected = to_numpy(found), to_numpy(expected)
    assert found.shape == expected.shape
    return bool(np.abs(found - expected).max(initial=0.0) <= tolerance * max(1.0, np.abs(expected).max(initial=0.0)))
