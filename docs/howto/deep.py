"""A deep topology of one's own."""

from dataclasses import dataclass
from typing import ClassVar

import deeptn as dtn
from deeptn.testing import check_laws


# [topology]
@dtn.register_topology
@dataclass(frozen=True, kw_only=True)
class Pairs(dtn.Topology):
    layers: int = 2
    size_field: ClassVar[str] = "layers"

    def build(self, legs: tuple[dtn.Leg, ...]) -> dtn.NetworkSpec:
        wires, layers = [()] * len(legs), []
        for m in range(self.layers):
            new = [(f"w{m}_{k}",) for k in range(len(legs))]
            if m == self.layers - 1:
                new = [(leg.name,) for leg in legs]
            starts = range(0, len(legs), 2) if m % 2 == 0 else [0, *range(1, len(legs), 2)]
            groups = [range(a, b) for a, b in zip(starts, [*starts[1:], len(legs)])]
            pairs = [(sum((new[k] for k in g), ()), sum((wires[k] for k in g), ())) for g in groups]
            nodes = [dtn.Node(f"L{m}_g{k}", out + into, into) for k, (out, into) in enumerate(pairs)]
            layers.append((nodes, [wire for (wire,) in new]))
            wires = new
        sizes = {f"w{m}_{k}": leg.size for m in range(self.layers - 1) for k, leg in enumerate(legs)}
        return dtn.NetworkSpec(legs, dtn.stack(layers, "relu", "rms"), tuple(sizes.items()))


# [/topology]

check_laws(Pairs(layers=3), shape=(6, 8))
