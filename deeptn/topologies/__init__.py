"""Topologies: one file per family, each a frozen dataclass with one pure method."""

from .base import Topology, describe, register_topology, topology, topology_from_dict, topology_names, topology_to_dict
from .brickwall import BrickWall
from .combined import Product, Sum
from .factored import CP, BlockTerm, Butterfly, Kronecker, LowRank, Tucker
from .graph import Graph
from .grid import PEPS
from .trains import TensorRing, TensorTrain, TTMatrix
from .trees import MERA, AugmentedTree, HierarchicalTucker, Tree

__all__ = [
    "CP",
    "MERA",
    "PEPS",
    "AugmentedTree",
    "BlockTerm",
    "BrickWall",
    "Butterfly",
    "Graph",
    "HierarchicalTucker",
    "Kronecker",
    "LowRank",
    "Product",
    "Sum",
    "TTMatrix",
    "TensorRing",
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
