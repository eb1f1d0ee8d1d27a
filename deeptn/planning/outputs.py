"""How much an error of each weight changes the outputs of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays import cast, norm_of, relative_error, to_numpy
from ..base import Array, track
from ..errors import PlanError
from ..fitting import Fit, find_params
from ..models import ModelView, Weight, fit_arrays, naming
from ..network import Network
from .curves import STEPS, Candidate

#: Error of the weights with which the outputs are measured, about: small enough for a model that still works.
PROBE = 0.2


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


def sensitivities(
    view: ModelView,
    before: np.ndarray,
    weights: Mapping[str, Weight],
    candidates: Mapping[str, Sequence[Candidate]],
    inputs: Any,
    seed: int,
) -> dict[str, float]:
    """Return ``(‖y - y'‖ / ‖y‖)² / (‖W - W'‖ / ‖W‖)²`` of every weight, for one of its candidates.

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
    >>> found = sensitivities(view, outputs_before(view, x), weights, {"0": [Candidate(net, 0.2)]}, x, 0)
    >>> round(found["0"], 3)
    1.0
    """
    run: Any = getattr(view, "outputs", None)
    norm = norm_of(before)
    found: dict[str, float] = {}
    for name, weight in track(list(weights.items()), lambda item: f"outputs with layer {item[0]}"):
        networks = [one for one in candidates[name] if one.network is not None]
        if not networks:
            continue
        array = weight.read()
        if not norm_of(to_numpy(array)):
            found[name] = 0.0  # a network gives zero without an error
            continue
        probe = min(networks, key=lambda one: abs(one.error - PROBE)).network
        assert probe is not None
        with naming(name):
            changed = cast(_generated(probe, array, seed), weight.dtype or "float32", name)
            error = relative_error(changed, array)
            after = run(inputs, {name: changed})
            if not np.isfinite(norm_of(after)):
                raise PlanError("with a network in its place, the outputs of the model are not finite")
        found[name] = float((norm_of(after - before) / norm / error) ** 2) if error else 0.0
    return found


def _generated(net: Network, array: Array, seed: int) -> np.ndarray:
    """Return the weight that a network generates after a short fit."""
    params = find_params(net, array, "auto", _short, lambda: seed)
    return to_numpy(net.materialize(params))


def _short(net: Network, weight: Array, params: Any = None, how: Fit | None = None) -> Any:
    return fit_arrays(net, weight, params, Fit(method="lbfgs", steps=STEPS))
