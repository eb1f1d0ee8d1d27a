"""Find the smallest network whose score is at most so much lower."""

from __future__ import annotations

import inspect
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ..base import PathLike, optional, text_table, warn, write_atomically
from ..errors import FormatError, PlanError, SpecError
from ..models import Calibration, Matching, Workers, key_of
from ..topologies import topology
from .plans import Plan
from .search import plan
from .studies import Trial, next_trial

#: So many compressed models that all score higher than the original, before they are healed, raise a doubt.
SEVERAL = 3

#: Names of what is in the folder.
LOG, MODEL, CHECKPOINT = "trials.json", "trial-{}.safetensors", "trial-{}.checkpoint.safetensors"


class FrontEnd(Protocol):
    """What a search needs of the library of a model.

    The functions are those of the front-ends: ``compress(model, plan)``, ``save_model(model, path)``,
    ``load_model(model, path)``.
    """

    def compress(self, model: Any, targets: Any, *, calibration: Any = None) -> tuple[Any, Any]: ...

    def save_model(self, model: Any, path: PathLike) -> object: ...

    def load_model(self, model: Any, path: PathLike) -> Any: ...


@dataclass(frozen=True)
class Search:
    """What a search for the smallest network has found; ``print`` it.

    Attributes
    ----------
    before : float
        The score of the model before compression.
    drop : float
        By how much the score may be lower.
    trials : tuple of Trial
        In the order in which they were made.
    best : int or None
        Index of the smallest network within the drop; None if there is none.
    params : int
        Parameters of the model before compression.
    """

    before: float
    drop: float
    trials: tuple[Trial, ...]
    best: int | None
    params: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        names = any(trial.choice for trial in self.trials)
        head = ("trial", *["topologies"] * names, "share", "parameters", "compressed", "healed", "drop", "")
        rows = [
            (
                str(number + 1),
                *[trial.choice] * names,
                f"{trial.share:.2%}",
                "-" if trial.params is None else f"{trial.params:,}",
                *("-" if score is None else f"{score:.4g}" for score in (trial.compressed, trial.score)),
                "-" if trial.score is None else f"{self.before - trial.score:.3g}",
                "too small for these topologies"
                if trial.params is None
                else "smallest"
                if number == self.best
                else "within" * trial.accepted,
            )
            for number, trial in enumerate(self.trials)
        ]
        return f"score before {self.before:.4g}, largest drop {self.drop:g}\n{text_table([head, *rows])}"


