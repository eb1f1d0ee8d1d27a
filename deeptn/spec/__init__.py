"""Specifications of networks, without arrays: legs and layouts, nodes, stages, activations."""

from .activations import register_activation
from .einsum import identity, separate
from .layout import AXES, LEGS, Layout, LayoutData, Leg, Size, balanced_factors, pad_axes, prime_factors, rows_of
from .network_spec import NetworkSpec, SpecData, stack
from .nodes import ALL_NODES, NODES, Node, Stage, check_between, count_nodes, limited_nodes, unit_matrix

__all__ = [
    "ALL_NODES",
    "AXES",
    "LEGS",
    "NODES",
    "Layout",
    "LayoutData",
    "Leg",
    "NetworkSpec",
    "Node",
    "Size",
    "SpecData",
    "Stage",
    "balanced_factors",
    "check_between",
    "count_nodes",
    "identity",
    "limited_nodes",
    "pad_axes",
    "prime_factors",
    "register_activation",
    "rows_of",
    "separate",
    "stack",
    "unit_matrix",
]
