"""Gates on wires: a builder for circuit-like families."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..spec import Leg, NetworkSpec, Node, stack


class Wires:
    """Collects nodes that act on the wires of a state, layer by layer; the wires left at the end become the legs.

    Parameters
    ----------
    legs : tuple of Leg
        One for each wire left at the end.
    """

    def __init__(self, legs: tuple[Leg, ...]):
        self._legs = legs
        self._sizes: dict[str, int] = {}
        self._nodes: list[Node] = []
        self._layers: list[tuple[list[Node], tuple[str, ...]]] = []

    def constant(self, name: str, entries: Sequence[float]) -> str:
        """Add a wire with a fixed state, and return its name."""
        self._sizes[name] = len(entries)
        self._nodes.append(Node(name, (name,), constant=tuple(entries)))
        return name

    def act(
        self,
        name: str,
        inputs: Sequence[str],
        outputs: Sequence[tuple[str, int]],
        isometric: bool = False,
        shared: bool = False,
    ) -> tuple[str, ...]:
        """Add a node from input wires to new wires, given as (name, size) pairs; return the new names.

        The axes of an isometry are its inputs, then its outputs; for others, it is the other way around. With `shared`,
        all nodes of the same kind (the last word of the name, without its number) and shape share a parameter.
        """
        self._sizes |= dict(outputs)
        new = tuple(wire for wire, _ in outputs)
        indices = (*inputs, *new) if isometric else (*new, *inputs)
        kind = name.rpartition("_")[2].rstrip("0123456789")
        param = "_".join([kind, *(str(self._sizes[ix]) for ix in indices)]) if shared else None
        self._nodes.append(Node(name, indices, tuple(inputs), param, isometric=isometric))
        return new

    def close(self, wires: Sequence[str]) -> None:
        """End a layer, after which the state has these wires."""
        self._layers.append((self._nodes, tuple(wires)))
        self._nodes = []

    def network(self, activation: str | None, normalize: str | None) -> NetworkSpec:
        """Return the network, with its last wires as the legs; an activation follows every layer except the last."""
        final = dict(zip(self._layers[-1][1], (leg.name for leg in self._legs), strict=True))

        def named(indices: Sequence[str]) -> tuple[str, ...]:
            return tuple(final.get(ix, ix) for ix in indices)

        layers = [
            ([replace(n, indices=named(n.indices), inputs=named(n.inputs)) for n in nodes], named(wires))
            for nodes, wires in self._layers
        ]
        sizes = tuple((ix, size) for ix, size in self._sizes.items() if ix not in final)
        return NetworkSpec(self._legs, stack(layers, activation, normalize), sizes)
