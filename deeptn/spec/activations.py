"""Element-wise activations between stages, one definition for NumPy, PyTorch and JAX.

A string names the activation, so that a spec stays plain data. ``"leaky_relu:0.2"`` passes 0.2 as the parameter of
``"leaky_relu"``; without a parameter, PyTorch's default applies.
"""

# pyright: reportUnnecessaryIsInstance=false
# Arguments are checked at run time, whatever their annotations say.
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from ..base import Array, Registry, compose, do
from ..errors import SpecError


@dataclass(frozen=True)
class Activation:
    """An element-wise function, the default of its parameter (None: no parameter), and whether it is real-only."""

    function: Callable[..., Array]
    default: float | None = None
    real_only: bool = False


_REGISTRY: Registry[Activation] = Registry("activation")


def register_activation(
    name: str, function: Callable[..., Array], default: float | None = None, *, real_only: bool = False
) -> None:
    """Make an element-wise function available to every topology under a name.

    Parameters
    ----------
    name : str
        The name that ``activation=`` takes.
    function : callable
        Takes an array of any supported library (and the parameter, if any) and returns an array of the same shape.
        If you write it with `autoray.do` or operators, it works with NumPy, PyTorch and JAX.
    default : float, optional
        Default of the parameter, which is the second argument of the function. If omitted, there is no parameter.
    real_only : bool
        Whether the function is undefined for complex numbers, like ReLU; networks with complex parameters reject it.

    Raises
    ------
    SpecError
        If the name is taken by another function or contains a colon, or `function` is not callable.

    Examples
    --------
    >>> import deeptn as dtn
    >>> def square(x):
    ...     return x * x
    >>> dtn.spec.register_activation("square", square)
    >>> dtn.network(dtn.BrickWall(layers=2, activation="square"), (4, 4)).num_params
    72
    """
    if not isinstance(name, str) or not name or ":" in name:
        raise SpecError(f"the name of an activation must be a non-empty string without a colon, got {name!r}")
    if not callable(function):
        raise SpecError(f"the activation {name!r} must be a callable, got {function!r}")
    _REGISTRY.add(name, Activation(function, default, real_only), source=function)
    _resolve.cache_clear()


def resolve(name: str) -> Callable[[Array], Array]:
    """Return the function behind ``"name"`` or ``"name:parameter"``.

    Raises
    ------
    SpecError
        If the name is unknown, the parameter is not a finite number, or the function takes no parameter.
    """
    if not isinstance(name, str):
        raise SpecError(f"activation must be a string or None, got {name!r}")
    return _resolve(name)


def is_real_only(name: str) -> bool:
    """Return whether the activation ``"name"`` or ``"name:parameter"`` is undefined for complex numbers."""
    return _REGISTRY[name.partition(":")[0]].real_only


@lru_cache(maxsize=1024)
def _resolve(name: str) -> Callable[[Array], Array]:
    word, colon, text = name.partition(":")
    entry = _REGISTRY[word]
    if not colon:
        return entry.function if entry.default is None else _with_parameter(entry.function, entry.default)
    if entry.default is None:
        raise SpecError(f"activation {name!r}: {word!r} takes no parameter; write {word!r}")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SpecError(f"activation {name!r}: {text!r} is not a number; write for example '{word}:{entry.default}'")
    return _with_parameter(entry.function, value)


def _with_parameter(function: Callable[..., Array], value: float) -> Callable[[Array], Array]:
    return lambda x: function(x, value)


@compose
def deeptn_relu(x: Array) -> Array:
    return do("where", x <= 0, do("zeros_like", x), x)  # keeps NaN


@deeptn_relu.register("torch")  # type: ignore[attr-defined]
def _(x: Array) -> Array:
    return x.relu()


@compose
def deeptn_leaky_relu(x: Array, slope: float) -> Array:
    return do("where", x > 0, x, slope * x)


@compose
def deeptn_sigmoid(x: Array) -> Array:
    return 0.5 * (1.0 + do("tanh", 0.5 * x))


@compose
def deeptn_silu(x: Array) -> Array:
    return x * deeptn_sigmoid(x)


@compose
def deeptn_gelu(x: Array) -> Array:
    # The tanh approximation (Hendrycks & Gimpel, arXiv:1606.08415, section 2), because NumPy has no erf.
    return 0.5 * x * (1.0 + do("tanh", math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


def deeptn_tanh(x: Array) -> Array:
    return do("tanh", x)


def deeptn_sin(x: Array) -> Array:
    return do("sin", x)


for _name, _function, _default, _real_only in (
    ("relu", deeptn_relu, None, True),
    ("leaky_relu", deeptn_leaky_relu, 0.01, True),
    ("tanh", deeptn_tanh, None, False),
    ("sigmoid", deeptn_sigmoid, None, False),
    ("silu", deeptn_silu, None, False),
    ("gelu", deeptn_gelu, None, False),
    ("sin", deeptn_sin, None, False),
):
    register_activation(_name, _function, _default, real_only=_real_only)
