"""Modules whose weights are generated, and generated weights inside of any module."""

from .base import TNLayer, layers_of
from .conv import TNConv1d, TNConv2d, TNConv3d, TNConvTranspose1d, TNConvTranspose2d, TNConvTranspose3d
from .embedding import TNEmbedding
from .linear import TNLinear
from .weight import TNWeight, generated_inside, parametrize_, register, unregister, weights_of

#: Those that stand for layers of PyTorch.
STANDARD: tuple[type[TNLayer], ...] = (
    TNLinear,
    TNConv1d,
    TNConv2d,
    TNConv3d,
    TNConvTranspose1d,
    TNConvTranspose2d,
    TNConvTranspose3d,
    TNEmbedding,
)

__all__ = [
    "STANDARD",
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
    "generated_inside",
    "layers_of",
    "parametrize_",
    "register",
    "unregister",
    "weights_of",
]
