"""Write the result pages of the documentation from the JSON files in ``benchmarks/results``.

python benchmarks/pages.py
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from checkpoint_pages import checkpoints_page
from fit_pages import calibrated_page, fits_figure, fits_page
from gpu_pages import gpu_page
from healed_pages import healed_page, minilm_page
from tables import about, table
from training_pages import depth_figure, depth_page, trainability_figure, trainability_page

HERE = Path(__file__).parent
PAGES = HERE.parent / "docs" / "results"


def lenet5_page(data: dict[str, Any]) -> str:
    """Return the page on LeNet-5 and Fashion-MNIST."""
    from accuracy_figures import cells, number

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
        "Both hidden linear layers (400→120 and 120→84, 58,080 weights) are replaced by generated ones. The table shows the "
        f"test accuracy, mean ± standard deviation over {len(data['seeds'])} paired seeds. For each seed, every method starts from "
        f"the same dense model, trained for {recipe['train']['epochs']} epochs, and heals it with the same batches and the same "
        f"recipe ({recipe['heal']['epochs']} epochs, Adam, one-cycle schedule to {recipe['heal']['lr']:g}, batch "
        f"{recipe['heal']['batch']}). Nothing was tuned for any method.",
        "",
        "Each family gets the largest sizes that need no more parameters than BrickWall (one rank for both layers, then one "
        "more in each layer that still fits); a dash means that even rank 1 is larger. Families with a closed form were healed "
        "from it (“weight”) and from random cores (“random”). The start with the lower training loss counts; the other one is in "
        "the last column. BrickWall and Tree start from random cores.",
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


def versus(rows: Sequence[dict[str, Any]], first: str) -> list[str]:
    """Return a table of results of `timing.measure`: deeptn in milliseconds, the others as multiples of it."""
    others = list(dict.fromkeys(name for row in rows for name in row["ratios"]))
    lines = []
    for row in rows:
        found = (row["ratios"].get(name) for name in others)
        cells = (
            "–" if f is None else "{} ({}–{})".format(*map(figure_of, (f["ratio"], *f["quartiles"]))) for f in found
        )
        lines.append([row["label"], figure_of(1e3 * row["seconds"]["deeptn"]), *cells])
    return table([first, "deeptn [ms]", *others], lines)


def figure_of(value: float | None) -> str:
    """Format a number with three digits, or a dash if it was not measured."""
    return "–" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def notes(section: dict[str, Any]) -> list[str]:
    """Return a line that says what was left out, and why."""
    reasons = {f"{name}: {why}" for row in section["rows"] for name, why in row.get("left_out", {}).items()}
    reasons |= {f"{name}: not installed" for name in section["missing"]}
    return ["", f"Left out: {'; '.join(sorted(reasons))}."] if reasons else []


def engine_decode(section: dict[str, Any]) -> list[str]:
    """Return the section on decoding without a gradient."""
    compiled = [row["jax_compile_seconds"] for row in section["rows"] if "jax_compile_seconds" in row]
    return [
        f"`net.materialize(params)` of a BrickWall, 2^{section['legs']} entries ({2 ** (section['legs'] - 18)} MiB), "
        "`normalize=None`, without a gradient. The peers are a copy of the weight; the paper's method (one gate after another on "
        "the whole state); quimb with its default options, stage by stage; and the same program in JAX under `jit`"
        + (f" (compiled in {min(compiled):.1f} to {max(compiled):.1f} s, not counted)." if compiled else "."),
        "",
        *versus(section["rows"], "BrickWall"),
        *notes(section),
        *engine_floor(section),
    ]


def engine_floor(section: dict[str, Any]) -> list[str]:
    """Return the time that the products with the state take on their own."""
    floor = section["floor"]
    count, each = floor["products"], 1e3 * floor["seconds"]
    (row,) = (row for row in section["rows"] if row["label"] == floor["label"])
    return [
        "",
        f"{row['label']} multiplies its state {count} times by a matrix of at most 32 × 32. In torch, a chain of such products "
        f"alone (alternating between two buffers) takes {each:.1f} ms per product, {count * each:.0f} ms for {count}. The whole "
        f"decoding takes {1e3 * row['seconds']['deeptn']:.0f} ms.",
    ]


def engine_backward(section: dict[str, Any]) -> list[str]:
    """Return the section on decoding with a gradient."""
    compiled = [row["jax_compile_seconds"] for row in section["rows"] if "jax_compile_seconds" in row]
    return [
        "Decoding the same weights, and the gradient of `sum(W * G)` with respect to all cores. “forward alone” is `materialize` "
        "without a gradient."
        + (f" JAX compiles its gradient in {max(compiled):.1f} s (not counted)." if compiled else ""),
        "",
        *versus(section["rows"], "BrickWall"),
        *notes(section),
    ]


def engine_memory(section: dict[str, Any]) -> list[str]:
    """Return the section on the growth of the resident memory."""
    if "rows" not in section:
        return [f"Not measured: {section['left_out']}."]
    rows = []
    for row in section["rows"]:
        ways = (row["ways"].get(way, {}).get("times_weight") for way in ("deeptn", "gate by gate"))
        rows.append([row["label"], f"2^{row['legs']}", *map(figure_of, ways)])
    return [
        "The largest growth of the resident memory, as a multiple of the size of the weight, in a separate process: one decoding "
        "with its backward pass (including the result and its gradient), and `net.iter_blocks` with blocks of at most an eighth "
        "of the weight, each written to a file.",
        "",
        *table(["BrickWall", "entries", "deeptn [W]", "gate by gate [W]"], rows),
    ]


def engine_apply(section: dict[str, Any]) -> list[str]:
    """Return the section on products with W that do not decode it."""
    return [
        f"`x @ W.T` without W, {section['side']} × {section['side']}. All peers have the same cores; training means forward "
        "and the backward pass of the sum. “plain GEMMs” are only the matrix products of the program, on matrices already in place. "
        "“reconstructed” decodes W. TensorKrowch's MPO gets one node with all legs of the input, and torchTT always "
        "adds a bias.",
        "",
        *versus(section["rows"], "layer"),
        *notes(section),
    ]


def engine_small(section: dict[str, Any]) -> list[str]:
    """Return the section on small layers."""
    return [
        "`TNLinear(400, 120)` with 128 rows against `nn.Linear`: one training step (forward and backward, so W is decoded each "
        "time unless the network is applied to the input), and `eval()` without a gradient, where the decoded W is kept. "
        "There, every call compares the bytes of the cores with those of the kept W; “frozen” is the same layer after `freeze()`, "
        "which does not.",
        "",
        *versus(section["rows"], "layer"),
        "",
        *engine_dispatch(section),
    ]


def engine_dispatch(section: dict[str, Any]) -> list[str]:
    """Explain where a small layer spends its time, and what the measured speed of the machine would allow."""
    floor, machine = section["floor"], section["machine"]
    dense, idle = (1e6 * floor["seconds"][name] for name in ("nn.Linear", "idle"))
    kinds = sorted(
        {kind for row in section["where"] for kind in row["profile"]}, key=lambda kind: (kind == "rest", kind)
    )
    rows = []
    for row in section["where"]:
        parts = (row["profile"].get(kind, {"seconds": 0, "operations": 0}) for kind in kinds)
        cells = [f"{1e6 * p['seconds']:.0f}" + (f" ({p['operations']:.0f})" if p["operations"] else "") for p in parts]
        rows.append([row["label"], *cells])
    lines = [
        "Where a training step spends its time, in microseconds (number of operations in brackets), timed around each "
        "array operation of the engine. “rest” is autograd, the parameters, the layer's dense product and the engine itself.",
        "",
        *table(["layer", *kinds], rows),
        "",
        f"The number of parameters alone has a price: a dense layer takes {dense:.0f} µs; with {floor['parameters']} additional idle "
        f"parameters, whose gradients have to be cleared, stacked and accumulated, it takes {idle:.0f} µs, {idle / dense:.1f} "
        "times as long.",
    ]
    for row in section["where"]:
        flops, write = row["cost"]["flops"], row["cost"]["write"]
        arithmetic, moves = 3e6 * flops * machine["flop"], 3e6 * write * machine["element"]
        lines[-1] += (
            f" {row['label']} needs {flops / 1e6:.1f} Mflop and writes {write:,} elements in {row['cost']['steps']} steps forward, "
            f"and about twice that backward. At the rates that `choose` measures on this machine, this is {arithmetic:.0f} µs of "
            f"arithmetic and {moves:.0f} µs of writing. Together with the parameters, the layer would take "
            f"{(idle + arithmetic + moves) / dense:.1f} times as long as nn.Linear if its steps had no overhead."
        )
        operations = 1e6 * sum(part["seconds"] for kind, part in row["profile"].items() if kind != "rest")
        lines[-1] += (
            f" In fact, its array operations alone take {operations:.0f} µs: with the idle parameters, "
            f"{(idle + operations) / dense:.1f} times as long, without autograd and the engine itself."
        )
    lines += [
        "",
        "So we miss the limits of 4 and 8 times. A program with one parameter per node and one call per operation cannot reach "
        "them; one with fewer of both might. We tried: generating straight-line code for the steps (12 % faster, but a second "
        "executor; dropped); NumPy's BLAS for the larger products (its threads conflict with torch's); a single thread; other "
        "waiting policies of OpenMP (they make nn.Linear itself 2.7 times slower); settings of malloc and of the garbage collector; "
        "padding and cropping inside the program instead of around it (no difference beyond noise). A single parameter for all "
        "cores would save at most the price of the idle parameters, but cores could no longer be named, frozen or replaced one by one.",
    ]
    return lines


def engine_choose(section: dict[str, Any]) -> list[str]:
    """Return the section on the choice between decoding and applying."""
    summary = section["summary"]
    rows = []
    for family in dict.fromkeys(row["label"] for row in section["rows"]):
        cases = [row for row in section["rows"] if row["label"] == family]
        losses = [row["loss"] for row in cases]
        right = f"{sum(row['right'] for row in cases)} of {len(cases)}"
        rows.append([f"`{family}`", right, f"{statistics.mean(losses):.2f}", f"{max(losses):.2f}"])
    return [
        "`net.choose(batch)` predicts whether decoding W or applying the network is faster. It was right in "
        f"{summary['right']:.0%} of {summary['cases']} cases (linear networks, several shapes and batches). In "
        f"{summary['within_10_percent']:.0%} of the cases, its choice took at most 10 % longer than the better one: on average "
        f"{summary['mean_loss']:.2f} times as long, at most {summary['largest_loss']:.2f} times.",
        "",
        *table(["network", "right", "mean loss", "largest loss"], rows),
    ]


def engine_search(section: dict[str, Any]) -> list[str]:
    """Return the section on cold and warm searches."""
    rows = []
    for row in section["rows"]:
        found = (row[kind].get(mode) for mode in ("materialize", "apply") for kind in ("cold", "warm"))
        rows.append([f"`{row['label']}`", *(figure_of(value and 1e3 * value) for value in found)])
    imports = statistics.median(row["cold"]["import"] for row in section["rows"])
    trivial = statistics.median(row["cold"]["trivial"] for row in section["rows"])
    shape = " × ".join(map(str, section["shape"]))
    return [
        f"Milliseconds to compile a {shape} network in a new process, with an empty `DEEPTN_CACHE` (cold) and with the paths on "
        f"disk (warm). Not counted: `import deeptn` ({imports:.1f} s) and the first small program ({1e3 * trivial:.0f} ms, for "
        "cotengra's late imports).",
        "",
        *table(["network", "materialize, cold", "warm", "apply, cold", "warm"], rows),
    ]


ENGINE = {
    "decode": ("Decoding", engine_decode),
    "backward": ("Gradients", engine_backward),
    "memory": ("Memory", engine_memory),
    "apply": ("Applying without the weight", engine_apply),
    "small": ("Small layers", engine_small),
    "choose": ("Decode or apply", engine_choose),
    "search": ("Search", engine_search),
}


def engine_page(data: dict[str, Any]) -> str:
    """Return the page that compares the contraction engine with its peers."""
    sections = data["sections"]
    lines = [
        "# The contraction engine",
        "",
        "All times are for float32 on a CPU. The compared calls take turns (A B C A B C …), after a check that they compute the "
        "same. The first number is deeptn's median. The others say **how many times as long as deeptn** a peer takes: the ratio "
        "of the medians, with the quartiles of the ratios within a round in brackets.",
        "",
    ]
    if "curves" in sections:
        lines += [
            "![Time to decode against size and depth](engine.svg)",
            "",
            "deeptn passes over the state a few times per layer, the paper's method once per gate; see [design](../design.md).",
            "",
        ]
    for name, (title, write) in ENGINE.items():
        if name in sections:
            lines += [f"## {title}", "", *write(sections[name]), ""]
    verdicts = {True: "yes", False: "**no**", None: "not measured"}
    goals = [
        [row["goal"], f"{row['comparison']} {row['limit']:g}", figure_of(row["measured"]), verdicts[row["passed"]]]
        for row in data["limits"]
    ]
    lines += ["## Goals", "", *table(["goal", "limit", "measured", "met"], goals), ""]
    lines += [
        'Measured by `python benchmarks/engine.py`, with the peers of `pip install -c constraints.txt -e ".[bench]"`. This page '
        "is written by `benchmarks/pages.py`.",
        "",
    ]
    return "\n".join([*lines, *engine_origin(sections.items()), ""])


def engine_origin(sections: Iterable[tuple[str, dict[str, Any]]]) -> list[str]:
    """Return where the sections were measured, grouped by equal environment and settings."""
    groups: dict[str, list[str]] = {}
    for name, section in sections:
        where = about(section["environment"], ("jax", "quimb", "tensorly-torch", "torchTT", "tensorkrowch"))
        settings = section["settings"]
        quick = "**`--quick`: small weights, no results**, " if settings["quick"] else ""
        groups.setdefault(f"{quick}{settings['rounds']} rounds, seed {settings['seed']}; {where}", []).append(name)
    return [f"- {', '.join(names)}: {where}" for where, names in groups.items()]


def engine_figure(data: dict[str, Any]) -> Any:
    """Plot the time to decode against the size of the weight, and against depth."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    curves = data["sections"]["curves"]
    figure = Figure(figsize=(8.6, 4.6), layout="constrained")
    size, depth = figure.subplots(1, 2)
    styles = {
        "deeptn": ("#D55E00", "o", "-"),
        "gate by gate": ("#0072B2", "s", "--"),
        "W.clone()": ("#666666", "", ":"),
    }

    def draw(ax: Any, x: str, rows: Sequence[dict[str, Any]], ways: Sequence[str], layers: int | None = None) -> None:
        for way in ways:
            color, marker, line = styles[way]
            points = [(row[x], row["seconds"][way]) for row in rows if way in row["seconds"]]
            face = "white" if layers == 3 else color
            label = way if layers is None else f"{way}, M={layers}"
            ax.plot(*zip(*points), line, color=color, marker=marker, label=label, markersize=5, markerfacecolor=face)

    rows = [{**row, "entries": 2 ** row["legs"]} for row in curves["size"]]
    for layers in (1, 3):
        draw(size, "entries", [row for row in rows if row["layers"] == layers], ("deeptn", "gate by gate"), layers)
    draw(size, "entries", [row for row in rows if row["layers"] == 1], ("W.clone()",))
    draw(depth, "layers", curves["depth"], tuple(styles))
    size.set_xscale("log", base=2)
    size.xaxis.set_major_locator(FixedLocator(sorted({row["entries"] for row in rows})[1::2]))
    size.set_xlabel("entries of the weight")
    size.set_title("against size", fontsize=10)
    depth.set_xscale("log", base=2)
    depth.xaxis.set_major_locator(FixedLocator([row["layers"] for row in curves["depth"]]))
    depth.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    depth.set_xlabel("layers M, ReLU in between")
    depth.set_title(f"against depth, $2^{{{curves['depth_legs']}}}$ entries", fontsize=10)
    for ax in (size, depth):
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_yscale("log")
        ax.set_ylabel("time to decode [s]")
        ax.grid(True, alpha=0.25)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3, fontsize=8, frameon=False)
    return figure


