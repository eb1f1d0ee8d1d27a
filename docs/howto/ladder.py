"""A custom topology: a ladder, with even legs on the upper rail and odd legs on the lower one."""

from dataclasses import dataclass
from typing import ClassVar

import deeptn as dtn
from deeptn.testing import check_laws


# [topology]
@dtn.register_topology
@dataclass(frozen=True, kw_only=True)
class Ladder(dtn.Topology):
    rank: int = 2
    size_field: ClassVar[str] = "rank"

    def build(self, legs: tuple[dtn.spec.Leg, ...]) -> dtn.NetworkSpec:
        edges = [(k, k + 2) for k in range(len(legs) - 2)] + [(k, k + 1) for k in range(0, len(legs) - 1, 2)]
        bonds = {edge: f"b{edge[0]}_{edge[1]}" for edge in edges}
        cores = [(leg.name, *(bonds[edge] for edge in edges if k in edge)) for k, leg in enumerate(legs)]
        nodes = tuple(dtn.Node(f"core{k}", indices) for k, indices in enumerate(cores))
        stage = dtn.Stage(nodes, tuple(leg.name for leg in legs))
        return dtn.NetworkSpec(legs, (stage,), tuple((bond, self.rank) for bond in bonds.values()))


# [/topology]


# [use]
net = dtn.network(Ladder(rank=2), (120, 400))
W = net.materialize(net.init(seed=0))
largest = dtn.at_budget("Ladder", (120, 400), params=1600)
# [/use]

assert W.shape == (120, 400)
assert net.num_params < largest.num_params <= 1600


# [test]
def test_ladder():
    check_laws(Ladder(rank=2), shape=(6, 8), libraries=("numpy", "torch", "jax"))


# [/test]


test_ladder()
