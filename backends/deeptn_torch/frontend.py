"""The PyTorch front-end, as the laws of `deeptn.testing` see it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deeptn.network import Network
from deeptn.testing import LAYER

from .layers import TNLinear
from .view import TorchModel


class TorchFrontEnd:
    """Lets the laws test `TNLinear`; registered as the entry point ``torch``."""

    name = library = "torch"
    view = TorchModel

    def linear(self, network: Network, bias: bool, seed: int) -> nn.ModuleDict:
        rows, columns = network.shape
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return nn.ModuleDict({LAYER: TNLinear(columns, rows, network, bias)})

    def call(self, model: nn.ModuleDict, x: Tensor) -> Tensor:
        layer: Any = model[LAYER]
        return layer(x)

    def gradient(self, model: nn.ModuleDict, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
        layer: Any = model[LAYER]
        cores = dict(layer.cores.items())
        return dict(zip(cores, torch.autograd.grad(self.call(model, x), tuple(cores.values()), dy)))
