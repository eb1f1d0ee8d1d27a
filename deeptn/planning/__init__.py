"""Plans: which network every layer of a model becomes, so that the model keeps a limit and its weights change least."""

from .allocation import allocate
from .curves import Candidate, Sensitivity, curve, layouts_of
from .drop import Search, Trial, search_by_drop
from .inspected import Inspected, Inspection
from .inspection import LEVELS, QUICK, inspect_model
from .limits import Limits, limit_of
from .overrides import Settings, settings
from .pareto import Pareto, Point, pareto
from .plans import LayerPlan, Plan
from .search import FAMILIES, plan

__all__ = [
    "FAMILIES",
    "LEVELS",
    "QUICK",
    "Candidate",
    "Inspected",
    "Inspection",
    "LayerPlan",
    "Limits",
    "Pareto",
    "Plan",
    "Point",
    "Search",
    "Sensitivity",
    "Settings",
    "Trial",
    "allocate",
    "curve",
    "inspect_model",
    "layouts_of",
    "limit_of",
    "pareto",
    "plan",
    "search_by_drop",
    "settings",
]
