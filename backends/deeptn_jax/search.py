"""Compress a model of Equinox or Flax NNX as far as its score allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from deeptn.base import PathLike
from deeptn.models import History
from deeptn.planning import Search
from deeptn.planning import search_by_drop as search

from .models import compress, load_model, save_model
from .view import view_of

M = TypeVar("M")


def score(model: M, evaluate: Callable[[M], float]) -> float:
    """Return what a function says of a model in inference mode.

    Examples
    --------
    >>> import equinox as eqx, jax
    >>> score(eqx.nn.Dropout(), lambda model: float(model(jax.numpy.ones(100)).sum()))
    100.0
    """
    view: Any = view_of(model)
    return evaluate(view.evaluated())


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

    See `deeptn.planning.search_by_drop`. `heal` returns the healed model, or a tuple that starts with it.

    Examples
    --------
    >>> import equinox as eqx, jax
    >>> model = eqx.nn.MLP(16, 4, 32, 1, key=jax.random.key(0))
    >>> x = jax.random.normal(jax.random.key(1), (64, 16))
    >>> score = lambda small: -float(((jax.vmap(small)(x) - jax.vmap(model)(x)) ** 2).mean())
    >>> small, found = search_by_drop(model, {"drop": 0.2}, score, trials=3, topologies=["LowRank"])
    >>> len(found.trials)
    3
    """

    def healed(small: M, teacher: M, checkpoint: Path | None) -> Any:
        assert heal is not None
        found: Any = heal(small, teacher, checkpoint)
        with_history = isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], History)
        return found[0] if with_history else found

    library: Any = SimpleNamespace(compress=compress, save_model=save_model, load_model=load_model)
    # With the signatures of the user's functions, which the search checks.
    scored = wraps(evaluate)(lambda model: score(model, evaluate)) if callable(evaluate) else evaluate
    given = scored, wraps(heal)(healed) if callable(heal) else heal
    return search(library, model, budget, *given, trials=trials, folder=folder, seed=seed, **options)
