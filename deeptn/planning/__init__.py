"""Plans: which network every layer of a model becomes, so that the model keeps a limit and its weights change least."""

from .allocation import allocate
from .curves import Candidate, curve, layouts_of
from .limits import Limits
from .overrides import Settings, settings
from .pareto import Pareto, Point, pareto
from .plans import LayerPlan, Plan
from .search import FAMILIES, plan

__all__ = [
    "FAMILIES",
    "Candidate",
    "LayerPlan",
    "Limits",
    "Pareto",
    "Plan",
    "Point",
    "Settings",
    "allocate",
    "curve",
    "layouts_of",
    "pareto",
    "plan",
    "settings",
]
