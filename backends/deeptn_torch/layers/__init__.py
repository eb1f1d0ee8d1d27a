"""Modules whose weights are generated, and generated weights inside of any module."""

from .base import TNLayer
from .conv import TNConv1d, TNConv2d, TNConv3d, TNConvTranspose1d, TNConvTranspose2d, TNConvTranspose3d
from .embedding import TNEmbedding
from .linear import TNLinear
from .weight import TNWeight, generated, generated_inside, parametrize_, register, unregister, weights_of

__all__ = [
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
    "generated",
    "generated_inside",
    "parametrize_",
    "register",
    "unregister",
    "weights_of",
]
