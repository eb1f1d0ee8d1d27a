"""Compress a PyTorch model as far as its score allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import nn

from deeptn.base import PathLike
from deeptn.planning import Search
from deeptn.planning import search_by_drop as search

from .models import compress, load_model, save_model

M = TypeVar("M", bound=nn.Module)


def score(model: M, evaluate: Callable[[M], float]) -> float:
    """Return what a function says of a model in evaluation mode, without gradients.

    Examples
    --------
    >>> score(nn.Dropout(), lambda model: float(model(torch.ones(100)).sum()))
    100.0
    """
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            return evaluate(model.eval())
    finally:
        for module, mode in modes.items():
            module.training = mode


def search_by_drop(
    model: M,
    budget: Mapping[str, float],
    evaluate: Callable[[M], float] | None = None,
    heal: Callable[[M, M, Path | None], Any] | None = None,
    *,
    trials: int = 8,
    folder: PathLike | None = None,
    seed: int = 0,
    **options: Any,
) -> tuple[M, Search]:
    """Return the smallest compressed model whose score is at most so much lower, and the trials of the search.

    See `deeptn.planning.search_by_drop`. Every call of `heal` starts with torch's generator at `seed`, whatever was
    drawn before, so that a search that was interrupted goes on as it would have.

    Examples
    --------
    >>> import deeptn as dtn
    >>> from deeptn_torch import heal
    >>> x = torch.randn(256, 16)
    >>> model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    >>> goal = model(x).detach()
    >>> score = lambda small: -float((small(x[128:]) - goal[128:]).detach().square().mean())
    >>> recipe = dtn.recipe.Recipe(epochs=2, lr=0.01, batch=32)
    >>> again = lambda small, teacher, checkpoint: heal(small, teacher, x[:128], recipe, checkpoint=checkpoint)
    >>> small, found = search_by_drop(model, {"drop": 0.2}, score, again, trials=3)
    >>> len(found.trials) <= 3, found.best is not None
    (True, True)
    """

    def healed(small: M, teacher: M, checkpoint: Path | None) -> Any:
        assert heal is not None
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found = heal(small, teacher, checkpoint)
        return found if isinstance(found, nn.Module) else small

    library: Any = SimpleNamespace(compress=compress, save_model=save_model, load_model=load_model)
    # With the signatures of the user's functions, which the search checks.
    scored = wraps(evaluate)(lambda model: score(model, evaluate)) if callable(evaluate) else evaluate
    given = scored, wraps(heal)(healed) if callable(heal) else heal
    return search(library, model, budget, *given, trials=trials, folder=folder, seed=seed, **options)
