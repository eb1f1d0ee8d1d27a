"""A custom front-end, as the laws use it."""

from __future__ import annotations

from typing import Any

import deeptn as dtn

from .. import standin as cp
from .layers import TNLinear
from .view import CuPyModel


# [front-end]
class CuPyFrontEnd:
    name = "cupy"
    library = cp.__name__
    view = CuPyModel

    def linear(self, network: dtn.Network, bias: bool, seed: int) -> dict[str, Any]:
        cores = {name: cp.asarray(core) for name, core in network.init(seed).items()}
        return {"layer": TNLinear(network, cores, cp.zeros(network.shape[0], dtype="float32") if bias else None)}

    def call(self, model: dict[str, Any], x: cp.ndarray) -> cp.ndarray:
        return model["layer"](x)

    def gradient(self, model: dict[str, Any], x: cp.ndarray, dy: cp.ndarray) -> dict[str, cp.ndarray] | None:
        return None  # the library has no derivatives


# [/front-end]
