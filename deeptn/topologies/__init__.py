"""Topologies: one file per family, each a frozen dataclass that builds its network and describes its properties."""

from .augmented_tree import AugmentedTree
from .base import BETWEEN, Topology
from .block_term import BlockTerm
from .brickwall import BrickWall
from .butterfly import Butterfly
from .cp import CP
from .graph import Graph
from .growth import take_over
from .hierarchical_tucker import HierarchicalTucker
from .kronecker import Kronecker
from .lowrank import LowRank
from .mera import MERA
from .peps import PEPS
from .product import Product
from .registry import describe, register_topology, topology, topology_from_dict, topology_names, topology_to_dict
from .sum import Sum
from .tensor_ring import TensorRing
from .tensor_train import TensorTrain
from .tree import Tree
from .ttmatrix import TTMatrix
from .tucker import Tucker

__all__ = [
    "BETWEEN",
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
    "take_over",
    "topology",
    "topology_from_dict",
    "topology_names",
    "topology_to_dict",
]
