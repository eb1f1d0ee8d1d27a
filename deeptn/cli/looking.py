"""``deeptn inspect`` and ``deeptn compare``: look at the weights of a checkpoint, or at one of them."""

from __future__ import annotations

import argparse

from ..analysis import compare
from ..arrays import to_numpy
from ..errors import PlanError, near_match
from ..files import load_checkpoint
from ..fitting import Fit
from ..models import StoredView, Weight, fit_arrays, naming
from ..planning import inspect_model, limit_of
from ..planning.inspection import DEEP, QUICK
from .arguments import add_choices, add_jobs, add_json, add_model, add_seed, budget_of, print_json
from .commands import Command


def _configure_inspect(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    usual = f"{','.join(QUICK)}, and {DEEP} where PyTorch, or JAX with optax, is installed"
    add_choices(parser, usual, "inspect", "layers to leave out")
    add_jobs(parser)
    parser.add_argument("--batch", type=int, default=1, help="rows of input in a call, for the times (default 1)")
    add_json(parser)


def _inspect(options: argparse.Namespace) -> int:
    found = inspect_model(
        options.model,
        targets=options.targets or ["*"],
        ignore=options.ignore,
        topologies=options.topologies and options.topologies.split(","),
        batch=options.batch,
        workers=options.jobs,
        seed=options.seed,
    )
    print_json(found.to_dict()) if options.json else print(found)
    return 0


def _configure_compare(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--layer", required=True, help="name of a layer (fc1) or of its weight (fc1.weight)")
    parser.add_argument("--params", required=True, help="parameters of each network: 2000, or 5%% of the weight")
    text = "families to compare, separated by commas (default: those with a good closed form)"
    parser.add_argument("--topologies", help=text)
    add_seed(parser)
    add_json(parser)


def _compare(options: argparse.Namespace) -> int:
    weight = _layer(StoredView(load_checkpoint(options.model)), options.layer)
    array = to_numpy(weight.read())
    budget = limit_of("params", budget_of(options.params), array.size)
    families = None if options.topologies is None else options.topologies.split(",")
    how = Fit(seed=options.seed)
    with naming(weight.name):
        found = compare(array, families, budget, fit=lambda net, dense: fit_arrays(net, dense, None, how).params)
    if options.json:
        print_json({"layer": weight.name} | found.to_dict())
    else:
        print(f"{weight.name}: {found}")
    return 0


def _layer(view: StoredView, name: str) -> Weight:
    """Return the layer of a name, or the one whose weight has this name."""
    known: dict[str, Weight] = {}
    for weight in view.weights():
        for layer in weight.names:
            known[layer] = known[weight.entry(weight.own, layer)] = weight
    if name not in known:
        layers = [layer for weight in view.weights() for layer in weight.names]
        raise PlanError(f"--layer {name!r}; {near_match(name.removesuffix('.weight'), layers)}")
    return known[name]


INSPECT = Command(
    "look at the weights of a checkpoint: spectra, and how far each compresses", _configure_inspect, _inspect
)
COMPARE = Command("compare families for one layer, at the same number of parameters", _configure_compare, _compare)
