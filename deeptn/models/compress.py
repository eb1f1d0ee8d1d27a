"""Networks in the place of dense weights, and dense weights in their place again, in models of any framework."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import PlanError
from ..fitting import How, find_params
from .report import Report, layer_report
from .rules import Target, resolve, select
from .view import Generated, ModelView, Weight, at_rest, count


def compress(
    view: ModelView,
    targets: Mapping[str, Target],
    ignore: Iterable[str] = (),
    fit: How = "auto",
    seed: Any = None,
) -> tuple[Any, Report]:
    """Let networks generate chosen weights of a model. Nothing is replaced unless all can be.

    Parameters
    ----------
    view : ModelView
    targets : mapping of str to deeptn.Topology, deeptn.Network or str
        Which layers become what. A key is a layer's name, a glob (``"classifier.*"``), or ``"re:…"``, a regular
        expression for the whole name. If several match, an exact name wins, then the first.
    ignore : iterable of str
        Patterns of layers to leave alone.
    fit : {"auto"}, deeptn.fitting.Fit or None
        ``"auto"``: the closed form where the family has one (`deeptn.decompose`), else a fit by gradient with the
        defaults of `deeptn.fitting.Fit`. A `Fit`: by gradient, from the closed form where there is one. None: random
        cores that give W its root mean square.
    seed : optional
        Of random cores, which differ from layer to layer: an integer, or what the framework has for it (a generator,
        a key). By default a fresh one.

    Returns
    -------
    model : object
        That of the view.
    report : Report
        Per layer shape, topology, parameters, error of W and cost; ``print`` it, show it with rich, or ``to_json``.

    Raises
    ------
    PlanError
        If a pattern matches no layer, or only generated ones; or if a layer that is chosen has a computation of its
        own, hooks, or shares its weight or bias with another module.

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
        raise PlanError("the model is a single layer; write from_dense of the layer that replaces it")
    for name in networks:
        check_free(dense[name], f", or add {name!r} to ignore")
    before, seeds = (count(view), at_rest(view)), _seeds(view, seed)
    changes: dict[str, Generated | None] = {}
    rows = []
    for name, net in networks.items():
        weight = dense[name].read()
        params = find_params(net, weight, fit, view.fit, lambda: next(seeds))
        changes[name] = Generated(net, params)
        rows.append(layer_report(name, net, weight, net.materialize(params)))
    view.replace(changes)
    return view.model, Report(tuple(rows), before[0], count(view), before[1], at_rest(view))


def fold(view: ModelView, targets: Iterable[str] | None = None) -> tuple[Any, list[str]]:
    """Put dense weights in the place of generated ones. Nothing is replaced unless all can be.

    Parameters
    ----------
    view : ModelView
    targets : iterable of str, optional
        Patterns as for `compress`; all generated layers by default.

    Returns
    -------
    model : object
        That of the view.
    names : list of str
        Of the layers that were replaced.

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
        raise PlanError("the model has no generated layer inside; a single one has to_dense()")
    wanted = select(["*"] if targets is None else targets, list(generated), "targets").values()
    names = [name for name in generated if any(name in found for found in wanted)]
    for name in names:
        check_free(generated[name])
    view.replace(dict.fromkeys(names))
    return view.model, names


def check_free(weight: Weight, remedy: str = "") -> None:
    """Raise `PlanError` for a weight that cannot become generated, or dense."""
    if weight.refused:
        raise PlanError(f"layer {weight.name!r} {weight.refused}{remedy}")


def _seeds(view: ModelView, given: Any) -> Iterator[int]:
    """Seeds for the layers; nothing is drawn before the first is asked for."""
    draw = np.random.default_rng(view.seed(given))
    while True:
        yield int(draw.integers(2**62))
