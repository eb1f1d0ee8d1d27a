"""PyTorch front-end: layers, compression of models, fitting, checkpoints."""

from .checkpoint import load_model, save_model
from .compress import compress, compress_, decompress_
from .fit import Fit, FitResult, fit
from .layers import TNConv2d, TNLinear
from .train import core_groups, shrink, train

__all__ = [
    "Fit",
    "FitResult",
    "TNConv2d",
    "TNLinear",
    "compress",
    "compress_",
    "core_groups",
    "decompress_",
    "fit",
    "load_model",
    "save_model",
    "shrink",
    "train",
]
