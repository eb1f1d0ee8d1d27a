"""Write the result pages of the documentation from the JSON files in ``benchmarks/results``.

python benchmarks/pages.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGES = HERE.parent / "docs" / "results"


def about(environment: dict[str, Any]) -> str:
    """Where and with what something was measured."""
    versions = environment["versions"]
    shown = ", ".join(
        f"{name} {versions[name]}" for name in ("python", "torch", "numpy", "cotengra") if name in versions
    )
    return f"{environment['date']}, {environment['cpu']}, {environment['torch_threads']} torch thread(s), {shown}"


def table(headings: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table; all columns but the first to the right."""
    lines = ["| " + " | ".join(headings) + " |", "| --- |" + " ---: |" * (len(headings) - 1)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def lenet5_page(data: dict[str, Any]) -> str:
    """The comparison on Fashion-MNIST."""
    from deeptn_torch.demo.page import cells, number

    recipe = data["recipe"]
    rows = [[*cells(row)[:6], number(row["after_other"], "{:.1f}")] for row in data["summary"]]
    headings = [
        "method",
        "parameters",
        "ratio",
        "start",
        "before healing %",
        "healed %",
        "healed from the other start %",
    ]
    lines = [
        "# LeNet-5 on Fashion-MNIST",
        "",
        "Both hidden linear layers (400→120 and 120→84, 58,080 weights) are replaced by generated ones. Test "
        f"accuracy, mean ± standard deviation over {len(data['seeds'])} paired seeds: for each seed one dense model, trained for "
        f"{recipe['train']['epochs']} epochs, from which every method starts; the same batches and the same recipe for "
        f"all ({recipe['heal']['epochs']} epochs, Adam, one-cycle schedule to {recipe['heal']['lr']:g}, batch "
        f"{recipe['heal']['batch']}; nothing was tuned for any method).",
        "",
        "Each family has the largest sizes that together are not above BrickWall's own parameters (one rank for both "
        "layers, then one more in a layer while it fits); a dash where even rank 1 is larger. Families with a closed form were healed from it (“weight”) and from random cores (“random”); the one "
        "with the lower training loss counts, the other is in the last column. BrickWall and Tree start at random.",
        "",
        *table(headings, rows),
        "",
        "![Accuracy against parameters](lenet5.svg)",
        "",
        f"Measured by `python benchmarks/lenet5.py --seeds {len(data['seeds'])}`: {about(data['environment'])}. "
        "All runs: `benchmarks/results/lenet5.json`. This page is written by `benchmarks/pages.py`.",
        "",
    ]
    return "\n".join(lines)


def decode_page(data: dict[str, Any]) -> str:
    """Decoding one large weight."""
    rows = [
        [
            f"M={row['layers']}, {row['activation'] or 'linear'}",
            f"{row['times_clone']:.2f}",
            f"{row['faster_than_gate_by_gate']:.1f}",
            f"{row['cost']['flops']:,}",
            f"{row['cost']['write']:,}",
        ]
        for row in data["rows"]
    ]
    headings = ["BrickWall", "times W.clone()", "faster than gate by gate", "flops", "elements written"]
    lines = [
        "# Decoding a large weight",
        "",
        f"A weight of 2^{data['legs']} entries (float32, {4 * 2 ** data['legs'] // 2**20} MiB), without gradient: the time "
        "of `net.materialize(params)`, `normalize=None`, against a copy of the weight, and against the paper's way, one gate after another on "
        f"the whole state. Ratios of medians over {data['rounds']} interleaved rounds.",
        "",
        *table(headings, rows),
        "",
        "One linear layer costs as much as the copy: both are bound by the page faults of a fresh tensor. A nonlinear network "
        "touches its state six times per layer, each time with one product between two buffers that are used again; see "
        "[design](../design.md).",
        "",
        f"Measured by `python benchmarks/decode.py`: {about(data['environment'])}. "
        "This page is written by `benchmarks/pages.py`.",
        "",
    ]
    return "\n".join(lines)


WRITERS = {"lenet5": lenet5_page, "decode": decode_page}


def main() -> None:
    """Write every page whose JSON file exists, and the figure."""
    import matplotlib as mpl
    from deeptn_torch.demo.page import accuracy_figure

    PAGES.mkdir(parents=True, exist_ok=True)
    for name, write in WRITERS.items():
        source = HERE / "results" / f"{name}.json"
        if source.is_file():
            data = json.loads(source.read_text())
            (PAGES / f"{name}.md").write_text(write(data))
            if name == "lenet5":
                mpl.rcParams["svg.hashsalt"] = "deeptn"
                figure = accuracy_figure(data["summary"], "LeNet-5 on Fashion-MNIST, 58,080 weights compressed")
                figure.savefig(PAGES / "lenet5.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
