"""Compress, fold, save and load whole models."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from deeptn import models
from deeptn.base import PathLike
from deeptn.files import Cores
from deeptn.fitting import How
from deeptn.models import Calibration, Matching, Report, Rules, Workers

from .view import TorchModel

M = TypeVar("M", bound=nn.Module)
Seed = int | torch.Generator | None


def compress(
    model: M,
    targets: Rules,
    ignore: Iterable[str] = (),
    fit: How = "auto",
    seed: Seed = None,
    workers: Workers | int | None = None,
    calibration: Calibration | Matching | None = None,
) -> tuple[M, Report]:
    """Return a copy of a model in which chosen layers have generated weights, and a report.

    Targets are layers (`nn.Linear`, `nn.Embedding`, convolutions, classes registered with `register_layer`) and single
    weights in recurrent modules and `nn.MultiheadAttention`, such as ``"attn.in_proj_weight"``. Random cores use
    `seed`, by default one from torch's generator. For parameters and errors see `deeptn.models.compress`.

    Examples
    --------
    >>> import deeptn as dtn
    >>> model = nn.Sequential(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 10))
    >>> small, report = compress(model, {"0": dtn.TensorTrain(rank=4)})
    >>> report.params_before, report.params_after
    (48000, 424)
    """
    model = copy.deepcopy(model)
    return model, compress_(model, targets, ignore, fit, seed, workers, calibration)


def compress_(
    model: nn.Module,
    targets: Rules,
    ignore: Iterable[str] = (),
    fit: How = "auto",
    seed: Seed = None,
    workers: Workers | int | None = None,
    calibration: Calibration | Matching | None = None,
) -> Report:
    """Compress a model in place; see `compress`. Nothing is replaced unless all layers can be.

    Examples
    --------
    >>> import deeptn as dtn
    >>> model = nn.Sequential(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 10))
    >>> report = compress_(model, {"0": dtn.BrickWall(layers=1)}, fit=None)
    >>> type(model[0]).__name__, report.params_after
    ('TNLinear', 144)
    """
    view = TorchModel(model)
    working = TorchModel(copy.deepcopy(model)) if isinstance(calibration, Matching) else None
    return models.compress(view, targets, ignore, fit, seed, workers, calibration, working)[1]


def calibrate(
    model: nn.Module,
    data: Any,
    held_out: Any = None,
    targets: Iterable[str] = ("*",),
    ignore: Iterable[str] = (),
    damping: float = 0.01,
) -> Calibration:
    """Run a model on data, and return the second moments of the inputs of its weights, for ``compress(calibration=)``.

    The model runs in evaluation mode, without gradients. Recurrent modules and attention show the inputs of all of
    their weights but ``weight_hr``. For parameters and errors see `deeptn.models.calibrate`.

    Examples
    --------
    >>> import deeptn as dtn
    >>> model = nn.Sequential(nn.Linear(40, 12), nn.ReLU(), nn.Linear(12, 10))
    >>> batches = torch.randn(6, 16, 40) * torch.arange(40)
    >>> calibration = calibrate(model, list(batches[:4]), held_out=list(batches[4:]))
    >>> small, report = compress(model, {"0": dtn.TTMatrix(rank=4)}, calibration=calibration)
    >>> report.layers[0].output_error < report.layers[0].error
    True
    """
    return models.calibrate(TorchModel(model), data, held_out, targets, ignore, damping)


def fold_(model: nn.Module, targets: Iterable[str] | None = None) -> list[str]:
    """Replace generated layers by dense ones in place, and return their names; see `deeptn.models.fold`.

    Examples
    --------
    >>> from deeptn_torch import TNLinear
    >>> model = nn.Sequential(TNLinear(400, 120), nn.ReLU(), nn.Linear(120, 10))
    >>> fold_(model), type(model[0]).__name__
    (['0'], 'Linear')
    """
    return models.fold(TorchModel(model), targets)[1]


def save_model(model: nn.Module, path: PathLike, cores: Cores | None = None) -> dict[str, float]:
    """Write a model with generated layers: its ``state_dict``, and the network of each generated layer in the header.

    Tensors with several names are stored once. Constrained cores are stored as they are used, without the constraint;
    call `TNLayer.constrain` after loading to set it again. `cores` stores them in fewer bytes; for that, for what is
    returned and for errors see `deeptn.models.save_model`.

    Examples
    --------
    >>> import os, tempfile
    >>> from deeptn_torch import TNLinear
    >>> path = os.path.join(tempfile.mkdtemp(), "small.safetensors")
    >>> save_model(nn.Sequential(TNLinear(400, 120), nn.ReLU()), path)
    {}
    """
    return models.save_model(TorchModel(model), path, cores)


def load_model(dense_model: M, path: PathLike, names: Mapping[str, str] | None = None) -> M:
    """Return a copy of a model, dense or generated, filled from a file that any front-end wrote.

    It keeps the dtypes and devices of the model. For `names` and errors see `deeptn.models.load_model`.

    Examples
    --------
    >>> import os, tempfile
    >>> from deeptn_torch import TNLinear
    >>> path = os.path.join(tempfile.mkdtemp(), "small.safetensors")
    >>> errors = save_model(nn.Sequential(TNLinear(400, 120)), path, cores="int8")
    >>> load_model(nn.Sequential(nn.Linear(400, 120)), path)[0].network.num_params
    384
    """
    return models.load_model(TorchModel(copy.deepcopy(dense_model)), path, names)
