"""Deep tensor networks as weights: define one, count its cost, decode or apply it with NumPy, PyTorch or JAX."""

from .activations import register_activation
from .budget import at_budget
from .cost import Choice, Cost
from .decompose import Decomposition, decompose
from .errors import (
    DeepTNError,
    FormatError,
    LayoutError,
    MissingBackendError,
    PlanError,
    ProgramError,
    SpecError,
)
from .layout import Layout, Leg
from .network import Network, network
from .serialize import load, save
from .spec import NetworkSpec, Node, Stage, stack
from .topologies import (
    BrickWall,
    Graph,
    LowRank,
    TensorTrain,
    Topology,
    Tree,
    TTMatrix,
    Tucker,
    register_topology,
    topology_names,
)
