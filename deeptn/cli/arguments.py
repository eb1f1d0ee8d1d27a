"""Arguments that several commands share, and JSON as their output."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..base import is_list, is_object
from ..errors import PlanError
from ..models import Workers
from ..planning.texts import from_yaml


def budget_of(text: str) -> int | str:
    """Parse ``5%`` or a number of parameters, in which ``_`` and ``,`` may separate groups of digits."""
    number = text.replace(",", "").replace("_", "")
    return int(number) if number.isdigit() else text


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint."""
    text = "safetensors file, index of a sharded model or its folder, .npz, or .pt (read by weights_only)"
    parser.add_argument("model", type=Path, help=text)


def add_choices(parser: argparse.ArgumentParser, usual: str, verb: str, ignored: str) -> None:
    """Add the choice of layers and families, and how to carry out the work."""
    parser.add_argument("--ignore", action="append", default=[], metavar="PATTERN", help=ignored)
    parser.add_argument("--targets", action="append", metavar="PATTERN", help=f"layers to {verb} (default: all)")
    text = f"families to try, separated by commas (default: {usual})"
    parser.add_argument("--topologies", help=text)
    add_seed(parser)


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add the seed of fits."""
    parser.add_argument("--seed", type=int, default=0, help="seed of fits by gradient (default 0)")


def add_budget(parser: Any) -> None:
    """Add the limits of a plan."""
    text = (
        "limit of the compressed model, repeated for several: 50000 or 5%% (parameters), bytes=250000 (of the file), "
        "flops=50%% (operations of one row in all weights); drop=1.0 (of the score, with --evaluate)"
    )
    parser.add_argument("--budget", action="append", metavar="LIMIT", help=text)


def limits_of(texts: Iterable[str]) -> dict[str, int | str]:
    """Parse the limits of `add_budget`.

    Examples
    --------
    >>> limits_of(["5%", "bytes=250_000"])
    {'params': '5%', 'bytes': 250000}
    """
    found: dict[str, int | str] = {}
    for text in texts:
        kind, _, value = text.rpartition("=")
        if (kind or "params") in found:
            raise PlanError(f"--budget {text!r:.40}: there is another limit of {kind or 'params'!r}")
        found[kind or "params"] = budget_of(value)
    return found


def drop_of(texts: Iterable[str]) -> float | None:
    """Return the number of ``--budget drop=1.0``; None if the limits are others.

    Examples
    --------
    >>> drop_of(["drop=1.5"]), drop_of(["5%"])
    (1.5, None)
    """
    given = list(texts)
    drops = [text for text in given if text.startswith("drop=")]
    if not drops:
        return None
    if len(given) > 1:
        raise PlanError(f"--budget {drops[0]!r:.40} is searched for alone; leave out the other limits")
    try:
        return float(drops[0].removeprefix("drop="))
    except ValueError:
        raise PlanError(f"--budget {drops[0]!r:.40}; write a number, for example drop=1.0") from None


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add settings by pattern."""
    text = "settings of some layers: 'fc*: {max_error: 0.1, importance: 4, topologies: [TTMatrix]}'"
    parser.add_argument("--override", action="append", default=[], metavar="YAML", help=text)


def overrides_of(texts: Iterable[str]) -> dict[str, Any]:
    """Parse the settings of `add_overrides`.

    Examples
    --------
    >>> overrides_of(["fc*: {max_error: 0.1}", "head: {importance: 2}"])
    {'fc*': {'max_error': 0.1}, 'head': {'importance': 2}}
    """
    found: dict[str, Any] = {}
    for text in texts:
        data = from_yaml(text, f"--override {text!r:.60}")
        if not is_object(data):
            raise PlanError(f"--override {text!r:.60}; write for example 'fc*: {{max_error: 0.1}}'")
        found |= data
    return found


def add_work(parser: argparse.ArgumentParser) -> None:
    """Add where the work is done, and what is kept of it."""
    add_jobs(parser)
    parser.add_argument("--scheduler", metavar="ADDRESS", help="dask cluster in place of processes: tcp://host:8786")
    text = "folder that keeps all finished work (default: OUT.work, until OUT is written)"
    parser.add_argument("--work", type=Path, metavar="FOLDER", help=text)


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Add the number of processes."""
    parser.add_argument("--jobs", type=int, help="number of processes (default: the number of cores)")


@contextmanager
def workers_of(options: argparse.Namespace) -> Iterator[Workers]:
    """Return the workers of `add_work`; delete their folder at the end, unless the user named it."""
    own = None if options.work is not None or options.out is None else options.out.with_name(f"{options.out.name}.work")
    folder = options.work or own
    workers = Workers(options.jobs, options.scheduler, folder)
    try:
        yield workers
    except BaseException:
        if folder is not None and folder.is_dir() and any(folder.iterdir()):
            print(f"deeptn: finished work is in {folder}; the next run with this output uses it", file=sys.stderr)
        raise
    if own is not None:
        workers.store.clear()


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Add the switches for less output."""
    add_json(parser)
    parser.add_argument("--quiet", action="store_true", help="print only warnings and errors")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the switch for JSON."""
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def print_json(data: Any) -> None:
    """Print plain data as one JSON document; numbers that are not finite become null, because JSON has none.

    Examples
    --------
    >>> print_json({"error": float("inf"), "params": (1, 2)})
    {
     "error": null,
     "params": [
      1,
      2
     ]
    }
    """
    print(json.dumps(_finite(data), indent=1, allow_nan=False))


def _finite(data: Any) -> Any:
    if is_object(data):
        return {key: _finite(value) for key, value in data.items()}
    if is_list(data):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
