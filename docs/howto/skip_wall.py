"""A custom deep topology: gates on two levels, and a connection that skips both."""

from dataclasses import dataclass
from typing import ClassVar

import deeptn_torch
import torch

import deeptn as dtn
from deeptn.testing import check_laws


# [topology]
@dtn.register_topology
@dataclass(frozen=True, kw_only=True)
class SkipWall(dtn.Topology):
    """Blocks of two levels: gates on (0,1), (2,3), …, then on (1,2), (3,4), …, plus the block's input."""

    blocks: int = 1
    activation: str = "relu"
    size_field: ClassVar[str] = "blocks"
    choices: ClassVar = {"blocks": (1, 2, 3), "activation": ("relu", "tanh")}

    def build(self, legs: tuple[dtn.spec.Leg, ...]) -> dtn.NetworkSpec:
        levels = ["top", *(f"B{block}{level}" for block in range(self.blocks) for level in "ab"), "legs"]
        stages, sizes, wires = [], {}, []
        for number, level in enumerate(levels):
            last, shifted = level == "legs", level.endswith("b")
            before, wires = wires, [leg.name if last else f"{level}_{k}" for k, leg in enumerate(legs)]
            starts = sorted({0, *range(int(shifted), len(legs), 2)})
            nodes = []
            for a, b in zip(starts, [*starts[1:], len(legs)]):
                nodes.append(dtn.Node(f"{level}_g{a}", (*wires[a:b], *before[a:b]), tuple(before[a:b])))
            between = (None, None) if last else (self.activation, "rms")
            skip = (number - 2,) if shifted else ()
            stages.append(dtn.Stage(tuple(nodes), tuple(wires), *between, add=skip))
            sizes |= {} if last else {wire: leg.size for wire, leg in zip(wires, legs)}
        return dtn.NetworkSpec(legs, tuple(stages), tuple(sizes.items()))


# [/topology]


# [use]
net = dtn.at_budget("SkipWall", (12, 10), params=400)  # 2 blocks
params = net.init(seed=0)
larger = dtn.fitting.grow(net, params, 3)  # another block, the same weight

model = torch.nn.Sequential(torch.nn.Linear(10, 12), torch.nn.ReLU(), torch.nn.Linear(12, 2))
small, report = deeptn_torch.compress(model, {"0": "SkipWall"}, fit=dtn.fitting.Fit(steps=20))
# [/use]

assert (net.topology, net.num_params) == (SkipWall(blocks=2), 320)
assert larger.error < 1e-6
assert larger.net.num_params == 440
assert report.layers[0].topology == "SkipWall(blocks=1)"


# [test]
def test_skip_wall():
    check_laws(SkipWall(blocks=2), shape=(6, 8), libraries=("numpy", "torch", "jax"))


# [/test]

test_skip_wall()
