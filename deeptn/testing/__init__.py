"""Laws that every network and every front-end keeps, for the tests of your own ones."""

from .front_ends import LAWS, LAYER, FrontEnd, check_front_end, default_networks, front_ends
from .laws import check_laws
from .oracle import reference
from .strategies import families, networks

__all__ = [
    "LAWS",
    "LAYER",
    "FrontEnd",
    "check_front_end",
    "check_laws",
    "default_networks",
    "families",
    "front_ends",
    "networks",
    "reference",
]
