"""Hypothesis strategies that draw networks."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from ..base import optional
from ..errors import SpecError
from ..network import Network, network
from ..spec import Layout
from ..topologies import Topology, topology, topology_names

#: Upper limits for drawn networks: entries of the padded weight, parameters, and flops to decode.
ENTRIES, PARAMETERS, FLOPS = 2**12, 2**16, 2**24

#: Sizes to try unless the family lists its own, up to far above any useful rank.
SIZES = (1, 2, 3, 50)


def networks(family: Topology | str) -> Any:
    """Return a Hypothesis strategy that draws networks of a family.

    Parameters
    ----------
    family : Topology or str
        One of `families`. Its fields are drawn from `Topology.choices`; a size that is not listed there is drawn from 1
        to far above any useful rank. The weight has 1 to 14 legs on one to three axes, in any order, with and without
        padding; leg sizes include 1, primes and composites.

    Returns
    -------
    hypothesis.strategies.SearchStrategy of Network

    Examples
    --------
    >>> from hypothesis import given
    >>> @given(networks("MERA"))
    ... def test_mera(net):
    ...     check_laws(net)
    """
    optional("hypothesis", "dev")
    st = importlib.import_module("hypothesis.strategies")
    hypothesis = importlib.import_module("hypothesis")
    cls = type(topology(family))
    choices = cls.choices
    if choices is None:
        raise SpecError(f"{cls.__name__} has no choices to draw from; use one of {', '.join(families())}")

    @st.composite
    def draw(drawn: Callable[[Any], Any]) -> Network:
        count = drawn(st.integers(1, 14))
        some = (1, 2, 2, 3, 4, 5, 7) if count < 7 else (1, 2, 2, 2, 3)
        sizes = drawn(st.lists(st.sampled_from(some), min_size=count, max_size=count))
        while math.prod(sizes) > ENTRIES:
            sizes.pop()
        axes = drawn(st.integers(1, min(3, len(sizes))))
        ends = [0, *sorted(drawn(st.permutations(range(1, len(sizes))))[: axes - 1]), len(sizes)]
        factors = tuple(tuple(sizes[a:b]) for a, b in itertools.pairwise(ends))
        shape = tuple(max(1, math.prod(part) - drawn(st.sampled_from((0, 0, 1, 2)))) for part in factors)
        order = drawn(st.sampled_from(("rows", "interleaved", None)))
        order = tuple(drawn(st.permutations(range(len(sizes))))) if order is None else order
        others = [field.name for field in fields(cls) if field.name in choices and field.name != cls.size_field]
        values = {name: drawn(st.sampled_from(choices[name])) for name in others}
        values[cls.size_field] = drawn(st.sampled_from(choices.get(cls.size_field, SIZES)))
        try:
            net = network(cls(**values), shape, Layout(shape, factors, order))
        except SpecError:  # too few legs, or none on one side
            hypothesis.reject()
            raise
        hypothesis.assume(net.num_params <= PARAMETERS and net.cost().flops <= FLOPS)
        return net

    return draw()


def families() -> tuple[str, ...]:
    """Return the registered families that `networks` can draw: those that fit any legs (`Topology.choices`).

    Examples
    --------
    >>> "BrickWall" in families(), "Graph" in families(), "Sum" in families()
    (True, False, False)
    """
    return tuple(name for name in topology_names() if topology(name).choices is not None)
