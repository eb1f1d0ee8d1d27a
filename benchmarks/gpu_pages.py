"""Write the result page of ``benchmarks/gpu.py``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tables import about, table


def gpu_page(runs: Sequence[dict[str, Any]]) -> str:
    """Return the page on GPUs; one run for each card."""
    lines = [
        "# On a GPU",
        "",
        "deeptn has no kernels of its own for GPUs: it runs the same small matrix products there as on a CPU. This page shows that "
        "the results are right, and what that costs.",
        "",
    ]
    for run in runs:
        lines += [f"## {run['environment']['card']}", "", *_card(run)]
    lines += [
        "Measured by `python benchmarks/gpu.py`, in float32 without TF32. All figures, with the memory that each call allocates: "
        "`benchmarks/results/gpu-*.json`. This page is written by `benchmarks/pages.py`.",
        "",
    ]
    return "\n".join(lines)


def _card(run: dict[str, Any]) -> list[str]:
    """Return the results of one card."""
    sections, environment = run["sections"], run["environment"]
    checks = [(name, sections[f"correct: {name}"]) for name in ("torch", "JAX")]
    shapes = [row["network"]["shape"] for _, section in checks for row in section["rows"]]
    largest = max(shapes, key=math.prod)
    lines = [
        f"Small and large networks, the largest of {' × '.join(map(str, largest))}, compared with NumPy in float64:",
        "",
    ]
    rows = [[name, *_errors(section)] for name, section in checks]
    lines += table(["", "networks right", "families", "weight", "gradient", "product with an input"], rows)
    lines += [
        "",
        "The last three columns are the largest relative errors.",
        "",
        "The times are in milliseconds, first on the device alone, with the call replayed from a CUDA graph, then (in brackets) until "
        "the call from Python returns. **Where the number in brackets is larger, Python launches the steps more slowly than the card "
        "runs them, and it is the one you will see without a CUDA graph.** “gate by gate” is the paper's method, or, for TTMatrix, the "
        "input multiplied by one core after another; “copy” copies the decoded weight once.",
        "",
    ]
    for name, about_it in (
        ("decode", "Decoding a BrickWall without a gradient:"),
        ("gradient", "Decoding it, and the gradient with respect to all cores:"),
        ("training", "A training step of one layer (forward, backward, Adam) with 128 rows:"),
        ("tables", "The same gradients with the engine's thresholds for GPUs (`deeptn.arrays.GPU`) and for CPUs:"),
    ):
        lines += [about_it, "", *_times(sections[name]["rows"]), ""]
    return [*lines, f"{about(environment, ('jax',))}, CUDA {environment['cuda']}, driver {environment['driver']}.", ""]


def _errors(section: dict[str, Any]) -> list[str]:
    """Return how many networks are right, and the largest errors; or why none was computed."""
    if "left_out" in section:
        return [section["left_out"], "–", "–", "–", "–"]
    rows = section["rows"]
    families = {row["label"].partition(" ")[0] for row in rows}
    cells = [f"{sum(row['passed'] for row in rows)} of {len(rows)}", str(len(families))]
    for what in ("value", "gradient", "apply"):
        found = [row[what] for row in rows if row.get(what) is not None]
        cells.append(f"{max(found):.1e}" if found else "–")
    return cells


def _times(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a table of times on the device and on the host."""
    ways = list(dict.fromkeys(name for row in rows for name in row["ways"]))
    cells = [[row["label"], *(_time(row["ways"].get(name, {})) for name in ways)] for row in rows]
    return table(["", *ways], cells)


def _time(way: dict[str, Any]) -> str:
    """Return milliseconds on the device (and on the host); a dash if the call could not be measured in a graph."""
    if "device_seconds" not in way:
        return "–"
    device = f"{1e3 * way['device_seconds']:.3g}" if way["graph"] is None else "–"
    return f"{device} ({1e3 * way['host_seconds']:.3g})"
