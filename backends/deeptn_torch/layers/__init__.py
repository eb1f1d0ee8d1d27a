"""Modules with generated weights, and generated weights inside any module."""

from .base import TNLayer, frozen, layers_of
from .conv import CONVOLUTIONS, TNConv1d, TNConv2d, TNConv3d, TNConvTranspose1d, TNConvTranspose2d, TNConvTranspose3d
from .cores import Cores
from .embedding import TNEmbedding
from .inside import parametrize_
from .linear import TNLinear
from .weight import TNWeight

__all__ = [
    "CONVOLUTIONS",
    "Cores",
    "TNConv1d",
    "TNConv2d",
    "TNConv3d",
    "TNConvTranspose1d",
    "TNConvTranspose2d",
    "TNConvTranspose3d",
    "TNEmbedding",
    "TNLayer",
    "TNLinear",
    "TNWeight",
    "frozen",
    "layers_of",
    "parametrize_",
]
