"""The common base of sums and products: several topologies on the same legs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from ..errors import SpecError
from ..spec import Layout, Leg, NetworkSpec, Node, Stage
from .base import Choices, Topology
from .brickwall import BrickWall
from .lowrank import LowRank
from .registry import topology


@dataclass(frozen=True, kw_only=True)
class Combined(Topology):
    """Several topologies on the same legs; the last one defines the size."""

    terms: Any = (LowRank(rank=1), BrickWall())
    size_field: ClassVar[str] = "terms"
    choices: ClassVar[Choices] = None

    def __post_init__(self):
        what = type(self).__name__
        if isinstance(self.terms, (str, Topology)) or not hasattr(self.terms, "__iter__"):
            raise SpecError(f"{what}.terms must be a tuple of topologies, got {self.terms!r:.80}")
        object.__setattr__(self, "terms", tuple(topology(term) for term in self.terms))
        if not self.terms:
            raise SpecError(f"{what}.terms is empty; name at least one topology")

    def default_layout(self, shape: Sequence[int]) -> Layout:
        return self.terms[-1].default_layout(shape)

    @property
    def size(self) -> int:
        return self.terms[-1].size

    def resized(self, size: int) -> Self:
        return replace(self, terms=(*self.terms[:-1], self.terms[-1].resized(size)))

    def grown(
        self,
        size: int,
        spec: NetworkSpec,
        params: Mapping[str, np.ndarray],
        noise: float | None,
        generator: np.random.Generator,
    ) -> dict[str, np.ndarray]:
        last, prefix = self.terms[-1], _prefix(len(self.terms) - 1)
        own = {name.removeprefix(prefix): array for name, array in params.items() if name.startswith(prefix)}
        found = last.grown(size, last.resized(size).build(spec.legs), own, noise, generator)
        others = {name: array for name, array in params.items() if not name.startswith(prefix)}
        return others | {prefix + name: array for name, array in found.items()}


def _prefix(term: int) -> str:
    """Return the prefix of the names of a term's nodes, parameters and bonds."""
    return f"T{term}_"


def parallel(
    terms: Sequence[Topology], legs: tuple[Leg, ...]
) -> tuple[list[Stage], list[int], tuple[tuple[str, int], ...]]:
    """Return the stages of all terms in a row, the number of each term's last stage, and the sizes of all bonds."""
    names = {leg.name for leg in legs}
    stages: list[Stage] = []
    ends: list[int] = []
    sizes: list[tuple[str, int]] = []
    for k, term in enumerate(terms):
        spec, first = term.build(legs), len(stages)

        def own(name: str, k: int = k) -> str:
            return name if name in names else _prefix(k) + name

        def node(given: Node, k: int = k, own: Callable[[str], str] = own) -> Node:
            param = None if given.param is None else _prefix(k) + given.param
            indices, inputs = (tuple(map(own, part)) for part in (given.indices, given.inputs))
            return replace(given, name=_prefix(k) + given.name, indices=indices, inputs=inputs, param=param)

        for number, stage in enumerate(spec.stages):
            stages.append(
                replace(
                    stage,
                    nodes=tuple(map(node, stage.nodes)),
                    output=tuple(map(own, stage.output)),
                    sources=tuple(first + source for source in spec.sources(number)),
                    multiply=tuple(first + other for other in stage.multiply),
                    add=tuple(first + other for other in stage.add),
                )
            )
        ends.append(len(stages) - 1)
        sizes += [(own(name), size) for name, size in spec.sizes]
    return stages, ends, tuple(sizes)
