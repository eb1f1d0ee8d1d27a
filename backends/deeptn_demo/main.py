"""Run ``deeptn demo``: plan, compress, heal and compare; write a page, the numbers, a plan, a log and a model."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, TextIO

import torch
from deeptn_torch import save_model
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from deeptn.base import track, write_atomically
from deeptn.errors import PlanError
from deeptn.report import Row, write_report
from deeptn.report.rows import HEADINGS

from .command import SIDES
from .data import load_images
from .environment import environment
from .workflow import RATES, SETTINGS, Result, Workflow, chosen

SCORE = "test accuracy [%]"


def run(options: argparse.Namespace) -> int:
    """Run the workflow for every seed, print the table, and write the files."""
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
    console, started, threads = Console(), time.perf_counter(), torch.get_num_threads()
    seeds: list[list[Result]] = []
    flows: list[Workflow] = []
    if name == "small":
        torch.set_num_threads(1)  # two threads are no faster for such a small model, and much slower on a busy machine
    try:
        with open(options.out / "demo.log", "w", encoding="utf-8") as file:
            log = _Log(console, file)
            for seed in range(options.seeds):
                flows.append(Workflow(setting, data, seed))
                rows = list(flows[-1].rows_of())
                where = f"seed {seed + 1} of {options.seeds}, " if options.seeds > 1 else ""
                results = []
                for _, compute in track(rows, lambda row, where=where: f"{where}{row[0]}"):
                    results.append(compute())
                    log(seed, results[-1])
                seeds.append(results)
        about = environment()
    finally:
        torch.set_num_threads(threads)
    first, best = flows[0], chosen(seeds[0])
    rows = compared(seeds, best.label)
    console.print(_table(rows))
    assert best.report is not None
    assert best.history is not None
    minutes = (time.perf_counter() - started) / 60
    title = f"{name} on {options.data}, compressed to {setting.share:.0%} of its parameters"
    facts = {
        "the model": f"{best.label}, seed 0: the highest accuracy of the compressed networks on the validation part",
        "data": f"{options.data}, {len(first.rows[0]):,} training, {len(first.validation[0]):,} validation and "
        f"{len(data.test_x):,} test images; the test images are used for the scores alone",
        "seeds": f"{options.seeds}, the same for every row",
        "training": _recipe(setting.train),
        "healing": f"{_recipe(setting.heal)}; {setting.heal.distill:g} of the loss from the network before "
        f"compression; by validation, the better one of the rates {' and '.join(f'{rate:g}' for rate in RATES)}",
        "processor": f"{about['cpu']}, {about['torch_threads']} thread(s), {minutes:.1f} minutes in all",
    }
    histories = {result.label: result.history for result in seeds[0] if result.history and result.role != "dense"}
    words = write_report(
        options.out / "report.html",
        best.report,
        title=title,
        rows=rows,
        score=SCORE,
        plan=best.plan,
        before=first.dense,
        after=best.model,
        histories=histories,
        facts=facts,
    )
    numbers = {
        "title": title,
        "takeaway": words,
        "chosen": best.label,
        "environment": about,
        "recipes": {"train": vars(setting.train), "heal": vars(setting.heal)},
        "results": [[result.to_dict() for result in results] for results in seeds],
    }
    save_model(best.model, options.out / "model.safetensors")
    best.report.to_json(options.out / "compression.json")
    if best.plan is not None:
        best.plan.save(options.out / "plan.yaml")
    text = json.dumps(numbers, indent=1) + "\n"
    write_atomically(options.out / "results.json", lambda file: Path(file).write_text(text, encoding="utf-8"))
    console.print(best.report)
    console.print(*words, highlight=False, markup=False)
    what = "report.html, results.json, model.safetensors, demo.log"
    console.print(f"Saved {best.label}. See {options.out}/{what}.", soft_wrap=True, highlight=False, markup=False)
    return 0


def compared(seeds: list[list[Result]], best: str) -> list[Row]:
    """Return a row for each network, over all seeds."""
    found = []
    for results in zip(*seeds):
        one = results[0]
        done = all(result.after is not None for result in results)
        found.append(
            Row(
                label=one.label,
                role="chosen" if one.label == best else one.role,  # type: ignore[arg-type]
                params=one.params,
                bytes=one.bytes,
                scores=tuple(result.after for result in results) if done else (),  # type: ignore[misc]
                before=tuple(result.before for result in results) if done else (),  # type: ignore[misc]
                seconds=sum(result.seconds for result in results) / len(results) or None,
                note=one.note,
            )
        )
    return found


class _Log:
    """Writes one line per finished network, to the terminal and to a file."""

    def __init__(self, console: Console, file: TextIO):
        self.console, self.file, self.start = console, file, time.perf_counter()

    def __call__(self, seed: int, result: Result) -> None:
        scores = f"{result.before:.1f} % -> {result.after:.1f} %" if result.after is not None else result.note
        params = "" if result.params is None else f"{result.params:,} parameters, "
        line = f"{time.perf_counter() - self.start:6.1f} s  seed {seed}  {result.label}: {params}{scores}"
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)
        print(line, file=self.file, flush=True)


def _recipe(recipe: Any) -> str:
    return f"{recipe.epochs} epochs, batch {recipe.batch}, Adam, one-cycle to {recipe.lr:g}"


def _table(rows: list[Row]) -> Table:
    table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)  # to fit into 80 columns
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row.cells, style="bold" if row.role == "chosen" else None)
    return table
