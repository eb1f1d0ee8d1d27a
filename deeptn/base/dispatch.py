"""autoray's dispatch on the library of an array, with the type annotations that autoray lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import autoray

#: Call the equivalent of a NumPy function in the library of the arguments.
do: Callable[..., Any] = autoray.do
#: Decorator for a function written with `do`; a library may register its own version of it.
compose: Callable[..., Any] = autoray.compose
