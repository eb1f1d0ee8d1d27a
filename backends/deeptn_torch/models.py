"""Whole models: their layers compressed and folded, their files."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
from torch import nn

from deeptn import models
from deeptn.base import PathLike
from deeptn.fitting import How
from deeptn.models import Report, Target

from .view import TorchModel

M = TypeVar("M", bound=nn.Module)
Seed = int | torch.Generator | None


def compress(
    model: M, targets: Mapping[str, Target], ignore: Iterable[str] = (), fit: How = "auto", seed: Seed = None
) -> tuple[M, Report]:
    """Return a copy of a model in which chosen layers have generated weights, and a report.

    Names are those of layers (`nn.Linear`, `nn.Embedding`, convolutions, those of `register_layer`) and of single
    weights in recurrent modules and `nn.MultiheadAttention`: ``"attn.in_proj_weight"``. Random cores follow `seed`, by
    default torch's generator. Parameters and errors: `deeptn.models.compress`.

    Examples
    --------
    >>> import deeptn as dtn
    >>> model = nn.Sequential(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 10))
    >>> small, report = compress(model, {"0": dtn.TensorTrain(rank=4)})
    >>> report.params_before, report.params_after
    (48000, 424)
    """
    model = copy.deepcopy(model)
    return model, compress_(model, targets, ignore, fit, seed)


def compress_(
    model: nn.Module,
    targets: Mapping[str, Target],
    ignore: Iterable[str] = (),
    fit: How = "auto",
    seed: Seed = None,
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
    return models.compress(TorchModel(model), targets, ignore, fit, seed)[1]


def fold_(model: nn.Module, targets: Iterable[str] | None = None) -> list[str]:
    """Put dense layers with the decoded weights back, in place, and return their names; see `deeptn.models.fold`.

    Examples
    --------
    >>> from deeptn_torch import TNLinear
    >>> model = nn.Sequential(TNLinear(400, 120), nn.ReLU(), nn.Linear(120, 10))
    >>> fold_(model), type(model[0]).__name__
    (['0'], 'Linear')
    """
    return models.fold(TorchModel(model), targets)[1]


def save_model(model: nn.Module, path: PathLike) -> None:
    """Write a model with generated layers: its ``state_dict``, and in the header the network of every such layer.

    Tensors that several names share are stored once. Constrained cores are stored as they are used; the constraint
    itself is not, `TNLayer.constrain` sets it again. Errors as for `deeptn.models.save_model`.

    Examples
    --------
    >>> import os, tempfile
    >>> from deeptn_torch import TNLinear
    >>> save_model(nn.Sequential(TNLinear(400, 120), nn.ReLU()), os.path.join(tempfile.mkdtemp(), "small.safetensors"))
    """
    models.save_model(TorchModel(model), path)


def load_model(dense_model: M, path: PathLike, names: Mapping[str, str] | None = None) -> M:
    """Return a copy of a model, dense or generated, filled with what any front-end wrote.

    Dtypes and devices are its own, whatever the file has. For `names` and errors see `deeptn.models.load_model`.

    Examples
    --------
    >>> import os, tempfile
    >>> from deeptn_torch import TNLinear
    >>> save_model(nn.Sequential(TNLinear(400, 120)), path := os.path.join(tempfile.mkdtemp(), "small.safetensors"))
    >>> load_model(nn.Sequential(nn.Linear(400, 120)), path)[0].network.num_params
    384
    """
    return models.load_model(TorchModel(copy.deepcopy(dense_model)), path, names)
