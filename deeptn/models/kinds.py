"""Kinds of layers whose weights networks can generate, and how to replace them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from ..base import Shape

T = TypeVar("T")


class Kind(NamedTuple):
    """Describes how the weights of a layer class are generated.

    Attributes
    ----------
    form : str
        Name of the kind in files; ``{}`` is the number of spatial axes: ``"linear"``, ``"conv{}d"``, ``"embedding"``, …
    make : callable, optional
        ``make(dense, network, cores)`` returns the layer that replaces a dense one.
    base : type, optional
        Class whose computation the new layer reproduces. If None, the layer itself stays, whatever it computes.
    attribute : str
        Name of the attribute with the weight.
    axes : tuple of int, optional
        Positions in that attribute of the axes of PyTorch's weight, ``(outputs, inputs, …)``.
    affine : bool
        Whether the layer adds ``bias`` to W x; known of layers with a `base`.

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
    affine: bool = False

    def name(self, shape: Shape) -> str:
        """Return the kind's name in files, for a layer whose weight has this shape."""
        return self.form.format(len(shape) - 2)

    def adds_bias(self, layer: object) -> bool:
        """Return whether a dense layer adds its bias to W x, the same for all inputs, and does nothing else."""
        groups = getattr(layer, "groups", getattr(layer, "feature_group_count", 1))
        plain = (self.affine or self.base is not None) and groups == 1 and getattr(layer, "mask", None) is None
        return plain and getattr(layer, "bias", None) is not None

    def differs(self, layer: object, method: str) -> str | None:
        """Say why a layer that overrides `method` cannot be replaced; return None if it does not override it."""
        if self.base is None or getattr(type(layer), method) is getattr(self.base, method):
            return None
        name = type(layer).__name__
        return f"is a {name} with its own {method}, which would be lost; write register_layer({name}) to keep it"


def kind_of(kinds: Mapping[Any, T], layer: object) -> T | None:
    """Look up the class of a layer, or its closest base class, in a table.

    A string stands for a class of a library that may not be installed: ``"package.module.Class"``.

    Examples
    --------
    >>> kind_of({int: "number", bool: "truth"}, True), kind_of({"builtins.int": "number"}, 5), kind_of({}, "x")
    ('truth', 'number', None)
    """
    for base in type(layer).__mro__:
        for key in (base, f"{base.__module__}.{base.__qualname__}"):
            if key in kinds:
                return kinds[key]
    return None
