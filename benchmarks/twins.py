"""Do what users do to modules to dense modules and to their generated twins. Write the tables in the docs.

python benchmarks/twins.py              # about twenty minutes
"""

from __future__ import annotations

import json
import re
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deeptn_demo.environment import environment

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tests import twins  # noqa: E402
from tests.deeptn_jax import twins as jax_twins  # noqa: E402

from tables import about  # noqa: E402  # isort: skip

OUT = HERE / "results" / "twins.json"

#: The representation of a layer, in a message.
NAMES = re.compile(r"\b(TN\w+)\(.*\)(?=')")

#: What a cell shows.
CELLS = {"works": "✓", "both refuse": "–"}


def run() -> dict[str, Any]:
    """Run everything, and record the results."""
    rows: list[dict[str, Any]] = []

    def record(table: str, name: str, kind: str, call: Callable[[], tuple[str, str]]) -> None:
        start = time.perf_counter()
        try:
            result, sentence = call()
        except BaseException as error:  # a test that is skipped, too
            result, sentence = "wrong", f"{type(error).__name__}: {str(error).strip()[:300]}"
            print(f"{table}, {name}, {kind}: {sentence}", flush=True)
        seconds = round(time.perf_counter() - start, 3)
        row = {"table": table, "operation": name, "kind": kind, "result": result, "sentence": sentence}
        rows.append(row | {"seconds": seconds})

    def torch_case(name: str, kind: str) -> tuple[str, str]:
        found = twins.outcome(name, kind)
        return found.result, found.sentence

    for name, kind in twins.CASES:
        record("torch", name, kind, lambda name=name, kind=kind: torch_case(name, kind))
    for name, operation in jax_twins.OPERATIONS.items():
        for kind, make in jax_twins.LAYERS.items():
            record("jax", name, kind, lambda op=operation, make=make: (jax_twins.check(op, make()), ""))
    return {"environment": environment(), "rows": rows}


def section(data: dict[str, Any]) -> list[str]:
    """Return the part of the page about what users do to modules."""
    found = {(row["table"], row["operation"], row["kind"]): row for row in data["rows"]}
    counts = {result: sum(row["result"] == result for row in data["rows"]) for result in ("works", "refused", "wrong")}
    wrong = f", {counts['wrong']} are wrong" if counts["wrong"] else ""
    text = (
        "Each operation is done to a dense module and to its twin, whose weights networks generate, of equal values.",
        "“✓” means that outputs, gradients and all other results are equal, and that the twin holds no more memory",
        "afterwards than its weight and its cores take. “–” means that the dense module refuses the operation, too. A",
        "number is a note with what only the twin refuses.",
        f"{counts['works']} of {len(data['rows'])} cases work, the twin alone refuses {counts['refused']}{wrong}.",
        "These tables are written by `python benchmarks/twins.py`.",
        about(data["environment"], ("jax", "equinox", "flax")) + ".",
    )
    lines = ["## Whatever you do to a module", "", " ".join(text), ""]
    notes: list[str] = []
    kinds = list(dict.fromkeys(kind for _, kind in twins.CASES))
    for group in dict.fromkeys(operation.group for operation in twins.OPERATIONS.values()):
        lines += [f"### {group}", "", "| PyTorch | " + " | ".join(kinds) + " |", "| --- |" + " :---: |" * len(kinds)]
        for name, operation in twins.OPERATIONS.items():
            if operation.group == group:
                cells = [cell(found.get(("torch", name, kind)), notes) for kind in kinds]
                lines.append(f"| {operation.text} | " + " | ".join(cells) + " |")
        lines.append("")
    kinds = list(jax_twins.LAYERS)
    lines += ["### JAX", "", "| | " + " | ".join(kinds) + " |", "| --- |" + " :---: |" * len(kinds)]
    for name in jax_twins.OPERATIONS:
        cells = [cell(found.get(("jax", name, kind)), notes) for kind in kinds]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, "", *(f"{number}. {note}" for number, note in enumerate(notes, 1)), ""]


def cell(row: dict[str, Any] | None, notes: list[str]) -> str:
    """Return what a cell of a table shows; a sentence becomes a note."""
    if row is None:
        return ""
    if row["result"] in CELLS:
        return CELLS[row["result"]]
    note = NAMES.sub(r"\1(…)", row["sentence"].replace("<", "‹").replace(">", "›"))
    if note not in notes:
        notes.append(note)
    return str(notes.index(note) + 1)


def main() -> None:
    """Run everything, and write the results and the page."""
    warnings.simplefilter("ignore")
    data = run()
    OUT.write_text(json.dumps(data, separators=(",", ":")).replace('{"table"', '\n{"table"') + "\n")
    import support

    support.write()


if __name__ == "__main__":
    main()
