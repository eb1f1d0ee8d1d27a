"""The base class of all topologies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np

from ..errors import SpecError, near_match
from ..spec import Layout, Leg, NetworkSpec
from .growth import take_over

#: Values to try for each field, by name; None for a family that is not drawn.
Choices: TypeAlias = Mapping[str, Sequence[Any]] | None

#: Values to try for what comes between two stages.
BETWEEN: dict[str, Sequence[Any]] = {
    "activation": (None, "relu", "leaky_relu:0.2", "tanh"),
    "normalize": ("rms", None),
}


@dataclass(frozen=True, kw_only=True)
class Topology(ABC):
    """A family of networks: a frozen keyword-only dataclass whose fields all have usable defaults.

    A subclass defines `build` and `size_field`, and is registered with `register_topology`. JSON, hashing, files,
    budgets, growth, fits, drawings, laws and the layers of all front-ends then work with it. Override the other methods
    and class attributes for everything else that is specific to the family.

    Attributes
    ----------
    size_field : str
        Name of the field that sets the size: layers, rank, terms. `at_budget` and `grow` raise it; the number of
        parameters never falls when it rises (almost never, if nodes share parameters).
    choices : mapping of str to sequence, or None
        Values that `deeptn.testing.networks` tries for each field, by name. Unless the size field is listed too, it
        tries the sizes 1, 2, 3 and 50. None for a family that fits only certain legs or consists of other families.
    equation, formula : str
        Optional, for the gallery: the weight in LaTeX, and the number of parameters for `Q` legs of size `d`, as a
        Python expression of these, the fields, ``rows`` and ``columns`` (the sides of the matrix), ``bond(k)`` (the
        largest bond between k legs and the others) and ``wire(k)`` (the same, but d for one leg). Tests evaluate it.

    Examples
    --------
    A cross: one core with all the legs.

    >>> import deeptn as dtn
    >>> @dtn.register_topology
    ... @dataclass(frozen=True, kw_only=True)
    ... class Cross(dtn.Topology):
    ...     copies: int = 1
    ...     size_field: ClassVar[str] = "copies"
    ...
    ...     def build(self, legs):
    ...         names = tuple(leg.name for leg in legs)
    ...         cores = tuple(dtn.Node(f"core{k}", names) for k in range(self.copies))
    ...         return dtn.NetworkSpec(legs, (dtn.Stage(cores, names),))
    >>> dtn.network("Cross", (4, 4)).num_params
    16
    """

    size_field: ClassVar[str]
    choices: ClassVar[Choices] = {}
    equation: ClassVar[str] = ""
    formula: ClassVar[str] = ""

    def __new__(cls, *values: Any, **named: Any) -> Self:
        known = {field.name for field in fields(cls)}
        if values:
            size = f"{cls.size_field}={values[0]!r:.40}"
            raise SpecError(f"{cls.__name__} takes its fields by name: write {cls.__name__}({size})")
        for name in named:
            if name not in known:
                raise SpecError(f"{cls.__name__} has no field {name!r}; {near_match(name, known)}")
        return super().__new__(cls)

    @abstractmethod
    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        """Return the network that generates a tensor with these legs (`SpecError` if there is none)."""

    def default_layout(self, shape: Sequence[int]) -> Layout:
        """Return the layout for calls without one: padded binary legs, unless overridden."""
        return Layout.padded(shape)

    @property
    def size(self) -> int:
        """The smallest `n` for which ``resized(n)`` is no smaller than this topology; of several ranks, the largest.

        Examples
        --------
        >>> import deeptn as dtn
        >>> dtn.BrickWall(layers=3).size, dtn.TensorTrain(rank=(2, 4, 3)).size
        (3, 4)
        >>> dtn.Sum(terms=(dtn.LowRank(rank=5), dtn.BrickWall(layers=2))).size
        2
        """
        value: int | tuple[int, ...] = getattr(self, self.size_field)
        return max(value, default=1) if isinstance(value, tuple) else value

    def bonds(self, spec: NetworkSpec) -> tuple[str, ...]:
        """Return the bonds of a network whose sizes the size field can list, in its order.

        Empty by default: the size field is a single number, and `at_budget` and `decompose` vary nothing else.

        Examples
        --------
        >>> import deeptn as dtn
        >>> net = dtn.network(dtn.Tucker(rank=(3, 2)), (4, 6), dtn.Layout.single((4, 6)))
        >>> net.topology.bonds(net.spec)
        ('b0', 'b1')
        """
        return ()

    def with_bonds(self, sizes: Sequence[int]) -> Self:
        """Return the same topology with these sizes of its `bonds`."""
        return replace(self, **{self.size_field: tuple(sizes)})

    def resized(self, size: int) -> Self:
        """Return the same topology with another size.

        Examples
        --------
        >>> import deeptn as dtn
        >>> dtn.TTMatrix(rank=8).resized(3)
        TTMatrix(rank=3, shared=False)
        """
        return replace(self, **{self.size_field: size})

    def grown(
        self,
        size: int,
        spec: NetworkSpec,
        params: Mapping[str, np.ndarray],
        noise: float | None,
        generator: np.random.Generator,
    ) -> dict[str, np.ndarray]:
        """Return parameters with which the network of a larger size generates the same weight as this one.

        By default, every parameter is copied to the one of the same name, and new nodes pass on their input (see
        `take_over`). A family whose names shift when it grows renames the parameters first.

        Parameters
        ----------
        size : int
            The larger size.
        spec : NetworkSpec
            The network of ``resized(size)``.
        params : mapping of str to array
            Parameters of this topology's network.
        noise : float or None
            Standard deviation of the noise in new entries, as in `take_over`.
        generator : numpy.random.Generator
            Source of the noise.

        Raises
        ------
        SpecError
            If the larger network cannot take over the weight.
        """
        return take_over(spec, params, noise, generator)

    def closed_form(self, spec: NetworkSpec, tensor: np.ndarray) -> dict[str, np.ndarray] | None:
        """Return parameters for a given weight without a gradient fit, or None if the family has no closed form.

        Parameters
        ----------
        spec : NetworkSpec
            The network of this topology.
        tensor : array
            The weight, with one axis per leg.
        """
        return None

    @property
    def closed_form_suffices(self) -> bool:
        """Whether `closed_form` is about the best that the family can do, so that no gradient fit is needed.

        If so, `compare` includes the family by default, and a law checks that the closed form recovers any weight that
        the family can generate (without padding).

        Examples
        --------
        >>> import deeptn as dtn
        >>> dtn.TensorTrain().closed_form_suffices, dtn.BrickWall().closed_form_suffices
        (True, False)
        """
        return False
