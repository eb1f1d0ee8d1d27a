"""Compare the contraction engine with its peers: time, memory, choices and searches, with one command.

Everything is float32 on a CPU. Compared calls run in interleaved rounds (A B C A B C …), after a check that they
compute the same. The numbers go to ``results/engine.json``; the page and its figure are written from it.

    python benchmarks/engine.py                       # all sections, with weights of 2^24 entries
    python benchmarks/engine.py --only decode,small   # the other sections in the file stay as they are
    python benchmarks/engine.py --quick               # small weights, temporary folder: checks that it runs
"""

from __future__ import annotations

import argparse
import json
import operator
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pages
import sections
import surveys
import torch
from peers import MISSING, about
from rich.table import Table
from timing import Settings, console

RESULTS = Path(__file__).parent / "results"

SECTIONS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "decode": sections.decode,
    "backward": sections.backward,
    "memory": sections.memory,
    "apply": sections.apply,
    "small": sections.small,
    "curves": surveys.curves,
    "choose": surveys.choose,
    "search": surveys.search,
}

#: The sections of the results, by name.
Data = Mapping[str, Any]


class Limit(NamedTuple):
    """A goal: a figure computed from the results, and its upper or lower limit."""

    goal: str
    figure: Callable[[Data], float]
    comparison: str
    limit: float


def rows(data: Data, section: str, *words: str) -> list[dict[str, Any]]:
    """Return the rows of a section whose label contains all these words."""
    return [row for row in data[section]["rows"] if all(word in row["label"] for word in words)]


def ratio(section: str, words: tuple[str, ...], over: str, under: str) -> Callable[[Data], float]:
    """Return the worst ratio of the seconds of two ways; ``"a|b"`` is the fastest way whose name starts with a or b."""

    def seconds(row: dict[str, Any], names: str) -> float:
        return min(value for name, value in row["seconds"].items() if name.startswith(tuple(names.split("|"))))

    worst = max if over == "deeptn" else min
    return lambda data: worst(seconds(row, over) / seconds(row, under) for row in rows(data, section, *words))


def memory(*words: str) -> Callable[[Data], float]:
    """Return the growth of memory, as a multiple of W."""
    return lambda data: max(row["ways"]["deeptn"]["times_weight"] for row in rows(data, "memory", *words))


def slowest(kind: str) -> Callable[[Data], float]:
    """Return the seconds that the slowest family takes to get a program."""
    modes = ("materialize", "apply")
    return lambda data: max(row[kind].get(mode, 0.0) for row in rows(data, "search") for mode in modes)


def compilation(data: Data) -> float:
    """Return the seconds that jax.jit takes to compile the gradient."""
    return max(row["jax_compile_seconds"] for row in rows(data, "backward"))


LIMITS = [
    Limit("decode M=1: × the time of W.clone()", ratio("decode", ("M=1",), "deeptn", "W.clone()"), "≤", 1.3),
    Limit("decode M=3: × faster than gate by gate", ratio("decode", ("M=3",), "gate by gate", "deeptn"), "≥", 6),
    Limit("decode M=3: × faster than quimb", ratio("decode", ("M=3",), "quimb", "deeptn"), "≥", 3),
    Limit("decode M=1: JAX × the time of torch", ratio("decode", ("M=1",), "JAX", "deeptn"), "≤", 1.5),
    Limit("decode M=3: JAX × the time of torch", ratio("decode", ("M=3",), "JAX", "deeptn"), "≤", 1.5),
    Limit("gradient M=1: × faster than gate by gate", ratio("backward", ("M=1",), "gate by gate", "deeptn"), "≥", 12),
    Limit("gradient M=3: × faster than gate by gate", ratio("backward", ("M=3",), "gate by gate", "deeptn"), "≥", 12),
    Limit("gradient M=3: × the time of the forward", ratio("backward", ("M=3",), "deeptn", "forward alone"), "≤", 5),
    Limit("gradient: compilation by JAX, seconds", compilation, "≤", 10),
    Limit("gradient M=1: memory × W", memory("M=1", "gradient"), "≤", 12),
    Limit("gradient M=3: memory × W", memory("M=3", "gradient"), "≤", 12),
    Limit("stream: memory × W", memory("file"), "≤", 0.25),
    Limit(
        "TTMatrix forward: × faster than the best of tltorch and torchTT",
        ratio("apply", ("TTMatrix", "forward"), "tltorch|torchTT", "deeptn"),
        "≥",
        1.4,
    ),
    Limit(
        "TTMatrix forward and backward: × faster than the best of both",
        ratio("apply", ("TTMatrix", "training"), "tltorch|torchTT", "deeptn"),
        "≥",
        1.2,
    ),
    Limit(
        "TTMatrix forward: × faster than nn.Linear",
        ratio("apply", ("TTMatrix", "forward"), "nn.Linear", "deeptn"),
        "≥",
        2.5,
    ),
    Limit(
        "TTMatrix forward: × the time of its plain GEMMs",
        ratio("apply", ("TTMatrix", "forward"), "deeptn", "plain GEMMs"),
        "≤",
        1.3,
    ),
    *(
        Limit(
            f"apply M=1, batch {batch}: × faster than nn.Linear",
            ratio("apply", ("BrickWall", f"batch {batch},"), "nn.Linear", "deeptn"),
            "≥",
            15,
        )
        for batch in (1, 128)
    ),
    Limit("small linear: × the time of nn.Linear", ratio("small", ("M=2 linear, tr",), "deeptn", "nn.Linear"), "≤", 4),
    Limit("small relu: × the time of nn.Linear", ratio("small", ("M=2 relu", "tr"), "deeptn", "nn.Linear"), "≤", 8),
    Limit("small eval: × the time of nn.Linear", ratio("small", ("eval",), "deeptn", "nn.Linear"), "≤", 1.05),
    Limit("small eval: × the time of a frozen layer", ratio("small", ("eval",), "deeptn", "frozen"), "≤", 1.05),
    Limit("search for a program, nothing on disk, seconds", slowest("cold"), "≤", 2),
    Limit("the same, paths on disk, seconds", slowest("warm"), "≤", 0.02),
]


