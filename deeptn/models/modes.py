"""How a generated weight is applied to its input: decode it first, or contract the network with the input."""

from __future__ import annotations

from typing import Any, Literal, get_args

from ..engine import seconds
from ..engine.machine import machine
from ..errors import SpecError, near_match
from ..network import Network

#: ``"materialize"``: decode, then multiply or look up. ``"apply"``: contract a linear network with the input, or
#: generate only the rows that are looked up. ``"auto"``: whichever is expected to be faster.
Mode = Literal["auto", "materialize", "apply"]


def check_mode(mode: str) -> str:
    """Return `mode`; raise `SpecError` if it is not a valid mode."""
    if mode not in get_args(Mode):
        raise SpecError(f"mode = {mode!r}; {near_match(str(mode), get_args(Mode))}")
    return mode


def is_faster(net: Network, way: Literal["apply", "gather"], rows: int, like: Any) -> bool:
    """Return whether using a linear network directly is expected to be faster than decoding it.

    Parameters
    ----------
    net : Network
    way : {"apply", "gather"}
        Contract with an input of `rows` rows, or generate only `rows` rows of the weight.
    rows : int
    like : {"numpy", "torch", "jax"} or array
        As in `deeptn.Network.choose`.

    Examples
    --------
    >>> import deeptn as dtn
    >>> is_faster(dtn.network(dtn.TTMatrix(rank=2), (30_000, 512)), "gather", 4, "numpy")
    True
    """
    if way == "apply":
        return net.choose(rows, like).mode == "apply"
    figures = machine(like)
    return seconds(net.cost("gather", rows), figures) < seconds(net.cost(), figures)
