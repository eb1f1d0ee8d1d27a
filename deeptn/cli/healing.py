"""``deeptn compress --model``: compress with the model's own code, so with data, healing, scores and a page."""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..base import is_object, previous
from ..errors import FormatError, PlanError, near_match
from ..files import load_checkpoint
from ..models import History, Report, Workers, from_stored, library_of_model, report_on, view_of
from ..planning import Plan, Search
from ..planning.drop import checked_score
from ..planning.texts import from_yaml
from ..recipe import HEALING, Recipe
from ..report import Row, write_report

#: The checkpoint of healing, and the folder of a search, in the folder of the work.
CHECKPOINT, SEARCH = "healing.safetensors", "search"

#: Options that need the model's code, by their destinations.
NEEDING = {"data": "--data", "validation": "--validation", "evaluate": "--evaluate", "heal": "--heal"}


def add_code(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the user's functions."""
    group = parser.add_argument_group("with the code of the model, in PyTorch, Equinox or NNX")
    text = "returns the model; the checkpoint is loaded into it (its names must be those of the checkpoint)"
    group.add_argument("--model", dest="code", metavar="PACKAGE:FUNCTION", help=text)
    text = "returns data as for heal: (x, y), or an iterable of batches; fits then count the errors of outputs"
    group.add_argument("--data", metavar="PACKAGE:FUNCTION", help=text)
    text = "returns other data: errors on held-out data, and the best epoch of healing"
    group.add_argument("--validation", metavar="PACKAGE:FUNCTION", help=text)
    text = "takes a model, returns its score, higher is better; for the report and --budget drop=1.0"
    group.add_argument("--evaluate", metavar="PACKAGE:FUNCTION", help=text)
    text = "train the compressed model; a YAML file with fields of Recipe, or 'default'"
    group.add_argument("--heal", metavar="RECIPE", help=text)
    text = "with --budget drop=…: a trial uses one of the topologies for all layers (needs 'deeptn[search]')"
    group.add_argument("--each", action="store_true", help=text)
    parser.add_argument("--report", type=Path, metavar="FILE", help="HTML page to write")


def check_code(options: argparse.Namespace, drop: float | None) -> None:
    """Refuse options that do not go together before the work begins."""
    if options.code is None:
        for name, option in NEEDING.items():
            if getattr(options, name) is not None:
                raise PlanError(f"{option} needs the code of the model; add --model package:function")
    if options.each and drop is None:
        raise PlanError("--each is for a search; write --budget drop=1.0, or leave it out")
    if options.heal is not None and options.data is None:
        raise PlanError("--heal needs data; add --data package:function")
    if options.report is not None and options.report.suffix != ".html":
        raise PlanError(f"--report {str(options.report)!r}; write a file name that ends in .html")


def function_of(text: str, option: str) -> Callable[..., Any]:
    """Return the function that an option names; modules in the working directory are found.

    Examples
    --------
    >>> function_of("os.path:join", "--model").__name__
    'join'
    """
    package, _, name = text.partition(":")
    if not package or not name:
        raise PlanError(f"{option} {text!r:.60}; write package:function, for example train:make_model")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise PlanError(f"{option} {text!r:.60}: {error}; run deeptn where Python finds {package!r}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            known = [known for known in dir(found) if not known.startswith("_")]
            raise PlanError(f"{option} {text!r:.60}: no {part!r} there; {near_match(part, known)}")
        found = getattr(found, part)
    if not callable(found):
        raise PlanError(f"{option} {text!r:.60} is a {type(found).__name__}; expected a function")
    return found


def recipe_of(text: str) -> Recipe:
    """Return the recipe of ``--heal``: the default, with the fields of a YAML file.

    Examples
    --------
    >>> recipe_of("default").epochs
    10
    """
    if text == "default":
        return HEALING
    try:
        data: Any = from_yaml(Path(text).read_text(encoding="utf-8"), f"the recipe {text!r}")
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {text!r} with a recipe; 'default' needs none") from None
    except UnicodeDecodeError as error:
        raise FormatError(f"{text!r} is not a text file: {error}") from error
    known = [field.name for field in fields(Recipe)]
    if not is_object(data):
        raise FormatError(f"the recipe {text!r} must be a table, for example 'epochs: 5'; got {data!r:.40}")
    for name in data:
        if name not in known:
            raise FormatError(f"the recipe {text!r} has the key {name!r:.40}; {near_match(name, known)}")
    base = {name: getattr(HEALING, name) for name in known}
    try:
        return Recipe(**(base | data))
    except TypeError as error:
        raise FormatError(f"the recipe {text!r}: {error}") from error


@dataclass
class Outcome:
    """A compressed model, and what is known of it.

    Attributes
    ----------
    before, after : object
        The models; without code, views of files.
    report : Report
    plan : Plan, optional
    search : Search, optional
    history : History, optional
    scores : dict of str to float
        ``"before"``, ``"compressed"``, ``"healed"``: as far as they were measured.
    """

    before: Any
    after: Any
    report: Report | None = None
    plan: Plan | None = None
    search: Search | None = None
    history: History | None = None
    scores: dict[str, float] | None = None

    def write(self, path: Path, name: str) -> None:
        """Write the page."""
        assert self.report is not None
        scores, report, rows = self.scores or {}, self.report, list[Row]()
        if "before" in scores:
            was = {"params": report.model_before, "bytes": report.bytes_before, "scores": (scores["before"],)}
            rows.append(Row(label="before compression", role="dense", **was))
            end = scores.get("healed", scores["compressed"])
            now = {"params": report.model_after, "bytes": report.bytes_after, "scores": (end,)}
            rows.append(Row(label="compressed", role="chosen", before=(scores["compressed"],), **now))
        write_report(
            path,
            self.report,
            title=f"{name}, compressed",
            rows=rows,
            plan=self.plan,
            search=self.search,
            before=self.before,
            after=self.after,
            histories={} if self.history is None else {"healing": self.history},
        )


def compress_with_code(
    options: argparse.Namespace, planned: Callable[[Any], Plan], drop: float | None, workers: Workers, **choices: Any
) -> Outcome:
    """Load the checkpoint into the model, compress it with data, heal and evaluate it.

    Parameters
    ----------
    options : argparse.Namespace
    planned : callable
        Takes the model, returns the plan.
    drop : float, optional
        By how much the score may be lower; then the plan is searched for.
    workers : Workers
    **choices
        What `deeptn.plan` takes: targets, ignore, topologies, seed, …
    """
    model = function_of(options.code, "--model")()
    library, view = library_of_model(model), view_of(model)
    from_stored(view, load_checkpoint(options.model))
    model = view.model
    data, validation = (
        None if text is None else function_of(text, option)()
        for text, option in ((options.data, "--data"), (options.validation, "--validation"))
    )
    evaluate = None if options.evaluate is None else function_of(options.evaluate, "--evaluate")
    recipe = None if options.heal is None else recipe_of(options.heal)
    found = Outcome(model, None, scores={})

    def heal(small: Any, teacher: Any, checkpoint: Path | None) -> tuple[Any, History]:
        assert recipe is not None
        healed = library.heal(small, teacher, data, recipe, options.seed, validation=validation, checkpoint=checkpoint)
        return healed if isinstance(healed, tuple) else (small, healed)

    def score(model: Any) -> float:
        assert evaluate is not None
        return checked_score(library.score(model, evaluate))

    known = {} if data is None else {"calibration": library.calibrate(model, data, validation)}
    if drop is not None:
        folder = None if workers.folder is None else Path(workers.folder) / SEARCH
        given = evaluate, None if recipe is None else heal
        if options.each:
            choices["choices"] = {name: [name] for name in choices.pop("topologies")}
        found.after, search = library.search_by_drop(model, {"drop": drop}, *given, folder=folder, **known, **choices)
        best = search.trials[search.best]
        found.search = search
        found.scores = {"before": search.before, "compressed": best.compressed, "healed": best.score}
        found.report = report_on(view, view_of(found.after))
        return found
    found.plan = planned(model)
    if not found.plan.targets:
        raise PlanError("the plan leaves every layer dense; give a smaller budget, or other topologies")
    small, found.report = library.compress(model, found.plan, workers=workers, **known)
    if evaluate is not None:
        found.scores = {"before": score(model), "compressed": score(small)}
    if recipe is not None:
        checkpoint = None if workers.folder is None else Path(workers.folder) / CHECKPOINT
        small, found.history = heal(small, model, checkpoint)
        if evaluate is not None:
            assert found.scores is not None
            found.scores["healed"] = score(small)
    found.after = small
    return found


def clear_healing(workers: Workers) -> None:
    """Delete what healing and a search have kept in the folder of the work, after everything is written."""
    if workers.folder is not None:
        for path in (Path(workers.folder) / CHECKPOINT, previous(Path(workers.folder) / CHECKPOINT)):
            path.unlink(missing_ok=True)
        shutil.rmtree(Path(workers.folder) / SEARCH, ignore_errors=True)
