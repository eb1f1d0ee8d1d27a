"""Write the page: one HTML file that needs nothing else."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..arrays import to_numpy
from ..base import PathLike, kilobytes, optional, write_atomically
from ..errors import PlanError
from ..models import History, Report, view_of
from ..network import Network
from ..planning import Plan, Search
from ..planning.search import NAMES
from ..topologies import describe
from . import figures
from .rows import HEADINGS, Row, check_rows, takeaway

#: Packages whose versions the page states.
PACKAGES = ("deeptn", "numpy", "torch", "jax", "equinox", "flax", "autoray", "cotengra", "quimb")

#: So many layers get a spectrum and a drawing: those with the largest errors.
SHOWN = 8


def write_report(
    path: PathLike,
    report: Report,
    *,
    title: str = "A compressed model",
    rows: Sequence[Row] = (),
    score: str = "score",
    plan: Plan | None = None,
    search: Search | None = None,
    before: Any = None,
    after: Any = None,
    histories: Mapping[str, History] | None = None,
    facts: Mapping[str, str] | None = None,
) -> list[str]:
    """Write a page about a compression: one HTML file without references to anything else.

    Parameters
    ----------
    path : path
        Ends in ``.html``. An existing file is replaced.
    report : Report
        What `compress` returned.
    title : str
    rows : sequence of Row
        What to compare the compressed model with; the model itself has the role ``"chosen"``.
    score : str
        What the scores are, with their unit: ``"accuracy [%]"``.
    plan : Plan, optional
        Adds the limit and the errors for other limits (a plan from a file has no such curve).
    search : Search, optional
        Adds the trials of `search_by_drop`.
    before, after : object, optional
        The model before and after, of any library: adds the spectra of the weights and drawings of the networks, of the
        layers with the largest errors.
    histories : mapping of str to History, optional
        What `heal` or `train` returned, by what to call it.
    facts : mapping of str to str, optional
        Anything else to state: data, seeds, recipes, wall times.

    Returns
    -------
    list of str
        The sentences at the top of the page; see `takeaway`.

    Raises
    ------
    PlanError
        If the path does not end in ``.html``, or if only one of two models is given.
    SpecError
        If the rows do not have the same seeds.
    MissingBackendError
        Without jinja2 or matplotlib, which the extra ``report`` installs.

    Examples
    --------
    >>> import tempfile, deeptn as dtn
    >>> from torch import nn
    >>> from deeptn_torch import compress
    >>> small, report = compress(nn.Sequential(nn.Linear(16, 16)), {"0": dtn.LowRank(rank=2)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     words = dtn.report.write_report(f"{folder}/page.html", report)
    >>> words[1]
    'No score was measured, so this page cannot say what that costs.'
    """
    if Path(path).suffix != ".html":
        raise PlanError(f"a report is written as HTML; name a file that ends in .html, got {str(path)!r}")
    if (before is None) != (after is None):
        raise PlanError("spectra need the model before and after; pass both, or neither")
    check_rows(rows)
    words = takeaway(report, rows, score)
    layers = sorted(report.layers, key=lambda layer: -layer.error)[:SHOWN]
    values, nets = _pairs(before, after, [layer.name for layer in layers])
    drawings = {name: figures.drawing(name, net) for name, net in nets.items()}
    pareto = None if plan is None or not plan.curves else plan.pareto()
    content = {
        "title": title,
        "words": words,
        "sizes": _sizes(report, plan),
        "headings": (*HEADINGS[:4], score, HEADINGS[5]),
        "rows": [(row.role, row.cells, row.note) for row in rows],
        "comparison": figures.comparison(rows, score),
        "layers": [_layer(layer) for layer in report.layers],
        "watched": any(layer.output_error is not None for layer in report.layers),
        "pareto": pareto,
        "pareto_figure": None if pareto is None else _pareto_figure(pareto),
        "search": search,
        "spectra": figures.spectra(values),
        "curves": figures.curves(histories or {}, {layer.name: layer.history for layer in report.layers}),
        "drawings": {name: (describe(nets[name].topology), image) for name, image in drawings.items() if image},
        "left": len(report.layers) - len(layers),
        "facts": {**(facts or {}), **_environment()},
    }
    jinja2 = optional("jinja2", "report")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8"))
    text = template.render(**content)
    write_atomically(path, lambda file: Path(file).write_text(text, encoding="utf-8"))
    return words


def _pairs(before: Any, after: Any, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Network]]:
    """Return the spectra of weights before and after, and the networks."""
    if before is None:
        return {}, {}
    old, new = ({weight.name: weight for weight in view_of(model).weights()} for model in (before, after))
    nets = {name: new[name].network for name in names if name in new}
    pairs = {
        name: figures.values_of(to_numpy(old[name].read()), to_numpy(new[name].read()))
        for name in names
        if name in old and name in new
    }
    return (
        {name: pair for name, pair in pairs.items() if pair is not None},
        {name: net for name, net in nets.items() if net is not None},
    )


def _sizes(report: Report, plan: Plan | None) -> dict[str, str]:
    """Return the limit, and what became of it."""
    running = sum(layer.bytes_running - layer.bytes_after for layer in report.layers)
    found = {}
    if plan is not None:
        limits = {NAMES[kind]: f"{n:,}" if isinstance(n, int) else n for kind, n in plan.budget.items()}
        found["limit"] = ", ".join(f"{limit} {name}" for name, limit in limits.items())
    share = report.model_after / max(1, report.model_before)
    found["parameters"] = f"{report.model_before:,} → {report.model_after:,} ({share:.1%})"
    stored = report.bytes_after / max(1, report.bytes_before)
    found["at rest"] = f"{kilobytes(report.bytes_before)} → {kilobytes(report.bytes_after)} ({stored:.1%})"
    found["at run time"] = f"{kilobytes(report.bytes_after + running)}, if every weight is decoded once and kept"
    return found


def _layer(layer: Any) -> tuple[str, ...]:
    """Return the cells of a layer's row."""
    errors = ["–" if e is None else f"{e:.3f}" for e in (layer.error, layer.output_error, layer.held_out_error)]
    shape = " × ".join(map(str, layer.shape))
    sizes = f"{layer.params_before:,}", f"{layer.params_after:,}", f"{layer.ratio:.1f}"
    return layer.name, shape, layer.topology, *sizes, *errors, f"{layer.flops:,}"


def _pareto_figure(pareto: Any) -> str | None:
    """Plot the errors for other limits."""
    points = [point for point in pareto.points if point.error > 0]
    if len(points) < 2:
        return None
    made, ax = figures.figure()
    ax.plot([100 * p.share for p in points], [p.error for p in points], "o-", color="#D55E00", label="planned")
    same = [p for p in points if p.uniform]
    label = "the same share for every layer"
    ax.plot([100 * p.share for p in same], [p.uniform for p in same], "s--", color="#0072B2", label=label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    figures.plain(ax.xaxis, "{x:.3g}")
    figures.plain(ax.yaxis, "{x:.3g}")
    ax.set_xlabel("parameters of the model, in percent of those before")
    ax.set_ylabel("relative error of the weights")
    ax.legend(fontsize=7, frameon=False, labelcolor=figures.INK)
    return figures.svg(made, "Errors of the weights for other limits")


def _environment() -> dict[str, str]:
    """Return the date, the machine, and versions."""
    versions = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    machine = f"{platform.system()}, {platform.machine()}"
    return {"written": datetime.date.today().isoformat(), "machine": machine, "versions": ", ".join(versions)}
