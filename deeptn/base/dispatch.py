"""autoray's dispatch by the library of an array, with the types that it does not declare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import autoray

#: Call a NumPy function by name in the library of the arguments.
do: Callable[..., Any] = autoray.do
#: Decorator of a function written with `do`: a library may register its own version.
compose: Callable[..., Any] = autoray.compose
