"""PyTorch front-end: layers, compression of models, fitting, checkpoints."""

from deeptn import Fit, FitResult

from .checkpoint import load_model, save_model
from .compress import compress, compress_, fold_
from .export import export_onnx
from .fit import fit
from .layers import (
    TNConv1d,
    TNConv2d,
    TNConv3d,
    TNConvTranspose1d,
    TNConvTranspose2d,
    TNConvTranspose3d,
    TNEmbedding,
    TNLinear,
    TNWeight,
    parametrize_,
)
from .train import core_groups, shrink, train

__all__ = [
    "Fit",
    "FitResult",
    "TNConv1d",
    "TNConv2d",
    "TNConv3d",
    "TNConvTranspose1d",
    "TNConvTranspose2d",
    "TNConvTranspose3d",
    "TNEmbedding",
    "TNLinear",
    "TNWeight",
    "compress",
    "compress_",
    "core_groups",
    "export_onnx",
    "fit",
    "fold_",
    "load_model",
    "parametrize_",
    "save_model",
    "shrink",
    "train",
]
