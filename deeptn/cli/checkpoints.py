"""``deeptn plan``, ``deeptn compress`` and ``deeptn decompress``: from a checkpoint to a smaller one, and back."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..base import kilobytes
from ..errors import FormatError, PlanError
from ..files import load_checkpoint, save_checkpoint
from ..models import Report, StoredView, compress, save_model
from ..planning import FAMILIES, Plan, plan
from .arguments import add_choices, add_model, budget_of
from .commands import Command

#: From this error of a weight on, a network rarely works without training.
LARGE = 0.1


def _planned(options: argparse.Namespace, view: StoredView) -> Plan:
    return plan(
        view,
        {"params": budget_of(options.budget)},
        targets=options.targets or ["*"],
        ignore=options.ignore,
        topologies=options.topologies.split(","),
        seed=options.seed,
        workers=options.jobs,
    )


def _configure_plan(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--budget", required=True, help="parameters of the compressed model: 50000, or 5%% of all")
    parser.add_argument("-o", "--out", type=Path, help="YAML file to write")
    add_choices(parser, FAMILIES, "compress", "layers that stay dense")


def _plan(options: argparse.Namespace) -> int:
    found = _planned(options, StoredView(load_checkpoint(options.model)))
    print(found)
    if options.out is not None:
        found.save(options.out)
        print(f"wrote {options.out}")
    return 0


def _configure_compress(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("--plan", type=Path, help="YAML file of deeptn plan")
    either.add_argument("--budget", help="parameters of the compressed model: 50000, or 5%% of all")
    parser.add_argument("-o", "--out", type=Path, required=True, help="safetensors file to write")
    add_choices(parser, FAMILIES, "compress", "layers that stay dense")


def _compress(options: argparse.Namespace) -> int:
    _check_out(options)
    view = StoredView(load_checkpoint(options.model))
    found = _planned(options, view) if options.plan is None else Plan.load(options.plan)
    if not found.targets:
        raise PlanError("the plan leaves every layer dense; give a smaller budget, or other topologies")
    _, report = compress(view, found)
    save_model(view, options.out)
    print(report)
    _warn_of_errors(report)
    print(f"wrote {options.out}, {kilobytes(options.out.stat().st_size)}")
    return 0


def _warn_of_errors(report: Report) -> None:
    large = [layer for layer in report.layers if layer.error > LARGE]
    if large:
        worst = max(large, key=lambda layer: layer.error)
        print(
            f"{len(large)} of {len(report.layers)} weights have an error above {LARGE:.0%} (the largest, "
            f"{worst.error:.0%}, in {worst.name!r}). Without training, a network with such errors does not work as "
            "before: load the file into your model (load_model) and train it, or choose a larger budget.",
            file=sys.stderr,
        )


def _configure_decompress(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="file of deeptn compress or save_model")
    parser.add_argument("-o", "--out", type=Path, required=True, help="safetensors file to write")
    parser.description = "Write a file in which generated weights are dense, for every program (in Python: fold)."


def _decompress(options: argparse.Namespace) -> int:
    _check_out(options)
    model = load_checkpoint(options.model)
    if not model.layers:
        raise FormatError(f"{str(options.model)!r} has no generated layer; it is dense already")
    save_checkpoint(model, options.out)
    size = kilobytes(options.out.stat().st_size)
    print(f"decoded {len(model.layers)} weights, wrote {options.out}, {size}")
    return 0


def _check_out(options: argparse.Namespace) -> None:
    """Refuse a target that cannot be written before the work begins."""
    if options.out.suffix != ".safetensors":
        raise FormatError(f"--out {str(options.out)!r}; write a file name that ends in .safetensors")
    if not options.out.parent.is_dir():
        raise FileNotFoundError(f"no directory {str(options.out.parent)!r} to write {options.out.name!r} into")
    if options.out.is_dir():
        raise IsADirectoryError(f"{str(options.out)!r} is a directory")


PLAN = Command("choose a network for every layer of a checkpoint, within a limit", _configure_plan, _plan)
COMPRESS = Command("compress a checkpoint, by a plan or within a limit", _configure_compress, _compress)
DECOMPRESS = Command("write a compressed checkpoint with dense weights", _configure_decompress, _decompress)
