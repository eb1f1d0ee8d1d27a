"""Convert networks to and from quimb, TensorNetwork, einsum equations and networkx."""

from .einsum import from_einsum, to_einsum
from .networkx import from_adjacency, from_networkx, to_networkx
from .quimb import from_quimb, to_quimb
from .tensornetwork import from_tensornetwork, to_tensornetwork

__all__ = [
    "from_adjacency",
    "from_einsum",
    "from_networkx",
    "from_quimb",
    "from_tensornetwork",
    "to_einsum",
    "to_networkx",
    "to_quimb",
    "to_tensornetwork",
]
