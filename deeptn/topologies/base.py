"""What a family says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np

from ..spec import Layout, Leg, NetworkSpec
from .growth import take_over

#: For fields by their names some values to try; None where nothing can be drawn.
Choices: TypeAlias = Mapping[str, Sequence[Any]] | None

#: What may come between two stages.
BETWEEN: dict[str, Sequence[Any]] = {
    "activation": (None, "relu", "leaky_relu:0.2", "tanh"),
    "normalize": ("rms", None),
}


@dataclass(frozen=True, kw_only=True)
class Topology(ABC):
    """A family of networks: a frozen keyword-only dataclass, every field with a usable default.

    A subclass writes `build`, names its `size_field`, and is registered with `register_topology`; JSON, hashing, files,
    budgets, growth, fits, drawings, laws and the layers of all front-ends follow. What else a family knows about itself
    it says by overriding the other methods and class attributes.

    Attributes
    ----------
    size_field : str
        Name of the field that holds the size: layers, rank, terms. `at_budget` and `grow` raise it; the number of
        parameters never falls with it (where nodes share parameters, almost never).
    choices : mapping of str to sequence, or None
        What `deeptn.testing.networks` tries for the fields, by name; the size is tried at 1, 2, 3 and 50 unless it is
        named here too. None for a family that is not drawn: it does not fit any legs, or is made of others.
    equation, formula : str
        For the gallery, if given: the weight in LaTeX, and the number of parameters on `Q` legs of size `d` as a Python
        expression of these and the fields (also ``rows`` and ``columns``, the sides of the matrix, and ``bond(k)``,
        the largest bond between k legs and the others, ``wire(k)``, the same but d for one leg). The tests evaluate it.

    Examples
    --------
    A cross: one core that holds all legs.

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

    @abstractmethod
    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        """Return the network that generates a tensor with these legs (`SpecError` where there is none)."""

    def default_layout(self, shape: Sequence[int]) -> Layout:
        """Return the layout to use when the caller names none: binary legs, padded."""
        return Layout.padded(shape)

    @property
    def size(self) -> int:
        """The size: the least `n` for which ``resized(n)`` is no smaller than this; the largest of several ranks.

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
        """Return parameters with which the network of a larger size generates the weight that this one does.

        By default every parameter goes to the one of the same name, and a node that is new passes its input on (see
        `take_over`). A family whose names shift when it grows moves the parameters to their new names first.

        Parameters
        ----------
        size : int
            The larger size.
        spec : NetworkSpec
            The network of ``resized(size)``.
        params : mapping of str to array
            Parameters of this topology's network.
        noise : float or None
            Of what is new, as for `take_over`.
        generator : numpy.random.Generator
            For the noise.

        Raises
        ------
        SpecError
            If the larger network cannot take the weight over.
        """
        return take_over(spec, params, noise, generator)

    def closed_form(self, spec: NetworkSpec, tensor: np.ndarray) -> dict[str, np.ndarray] | None:
        """Return parameters for a given weight without a search, or None where the family has no such form.

        Parameters
        ----------
        spec : NetworkSpec
            The network of this topology.
        tensor : array
            The weight, an axis for each leg.
        """
        return None

    @property
    def closed_form_suffices(self) -> bool:
        """Whether `closed_form` is about the best that the family can do, so that no fit by gradient is needed.

        The family is then one of those that `compare` shows by default. A law holds it to that: a weight that the
        family can generate comes back exactly (with no padding).

        Examples
        --------
        >>> import deeptn as dtn
        >>> dtn.TensorTrain().closed_form_suffices, dtn.BrickWall().closed_form_suffices
        (True, False)
        """
        return False
