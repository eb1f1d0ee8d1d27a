"""Parameters for a given weight: closed forms, fits by gradient, and networks that grow without changing it."""

from .closed_forms import Decomposition, closed_form, decompose, has_closed_form
from .gradient import Fit, FitResult, Minimise, find_params, fit_by_gradient
from .growth import Growth, deepen, grow, widen, with_scale

__all__ = [
    "Decomposition",
    "Fit",
    "FitResult",
    "Growth",
    "Minimise",
    "closed_form",
    "decompose",
    "deepen",
    "find_params",
    "fit_by_gradient",
    "grow",
    "has_closed_form",
    "widen",
    "with_scale",
]
