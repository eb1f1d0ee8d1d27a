"""Topologies: one file per family, each a frozen dataclass with one pure method."""

from .base import Topology, describe, register_topology, topology, topology_from_dict, topology_names, topology_to_dict
from .brickwall import BrickWall
from .factored import LowRank, Tucker
from .graph import Graph
from .trains import TensorTrain, TTMatrix
from .tree import Tree

__all__ = [
    "BrickWall",
    "Graph",
    "LowRank",
    "TTMatrix",
    "TensorTrain",
    "Topology",
    "Tree",
    "Tucker",
    "describe",
    "register_topology",
    "topology",
    "topology_from_dict",
    "topology_names",
    "topology_to_dict",
]
