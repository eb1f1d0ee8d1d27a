"""Replace dense weights with networks, and networks with dense weights, in models of any framework."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..base import track, warn
from ..errors import DeepTNError, PlanError
from ..fitting import How, find_params
from ..network import Network, network
from ..spec import Layout
from ..topologies import describe
from .report import Report, layer_report
from .rules import Rules, resolve, select
from .view import Generated, ModelView, Weight, at_rest, count, naming


def compress(
    view: ModelView,
    targets: Rules,
    ignore: Iterable[str] = (),
    fit: How = "auto",
    seed: Any = None,
) -> tuple[Any, Report]:
    """Let networks generate chosen weights of a model. Either all of them are replaced, or none.

    Parameters
    ----------
    view : ModelView
    targets : mapping of str to deeptn.Topology, deeptn.Network or str; or deeptn.Plan
        What each layer becomes. A key is a layer's name, a glob (``"classifier.*"``), or ``"re:…"``, a regular
        expression for the whole name. If several keys match, an exact name wins, then the first key.
    ignore : iterable of str
        Patterns of layers to leave alone.
    fit : {"auto"}, deeptn.fitting.Fit or None
        ``"auto"``: the closed form if the family has one (`deeptn.decompose`), else a fit by gradient with the
        defaults of `deeptn.fitting.Fit`. A `Fit`: by gradient, starting from the closed form if there is one. None:
        random cores; W keeps its root mean square.
    seed : optional
        Seed of the random cores, which differ from layer to layer: an integer, or the framework's own object (a
        generator, a key). By default a fresh seed.

    Returns
    -------
    model : object
        The model of the view.
    report : Report
        Shape, topology, parameters, error of W and cost of each layer; ``print`` it, show it with rich, or ``to_json``.

    Warns
    -----
    UserWarning
        If a network has as many parameters as its weight has entries.

    Raises
    ------
    PlanError
        If a pattern matches no layer, or only generated ones; or if a chosen layer has its own computation or hooks,
        or shares its weight or bias with another module.

    Examples
    --------
    >>> import deeptn as dtn
    >>> from torch import nn
    >>> from deeptn_torch.view import TorchModel
    >>> model = nn.Sequential(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 10))
    >>> _, report = compress(TorchModel(model), {"0": dtn.TensorTrain(rank=4)})
    >>> report.params_before, report.params_after
    (48000, 424)
    """
    weights = view.weights()
    dense = {weight.name: weight for weight in weights if weight.network is None}
    generated = [weight.name for weight in weights if weight.network is not None]
    networks = resolve({name: weight.shape for name, weight in dense.items()}, targets, ignore, generated)
    if "" in networks:
        raise PlanError("the model is a single layer; write from_dense on the class of its replacement")
    for name in networks:
        check_free(dense[name], f", or add {name!r} to ignore")
        _warn_if_large(name, networks[name])
    before, seeds = (count(view), at_rest(view)), _seeds(view, seed)
    changes: dict[str, Generated | None] = {}
    rows = []
    for name, net in track(list(networks.items()), lambda item: f"layer {item[0]}"):
        with naming(name):
            weight = dense[name].read()
            params = find_params(net, weight, fit, view.fit, lambda: next(seeds))
            changes[name] = Generated(net, params)
            rows.append(layer_report(name, net, weight, net.materialize(params)))
    view.replace(changes)
    return view.model, Report(tuple(rows), before[0], count(view), before[1], at_rest(view))


def fold(view: ModelView, targets: Iterable[str] | None = None) -> tuple[Any, list[str]]:
    """Replace generated weights with dense ones. Either all of them are replaced, or none.

    Parameters
    ----------
    view : ModelView
    targets : iterable of str, optional
        Patterns as in `compress`; by default all generated layers.

    Returns
    -------
    model : object
        The model of the view.
    names : list of str
        Names of the layers that were replaced.

    Raises
    ------
    PlanError
        If the model has no generated layer, a pattern matches none, or a layer cannot become dense.

    Examples
    --------
    >>> from torch import nn
    >>> from deeptn_torch import TNLinear
    >>> from deeptn_torch.view import TorchModel
    >>> fold(TorchModel(nn.Sequential(TNLinear(16, 8), nn.ReLU())))[1]
    ['0']
    """
    generated = {weight.name: weight for weight in view.weights() if weight.network is not None}
    if not generated or "" in generated:
        raise PlanError("the model has no generated layer inside; on a single generated layer, call to_dense()")
    wanted = select(["*"] if targets is None else targets, list(generated), "targets").values()
    names = [name for name in generated if any(name in found for found in wanted)]
    for name in names:
        check_free(generated[name])
    view.replace(dict.fromkeys(names))
    return view.model, names


def _warn_if_large(name: str, net: Network) -> None:
    """Warn about a network with as many parameters as its weight has entries, and name a layout with fewer."""
    if net.num_params < net.size:
        return
    text = f"layer {name!r}: {describe(net.topology)} has {net.num_params:,} parameters for a weight of {net.size:,}"
    try:
        padded = None if net.topology is None else network(net.topology, net.shape, Layout.padded(net.shape))
    except DeepTNError:
        padded = None
    if padded is not None and padded.num_params < net.size:
        text += f"; deeptn.Layout.padded({net.shape}) needs {padded.num_params:,}: write deeptn.network(topology, "
        text += f"{net.shape}, layout) as the target"
    warn(text)


def check_free(weight: Weight, remedy: str = "") -> None:
    """Raise `PlanError` if a weight cannot become generated, or dense."""
    if weight.refused:
        raise PlanError(f"layer {weight.name!r} {weight.refused}{remedy}")


def _seeds(view: ModelView, given: Any) -> Iterator[int]:
    """Yield seeds for the layers; draw nothing before the first one is requested."""
    draw = np.random.default_rng(view.seed(given))
    while True:
        yield int(draw.integers(2**62))
