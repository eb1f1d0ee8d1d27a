"""Run a PyTorch model with some of its weights changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from deeptn.arrays import from_raw
from deeptn.errors import PlanError


def outputs_of(model: nn.Module, inputs: Any, changes: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return all floating-point outputs of a model in evaluation mode, as one flat array. The model is not changed.

    Parameters
    ----------
    model : nn.Module
    inputs : Tensor, array, tuple or mapping
        One argument, several, or keyword arguments.
    changes : mapping of str to array
        Other values for entries of the ``state_dict``.

    Examples
    --------
    >>> model = nn.Linear(2, 2, bias=False)
    >>> outputs_of(model, torch.eye(2), {"weight": np.array([[1.0, 2.0], [3.0, 4.0]])})
    array([1., 3., 2., 4.])
    """
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    new: dict[str, Any] = {name: from_raw(array, "torch").to(state[name]) for name, array in changes.items()}
    inputs = _as_tensors(inputs)
    args = inputs if isinstance(inputs, tuple) else () if isinstance(inputs, Mapping) else (inputs,)
    kwargs: dict[str, Any] = dict(inputs) if isinstance(inputs, Mapping) else {}
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            found = functional_call(model, new, args, kwargs)
    finally:
        for module, mode in modes.items():
            module.training = mode
    tensors = [tensor.detach().double().cpu().numpy().ravel() for tensor in _tensors(found)]
    if not tensors:
        raise PlanError(f"the model returns a {type(found).__name__} without floating-point tensors")
    return np.concatenate(tensors)


def _as_tensors(inputs: Any) -> Any:
    """Turn arrays of NumPy into tensors."""
    if isinstance(inputs, Mapping):
        return {name: _as_tensors(value) for name, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(map(_as_tensors, inputs))
    return torch.as_tensor(inputs) if isinstance(inputs, np.ndarray) else inputs


def _tensors(found: Any) -> list[Tensor]:
    if isinstance(found, Tensor):
        return [found] if found.is_floating_point() else []
    parts: Any = found.values() if isinstance(found, Mapping) else found if isinstance(found, (tuple, list)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]
