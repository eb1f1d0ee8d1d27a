"""Interface to array libraries: one class each for NumPy, PyTorch and JAX, one based on autoray for all others."""

from .array_library import DTYPES, ArrayLibrary, numpy_dtype
from .conversion import (
    KINDS,
    cast,
    constant,
    convert,
    convert_params,
    from_raw,
    norm_of,
    relative_error,
    target,
    to_numpy,
    to_raw,
)
from .jax_arrays import JaxArrays
from .lookup import LIBRARIES, check_alike, dtype_of, library, library_of
from .numpy_arrays import NumPyArrays
from .operations import Operations, PlainActivations, PlainViews, cast_like, inverse_rms
from .other_arrays import OtherArrays
from .torch_arrays import TorchArrays
from .tuning import CPU, GPU, HASTY, Tuning
from .view import View

__all__ = [
    "CPU",
    "DTYPES",
    "GPU",
    "HASTY",
    "KINDS",
    "LIBRARIES",
    "ArrayLibrary",
    "JaxArrays",
    "NumPyArrays",
    "Operations",
    "OtherArrays",
    "PlainActivations",
    "PlainViews",
    "TorchArrays",
    "Tuning",
    "View",
    "cast",
    "cast_like",
    "check_alike",
    "constant",
    "convert",
    "convert_params",
    "dtype_of",
    "from_raw",
    "inverse_rms",
    "library",
    "library_of",
    "norm_of",
    "numpy_dtype",
    "relative_error",
    "target",
    "to_numpy",
    "to_raw",
]