def search_by_drop(
    front_end: FrontEnd,
    model: Any,
    budget: Mapping[str, float],
    evaluate: Callable[[Any], float] | None,
    heal: Callable[[Any, Any, Path | None], Any] | None = None,
    *,
    trials: int = 8,
    folder: PathLike | None = None,
    choices: Mapping[str, Sequence[str]] | None = None,
    calibration: Calibration | Matching | None = None,
    **options: Any,
) -> tuple[Any, Search]:
    """Compress a model as far as its score allows.

    Every trial makes a plan for a share of the parameters (`plan`), compresses, heals and evaluates. The search starts
    at a quarter of the parameters, halves or doubles the share until the drop lies between two trials, and bisects.
    With several `choices` of topologies, each is tried at a quarter, and then Optuna suggests which one goes on.

    Parameters
    ----------
    front_end : FrontEnd
    model : object
        It is not changed.
    budget : mapping
        ``{"drop": 1.0}``: by how much the score may be lower, in its own unit.
    evaluate : callable
        Takes a model, returns its score on a validation part; higher is better. The score on a test set will be lower:
        among several trials, the best one is in part the luckiest.
    heal : callable, optional
        ``heal(small, model, checkpoint)`` trains a compressed model, and returns it, or None if it has changed it in
        place. The checkpoint is a path for `deeptn_torch.heal`, or None without a folder.
    trials : int
        Largest number of trials.
    folder : path, optional
        Keeps every finished trial: after an interruption, a call with the same arguments goes on, and ends with the
        same networks.
    choices : mapping of str to sequence of str, optional
        Topologies that plans may use, by a name: ``{"TT-matrix": ["TTMatrix"], "any": deeptn.planning.FAMILIES}``. The
        networks with the smallest errors need not be those that heal best. Needs ``pip install 'deeptn[search]'``.
    calibration : Calibration or Matching, optional
        For `compress`, in every trial. A folder keeps no data: with a `Matching`, pass the same.
    **options
        Those of `deeptn.plan`: targets, ignore, topologies, seed, …; without topologies if there are choices.

    Returns
    -------
    model : object
        The smallest compressed model within the drop.
    search : Search

    Raises
    ------
    SpecError
        Without `evaluate`, or if a score is not a finite number.
    PlanError
        If no trial is within the drop, or the budget has other limits.
    FormatError
        If the folder has the trials of another search.
    """
    if not isinstance(budget, Mapping) or set(budget) != {"drop"}:
        raise PlanError(f'a search has one limit, {{"drop": 1.0}}; got {budget!r:.60}. For others, use deeptn.plan')
    drop = budget["drop"]
    if isinstance(drop, bool) or not isinstance(drop, (int, float)) or not 0 <= drop < math.inf:
        raise SpecError(f"the drop must be a number of at least 0, in the unit of evaluate; got {drop!r}")
    if evaluate is None:
        raise SpecError("a budget of the drop needs evaluate=, a function from a model to its score (higher is better)")
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise SpecError(f"trials must be a positive integer, got {trials!r}")
    _check_call("evaluate", evaluate, "evaluate(model), which returns a score", 1)
    if heal is not None:
        _check_call("heal", heal, "heal(small, model, checkpoint)", 3)
    seed = options.get("seed") or 0
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or seed < 0:
        raise SpecError(f"seed = {seed!r}; expected a non-negative integer")
    try:
        inspect.signature(plan).bind(model, budget, **options)
    except TypeError as error:
        raise SpecError(f"{error}; options of a search are those of deeptn.plan") from None
    with tempfile.TemporaryDirectory() as temporary:  # every plan needs the same errors of weights
        kept = Path(temporary) if folder is None else Path(folder)
        given = {"workers": Workers(1, folder=kept / "errors")} | options
        place = None if folder is None else kept
        run = _Run(front_end, model, float(drop), evaluate, heal, place, calibration, choices, given)
        names = list(run.choices)
        while len(run.trials) < trials and (following := next_trial(run.trials, names, seed)) is not None:
            run.trial(*following)
        return run.result()


def _check_call(name: str, function: Any, expected: str, count: int) -> None:
    """Raise `SpecError` if a function cannot be called with so many arguments, as far as it says."""
    if not callable(function):
        raise SpecError(f"{name} is a {type(function).__name__}; expected a function {expected}")
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError as error:
        raise SpecError(f"{name} must be a function {expected}; calling it that way fails: {error}") from error
    except ValueError:  # some built-in functions don't say
        return


