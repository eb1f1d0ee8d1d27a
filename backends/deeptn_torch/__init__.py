"""PyTorch front-end: layers, compression, model files, fitting, training."""

from deeptn.fitting import Fit, FitResult

from .export import export_onnx
from .fit import fit
from .kinds import register_layer
from .layers import TNEmbedding, TNLinear, TNWeight, frozen, parametrize_
from .layers.conv import TNConv1d, TNConv2d, TNConv3d, TNConvTranspose1d, TNConvTranspose2d, TNConvTranspose3d
from .models import calibrate, compress, compress_, fold_, load_model, save_model
from .search import score, search_by_drop
from .train import core_groups, heal, shrink, train

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
    "calibrate",
    "compress",
    "compress_",
    "core_groups",
    "export_onnx",
    "fit",
    "fold_",
    "frozen",
    "heal",
    "load_model",
    "parametrize_",
    "register_layer",
    "save_model",
    "score",
    "search_by_drop",
    "shrink",
    "train",
]
