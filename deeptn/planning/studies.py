"""Choose the next trial of a search, from the trials that are finished."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..base import optional

#: The share of the parameters with which a search starts.
FIRST = 0.25

#: A search ends when sizes within the drop and beyond it differ by less than this factor.
CLOSE = 1.1


@dataclass(frozen=True)
class Trial:
    """A network that the search has tried.

    Attributes
    ----------
    share : float
        Parameters that the plan was allowed, as a share of the whole model.
    params : int or None
        Parameters of the compressed model; None if no network is that small.
    compressed, score : float or None
        Scores after compression, and after healing.
    accepted : bool
        Whether the score is within the drop.
    seconds : float
        Wall time.
    choice : str
        Name of the set of topologies; empty if there is only one.
    """

    share: float
    params: int | None
    compressed: float | None
    score: float | None
    accepted: bool
    seconds: float
    choice: str = ""


def next_trial(trials: Sequence[Trial], names: Sequence[str], seed: int) -> tuple[str, float] | None:
    """Return the choice and the share of the next trial; None if the search is over.

    A choice halves or doubles the share until the smallest network within the drop (of any choice) and the largest one
    with which it has failed itself are known, and then bisects. With several choices, each is tried once; then Optuna's
    TPE chooses (Bergstra et al., NeurIPS 2011), by the seed, the number of the trial and the finished trials alone.

    Examples
    --------
    >>> within, beyond = Trial(0.25, 10, 0.9, 1.0, True, 0.0), Trial(0.125, 5, 0.1, 0.2, False, 0.0)
    >>> next_trial([], [""], 0), next_trial([within], [""], 0)
    (('', 0.25), ('', 0.125))
    >>> name, share = next_trial([within, beyond], [""], 0)
    >>> round(share, 3)
    0.177
    """
    untried = [name for name in names if name not in {trial.choice for trial in trials}]
    if untried:
        return untried[0], FIRST
    fine = smallest_within(trials)
    shares = {name: _next_share([trial for trial in trials if trial.choice == name], fine) for name in names}
    left = {name: share for name, share in shares.items() if share is not None}
    if not left:
        return None
    name = next(iter(left)) if len(left) == 1 else _suggested(trials, list(left), seed)
    return name, left[name]


def smallest_within(trials: Sequence[Trial]) -> float:
    """Return the smallest share of a network within the drop; 1 if there is none."""
    return min((trial.share for trial in trials if trial.accepted), default=1.0)


def _next_share(trials: Sequence[Trial], fine: float) -> float | None:
    """Return the next share of one choice, if the smallest share within the drop is that of any choice."""
    own = smallest_within(trials)
    bad = max((trial.share for trial in trials if not trial.accepted and trial.share < own), default=0.0)
    if not bad:
        return fine / 2
    if fine == 1.0 and 2 * bad < 1.0:
        return 2 * bad
    return None if fine / bad < CLOSE else math.sqrt(fine * bad)


def _suggested(trials: Sequence[Trial], names: Sequence[str], seed: int) -> str:
    """Return one of the names, by what is known of their trials."""
    optuna = optional("optuna", "search")
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        number = int(np.random.SeedSequence((seed, len(trials))).generate_state(1)[0])
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=number, n_startup_trials=len(names)))
        space = {"choice": optuna.distributions.CategoricalDistribution(list(names))}
        known = [trial for trial in trials if trial.choice in names]
        order = sorted({_rank(trial) for trial in known})
        for trial in known:
            value = float(order.index(_rank(trial)))
            params = {"choice": trial.choice}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=value))
        return str(study.ask(space).params["choice"])
    finally:
        optuna.logging.set_verbosity(level)


def _rank(trial: Trial) -> tuple[int, float]:
    """Order trials: first those within the drop by size, then the others by score, then impossible ones."""
    if trial.params is None or trial.score is None:
        return 2, 0.0
    return (0, float(trial.params)) if trial.accepted else (1, -trial.score)