def judge(data: Data) -> list[dict[str, Any]]:
    """Return every goal with its figure (None if it was not measured), and whether it is met."""
    judged = []
    for goal, figure, comparison, limit in LIMITS:
        try:
            measured = figure(data)
        except (LookupError, ValueError):
            measured = None
        holds = {"≤": operator.le, "≥": operator.ge}[comparison]
        passed = None if measured is None else holds(measured, limit)
        judged.append({"goal": goal, "comparison": comparison, "limit": limit, "measured": measured, "passed": passed})
    return judged


def show_limits(judged: list[dict[str, Any]], quick: bool) -> None:
    """Print the goals."""
    table = Table(
        "goal", "limit", "measured", "", title="small weights; the goals are for large ones" if quick else None
    )
    for row in judged:
        measured = "–" if row["measured"] is None else f"{row['measured']:.3g}"
        verdict = {True: "[green]pass[/]", False: "[red]FAIL[/]", None: "not measured"}[row["passed"]]
        table.add_row(row["goal"], f"{row['comparison']} {row['limit']:g}", measured, verdict)
    console.print(table)


def main() -> None:
    """Measure, and write the JSON file, the page and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help="comma-separated sections")
    parser.add_argument("--quick", action="store_true", help="small weights, two rounds, write to a temporary folder")
    parser.add_argument("--rounds", type=int, default=Settings.rounds)
    parser.add_argument("--slow-rounds", type=int, default=Settings.slow_rounds, help="for calls over two seconds")
    parser.add_argument("--threads", type=int, default=Settings.threads)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--out", type=Path, help="JSON file; the page goes next to it unless this is the default")
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"unknown sections {sorted(unknown)}; choose from {', '.join(SECTIONS)}")
    quick = options.quick
    settings = Settings(quick, 2 if quick else options.rounds, options.slow_rounds, options.threads, options.seed)
    out = options.out or (Path(tempfile.gettempdir()) / "deeptn-quick" if quick else RESULTS) / "engine.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(settings.threads)

    data: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {"environment": {}, "sections": {}}
    failed = []
    for name in (name for name in SECTIONS if name in chosen):
        console.rule(name)
        MISSING.clear()
        start = time.perf_counter()
        try:
            section = SECTIONS[name](settings)
        except Exception:  # run the other sections anyway
            console.print_exception()
            failed.append(name)
            continue
        section |= about() | {"settings": asdict(settings), "took_seconds": time.perf_counter() - start}
        found = data["sections"] | {name: section}
        data["sections"] = {name: found[name] for name in SECTIONS if name in found}
        data |= {"environment": section["environment"], "limits": judge(found)}
        out.write_text(json.dumps(data, indent=1) + "\n")  # after each section, so that no result is lost
    if not data["sections"]:
        raise SystemExit("nothing was measured")
    show_limits(data["limits"], quick)
    for written in (out, *pages.write("engine", data, pages.PAGES if out.parent == RESULTS else out.parent)):
        console.print(f"wrote {written}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
