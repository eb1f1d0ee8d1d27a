"""The result page on compressed checkpoints."""

from __future__ import annotations

import math
from typing import Any

from tables import about, table

COMMANDS = ("plan", "compress", "decompress")

#: What the checkpoints are, and what is measured of their quality.
TITLES = {
    "lenet5": ("LeNet-5, trained on Fashion-MNIST", "accuracy", "The accuracy is that on the test images."),
    "minilm": (
        "all-MiniLM-L6-v2, a sentence transformer",
        "cosine",
        "Cosine similarity of the embeddings of 2,000 sentences before and after: the mean, and the lowest 5 %.",
    ),
}


def checkpoints_page(data: dict[str, Any]) -> str:
    """Return the page on compressed checkpoints."""
    lines = [
        "# Compressed checkpoints",
        "",
        "Checkpoints are compressed and decoded again on the command line, without model code, and without training afterwards: "
        "`deeptn plan`, `compress`, `decompress`, one after the other, with the default families. The error is the root mean "
        "square of ‖W − W′‖ / ‖W‖ over all weights that may be compressed; beside it, the error if every weight gets the same "
        "share of its parameters and the best family for that share (a dash: some weight has no network so small). Seconds and "
        f"memory are those of the three commands, with {max(row['jobs'] for row in data['rows'])} processes; the memory is the peak "
        "of the largest one. A star marks plans that measured all errors; the others found them in a folder. “outputs” means a plan for "
        "the outputs of the model, made in Python, in one process, with 500 images or 64 sentences that are not among those of the test.",
        "",
    ]
    for model, (title, measure, quality) in TITLES.items():
        rows = [row for row in data["rows"] if row["model"] == model]
        rows.sort(key=lambda row: row["checkpoint"].endswith("outputs"))  # last, in whatever order they were measured
        if not rows:
            continue
        first = rows[0]
        lines += [
            f"## {title}",
            "",
            f"{first['params_before']:,} parameters in {first['bytes_before'] / 1e6:.3g} MB (as safetensors); "
            f"{first['layers']} weights may be compressed. {quality}",
            "",
        ]
        cells = [
            [
                row["checkpoint"].removeprefix(f"{model} "),
                f"{row['share']:.0%}",
                f"{row['params_after']:,}",
                f"{row['bytes_after'] / 1e6:.3g}",
                f"{row['dense_layers']}",
                f"{row['error']:.3f} ({_decibel(row['error'])})",
                "–" if (same := row.get("error_uniform")) is None else f"{same:.3f} ({_decibel(same)})",
                _quality(row),
                *_costs(row),
            ]
            for row in rows
        ]
        headings = [
            "file",
            "budget",
            "parameters",
            "MB",
            "stay dense",
            "error (dB)",
            "same share (dB)",
            measure,
            "seconds",
            "peak MB",
        ]
        lines += [*table(headings, cells), ""]
    lines += [
        "The errors of the weights say little about the model: see [what compression costs](../honesty.md). Train the compressed "
        "model, or choose a larger budget.",
        "",
        f"Measured by `python benchmarks/checkpoints.py`: {about(data['environment'])}. "
        "All rows: `benchmarks/results/checkpoints.json`. This page is written by `benchmarks/pages.py`.",
        "",
    ]
    return "\n".join(lines)


def _costs(row: dict[str, Any]) -> list[str]:
    """Return the seconds and the memory of the three commands."""
    if "plan_peak_bytes" not in row:  # planned in Python
        return [f"{row['plan_seconds']:.1f}", "–"]
    star = "" if row["errors_known"] else "*"
    seconds = [f"{row[f'{key}_seconds']:.1f}" for key in COMMANDS]
    memory = [f"{row[f'{key}_peak_bytes'] / 1e6:.0f}" for key in COMMANDS]
    return [", ".join([seconds[0] + star, *seconds[1:]]), ", ".join(memory)]


def _decibel(error: float) -> str:
    return "∞" if error < 1e-6 else f"{-20 * math.log10(error):.1f}"


def _quality(row: dict[str, Any]) -> str:
    if "accuracy" in row:
        return f"{row['accuracy']:.1%}"
    return f"{row['cosine_mean']:.3f}, {row['cosine_5_percent']:.3f}"
