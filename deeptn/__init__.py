"""Deep tensor networks as weights: define one, count its cost, decode or apply it with NumPy, PyTorch or JAX."""

from .activations import register_activation
from .analysis import Analysis, Cut, Moments, analyze, inspect, light_cone, rank_bound
from .bridge import from_quimb, from_tensornetwork, to_quimb, to_tensornetwork
from .budget import at_budget
from .checkpoint import StoredLayer, StoredModel, load_model, save_model
from .comparison import Compared, Comparison, Compressibility, Needed, compare, compressibility
from .constraints import isometrize
from .cost import Choice, Cost
from .decomposition import Decomposition, decompose
from .drawing import draw, summary
from .equations import from_adjacency, from_einsum, from_networkx, to_einsum, to_networkx
from .errors import (
    DeepTNError,
    FormatError,
    LayoutError,
    MissingBackendError,
    PlanError,
    ProgramError,
    SpecError,
)
from .fitting import Fit, FitResult
from .growth import Growth, deepen, grow, widen, with_scale
from .joint import Joint, joint
from .layout import Layout, Leg
from .network import Network, network
from .recipe import Recipe
from .serialize import load, save
from .spec import NetworkSpec, Node, Stage, stack
from .topologies import (
    CP,
    MERA,
    PEPS,
    AugmentedTree,
    BlockTerm,
    BrickWall,
    Butterfly,
    Graph,
    HierarchicalTucker,
    Kronecker,
    LowRank,
    Product,
    Sum,
    TensorRing,
    TensorTrain,
    Topology,
    Tree,
    TTMatrix,
    Tucker,
    register_topology,
    topology_names,
)

__all__ = [
    "CP",
    "MERA",
    "PEPS",
    "Analysis",
    "AugmentedTree",
    "BlockTerm",
    "BrickWall",
    "Butterfly",
    "Choice",
    "Compared",
    "Comparison",
    "Compressibility",
    "Cost",
    "Cut",
    "Decomposition",
    "DeepTNError",
    "Fit",
    "FitResult",
    "FormatError",
    "Graph",
    "Growth",
    "HierarchicalTucker",
    "Joint",
    "Kronecker",
    "Layout",
    "LayoutError",
    "Leg",
    "LowRank",
    "MissingBackendError",
    "Moments",
    "Needed",
    "Network",
    "NetworkSpec",
    "Node",
    "PlanError",
    "Product",
    "ProgramError",
    "Recipe",
    "SpecError",
    "Stage",
    "StoredLayer",
    "StoredModel",
    "Sum",
    "TTMatrix",
    "TensorRing",
    "TensorTrain",
    "Topology",
    "Tree",
    "Tucker",
    "analyze",
    "at_budget",
    "compare",
    "compressibility",
    "decompose",
    "deepen",
    "draw",
    "from_adjacency",
    "from_einsum",
    "from_networkx",
    "from_quimb",
    "from_tensornetwork",
    "grow",
    "inspect",
    "isometrize",
    "joint",
    "light_cone",
    "load",
    "load_model",
    "network",
    "rank_bound",
    "register_activation",
    "register_topology",
    "save",
    "save_model",
    "stack",
    "summary",
    "to_einsum",
    "to_networkx",
    "to_quimb",
    "to_tensornetwork",
    "topology_names",
    "widen",
    "with_scale",
]
