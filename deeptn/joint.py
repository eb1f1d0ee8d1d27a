"""One network for several weights: the paper's option to generate layers together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from .base import Array, Params, ParamsLike, positive_ints
from .errors import LayoutError
from .init import target_std
from .network import Network, network
from .spec import Layout
from .topologies import Topology


@dataclass(frozen=True)
class Joint:
    """A network whose tensor is split into several weights. Frozen and hashable; make one with `joint`.

    Attributes
    ----------
    net : Network
        Generates all entries, as a vector.
    shapes : tuple of tuple of int
        Shapes of the weights, in order.

    Examples
    --------
    >>> import deeptn as dtn
    >>> both = dtn.joint.joint(dtn.BrickWall(layers=1), [(120, 400), (84, 120)])
    >>> params = both.init(seed=0)
    >>> [W.shape for W in both.materialize(params)], both.num_params
    ([(120, 400), (84, 120)], 144)
    """

    net: Network
    shapes: tuple[tuple[int, ...], ...]

    @property
    def num_params(self) -> int:
        """Number of trainable entries for all weights together."""
        return self.net.num_params

    def init(self, seed: int = 0, **options: Any) -> Params:
        """Draw parameters that give the whole tensor root mean square 1; takes the options of `Network.init`.

        Each weight is its part of the tensor times its standard deviation; parts of a shallow network differ in rms.
        """
        settings: dict[str, Any] = {"std": 1.0} | options
        return self.net.init(seed, **settings)

    def materialize(self, params: ParamsLike) -> tuple[Array, ...]:
        """Decode all weights.

        Parameters
        ----------
        params : mapping of str to array
            As from `init`.

        Returns
        -------
        tuple of array
            The weights, of shapes `shapes`. Each is its part of the generated tensor times a constant, the Kaiming
            standard deviation for its shape.
        """
        entries = self.net.materialize(params)
        ends = [0, *accumulate(map(math.prod, self.shapes))]
        return tuple(
            entries[start : start + math.prod(shape)].reshape(shape) * target_std(Layout.single(shape))
            for start, shape in zip(ends, self.shapes)
        )


def joint(topology: Topology | str, shapes: Sequence[Sequence[int]], layout: Layout | None = None) -> Joint:
    """Make one network for several weights.

    Parameters
    ----------
    topology : Topology or str
        Must not need row and column legs, because the generated tensor is a vector.
    shapes : sequence of shapes
        Shapes of the weights.
    layout : Layout, optional
        Layout of a vector with as many entries as all weights together.

    Returns
    -------
    Joint

    Raises
    ------
    LayoutError
        If a shape is empty, or there are no shapes.
    SpecError
        As for `deeptn.network`.

    Notes
    -----
    Source: arXiv:2305.06058, which also generates several layers with one ADTN.

    Examples
    --------
    VGG-16's two large layers from one brick wall; two walls would need 424 parameters:

    >>> import deeptn as dtn
    >>> dtn.joint.joint(dtn.BrickWall(layers=1), [(4096, 512), (4096, 4096)]).num_params
    240
    """
    if not isinstance(shapes, Iterable):
        raise LayoutError(f"shapes = {shapes!r:.80}; expected shapes, for example [(120, 400), (84, 120)]")
    sizes = tuple(positive_ints(shape, f"shapes[{k}]", LayoutError) for k, shape in enumerate(shapes))
    if not sizes or not all(sizes):
        raise LayoutError(f"shapes = {shapes!r:.80}; expected at least one shape, each with at least one axis")
    return Joint(network(topology, (sum(map(math.prod, sizes)),), layout), sizes)
