"""Parameters for a given weight: closed forms, fits by gradient, and networks that grow without changing it."""

from .closed_forms import Decomposition, decompose
from .gradient import Fit, FitResult, check_goal, find_params, start_of_fit
from .growth import Growth, deepen, grow, widen, with_scale

__all__ = [
    "Decomposition",
    "Fit",
    "FitResult",
    "Growth",
    "check_goal",
    "decompose",
    "deepen",
    "find_params",
    "grow",
    "start_of_fit",
    "widen",
    "with_scale",
]
