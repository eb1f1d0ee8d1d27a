"""Find parameters for a given weight (closed forms, gradient fits), and grow networks without changing their weight."""

from .alternating import can_alternate
from .closed_forms import Decomposition, decompose
from .covariance import Covariance
from .gradient import Fit, FitResult, How, Minimise, find, find_params, fit_by_gradient
from .growth import Growth, deepen, grow, widen, with_scale

__all__ = [
    "Covariance",
    "Decomposition",
    "Fit",
    "FitResult",
    "Growth",
    "How",
    "Minimise",
    "can_alternate",
    "decompose",
    "deepen",
    "find",
    "find_params",
    "fit_by_gradient",
    "grow",
    "widen",
    "with_scale",
]