def lenet5_figure(data: dict[str, Any]) -> Any:
    """Plot accuracy against parameters."""
    from accuracy_figures import accuracy_figure

    return accuracy_figure(data["summary"], "LeNet-5 on Fashion-MNIST, 58,080 weights compressed")


def trainability(data: dict[str, Any]) -> str:
    """Return the page on topologies, with the recipes if they were measured."""
    recipes = HERE / "results" / "recipes.json"
    return trainability_page(data, json.loads(recipes.read_text()) if recipes.is_file() else None)


WRITERS = {
    "lenet5": lenet5_page,
    "engine": engine_page,
    "trainability": trainability,
    "depth": depth_page,
    "fits": fits_page,
    "calibrated": calibrated_page,
    "checkpoints": checkpoints_page,
    "healed": healed_page,
    "minilm": minilm_page,
}
FIGURES = {
    "lenet5": lenet5_figure,
    "engine": engine_figure,
    "trainability": trainability_figure,
    "depth": depth_figure,
    "fits": fits_figure,
}


def write(name: str, data: dict[str, Any], folder: Path) -> list[Path]:
    """Write a page and its figure; return the files."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    page, figure = folder / f"{name}.md", folder / f"{name}.svg"
    page.write_text(WRITERS[name](data))
    if name not in FIGURES or (name == "engine" and "curves" not in data["sections"]):
        return [page]
    mpl.rcParams["svg.hashsalt"] = "deeptn"  # the same data produce the same file
    FIGURES[name](data).savefig(figure, metadata={"Date": None})
    return [page, figure]


def main() -> None:
    """Write every page whose JSON file exists, with its figure, and the page on GPUs."""
    for name in WRITERS:
        source = HERE / "results" / f"{name}.json"
        if source.is_file():
            write(name, json.loads(source.read_text()), PAGES)
    runs = [json.loads(source.read_text()) for source in sorted((HERE / "results").glob("gpu-*.json"))]
    if runs:
        (PAGES / "gpu.md").write_text(gpu_page(runs))


if __name__ == "__main__":
    main()
