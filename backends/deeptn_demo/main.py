"""Run ``deeptn demo``: train, compress, heal, compare; write a table, a page, the numbers, a log and a model."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any, TextIO

import torch
from deeptn_torch.layers import TNLayer
from deeptn_torch.models import save_model
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import nn

from deeptn.base import write_atomically
from deeptn.errors import PlanError
from deeptn.models import Report
from deeptn.network import Network

from .command import SIDES
from .data import load_images
from .environment import environment
from .experiment import SETTINGS, Result, run_seed, shapes_of, steps, summarize
from .page import HEADINGS, cells, render, takeaway

COLUMNS = (
    TextColumn("{task.description:<34}"),
    BarColumn(),
    TaskProgressColumn(),
    TimeElapsedColumn(),
    TextColumn("elapsed,"),
    TimeRemainingColumn(),
    TextColumn("left"),
)


class _Bar:
    """Shows the progress of all training runs in one rich bar."""

    def __init__(self, bar: Progress, total: int, seeds: int):
        self.bar, self.seeds, self.seed = bar, seeds, 0
        self.task = bar.add_task("", total=total)

    def begin(self, what: str, steps: int) -> None:
        """Name the training run that begins."""
        where = f"seed {self.seed + 1}/{self.seeds}  " if self.seeds > 1 else ""
        self.bar.update(self.task, description=f"{where}{what}")

    def step(self) -> None:
        """Advance the bar by one step."""
        self.bar.advance(self.task)


class _Log:
    """Writes one line per finished method, to the terminal and to a file."""

    def __init__(self, console: Console, file: TextIO):
        self.console, self.file, self.start = console, file, time.perf_counter()

    def __call__(self, result: Result) -> None:
        start = f", {result.start} start" if result.start else ""
        scores = f"{result.before:.1f} % -> {result.after:.1f} %" if result.after is not None else result.missing
        seconds = time.perf_counter() - self.start
        params = "" if result.params is None else f"{result.params:,} parameters, "
        line = f"{seconds:6.1f} s  seed {result.seed}  {result.label}{start}: {params}{scores}"
        self.console.print(line, highlight=False, soft_wrap=True)
        print(line, file=self.file, flush=True)


class _Best:
    """Keeps the compressed model with the lowest training loss."""

    def __init__(self) -> None:
        self.result: Result | None = None
        self.model: nn.Module | None = None
        self.report: Report | None = None

    def __call__(self, result: Result, model: nn.Module, report: Report | None) -> None:
        if report is None or result.train_loss is None:
            return
        if self.result is None or self.result.train_loss is None or result.train_loss < self.result.train_loss:
            self.result, self.model, self.report = result, model, report


def run(options: argparse.Namespace) -> int:
    """Run the experiment, print the table, and write the model, the numbers and the page."""
    name = options.model or ("small" if options.data == "digits" else "lenet5")
    setting = SETTINGS[name]
    if options.seeds < 1:
        raise PlanError(f"--seeds must be at least 1, got {options.seeds}")
    if options.out.exists() and not options.out.is_dir():
        raise PlanError(f"--out {str(options.out)!r} is a file; name a folder")
    options.out.mkdir(parents=True, exist_ok=True)
    data = load_images(options.data, options.data_dir)
    side = data.train_x.shape[-1]
    if side != SIDES[name]:
        raise PlanError(
            f"--model {name} takes images of {SIDES[name]} x {SIDES[name]}, {options.data} has {side} x {side}; "
            f"write --model {'small' if side == SIDES['small'] else 'lenet5'}"
        )
    console = Console()
    start = time.perf_counter()
    best = _Best()
    results: list[Result] = []
    threads = torch.get_num_threads()
    if name == "small":
        torch.set_num_threads(1)  # two threads are no faster for such a small model, and much slower on a busy machine
    try:
        total = options.seeds * steps(setting, len(data.train_x))
        with (
            open(options.out / "demo.log", "w", encoding="utf-8") as file,
            Progress(*COLUMNS, console=console, transient=True) as bar,
        ):
            progress, log = _Bar(bar, total, options.seeds), _Log(console, file)

            def keep(result: Result, model: nn.Module, report: Report | None) -> None:
                best(result, model, report)
                log(result)

            for seed in range(options.seeds):
                progress.seed = seed
                results += run_seed(setting, data, seed, progress, keep)
        about = environment()
    finally:
        torch.set_num_threads(threads)
    summary = summarize(results)
    layers = " and ".join(f"{layer} ({' × '.join(map(str, shape))})" for layer, shape in shapes_of(setting).items())
    title = f"{name} on {options.data}: {_weights(results):,} weights in {layers} compressed"
    console.print(_table(summary, title))
    assert best.result is not None
    assert best.model is not None
    assert best.report is not None
    row = next(r for r in summary if (r["label"], r["budget"]) == (best.result.label, best.result.budget))
    minutes = (time.perf_counter() - start) / 60
    compressed = sum(result.start is not None for result in results)
    facts = {
        "saved model": f"{best.result.label}, {best.result.start} start, seed {best.result.seed}: it has the lowest "
        f"training loss ({best.result.train_loss:.4f}) of the {compressed} compressed models",
        "data": f"{options.data}, {len(data.train_x):,} training and {len(data.test_x):,} test images",
        "seeds": str(options.seeds),
        "dense": f"{setting.train.epochs} epochs, batch {setting.train.batch}, Adam, one-cycle to {setting.train.lr:g}",
        "healing": f"{setting.heal.epochs} epochs, batch {setting.heal.batch}, Adam, one-cycle to {setting.heal.lr:g}",
        "machine": f"{about['cpu']}, {about['torch_threads']} thread(s), {about['date']}, {minutes:.1f} minutes",
        "versions": ", ".join(f"{package} {version}" for package, version in about["versions"].items()),
    }
    nets: dict[str, Network] = {n: m.network for n, m in best.model.named_modules() if isinstance(m, TNLayer)}
    words = takeaway(summary, row)
    page = render(title, words, summary, row, nets, facts)
    numbers = {
        "title": title,
        "takeaway": words,
        "environment": about,
        "summary": summary,
        "results": [r.to_dict() for r in results],
    }
    save_model(best.model, options.out / "model.safetensors")
    best.report.to_json(options.out / "compression.json")
    write_atomically(options.out / "results.json", lambda file: file.write_text(json.dumps(numbers, indent=1) + "\n"))
    write_atomically(options.out / "report.html", lambda file: file.write_text(page, encoding="utf-8"))
    console.print(best.report)
    console.print(words, highlight=False)
    console.print(
        f"Saved {best.result.label}. See {options.out}/report.html, results.json, model.safetensors, demo.log.",
        soft_wrap=True,
    )
    return 0


def _weights(results: list[Result]) -> int:
    return next(result.params or 0 for result in results if result.family == "dense")


def _table(summary: list[dict[str, Any]], title: str) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)  # to fit into 80 columns
    for k, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if k else "left", no_wrap=True)
    for row in summary:
        if row["family"] == "BrickWall":
            table.add_section()
        table.add_row(*cells(row))
    return table
