"""Store the cores of layers with equal networks as stacks, and decode these layers together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from deeptn.errors import PlanError
from deeptn.models import select
from deeptn.network import Network

from .view import Slot, checked

Stacks = Mapping[str, jax.Array]


def sort(
    layers: Mapping[str, Any], ignore: Iterable[str], own: Callable[[Any], Hashable | None] = lambda layer: True
) -> list[list[str]]:
    """Return the names of the layers of each group: those with equal networks, dtypes, and results of `own`.

    Layers stay as they are if `own` returns None, if they use their network without decoding the weight, or if they are
    stacks of layers (`equinox.filter_vmap`, `flax.nnx.vmap`).
    """
    if grouped := next((name for name, layer in layers.items() if isinstance(layer.cores, Slot)), None):
        raise PlanError(f"{grouped!r} is in a group already; to group again, first write model = ungroup(grouped)")
    # By identity: a layer with several names stays if any of them is named.
    left = {id(layers[name]) for names in select(ignore, list(layers), "ignore").values() for name in names}
    groups: dict[Any, list[str]] = {}
    for name, layer in layers.items():
        arrays, net = checked(layer.arrays), layer.network
        single = {core: jnp.shape(array) for core, array in arrays.items()} == dict(net.spec.param_shapes)
        if single and layer.decodes and id(layer) not in left and (more := own(layer)) is not None:
            dtypes = tuple(arrays[core].dtype.name for core in net.spec.param_shapes)
            groups.setdefault((net, dtypes, more), []).append(name)
    if not groups:
        raise PlanError(
            'the model has no generated layer that can be grouped (layers in mode "apply" cannot); '
            "first write model, _ = compress(model, …)"
        )
    return list(groups.values())


def stack(net: Network, layers: Sequence[Mapping[str, jax.Array]]) -> dict[str, jax.Array]:
    """Return one array for all cores of a shape of all layers, of shape ``(layers, cores, *shape)``.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.BrickWall(layers=2), (16, 8))
    >>> {name: array.shape for name, array in stack(net, [net.init(k, like="jax") for k in range(3)]).items()}
    {'2x2': (3, 3, 2, 2), '2x2x2x2': (3, 9, 2, 2, 2, 2)}
    """
    by_shape = _by_shape(net)
    return {
        form: jnp.stack([jnp.stack([cores[name] for name in names]) for cores in layers])
        for form, names in by_shape.items()
    }


def unstack(net: Network, stacks: Stacks) -> list[dict[str, jax.Array]]:
    """Return the cores of each layer."""
    count = len(next(iter(stacks.values())))
    return [_cores(net, {form: array[k] for form, array in stacks.items()}) for k in range(count)]


def decode(net: Network, stacks: Stacks) -> Sequence[jax.Array]:
    """Return the weight of each layer."""
    # With the axis of cores first, XLA merges the slices of their gradients; it compiles a fifth faster.
    by_core = {form: jnp.moveaxis(array, 1, 0) for form, array in stacks.items()}
    return jnp.unstack(jax.vmap(lambda one: net.materialize(_cores(net, one)), in_axes=1)(by_core))


def _cores(net: Network, stacks: Stacks) -> dict[str, jax.Array]:
    """Return the cores of one layer."""
    # Unstacked at once, because the gradient of an index is a sum of padded arrays.
    cores = {
        name: core for form, names in _by_shape(net).items() for name, core in zip(names, jnp.unstack(stacks[form]))
    }
    return {name: cores[name] for name in net.spec.param_shapes}


def _by_shape(net: Network) -> dict[str, list[str]]:
    """Return the names of the cores of each shape."""
    names = defaultdict(list)
    for name, shape in net.spec.param_shapes.items():
        names["x".join(map(str, shape)) or "scalar"].append(name)
    return names
