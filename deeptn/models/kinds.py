"""Kinds of layers: whose weights networks can generate, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from ..base import Shape

T = TypeVar("T")


class Kind(NamedTuple):
    """How the weights of a class of layers are generated.

    Attributes
    ----------
    form : str
        How files name a layer, ``{}`` being the number of spatial axes: ``"linear"``, ``"conv{}d"``, ``"embedding"``, …
    make : callable, optional
        ``make(dense, network, cores)`` returns the layer that replaces a dense one.
    base : type, optional
        Class whose computation the new layer reproduces. Without it the layer stays, whatever it computes.
    attribute : str
        Holds the weight.
    axes : tuple of int, optional
        Where the axes of PyTorch's weight, ``(outputs, inputs, …)``, are in that one.

    Examples
    --------
    >>> Kind("conv{}d").name((8, 4, 3, 3)), Kind("linear").name((8, 4))
    ('conv2d', 'linear')
    """

    form: str
    make: Callable[..., Any] | None = None
    base: type | None = None
    attribute: str = "weight"
    axes: tuple[int, ...] | None = None

    def name(self, shape: Shape) -> str:
        """How files name a layer with a weight of a shape."""
        return self.form.format(len(shape) - 2)

    def differs(self, layer: object, method: str) -> str | None:
        """Why a layer that overrides a method cannot be replaced; None if it does not."""
        if self.base is None or getattr(type(layer), method) is getattr(self.base, method):
            return None
        name = type(layer).__name__
        return f"is a {name} with a {method} of its own, which would be lost; write register_layer({name}) to keep it"


def kind_of(kinds: Mapping[type, T], layer: object) -> T | None:
    """What a table has for the class of a layer, or for its closest base.

    Examples
    --------
    >>> kind_of({int: "number", bool: "truth"}, True), kind_of({int: "number"}, "x")
    ('truth', None)
    """
    return next((kinds[base] for base in type(layer).__mro__ if base in kinds), None)
