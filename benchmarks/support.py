"""Run all cases of `tests/models/matrix.py`: what every layer of every front-end can do. Write the table in the docs.

python benchmarks/support.py            # about ten minutes
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from deeptn_demo.environment import environment

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tests.models import matrix  # noqa: E402

import twins  # noqa: E402  # isort: skip
from tables import about  # noqa: E402  # isort: skip

OUT = HERE / "results" / "support.json"
PAGE = HERE.parent / "docs" / "support.md"

#: Names of the ways of running on the page.
NAMES = {
    "eager": "eager, forward and backward",
    "compile": "`torch.compile`",
    "export": "`torch.export`",
    "onnx": "ONNX, both ways",
    "jit": "`jit`",
    "grad": "`grad`",
    "vmap": "`vmap`",
}
TITLES = {"torch": "PyTorch", "equinox": "Equinox", "nnx": "Flax NNX"}


def run() -> dict[str, Any]:
    """Run every case, and record what went wrong."""
    rows = []
    for number, case in enumerate(matrix.CASES):
        start, error = time.perf_counter(), None
        try:
            matrix.check(case)
        except Exception as caught:  # frameworks raise many types of errors
            error = f"{type(caught).__name__}: {str(caught).strip().splitlines()[0]:.200}"
        seconds = time.perf_counter() - start
        rows.append({"case": case, "works": error is None, "error": error, "seconds": round(seconds, 3)})
        if error or number % 50 == 0:
            print(f"{number}/{len(matrix.CASES)} {'-'.join(case)}: {error or 'works'}", flush=True)
    return {"environment": environment(), "cases": rows}


def page(data: dict[str, Any]) -> str:
    """Return the page, with a table for each framework."""
    works = {tuple(row["case"]): row["works"] for row in data["cases"]}
    notes: list[str] = []
    lines = [
        "# What the layers support",
        "",
        "Every layer with every kind of network of the matrix test (`tests/models/matrix.py`: "
        + "; ".join(matrix.FAMILIES)
        + "), in float32, bfloat16 and float64. “✓” means that all of them agree with the dense layer of the same weight, gradients "
        f"included. {sum(works.values())} of {len(works)} cases work. This page is written by `python benchmarks/support.py`. {about(data['environment'], ('jax', 'equinox', 'flax', 'onnxruntime'))}.",
        "",
    ]
    for framework, ways in matrix.WAYS.items():
        lines += [
            f"## {TITLES[framework]}",
            "",
            "| layer | " + " | ".join(NAMES[way] for way in ways) + " |",
            "| --- |" + " --- |" * len(ways),
        ]
        for layer in matrix.LAYERS:
            cells = [cell(works, framework, layer, way, notes) for way in ways]
            lines.append(f"| {layer} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += [f"{k}. {note}." for k, note in enumerate(notes, 1)]
    lines += ["", *twins.section(json.loads(twins.OUT.read_text()))]
    return "\n".join(lines).rstrip() + "\n" + MORE


def cell(works: dict[tuple[str, ...], bool], framework: str, layer: str, way: str, notes: list[str]) -> str:
    """Return the dtypes in which a layer works with all networks, and the numbers of the notes on the others."""
    good, why = [], []
    for dtype in matrix.DTYPES:
        cases = [(framework, layer, family, dtype, way) for family in matrix.FAMILIES]
        if all(works[case] for case in cases):
            good.append(dtype)
            continue
        note = next((found for case in cases if (found := matrix.reason(case))), "not expected; a bug")
        if note not in notes:
            notes.append(note)
        why.append(str(notes.index(note) + 1))
    if not why:
        return "✓"
    return (", ".join(good) or "–") + " (" + ", ".join(dict.fromkeys(why)) + ")"


MORE = """
## Also tested

- `torch.compile(fullgraph=True)`: no graph break, and at most two graphs for all batches of two or more rows; with inductor for
  `TNLinear` on all six networks.
- Transposed convolutions, `LSTM` and `GRU` weights, and the packed projections of `MultiheadAttention` in eager mode; see
  [PyTorch models](models.md).
- `DistributedDataParallel` and `fully_shard` (FSDP2) on two processes train to the same parameters as one process.
- JAX: `scan` over stacked networks, decoded weights sharded over several devices.

On a GPU, values and gradients were checked, and times measured, on one card ([results](results/gpu.md)), with
PyTorch 2.11, which is older than the versions that deeptn supports; the tests themselves ran on CPUs only.
"""


def main() -> None:
    """Run all cases, or only write the page again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="only write the page, from existing results")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if not options.page:
        OUT.write_text(json.dumps(run(), separators=(",", ":")).replace('{"case"', '\n{"case"') + "\n")
    write()
    print(f"wrote {PAGE}")


def write() -> None:
    """Write the page from the results."""
    PAGE.write_text(page(json.loads(OUT.read_text())))


if __name__ == "__main__":
    main()
