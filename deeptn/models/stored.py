"""A view of the contents of a model file, without the model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NoReturn

import numpy as np

from ..arrays import dtype_of, from_raw, library_of
from ..files import StoredLayer, StoredModel
from .view import Entry, Generated, Weight, refuse

ARRAY = "is a bare array, not a layer; write network.materialize(params)"


class StoredView:
    """A `deeptn.files.StoredModel` as a `ModelView`: networks with their cores and biases, but no layers around them.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network("LowRank", (4, 6))
    >>> view = StoredView(StoredModel({"fc": StoredLayer("linear", net, net.init(), None)}, {}))
    >>> list(view.entries()), view.weights()[0].read().shape
    (['fc.cores.U', 'fc.cores.V'], (4, 6))
    """

    def __init__(self, model: StoredModel):
        self.model = model

    def weights(self) -> list[Weight]:
        return [self._weight(name, layer) for name, layer in self.model.layers.items()]

    def _weight(self, name: str, layer: StoredLayer) -> Weight:
        net, dtype = layer.network, dtype_of(next(iter(layer.params.values())))
        read, bias = partial(net.materialize, layer.params), layer.bias is not None
        return Weight((name,), layer.kind, net.shape, dtype, read, bias=bias, network=net, refused=ARRAY)

    def entries(self) -> dict[str, Entry]:
        return {
            name: Entry(tuple(array.shape), dtype_of(array), name, lambda array=array: array)
            for name, array in self.model.state().items()
        }

    def replace(self, changes: Mapping[str, Generated | None]) -> None:
        for name in changes:
            refuse(name, ARRAY)

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        state = self.model.state()
        new = state | {name: from_raw(array, library_of(state[name]).name) for name, array in arrays.items()}
        layers: dict[str, StoredLayer] = {}
        for name, layer in self.model.layers.items():
            cores = {core: new[f"{name}.cores.{core}"] for core in layer.params}
            layers[name] = layer._replace(params=cores, bias=None if layer.bias is None else new[f"{name}.bias"])
        self.model = StoredModel(layers, {name: new[name] for name in self.model.tensors})

    def fit(self, *args: Any, **options: Any) -> NoReturn:
        refuse("weight", ARRAY)

    def seed(self, given: int | None) -> int:
        return int(np.random.default_rng(given).integers(2**62))
