"""Equinox models in which layers with equal networks are stored and decoded together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax

from deeptn.errors import PlanError
from deeptn.network import Network

from ..groups import decode, sort, stack, unstack
from ..view import Slot
from .layers import TNLayer
from .view import parts, swapped


class Group(eqx.Module):
    """The cores of layers with equal networks."""

    network: Network = eqx.field(static=True)
    stacks: dict[str, jax.Array]


class Grouped(eqx.Module):
    """A model whose layers with equal networks are stored stacked; made by `group`, and called like the original.

    Attributes
    ----------
    model : object
        The original model; its grouped layers have no cores.
    groups : list
        Each has a `network` and its `stacks`: for each shape of its cores, one array of shape
        ``(layers, cores, *shape)``.
    """

    model: Any
    groups: list[Group]

    def decoded(self) -> Any:
        """Return the model with decoded weights, to call another method than ``__call__``."""
        weights = [decode(each.network, each.stacks) for each in self.groups]

        def fill(part: Any) -> Any:
            slot = part.cores if isinstance(part, TNLayer) else None
            return part.holding(weights[slot.group][slot.item]) if isinstance(slot, Slot) else part

        return jax.tree.map(fill, self.model, is_leaf=lambda part: isinstance(part, TNLayer))

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.decoded()(*args, **options)


def group(model: Any, ignore: Iterable[str] = ()) -> Grouped:
    """Return a model that stores and decodes layers with equal networks together, which compiles much faster.

    Every call decodes each group once, under `jax.vmap`; the values are those of the original model. Gradients and
    optimizers see one array for each group and shape of cores.

    Parameters
    ----------
    model : object
        Any pytree of Equinox modules. Layers in mode ``"apply"``, embeddings that look up rows without decoding their
        table, layers inside `equinox.nn.Shared`, and stacks of layers (`equinox.filter_vmap`) stay as they are.
    ignore : iterable of str
        Patterns of names, as in `compress`: layers to leave as they are, for instance because they are frozen.

    Examples
    --------
    >>> import equinox as eqx, jax, deeptn as dtn
    >>> from deeptn_jax.equinox import compress, group, ungroup
    >>> model = eqx.nn.MLP(16, 16, 16, 3, key=jax.random.key(0))
    >>> small, _ = compress(model, {"*": dtn.BrickWall(layers=2)}, fit=None, key=0)
    >>> grouped = group(small)
    >>> [array.shape for array in grouped.groups[0].stacks.values()]
    [(4, 4, 2, 2), (4, 10, 2, 2, 2, 2)]
    >>> jax.vmap(grouped)(jax.numpy.ones((5, 16))).shape
    (5, 16)
    >>> ungroup(grouped).layers[0].network.num_params
    176
    """
    # What is shared is found by its path in the layers, which grouping changes.
    found = parts(model, (TNLayer, eqx.nn.Shared))
    layers = {name: part for name, part in found.items() if isinstance(part, TNLayer)}
    groups, bare = [], {}
    for number, names in enumerate(sort(layers, ignore)):
        net = layers[names[0]].network
        groups.append(Group(net, stack(net, [layers[name].cores for name in names])))
        bare |= {name: _with_cores(layers[name], Slot(number, item)) for item, name in enumerate(names)}
    return Grouped(swapped(model, bare, (TNLayer,)), groups)


def ungroup(grouped: Grouped) -> Any:
    """Return the model of a grouped one, in which every layer has its own cores again.

    Examples
    --------
    See `group`.
    """
    if not isinstance(grouped, Grouped):
        raise PlanError(f"expected a model from deeptn_jax.equinox.group, got a {type(grouped).__name__}")
    cores = [unstack(each.network, each.stacks) for each in grouped.groups]

    def fill(part: Any) -> Any:
        slot = part.cores if isinstance(part, TNLayer) else None
        return _with_cores(part, cores[slot.group][slot.item]) if isinstance(slot, Slot) else part

    return jax.tree.map(fill, grouped.model, is_leaf=lambda part: isinstance(part, TNLayer))


def _with_cores(layer: TNLayer, cores: Any) -> TNLayer:
    return eqx.tree_at(lambda one: one.cores, layer, cores, is_leaf=lambda part: part is layer.cores)
