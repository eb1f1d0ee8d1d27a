"""NNX models in which layers with equal networks are stored and decoded together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from flax import nnx

from deeptn.errors import PlanError
from deeptn.network import Network

from ..groups import decode, sort, stack, unstack
from ..view import Slot
from .graph import parts
from .layers import TNLayer


class Group(nnx.Module):
    """The cores of layers with equal networks."""

    def __init__(self, network: Network, variable: type[nnx.Variable], stacks: dict[str, jax.Array]):
        self.network, self.variable = network, variable
        self.stacks = nnx.Dict({form: variable(array) for form, array in stacks.items()})

    @property
    def arrays(self) -> dict[str, jax.Array]:
        """The values of the stacks."""
        return {form: variable[...] for form, variable in self.stacks.items()}


class Grouped(nnx.Module):
    """A model whose layers with equal networks are stored stacked; made by `group`, and called like the original.

    Attributes
    ----------
    model : nnx.Module
        The original model; its grouped layers have no cores.
    groups : nnx.List
        Each has a `network` and its `stacks`: for each shape of its cores, one variable of shape
        ``(layers, cores, *shape)``.
    """

    def __init__(self, model: Any, groups: list[Group]):
        self.model, self.groups = model, nnx.List(groups)

    @contextmanager
    def decoded(self) -> Iterator[Any]:
        """Put decoded weights into the model, to call another method than ``__call__``."""
        weights = [decode(each.network, each.arrays) for each in self.groups]
        layers = _layers(self.model)
        try:
            for layer in layers:
                slot = layer.cores
                layer.hold(weights[slot.group][slot.item], self.groups[slot.group].variable)
            yield self.model
        finally:
            for layer in layers:
                layer.hold(None)

    def __call__(self, *args: Any, **options: Any) -> Any:
        with self.decoded() as model:
            return model(*args, **options)


def group(model: Any, ignore: Iterable[str] = ()) -> Grouped:
    """Return a copy of a model that stores and decodes layers with equal networks together; it compiles much faster.

    Every call decodes each group once, under `jax.vmap`; the values are those of the original model. Gradients and
    optimizers see one variable for each group and shape of cores.

    Parameters
    ----------
    model : nnx.Module
        Layers in mode ``"apply"``, embeddings that look up rows without decoding their table, layers whose cores belong
        to several layers or have metadata, and stacks of layers (`flax.nnx.vmap`) stay as they are.
    ignore : iterable of str
        Patterns of names, as in `compress`: layers to leave as they are, for instance because they are frozen.

    Examples
    --------
    >>> import jax, deeptn as dtn
    >>> from flax import nnx
    >>> from deeptn_jax.nnx import TNLinear, group, ungroup
    >>> rngs = nnx.Rngs(0)
    >>> model = nnx.Sequential(*(TNLinear(16, 16, dtn.BrickWall(layers=2), rngs=rngs) for _ in range(4)))
    >>> grouped = group(model)
    >>> [variable.shape for variable in grouped.groups[0].stacks.values()]
    [(4, 4, 2, 2), (4, 10, 2, 2, 2, 2)]
    >>> grouped(jax.numpy.ones((5, 16))).shape
    (5, 16)
    >>> ungroup(grouped).layers[0].network.num_params
    176
    """
    model = nnx.clone(model)
    layers = parts(model, TNLayer)
    ungrouped = [layer for layer in parts(model, TNLayer, once=True).values() if not isinstance(layer.cores, Slot)]
    users = Counter(id(core) for layer in ungrouped for core in layer.cores.values())

    def own(layer: Any) -> Any:
        """Return the class of the cores, or None if a stack would lose something."""
        first, *others = layer.cores.values()
        plain = type(first)(0).get_metadata()
        alike = all(type(core) is type(first) for core in others)
        simple = all(users[id(core)] == 1 and core.get_metadata() == plain for core in layer.cores.values())
        return type(first) if alike and simple else None

    groups = []
    for number, names in enumerate(sort(layers, ignore, own)):
        same = list({id(layers[name]): layers[name] for name in names}.values())  # a layer can have several names
        net = same[0].network
        groups.append(Group(net, own(same[0]), stack(net, [layer.arrays for layer in same])))
        for item, layer in enumerate(same):
            layer.cores = Slot(number, item)
    return Grouped(model, groups)


def ungroup(grouped: Grouped) -> Any:
    """Return a copy of the model of a grouped one, in which every layer has its own cores again.

    Examples
    --------
    See `group`.
    """
    if not isinstance(grouped, Grouped):
        raise PlanError(f"expected a model from deeptn_jax.nnx.group, got a {type(grouped).__name__}")
    model = nnx.clone(grouped.model)
    cores = [unstack(each.network, each.arrays) for each in grouped.groups]
    for layer in _layers(model):
        variable = grouped.groups[layer.cores.group].variable
        own = cores[layer.cores.group][layer.cores.item]
        layer.cores = nnx.Dict({name: variable(core) for name, core in own.items()})
    return model


def _layers(model: Any) -> list[Any]:
    """Return the layers without cores."""
    return [layer for layer in parts(model, TNLayer, once=True).values() if isinstance(layer.cores, Slot)]
