"""Networks made of others: sums and element-wise products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..errors import SpecError
from ..spec import Layout, Leg, NetworkSpec, Node, Stage
from .base import Topology, register_topology, topology
from .brickwall import BrickWall
from .factored import LowRank


@dataclass(frozen=True, kw_only=True)
class _Combined(Topology):
    """Several topologies on the same legs."""

    terms: Any = (LowRank(rank=1), BrickWall())
    size_field: ClassVar[str] = "terms"

    def __post_init__(self):
        what = type(self).__name__
        if isinstance(self.terms, (str, Topology)) or not hasattr(self.terms, "__iter__"):
            raise SpecError(f"{what}.terms must be a tuple of topologies, got {self.terms!r:.80}")
        object.__setattr__(self, "terms", tuple(topology(term) for term in self.terms))
        if not self.terms:
            raise SpecError(f"{what}.terms is empty; name at least one topology")

    def default_layout(self, shape: Sequence[int]) -> Layout:
        return self.terms[-1].default_layout(shape)

    def resized(self, size: int) -> Topology:
        return replace(self, terms=(*self.terms[:-1], self.terms[-1].resized(size)))


@register_topology
@dataclass(frozen=True, kw_only=True)
class Sum(_Combined):
    """The sum of several networks, for example a low-rank matrix and what a brick wall adds to it.

    ::

        LowRank ──┐
                  + ── W
        BrickWall ┘

    Parameters
    ----------
    terms : tuple of Topology
        At least one. The default layout is that of the last, which is also the one that `at_budget` turns; the
        others keep their sizes. Nodes and parameters of term k are named ``T{k}_…``.

    Notes
    -----
    The parameters of all terms together. A sum of linear networks can be applied without forming W.

    Source: for a residual of low rank, Candès, Li, Ma & Wright, arXiv:0912.3599.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.Sum(terms=(dtn.LowRank(rank=1), dtn.BrickWall(layers=2))), (128, 512))
    >>> net.num_params, net.is_linear
    (1024, False)
    """

    equation: ClassVar[str] = r"W = \sum_k W_k"

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        stages, ends, sizes = _parallel(self.terms, legs)
        stages[-1] = replace(stages[-1], add=(*stages[-1].add, *ends[:-1]))
        return NetworkSpec(legs, tuple(stages), sizes)


@register_topology
@dataclass(frozen=True, kw_only=True)
class Product(_Combined):
    """The element-wise (Hadamard) product of several networks.

    ::

        LowRank ──┐
                  ⊙ ── W
        LowRank ──┘

    Parameters
    ----------
    terms : tuple of Topology
        At least one; the last may not be a `Sum`. Layout, sizes and names as for `Sum`.

    Notes
    -----
    The parameters of all terms together; the rank is at most the product of theirs. A product of linear networks is
    one linear network, whose legs are hyper-indices.

    Source: Hyeon-Woo, Ye-Bin & Oh, arXiv:2108.06098 (FedPara).

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.Product(terms=(dtn.LowRank(rank=2), dtn.LowRank(rank=2))), (120, 400))
    >>> net.num_params, net.is_linear
    (2080, True)
    """

    terms: Any = (LowRank(), LowRank())
    equation: ClassVar[str] = r"W = W_1 \odot W_2 \odot \cdots"

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        stages, ends, sizes = _parallel(self.terms, legs)
        if len(stages) == len(self.terms):  # all of them one stage: one network
            nodes = tuple(node for stage in stages for node in stage.nodes)
            return NetworkSpec(legs, (Stage(nodes, stages[-1].output),), sizes)
        if stages[-1].add:
            raise SpecError("the last term of a Product may not be a Sum; put another one last")
        stages[-1] = replace(stages[-1], multiply=(*stages[-1].multiply, *ends[:-1]))
        return NetworkSpec(legs, tuple(stages), sizes)


def _parallel(
    terms: Sequence[Topology], legs: tuple[Leg, ...]
) -> tuple[list[Stage], list[int], tuple[tuple[str, int], ...]]:
    """The stages of all terms one after another, the numbers of each one's last, and the sizes of all bonds."""
    names = {leg.name for leg in legs}
    stages: list[Stage] = []
    ends: list[int] = []
    sizes: list[tuple[str, int]] = []
    for k, term in enumerate(terms):
        spec, first = term.build(legs), len(stages)

        def own(name: str, k: int = k) -> str:
            return name if name in names else f"T{k}_{name}"

        def node(given: Node, own: Any = own) -> Node:
            param = None if given.param is None else own(given.param)
            indices, inputs = (tuple(map(own, part)) for part in (given.indices, given.inputs))
            return replace(given, name=own(given.name), indices=indices, inputs=inputs, param=param)

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
