"""PyTorch for the laws of `deeptn.testing`."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor, nn

import deeptn
from deeptn.arrays import from_raw, to_raw
from deeptn.network import Network
from deeptn.testing import LAYER

from .layers import TNLinear
from .models import load_model, save_model


class TorchFrontEnd:
    """`TNLinear` as the laws see it; the entry point ``torch``.

    Examples
    --------
    >>> import deeptn as dtn
    >>> from deeptn.testing import check_front_end
    >>> check_front_end(TorchFrontEnd(), [dtn.network("TTMatrix", (6, 8))])
    """

    name = "torch"

    def array(self, x: np.ndarray) -> Tensor:
        return from_raw(x, "torch")

    def numpy(self, x: Tensor) -> np.ndarray:
        return to_raw(x)

    def linear(self, network: Network, bias: bool, seed: int) -> TNLinear:
        rows, columns = network.shape
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return TNLinear(columns, rows, network, bias)

    def cores(self, layer: TNLinear) -> dict[str, Tensor]:
        return dict(layer.cores.items())

    def bias(self, layer: TNLinear) -> Tensor | None:
        return layer.bias

    def call(self, layer: TNLinear, x: Tensor) -> Tensor:
        return layer(x)

    def gradient(self, layer: TNLinear, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
        cores = self.cores(layer)
        return dict(zip(cores, torch.autograd.grad(layer(x), tuple(cores.values()), dy)))

    def save(self, layer: TNLinear, path: str | os.PathLike[str]) -> None:
        save_model(nn.ModuleDict({LAYER: layer}), path)

    def load(self, path: str | os.PathLike[str]) -> TNLinear:
        stored = deeptn.load_model(path).layers[LAYER]
        rows, columns = stored.network.shape
        dtype = from_raw(next(iter(stored.params.values())), "torch").dtype
        dense = nn.Linear(columns, rows, stored.bias is not None, dtype=dtype)
        layer = load_model(nn.ModuleDict({LAYER: dense}), path)[LAYER]
        assert isinstance(layer, TNLinear)
        return layer
