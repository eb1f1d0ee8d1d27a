"""How much an error of each weight changes the outputs of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays import cast, norm_of, relative_error, to_numpy
from ..base import Array, track
from ..errors import PlanError
from ..files import network_to_dict
from ..fitting import Fit, find_params
from ..models import ModelView, Store, Weight, fit_arrays, key_of, naming
from ..network import Network
from .curves import STEPS, Candidate

#: Errors of the weights with which the outputs are measured, about; 1.0 stands for the smallest networks.
PROBES = 0.05, 0.2, 0.4, 0.6, 0.8, 1.0

#: Errors of a weight, from small to large, with the changes of the outputs.
Points = tuple[tuple[float, float], ...]


def outputs_before(view: ModelView, inputs: Any) -> np.ndarray:
    """Return the outputs of a model as it is; raise `PlanError` if they cannot be compared with others."""
    run: Any = getattr(view, "outputs", None)
    if run is None:
        raise PlanError("objective='outputs' runs the model, and a checkpoint has no code; pass the model itself")
    found = run(inputs, {})
    norm = norm_of(found)
    if not np.isfinite(norm) or not norm:
        raise PlanError("the outputs of the model for these inputs are zero, or not finite")
    return found


def changes(
    view: ModelView,
    before: np.ndarray,
    weights: Mapping[str, Weight],
    candidates: Mapping[str, Sequence[Candidate]],
    inputs: Any,
    seed: int,
    store: Store,
) -> dict[str, Points]:
    """Return by how much some candidates of every weight change the outputs: ``(‖W - W'‖ / ‖W‖, ‖y - y'‖ / ‖y‖)``.

    Parameters
    ----------
    view : ModelView
        With a method ``outputs(inputs, weights)``, which returns what the model makes of the inputs, with other weights
        (by their first names), as a flat array. The model itself stays as it is.
    before : array
        What `outputs_before` returns.
    weights : mapping of str to Weight
    candidates : mapping of str to sequence of Candidate
    inputs : object
    seed : int
    store : Store
        Keeps what has been measured.

    Raises
    ------
    PlanError
        If the outputs are not finite with another weight.

    Examples
    --------
    >>> import deeptn as dtn, torch
    >>> from deeptn_torch.view import TorchModel
    >>> view = TorchModel(torch.nn.Sequential(torch.nn.Linear(8, 8, bias=False)))
    >>> net = dtn.network(dtn.LowRank(rank=3), (8, 8))
    >>> x, weights = torch.eye(8), {"0": view.weights()[0]}
    >>> found = changes(view, outputs_before(view, x), weights, {"0": [Candidate(net, 0.2)]}, x, 0, Store(None))
    >>> [round(change / error, 3) for error, change in found["0"]]
    [1.0]
    """
    run: Any = getattr(view, "outputs", None)
    norm, base = norm_of(before), "" if store.folder is None else key_of(before)
    found: dict[str, Points] = {}
    for name, weight in track(list(weights.items()), lambda item: f"outputs with layer {item[0]}"):
        array = weight.read()
        if not norm_of(to_numpy(array)):
            continue  # a network gives zero without an error
        probes, points = _probes(candidates[name]), {}
        parts = (base, name, array, list(map(network_to_dict, probes)), seed)
        key = "" if store.folder is None else key_of("outputs", *parts)
        if (known := _points(store.find(key))) is not None:
            found[name] = known
            continue
        for net in probes:
            with naming(name):
                changed = cast(_generated(net, array, seed), weight.dtype or "float32", name)
                after = run(inputs, {name: changed})
                if not np.isfinite(norm_of(after)):
                    raise PlanError("with a network in its place, the outputs of the model are not finite")
            points[relative_error(changed, array)] = norm_of(after - before) / norm
        found[name] = tuple(sorted((error, change) for error, change in points.items() if error))
        store.keep(key, found[name])
    return found


def _points(data: Any) -> Points | None:
    """Return points from plain data; None if it is damaged."""
    try:
        return None if data is None else tuple((float(error), float(change)) for error, change in data)
    except (TypeError, ValueError):
        return None


def _probes(candidates: Sequence[Candidate]) -> list[Network]:
    """Return the networks whose errors are closest to those for which the outputs are measured."""
    errors = {one.network: one.error for one in candidates if one.network is not None and one.error}
    closest = (min(errors, key=lambda net: abs(math.log(errors[net] / at))) for at in PROBES if errors)
    return list(dict.fromkeys(closest))


def _generated(net: Network, array: Array, seed: int) -> np.ndarray:
    """Return the weight that a network generates after a short fit."""
    params = find_params(net, array, "auto", _short, lambda: seed)
    return to_numpy(net.materialize(params))


def _short(net: Network, weight: Array, params: Any = None, how: Fit | None = None) -> Any:
    return fit_arrays(net, weight, params, Fit(method="lbfgs", steps=STEPS))
