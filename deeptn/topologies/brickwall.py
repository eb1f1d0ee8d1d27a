"""The brick-wall network of the ADTN (arXiv:2305.06058), and variants of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ..base import boolean, positive_int
from ..errors import SpecError, near_match
from ..spec import Layout, Leg, NetworkSpec, check_between, pad_axes, unit_matrix
from .base import BETWEEN, Choices, Topology
from .chain import train
from .legs import need_legs
from .registry import describe, register_topology
from .wires import Wires

PATTERNS = ("brick", "staircase")


@register_topology
@dataclass(frozen=True, kw_only=True)
class BrickWall(Topology):
    """Layers of gates on neighboring legs in a brick-wall pattern, with an activation after all but the last (ADTN).

    One TN layer is a half-layer of gates on the legs (0,1), (2,3), … and another on (1,2), (3,4), …  The network acts
    on the product state v⊗v⊗…⊗v with v = [1, 0, …]. Of each gate in the first half-layer, only the part that v selects
    exists, a vector over two legs::

        g g g      first half-layer of layer 1 (v absorbed)
        | g g |    second half-layer
        ---σ---
        g g g      layer 2, gates with two inputs and two outputs
        | g g |

    If the number of legs is odd, the last leg keeps the constant v until the second half-layer.

    Parameters
    ----------
    layers : int
        Number M of TN layers.
    leg_size : int
        Leg size d of the default layout, which pads every weight axis to a power of d. If you pass a layout, it may
        mix leg sizes.
    activation : str or None
        For example ``"relu"`` (as in the paper), ``"leaky_relu:0.2"``, ``"tanh"``. With None, all layers form one
        linear stage, which can be applied to an input without forming W.
    normalize : {"rms", None}
        Divide the state by its root mean square before each activation. The paper does not (None); for ReLU and
        leaky ReLU, both give the same W up to a scale.
    sites : int
        Number k of neighboring legs that a gate acts on. The second half-layer is shifted by ``k // 2``; legs left over
        at an end get a smaller gate.
    cyclic : bool
        Whether the last leg is a neighbor of the first.
    pattern : {"brick", "staircase"}
        A staircase applies one gate after another, each sharing one leg with the previous one: (0,1), (1,2), (2,3), …
        With one layer, it is a tensor train of rank d.
    bond : int, optional
        Size of the wires inside the network, by default the leg size. The last gate on each leg restores the leg size.
    residual : bool
        Whether every layer between the first and the last adds its input to the output of its gates, before
        normalization and activation. It adds no parameters, needs an activation, and has no effect below three layers.

    Notes
    -----
    With Q ≥ 2 legs of size d, the first layer has ``(Q//2)·d² + ((Q-1)//2)·d⁴`` parameters, and each further layer
    ``(Q-1)·d⁴`` (for two sites, open ends and no `bond`).

    Source: Qing, Li, Zhou & Ran, arXiv:2305.06058, eqs. (1)-(4).

    Examples
    --------
    The paper's two layers of VGG-16, 512→4096 and 4096→4096, from 424 parameters in total:

    >>> import deeptn as dtn
    >>> [dtn.network(dtn.BrickWall(layers=1), shape).num_params for shape in ((4096, 512), (4096, 4096))]
    [200, 224]
    """

    layers: int = 2
    leg_size: int = 2
    activation: str | None = "relu"
    normalize: str | None = "rms"
    sites: int = 2
    cyclic: bool = False
    pattern: str = "brick"
    bond: int | None = None
    residual: bool = False
    size_field: ClassVar[str] = "layers"
    choices: ClassVar[Choices] = BETWEEN | {
        "layers": (1, 2, 3),
        "sites": (2, 3, 4),
        "cyclic": (False, True),
        "pattern": ("brick", "staircase"),
        "bond": (None, 1, 2, 3),
    }
    equation: ClassVar[str] = r"W = L_M\,\sigma(L_{M-1}\,\sigma(\cdots\sigma(L_1\,v^{\otimes Q})))"
    formula: ClassVar[str] = "Q//2 * d**2 + (Q-1)//2 * d**4 + (layers-1) * (Q-1) * d**4"

    def __post_init__(self):
        for field in ("layers", "leg_size", "sites"):
            object.__setattr__(self, field, positive_int(getattr(self, field), f"BrickWall.{field}"))
        if self.bond is not None:
            object.__setattr__(self, "bond", positive_int(self.bond, "BrickWall.bond"))
        boolean(self.cyclic, "BrickWall.cyclic")
        boolean(self.residual, "BrickWall.residual")
        check_between(self.activation, self.normalize)
        for field in ("leg_size", "sites"):
            if getattr(self, field) < 2:
                raise SpecError(f"BrickWall.{field} = {getattr(self, field)}; expected at least 2")
        if self.residual and self.activation is None:
            raise SpecError("BrickWall.residual needs an activation; without one, all layers form a single stage")
        if self.pattern not in PATTERNS:
            raise SpecError(f"BrickWall.pattern = {self.pattern!r}; {near_match(str(self.pattern), PATTERNS)}")

    def default_layout(self, shape: Sequence[int]) -> Layout:
        return Layout.padded(shape, self.leg_size)

    def build(self, legs: tuple[Leg, ...]) -> NetworkSpec:
        count = len(legs)
        need_legs(legs, 2, "BrickWall")
        halves = self._halves(count)
        uses = Counter(site for half in halves for window in half for site in window)
        net = Wires(legs)
        wires: list[str | None] = [None] * count
        for layer in range(1, self.layers + 1):
            touched: Counter[int] = Counter()
            gate = 0
            for number, half in enumerate(halves):
                for window in half:
                    inputs: list[str] = []
                    outputs: list[tuple[str, int]] = []
                    for site in window:
                        wire = wires[site]
                        if wire is None and number and self.pattern == "brick":
                            wire = net.constant(f"v{site}", unit_matrix(1, self._size(legs[site])))
                        inputs += [] if wire is None else [wire]
                        last = layer == self.layers and touched[site] + 1 == uses[site]
                        name = f"L{layer}_{chr(ord('a') + touched[site])}{site}"
                        outputs.append((name, legs[site].size if last else self._size(legs[site])))
                        touched[site] += 1
                    for site, wire in zip(window, net.act(_name(layer, gate), inputs, outputs)):
                        wires[site] = wire
                    gate += 1
            net.close([wire for wire in wires if wire is not None])
        spec = net.network(self.activation, self.normalize)
        if not self.residual:
            return spec
        last = len(spec.stages) - 1
        stages = (replace(s, add=(k - 1,)) if 0 < k < last else s for k, s in enumerate(spec.stages))
        return replace(spec, stages=tuple(stages))

    def _size(self, leg: Leg) -> int:
        return leg.size if self.bond is None else self.bond

    def _halves(self, count: int) -> list[list[tuple[int, ...]]]:
        """Return the windows of legs that gates act on, by half-layer (in a staircase, one window each)."""
        sites, k = tuple(range(count)), self.sites
        if self.pattern == "staircase":
            windows = [sites[start : start + k] for start in range(0, count - 1, k - 1)]
            return [[window] for window in windows + [(count - 1, 0)] * (self.cyclic and len(windows) > 1)]
        shift = k // 2
        shifted = sites[shift:] + sites[:shift] if self.cyclic else sites[shift:]
        parts = [sites] if self.cyclic and count <= k else [sites, shifted]
        halves: list[list[tuple[int, ...]]]
        halves = [[p for p in (part[j : j + k] for j in range(0, len(part), k)) if len(p) > 1] for part in parts]
        if not self.cyclic and shift > 1:
            halves[-1].insert(0, sites[:shift])
        if self.cyclic and not any({0, count - 1} <= set(window) for half in halves for window in half):
            halves.append([(count - 1, 0)])
        return [half for half in halves if half]

    def grown(
        self,
        size: int,
        spec: NetworkSpec,
        params: Mapping[str, np.ndarray],
        noise: float | None,
        generator: np.random.Generator,
    ) -> dict[str, np.ndarray]:
        """Insert the new layers after the first; they start as identities (see `Topology.grown`).

        With ReLU, they come after the first activation, where σ(1·σ(x)) = σ(x).
        """
        if self.layers == 1 and (self.activation is not None or self.bond is not None):
            raise SpecError(
                f"{describe(self)} has only one layer, and a layer added after it cannot leave W unchanged; "
                "start with layers=2"
            )
        gates = len(params) // self.layers
        names = {
            _name(layer, gate): _name(layer if layer == 1 else layer + size - self.layers, gate)
            for layer in range(1, self.layers + 1)
            for gate in range(gates)
        }
        return super().grown(size, spec, {names[old]: array for old, array in params.items()}, noise, generator)

    @property
    def _is_chain(self) -> bool:
        """Whether the first layer is a tensor train of merged legs."""
        plain = self.activation is None and not self.cyclic
        return plain and (self.sites, self.pattern, self.bond) == (2, "brick", None)

    def closed_form(self, spec: NetworkSpec, tensor: np.ndarray) -> dict[str, np.ndarray] | None:
        """Compute a tensor train on the legs (0), (1, 2), (3, 4), …; its bonds are the wires between the half-layers.

        The middle gates of the first half-layer, and all gates of further layers, are identities.
        """
        if not self._is_chain:
            return None
        sizes, count = tensor.shape, tensor.ndim
        params: dict[str, np.ndarray] = {}
        groups = [(0,), *(tuple(range(k, min(k + 2, count))) for k in range(1, count, 2))]
        cores = train(tensor, groups, [min(sizes[group[-1] : group[-1] + 2]) for group in groups[:-1]])
        half = count // 2
        gates = len(spec.param_shapes) // self.layers
        for place, (name, shape) in enumerate(spec.param_shapes.items()):
            layer, gate = divmod(place, gates)
            if layer:
                params[name] = np.eye(math.prod(shape[:2])).reshape(shape)
            elif gate == 0:
                params[name] = pad_axes(cores[0][0], shape) if count > 2 else tensor
            elif gate < half:
                last = 2 * gate + 1 == count - 1
                params[name] = pad_axes(cores[-1][..., 0], shape) if last else np.eye(shape[0], shape[1])
            else:  # axes: two legs, the wire on their left, the wire on their right
                params[name] = pad_axes(np.moveaxis(cores[gate - half + 1], 0, 2), shape)
        return params

    @property
    def closed_form_suffices(self) -> bool:
        """True only for one layer: in closed form, further layers are identities, and a gradient fit is better."""
        return self._is_chain and self.layers == 1


def _name(layer: int, gate: int) -> str:
    return f"L{layer}_g{gate}"
