"""Shared type names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

#: An array of NumPy, PyTorch or JAX; autoray dispatches on it at run time.
Array: TypeAlias = Any
#: The trainable tensors of a network, by parameter name.
Params: TypeAlias = dict[str, Array]
ParamsLike: TypeAlias = Mapping[str, Array]
#: Sizes of the axes of an array.
Shape: TypeAlias = tuple[int, ...]
#: Path of a file.
PathLike: TypeAlias = str | os.PathLike[str]