def _checked(choices: Mapping[str, Sequence[str]] | None, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what each choice adds to the options of `plan`."""
    if choices is None:
        return {"": {}}
    if "topologies" in options:
        raise PlanError("choices are sets of topologies; leave out topologies")
    named = isinstance(choices, Mapping) and choices and "" not in choices
    if not named or not all(isinstance(one, (list, tuple)) and one for one in choices.values()):
        example = '{"TT-matrix": ["TTMatrix"], "low rank": ["LowRank"]}'
        raise PlanError(f"choices must be a mapping from names to lists of topologies, such as {example}")
    if len(choices) > 1:
        optional("optuna", "search")  # and not after the first trials
    return {str(name): {"topologies": [topology(one) for one in given]} for name, given in choices.items()}


def checked_score(score: Any) -> float:
    """Return what `evaluate` returned as a float; raise `SpecError` if it is not a finite number.

    Examples
    --------
    >>> checked_score(3)
    3.0
    """
    if isinstance(score, bool) or not hasattr(score, "__float__") or not math.isfinite(float(score)):
        raise SpecError(f"evaluate must return a finite number, higher is better; got {score!r:.60}")
    return float(score)


class _Run:
    """The trials so far, in memory and in the folder."""

    def __init__(
        self,
        front_end: FrontEnd,
        model: Any,
        drop: float,
        evaluate: Callable[[Any], float],
        heal: Callable[[Any, Any, Path | None], Any] | None,
        folder: Path | None,
        calibration: Calibration | Matching | None,
        choices: Mapping[str, Sequence[str]] | None,
        options: Mapping[str, Any],
    ):
        self.front_end, self.model, self.drop, self.evaluate, self.heal = front_end, model, drop, evaluate, heal
        self.folder, self.options, self.calibration = folder, options, calibration
        self.choices = _checked(choices, options)
        self.trials: list[Trial] = []
        self.smallest: Any = None
        self.params = 0
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self.before = self._score(model)
        self._read()

    def trial(self, choice: str, share: float) -> None:
        number, started = len(self.trials), time.monotonic()
        try:
            limit = {"params": f"{100 * share:.6f}%"}
            found: Plan | None = plan(self.model, limit, **{**self.options, **self.choices[choice]})
        except PlanError as error:
            if "at least" not in str(error):
                raise
            found = None
        if found is None or not found.targets:
            self._add(Trial(share, None, None, None, False, time.monotonic() - started, choice))
            return
        self.params = found.params_before
        small, _ = self.front_end.compress(self.model, found, calibration=self.calibration)
        compressed = score = self._score(small)
        if self.heal is not None:
            path = None if self.folder is None else self.folder / CHECKPOINT.format(number + 1)
            healed = self.heal(small, self.model, path)
            small = small if healed is None else healed
            score = self._score(small)
        accepted = score >= self.before - self.drop
        if accepted and self.folder is not None:
            self.front_end.save_model(small, self.folder / MODEL.format(number + 1))
        before = self._best()
        seconds = time.monotonic() - started
        self._add(Trial(share, found.params_after, compressed, score, accepted, seconds, choice))
        if self._best() != before:
            self.smallest = small

    def result(self) -> tuple[Any, Search]:
        best = self._best()
        search = Search(self.before, self.drop, tuple(self.trials), best, self.params)
        made = [trial for trial in self.trials if trial.compressed is not None]
        if len(made) >= SEVERAL and all((trial.compressed or 0.0) > self.before for trial in made):
            warn("every compressed model scores higher than the original; in evaluate, higher must be better")
        if best is None:
            advice = "pass heal=" if self.heal is None else "train longer in heal"
            text = f"no trial is within the drop: {advice}, raise trials=, or allow a larger drop"
            raise PlanError(f"{text}\n{search}")
        if self.folder is not None:
            return self.front_end.load_model(self.model, self.folder / MODEL.format(best + 1)), search
        return self.smallest, search

    def _best(self) -> int | None:
        fine = {trial.params or 0: number for number, trial in enumerate(self.trials) if trial.accepted}
        return fine[min(fine)] if fine else None

    def _score(self, model: Any) -> float:
        return checked_score(self.evaluate(model))

    def _about(self) -> dict[str, Any]:
        options = {name: repr(value) for name, value in sorted(self.options.items()) if name != "workers"}
        about = {"before": self.before, "drop": self.drop, "options": options}
        if "" not in self.choices:
            about["choices"] = {name: repr(choice["topologies"]) for name, choice in self.choices.items()}
        if (known := self.calibration) is not None:
            parts: list[Any] = []
            if isinstance(known, Calibration):
                centers = [known.centers.get(name) for name in known.inputs]
                parts = [*known.inputs, *centers, *(part for name in known.inputs for part in known.parts(name))]
            about["calibration"] = key_of(type(known).__name__, known.damping, *parts)
        return about

    def _read(self) -> None:
        if self.folder is None or not (self.folder / LOG).exists():
            return
        try:
            data = json.loads((self.folder / LOG).read_text())
            trials, params = [Trial(**trial) for trial in data["trials"]], int(data["params"])
            about = data["about"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{self.folder / LOG}: not the trials of a search ({error})") from error
        if about != self._about():
            raise FormatError(f"{self.folder}: the trials belong to another search ({about}); choose another folder")
        self.trials, self.params = trials, params

    def _add(self, trial: Trial) -> None:
        self.trials.append(trial)
        if self.folder is not None:
            data = {"about": self._about(), "params": self.params, "trials": [asdict(one) for one in self.trials]}
            write_atomically(self.folder / LOG, lambda file: file.write_text(json.dumps(data, indent=1)))
