"""``deeptn plan``, ``deeptn compress`` and ``deeptn decompress``: from a checkpoint to a smaller one, and back."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..base import kilobytes, text_table, write_atomically
from ..errors import FormatError, PlanError, SpecError
from ..files import CORES, load_checkpoint, save_checkpoint
from ..models import Report, StoredView, Workers, compress, library_of_model, save_model, view_of
from ..planning import FAMILIES, Limits, Plan, plan
from ..planning.search import NAMES
from .arguments import (
    add_budget,
    add_choices,
    add_model,
    add_overrides,
    add_quiet,
    add_work,
    drop_of,
    limits_of,
    overrides_of,
    print_json,
    workers_of,
)
from .commands import Command
from .draw import FORMATS
from .healing import Outcome, add_code, check_code, clear_healing, compress_with_code

#: From this error of a weight on, a network rarely works without training.
LARGE = 0.1


def _choices(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "targets": options.targets or ["*"],
        "ignore": options.ignore,
        "topologies": FAMILIES if options.topologies is None else options.topologies.split(","),
        "overrides": overrides_of(options.override),
        "seed": options.seed,
    }


def _planned(options: argparse.Namespace, view: Any, workers: Workers) -> Plan:
    return plan(view, limits_of(options.budget), workers=workers, **_choices(options))


def _configure_plan(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_budget(parser)
    parser.set_defaults(fail=parser.error)  # after a misspelled option has been named
    parser.add_argument("-o", "--out", type=Path, help="YAML file to write")
    add_choices(parser, ",".join(FAMILIES), "compress", "layers that stay dense")
    add_overrides(parser)
    text = "also list the errors for other budgets, and plot them to FILE (.svg, .png, .pdf) if it is given"
    parser.add_argument("--pareto", nargs="?", const="", metavar="FILE", help=text)
    add_work(parser)
    add_quiet(parser)


def _plan(options: argparse.Namespace) -> int:
    if options.budget is None:
        options.fail("the argument --budget is required")
    picture = Path(options.pareto) if options.pareto else None
    if picture is not None and picture.suffix.lstrip(".").lower() not in FORMATS:
        raise SpecError(f"--pareto {str(picture)!r}; write a file name that ends in .{', .'.join(FORMATS)}")
    written = [path for path in (options.out, picture) if path is not None]
    for path in written:
        _check_folder(path)
    with workers_of(options) as workers:
        found = _planned(options, StoredView(load_checkpoint(options.model)), workers)
        if options.out is not None:
            found.save(options.out)
    table = None if options.pareto is None else found.pareto()
    if table is not None and picture is not None:
        figure = table.plot()
        write_atomically(picture, lambda new: figure.savefig(new, format=picture.suffix[1:].lower(), dpi=150))
    if options.json:
        print_json(found.to_dict() | ({} if table is None else {"pareto": table.to_dict()["points"]}))
    elif not options.quiet:
        print(found)
        if table is not None:
            print(table)
        for path in written:
            print(f"wrote {path}")
        if options.out is None:
            print("the plan is not saved; -o plan.yaml writes it")
    return 0


def _configure_compress(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    either = parser.add_mutually_exclusive_group()
    parser.set_defaults(fail=parser.error)
    either.add_argument("--plan", type=Path, help="YAML file of deeptn plan")
    add_budget(either)
    parser.add_argument("-o", "--out", type=Path, required=True, help="safetensors file to write")
    add_choices(parser, ",".join(FAMILIES), "compress", "layers that stay dense")
    add_overrides(parser)
    text = "store the cores in fewer bytes; a program that loads the file has them in its own dtype, rounded"
    parser.add_argument("--cores", choices=CORES, help=text)
    add_code(parser)
    add_work(parser)
    add_quiet(parser)


def _compress(options: argparse.Namespace) -> int:
    if options.budget is None and options.plan is None:
        options.fail("one of the arguments --plan --budget is required")
    drop = None if options.budget is None else drop_of(options.budget)
    check_code(options, drop)
    _check_out(options)
    if options.report is not None:
        _check_folder(options.report)
    if drop is not None and options.evaluate is None:
        raise PlanError("--budget drop=… needs a score; add --model and --evaluate package:function")

    def planned(view: Any) -> Plan:
        return _planned(options, view, workers) if options.plan is None else _loaded(options, view)

    with workers_of(options) as workers:
        if options.code is None:
            done = _compressed(options, planned, workers)
            rounding = save_model(done.after, options.out, options.cores)
        else:
            done = compress_with_code(options, planned, drop, workers, **_choices(options))
            rounding = library_of_model(done.after).save_model(done.after, options.out, options.cores)
        assert done.report is not None
        if options.report is not None:
            done.write(options.report, options.model.name)
        clear_healing(workers)
    size, scores = options.out.stat().st_size, done.scores or {}
    if options.json:
        more = {"out": str(options.out), "disk_bytes": size, "rounding_errors": rounding, "scores": scores}
        print_json(done.report.to_dict() | more)
    elif not options.quiet:
        if done.search is not None:
            print(done.search)
        print(_table(done.report))
        if rounding:
            print(f"cores in {options.cores}: this changes the weights by up to {max(rounding.values()):.2%}")
        if scores:
            print("score " + ", ".join(f"{when} {score:.4g}" for when, score in scores.items()))
        print(f"wrote {options.out}, {kilobytes(size)}" + (f", and {options.report}" if options.report else ""))
    if "healed" not in scores:
        _warn_of_errors(done.report)
    return 0


def _compressed(options: argparse.Namespace, planned: Callable[[Any], Plan], workers: Workers) -> Outcome:
    """Compress the checkpoint without code."""
    view = StoredView(load_checkpoint(options.model))
    found = planned(view)
    if not found.targets:
        raise PlanError("the plan leaves every layer dense; give a smaller budget, or other topologies")
    _, report = compress(view, found, options.ignore if options.plan else (), workers=workers)
    return Outcome(StoredView(load_checkpoint(options.model)), view, report, found)


def _loaded(options: argparse.Namespace, model: Any) -> Plan:
    if options.targets or options.override or options.topologies:
        raise PlanError(
            "--plan says what layers become; edit the file, or leave out --targets, --override, --topologies"
        )
    found, view = Plan.load(options.plan), view_of(model)
    free = {weight.name: weight for weight in view.weights() if weight.network is None}
    limits = Limits(view, free, found.budget)
    for kind, after in limits.after({name: found.targets.get(name) for name in free}).items():
        if after > limits.limits[kind]:  # it was edited
            text = (
                f"deeptn: the plan is for {limits.limits[kind]:,} {NAMES[kind]}; with its networks, there are {after:,}"
            )
            print(text, file=sys.stderr)
    return found


def _table(report: Report) -> str:
    """Return a line for each layer; run time means the cores and the decoded weight."""
    head = ("layer", "weight", "becomes", "parameters", "before", "ratio", "error", "bytes", "before", "at run time")
    rows = [
        (
            layer.name,
            " × ".join(map(str, layer.shape)),
            layer.topology,
            *(f"{number:,}" for number in (layer.params_after, layer.params_before)),
            f"{layer.ratio:.1f}",
            f"{layer.error:.3f}",
            *(f"{number:,}" for number in (layer.bytes_after, layer.bytes_before, layer.bytes_running)),
        )
        for layer in report.layers
    ]
    return f"{text_table([head, *rows])}\n{report.total}"


def _warn_of_errors(report: Report) -> None:
    large = [layer for layer in report.layers if layer.error > LARGE]
    if large:
        worst = max(large, key=lambda layer: layer.error)
        print(
            f"{len(large)} of {len(report.layers)} weights have an error above {LARGE:.0%} (the largest, "
            f"{worst.error:.0%}, in {worst.name!r}). Few networks work as before with such errors: test it. If it is "
            "worse, load the file into your model (load_model) and train it, or choose a larger budget.",
            file=sys.stderr,
        )


def _configure_decompress(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="file of deeptn compress or save_model")
    parser.add_argument("-o", "--out", type=Path, required=True, help="safetensors file to write")
    parser.description = (
        "Write a file in which generated weights are dense, for every program. In Python, for a model: fold_ in "
        "PyTorch, fold in Equinox and NNX."
    )
    add_quiet(parser)


def _decompress(options: argparse.Namespace) -> int:
    _check_out(options)
    model = load_checkpoint(options.model)
    if not model.layers:
        raise FormatError(f"{str(options.model)!r} has no generated layer; it is dense already")
    save_checkpoint(model, options.out)
    size = options.out.stat().st_size
    if options.json:
        print_json({"decoded": list(model.layers), "out": str(options.out), "disk_bytes": size})
    elif not options.quiet:
        print(f"decoded {len(model.layers)} weights, wrote {options.out}, {kilobytes(size)}")
    return 0


def _check_out(options: argparse.Namespace) -> None:
    """Refuse a target that cannot be written before the work begins."""
    if options.out.suffix != ".safetensors":
        raise FormatError(f"--out {str(options.out)!r}; write a file name that ends in .safetensors")
    _check_folder(options.out)


def _check_folder(path: Path) -> None:
    """Raise `OSError` if no file can be written to a path."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no directory {str(path.parent)!r} to write {path.name!r} into")
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a directory")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"no permission to write into the directory {str(path.parent)!r}")


PLAN = Command("choose a network for every layer of a checkpoint, within a limit", _configure_plan, _plan)
COMPRESS = Command("compress a checkpoint, by a plan or within a limit", _configure_compress, _compress)
DECOMPRESS = Command("write a compressed checkpoint with dense weights", _configure_decompress, _decompress)
