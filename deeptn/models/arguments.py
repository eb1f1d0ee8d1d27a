"""Errors for what users often pass by mistake instead of a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..errors import PlanError
from ..network import Network
from ..topologies import Topology


def expect_model(given: Any, what: str, is_model: bool = True) -> None:
    """Raise `PlanError` for a path, rules or a state_dict, and for everything else unless `is_model`.

    Parameters
    ----------
    given : object
        First argument of `compress`, `save_model`, `load_model` and others.
    what : str
        What a model is in this framework: ``"a torch.nn.Module"``.
    is_model : bool
        Whether `given` has the type of a model.

    Examples
    --------
    >>> expect_model("small.safetensors", "a torch.nn.Module")
    Traceback (most recent call last):
        ...
    deeptn.errors.PlanError: expected a torch.nn.Module, got the path 'small.safetensors'; the model comes first: \
save_model(model, path), load_model(model, path). To compress a checkpoint, load it into its model first
    """
    if isinstance(given, str | os.PathLike):
        raise PlanError(
            f"expected {what}, got the path {os.fspath(given)!r}; the model comes first: save_model(model, path), "
            "load_model(model, path). To compress a checkpoint, load it into its model first"
        )
    if isinstance(given, Mapping) and given and all(isinstance(v, Topology | Network | str) for v in given.values()):
        raise PlanError(f"expected {what}, got rules; the model comes first: compress(model, targets)")
    if not is_model and isinstance(given, Mapping):
        raise PlanError(
            f"expected {what}, got a {type(given).__name__}; if it is a state_dict, load it into its model first: "
            "model.load_state_dict(...)"
        )
    if not is_model:
        raise PlanError(f"expected {what}, got {type(given).__name__}")
