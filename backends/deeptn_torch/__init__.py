"""PyTorch front-end: layers, compression of models, fitting, checkpoints."""

from .checkpoint import load_model, save_model
from .compress import compress, compress_, decompress_
from .fit import Fit, FitResult, fit
from .layers import TNConv2d, TNLinear

__all__ = [
    "Fit",
    "FitResult",
    "TNConv2d",
    "TNLinear",
    "compress",
    "compress_",
    "decompress_",
    "fit",
    "load_model",
    "save_model",
]
