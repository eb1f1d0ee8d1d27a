"""The brick-wall network of the ADTN, arXiv:2305.06058."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from .._check import positive_int
from ..errors import SpecError
from ..layout import Layout, Leg
from ..spec import NetworkSpec, Node, check_between, stack
from .base import Topology, register_topology


@register_topology
@dataclass(frozen=True, kw_only=True)
class BrickWall(Topology):
    """Layers of two-site gates in a brick-wall pattern, an activation after each layer but the last (ADTN).

    One TN layer is a half-layer of gates on the legs (0,1), (2,3), … and one on (1,2), (3,4), …  The network acts on
    the product state v⊗v⊗…⊗v with v = [1, 0, …]; in the first half-layer only the part of a gate that v selects
    exists, a vector over two legs::

        g g g      first half-layer of layer 1 (v absorbed)
        | g g |    second half-layer
        ---σ---
        g g g      layer 2, gates with two inputs and two outputs
        | g g |

    For an odd number of legs the last one keeps the constant v until the second half-layer.

    Parameters
    ----------
    layers : int
        Number M of TN layers.
    leg_size : int
        Leg size d of the default layout, which pads every weight axis to a power of d. A layout given by the
        caller may mix leg sizes.
    activation : str or None
        For example ``"relu"`` (the paper's), ``"leaky_relu:0.2"``, ``"tanh"``. None: all layers form one linear
        stage, which can be applied to an input without forming W.
    normalize : {"rms", None}
        Divide the state by its root mean square before each activation. None is the paper's form; for ReLU and
        leaky ReLU both give the same W up to a scale.

    Notes
    -----
    With Q ≥ 2 legs of size d the first layer has ``(Q//2)·d² + ((Q-1)//2)·d⁴`` parameters, each further one
    ``(Q-1)·d⁴``.

    Source: Qing, Li, Zhou & Ran, arXiv:2305.06058, eqs. (1)-(4).

    Examples
    --------
    The paper's two layers of VGG-16, 512→4096 and 4096→4096, together from 424 parameters:

    >>> import deeptn as dtn
    >>> [dtn.network(dtn.BrickWall(layers=1), shape).num_params for shape in ((4096, 512), (4096, 4096))]
    [200, 224]
    """

    layers: int = 2
    leg_size: int = 2
    activation: str | None = "relu"
    normalize: str | None = "rms"
    size_field: ClassVar[str] = "layers"

    def __post_init__(self):
        object.__setattr__(self, "layers", positive_int(self.layers, "BrickWall.layers"))
        object.__setattr__(self, "leg_size", positive_int(self.leg_size, "BrickWall.leg_size"))
        check_between(self.activation, self.normalize)
        if self.leg_size < 2:
            raise SpecError(f"BrickWall.leg_size = {self.leg_size}; legs need a size of at least 2")

    def default_layout(self, shape: Sequence[int]) -> Layout:
        return Layout.padded(shape, self.leg_size)

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        count = len(legs)
        if count < 2:
            raise SpecError(f"a BrickWall needs at least 2 legs, got {count}; choose a layout with smaller factors")
        sizes: dict[str, int] = {}
        wires: list[str | None] = [None] * count
        halves = [tuple(range(start, count - 1, 2)) for start in (0, 1)]
        stages = []
        for layer in range(1, self.layers + 1):
            nodes: list[Node] = []
            gate = 0
            for half, starts in enumerate(halves):
                for left in starts:
                    pair = (left, left + 1)
                    inputs = []
                    for site in pair:
                        wire = wires[site]
                        if wire is None and half == 1:
                            wire = f"v{site}"
                            sizes[wire] = legs[site].size
                            vacuum = (1.0,) + (0.0,) * (legs[site].size - 1)
                            nodes.append(Node(wire, (wire,), constant=vacuum))
                        if wire is not None:
                            inputs.append(wire)
                    outputs = []
                    for site in pair:
                        final = layer == self.layers and half == _last_half(site, count)
                        wires[site] = wire = legs[site].name if final else f"L{layer}_{'ab'[half]}{site}"
                        outputs.append(wire)
                        if not final:
                            sizes[wire] = legs[site].size
                    nodes.append(Node(f"L{layer}_g{gate}", tuple(outputs + inputs), tuple(inputs)))
                    gate += 1
            stages.append((nodes, [wire for wire in wires if wire is not None]))
        return NetworkSpec(legs, stack(stages, self.activation, self.normalize), tuple(sizes.items()))


def _last_half(site: int, count: int) -> int:
    """The half-layer in which a site is touched last: the ends of the chain may miss the second one."""
    return 1 if 1 <= site < count - 1 + count % 2 else 0
