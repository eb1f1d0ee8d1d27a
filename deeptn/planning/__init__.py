"""Plans: which network every layer becomes, so that a model keeps a limit and its weights change least; inspections."""

from .allocation import allocate
from .curves import Candidate, curve, layouts_of
from .inspected import Inspected, Inspection
from .inspection import LEVELS, QUICK, inspect_model
from .plans import LayerPlan, Plan
from .search import FAMILIES, limit_of, plan

__all__ = [
    "FAMILIES",
    "LEVELS",
    "QUICK",
    "Candidate",
    "Inspected",
    "Inspection",
    "LayerPlan",
    "Plan",
    "allocate",
    "curve",
    "inspect_model",
    "layouts_of",
    "limit_of",
    "plan",
]
