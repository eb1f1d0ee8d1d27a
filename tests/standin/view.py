"""A custom view of models; here, a model is a dictionary of layers and arrays."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import deeptn as dtn
from deeptn import models
from deeptn.params import check_params

from .. import standin as cp
from .layers import TNLinear


@dataclass
class Linear:
    weight: cp.ndarray
    bias: cp.ndarray | None

    def __call__(self, x: cp.ndarray) -> cp.ndarray:
        y = cp.matmul(x, cp.transpose(self.weight))
        return y if self.bias is None else y + self.bias


# [view]
LINEAR = models.Kind("linear", base=Linear)


class CuPyModel:
    """A dictionary of `Linear`, `TNLinear` and arrays; two names may refer to one layer."""

    def __init__(self, model: dict[str, Any]):
        self.model = model

    def _layers(self) -> dict[int, tuple[str, ...]]:
        """Return the names of every layer."""
        names: dict[int, tuple[str, ...]] = {}
        for name, part in self.model.items():
            if isinstance(part, (Linear, TNLinear)):
                names[id(part)] = (*names.get(id(part), ()), name)
        return names

    def weights(self) -> list[models.Weight]:
        return [self._weight(self.model[names[0]], names) for names in self._layers().values()]

    def _weight(self, layer: Any, names: tuple[str, ...]) -> models.Weight:
        network = getattr(layer, "network", None)
        refused = None
        if network is None:
            shape, dtype, read = layer.weight.shape, layer.weight.dtype.name, partial(cp.asnumpy, layer.weight)
            refused = LINEAR.differs(layer, "__call__")
        else:
            shape, dtype = network.shape, next(iter(layer.cores.values())).dtype.name
            read = lambda: network.materialize({name: cp.asnumpy(core) for name, core in layer.cores.items()})
        bias = layer.bias is not None
        return models.Weight(names, LINEAR.form, shape, dtype, read, bias=bias, network=network, refused=refused)

    def _arrays(self) -> dict[str, tuple[dict[str, Any], str]]:
        """Return where every entry is: a dictionary and a key."""
        found: dict[str, tuple[dict[str, Any], str]] = {}
        for name, part in self.model.items():
            if isinstance(part, (Linear, TNLinear)):
                keys = [key for key in ("weight", "bias") if getattr(part, key, None) is not None]
                found |= {f"{name}.{key}": (vars(part), key) for key in keys}
                cores = getattr(part, "cores", {})
                found |= {f"{name}.cores.{core}": (cores, core) for core in cores}
            else:
                found[name] = self.model, name
        return found

    def entries(self) -> dict[str, models.Entry]:
        found = {}
        for name, (place, key) in self._arrays().items():
            array = place[key]
            found[name] = models.Entry(array.shape, array.dtype.name, (id(place), key), partial(cp.asnumpy, array))
        return found

    def replace(self, changes: Mapping[str, models.Generated | None]) -> None:
        weights = {weight.name: weight for weight in self.weights()}
        made: dict[str, Any] = {}
        for name, change in changes.items():
            weight, layer = weights[name], self.model[name]
            if change is None:
                dense = Linear(cp.asarray(weight.read()), layer.bias)
            else:
                check_params(change.network.spec, change.params)
                cores = {name: cp.asarray(core.astype(weight.dtype)) for name, core in change.params.items()}
                dense = TNLinear(change.network, cores, layer.bias)
            made |= dict.fromkeys(weight.names, dense)
        self.model |= made

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        places = self._arrays()
        for name, array in arrays.items():
            place, key = places[name]
            place[key] = cp.asarray(array)

    def fit(
        self,
        net: dtn.Network,
        weight: Any,
        params: Any = None,
        how: dtn.fitting.Fit | None = None,
        covariance: dtn.fitting.Covariance | None = None,
    ) -> dtn.fitting.FitResult:
        if how is None or how.steps != 0:
            raise dtn.PlanError("CuPy has no gradients; choose a family with a closed form, or write fit=None")
        return dtn.fitting.FitResult(net.init(how.seed, std=float(np.std(weight))), float("nan"), [])

    def seed(self, given: int | None) -> int:
        return int(np.random.default_rng(given).integers(2**62))


def save_model(model: dict[str, Any], path: str | os.PathLike[str]) -> None:
    models.save_model(CuPyModel(model), path)


def load_model(model: dict[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    return models.load_model(CuPyModel(copy.deepcopy(model)), path)


# [/view]
