"""Find the view of a model or of a file."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from ..base import loaded
from ..errors import PlanError
from ..files import StoredModel, load_checkpoint
from .stored import StoredView
from .view import ModelView

#: Entry points that make the view of a framework's model, by the name of its library. They raise `PlanError` for models
#: of other frameworks.
GROUP = "deeptn.views"


class Library(Protocol):
    """What the package of a front-end exports for models of its library, and `deeptn compress` uses."""

    def calibrate(self, model: Any, data: Any, held_out: Any = None) -> Any: ...

    def compress(self, model: Any, targets: Any, *, calibration: Any = None, workers: Any = None) -> Any: ...

    def heal(self, model: Any, teacher: Any, data: Any, recipe: Any, seed: int = 0, **options: Any) -> Any: ...

    def score(self, model: Any, evaluate: Callable[[Any], float]) -> float: ...

    def search_by_drop(self, model: Any, budget: Any, evaluate: Any, heal: Any, **options: Any) -> Any: ...

    def save_model(self, model: Any, path: Any, cores: Any = None) -> dict[str, float]: ...


def library_of_model(model: Any) -> Library:
    """Return the package of the front-end that knows a model: the one in which the class of its view is.

    Examples
    --------
    >>> from torch import nn
    >>> library_of_model(nn.Linear(2, 2)).__name__
    'deeptn_torch'
    """
    found: Any = importlib.import_module(type(view_of(model)).__module__.rpartition(".")[0])
    return found


def view_of(model: Any) -> ModelView:
    """Return the view of a checkpoint, or of a model of a framework that has been imported.

    Parameters
    ----------
    model : path, StoredModel, ModelView or model
        A path is opened by `deeptn.files.load_checkpoint`; a view is returned as it is.

    Raises
    ------
    PlanError
        If no framework knows the model.

    Examples
    --------
    >>> from torch import nn
    >>> [weight.name for weight in view_of(nn.Sequential(nn.Linear(6, 4), nn.ReLU())).weights()]
    ['0']
    """
    if isinstance(model, (str, os.PathLike)):
        return StoredView(load_checkpoint(model))
    if isinstance(model, StoredModel):
        return StoredView(model)
    if callable(getattr(model, "weights", None)) and callable(getattr(model, "entries", None)):
        return model
    for entry in importlib.metadata.entry_points(group=GROUP):
        make = loaded(entry, "view of models") if entry.name in sys.modules else None
        if make is not None:
            with suppress(PlanError):
                return make(model)
    raise PlanError(
        "expected a path, a StoredModel, a view, or a model of PyTorch, Equinox or NNX (import its library first); got "
        f"{type(model).__name__}"
    )
