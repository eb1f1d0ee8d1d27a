"""Laws that every network, front-end and model view must obey; use them to test your own."""

from .front_ends import LAWS, LAYER, FrontEnd, PureFunctions, check_front_end, default_networks, front_ends
from .laws import check_laws
from .model_views import MODEL_LAWS, check_model_view
from .oracle import reference
from .strategies import families, networks

__all__ = [
    "LAWS",
    "LAYER",
    "MODEL_LAWS",
    "FrontEnd",
    "PureFunctions",
    "check_front_end",
    "check_laws",
    "check_model_view",
    "default_networks",
    "families",
    "front_ends",
    "networks",
    "reference",
]
