"""Fixtures and helpers for all tests. No framework is imported here, so that the core tests run without one."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # each core runs its own pytest worker
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiled programs run only once
os.environ["DEEPTN_CACHE"] = "off"  # tests run their own searches

import hypothesis
import numpy as np
import pytest

from deeptn import DeepTNError, MissingBackendError
from deeptn.arrays import to_numpy

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("ci")

LIBRARIES = ("numpy", "torch", "jax")

#: The core imports optional packages only in ways that raise `MissingBackendError`.
CORE = Path(__file__).parents[1] / "deeptn"
DTYPES = ("float64", "float32", "float16", "bfloat16", "complex64", "complex128")

#: Packages that nobody needs to have, except for the tests that use them; see `skip_if_missing`.
OPTIONAL = {
    *("torch", "jax", "optax", "equinox", "flax", "onnx", "onnxscript", "onnxruntime", "tensornetwork"),
    *("sklearn", "jinja2", "pandas", "optuna", "google", "grimp", "tltorch", "torchtt", "tensorkrowch", "opt_einsum"),
}

#: Unsupported (library, dtype) pairs and the expected errors. If a back-end starts to support one, a test fails.
UNSUPPORTED = {
    ("numpy", "bfloat16"): "which NumPy does not have",
    ("jax", "float64"): "jax_enable_x64",
    ("jax", "complex128"): "jax_enable_x64",
}


def skip_if_missing(error: BaseException | None) -> None:
    """Skip the test, or the file that is being collected, if an optional package that it needs is not installed."""
    while error is not None:
        name = None
        if isinstance(error, MissingBackendError):
            name = error.package
        elif isinstance(error, ModuleNotFoundError) and not _importer(error).is_relative_to(CORE):
            name = (error.name or "").partition(".")[0]
        if name in OPTIONAL and importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed", allow_module_level=True)
        error = error.__cause__ or error.__context__


def _importer(error: BaseException) -> Path:
    """Return the file with the import that failed."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return Path(next(file for file in reversed(files) if "importlib" not in file))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark as slow all but a few cases of tests that are marked `few`. Which ones stay depends on their names alone."""
    found = {}
    for item in items:
        if mark := item.get_closest_marker("few"):
            found.setdefault((item.path, item.originalname, *mark.args), []).append(item)
    for (_, _, count), cases in found.items():
        for item in sorted(cases, key=lambda item: hashlib.sha256(item.name.encode()).digest())[count:]:
            item.add_marker(pytest.mark.slow)


class Module(pytest.Module):
    """A file of tests that is skipped if an optional package that it imports is missing."""

    def collect(self):
        try:
            return super().collect()
        except self.CollectError as error:
            skip_if_missing(error)
            raise


def pytest_pycollect_makemodule(module_path, parent):
    """Collect each file of tests as a `Module`."""
    return Module.from_parent(parent, path=module_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    """Skip a test whose fixtures need a missing package."""
    try:
        return (yield)
    except ImportError as error:
        skip_if_missing(error)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """Skip a test that needs a missing package."""
    try:
        return (yield)
    except ImportError as error:
        skip_if_missing(error)
        raise


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
