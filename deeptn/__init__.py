"""Deep tensor networks as weights: define one, count its cost, decode or apply it with NumPy, PyTorch or JAX.

Most programs need only the names in this module; the rest is in the packages `deeptn.spec`, `deeptn.topologies`,
`deeptn.fitting`, `deeptn.analysis`, `deeptn.models`, `deeptn.planning`, `deeptn.files`, `deeptn.engine`,
`deeptn.testing`.
"""

from . import analysis, arrays, convert, engine, files, fitting, joint, models, planning, recipe, spec, topologies  # noqa: F401
from . import report as report
from .analysis import compare, draw, summary
from .budget import at_budget
from .constraints import isometrize
from .convert import (
    from_adjacency,
    from_einsum,
    from_networkx,
    from_quimb,
    from_tensornetwork,
    to_einsum,
    to_networkx,
    to_quimb,
    to_tensornetwork,
)
from .errors import (
    DeepTNError,
    FormatError,
    LayoutError,
    MissingBackendError,
    PlanError,
    ProgramError,
    SpecError,
    near_match,
)
from .files import load, load_model, save, save_model
from .fitting import decompose
from .network import Network, network
from .planning import Plan, plan
from .spec import Layout, NetworkSpec, Node, Stage
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
)

#: The version is defined only here; the build reads it.
__version__ = "0.1.0"

__all__ = [
    "CP",
    "MERA",
    "PEPS",
    "AugmentedTree",
    "BlockTerm",
    "BrickWall",
    "Butterfly",
    "DeepTNError",
    "FormatError",
    "Graph",
    "HierarchicalTucker",
    "Kronecker",
    "Layout",
    "LayoutError",
    "LowRank",
    "MissingBackendError",
    "Network",
    "NetworkSpec",
    "Node",
    "Plan",
    "PlanError",
    "Product",
    "ProgramError",
    "SpecError",
    "Stage",
    "Sum",
    "TTMatrix",
    "TensorRing",
    "TensorTrain",
    "Topology",
    "Tree",
    "Tucker",
    "at_budget",
    "compare",
    "decompose",
    "draw",
    "from_adjacency",
    "from_einsum",
    "from_networkx",
    "from_quimb",
    "from_tensornetwork",
    "isometrize",
    "load",
    "load_model",
    "network",
    "plan",
    "register_topology",
    "save",
    "save_model",
    "summary",
    "to_einsum",
    "to_networkx",
    "to_quimb",
    "to_tensornetwork",
]


def __getattr__(name: str) -> object:
    """Say where a name is that is not here, or which one is meant."""
    for package in (analysis, engine, fitting, files, models, planning, recipe, spec, topologies):
        if not name.startswith("_") and hasattr(package, name):
            raise AttributeError(f"deeptn has no {name!r}; write {package.__name__}.{name}", name=name)
    raise AttributeError(f"module 'deeptn' has no attribute {name!r}; {near_match(name, __all__)}", name=name)
