"""How a generated weight meets its input: decoded, or contracted with it."""

from __future__ import annotations

from typing import Any, Literal, get_args

from ..engine import seconds
from ..engine.machine import machine
from ..errors import SpecError, near_match
from ..network import Network

#: ``"materialize"``: decode, then multiply or look up. ``"apply"``: contract a linear network with the input, or
#: generate no rows but those that are asked for. ``"auto"``: what is expected to be faster.
Mode = Literal["auto", "materialize", "apply"]


def check_mode(mode: str) -> str:
    """Return a mode; `SpecError` if it is none."""
    if mode not in get_args(Mode):
        raise SpecError(f"mode = {mode!r}; {near_match(str(mode), get_args(Mode))}")
    return mode


def is_faster(net: Network, way: Literal["apply", "gather"], rows: int, like: Any) -> bool:
    """Whether a linear network is expected to be used faster than it is decoded.

    Parameters
    ----------
    net : Network
    way : {"apply", "gather"}
        Contracted with `rows` rows of an input, or asked for `rows` rows of its weight.
    rows : int
    like : {"numpy", "torch", "jax"} or array
        As for `deeptn.Network.choose`.

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
