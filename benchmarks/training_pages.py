"""The pages about training, for `pages.py`: which topology trains, the best recipe, initialization and depth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from tables import about, table

BUDGETS = (436, 980, 2068)
#: Pairs of methods that differ only in the activation.
PAIRS = [(f"{family}, ReLU", f"{family}, none") for family in ("BrickWall", "Tree", "AugmentedTree", "MERA")]


def spread(values: Sequence[float], form: str = "{:.1f}") -> str:
    """Format the mean ± standard deviation."""
    mean = form.format(statistics.mean(values))
    return f"{mean} ± {form.replace('+', '').format(statistics.stdev(values))}" if len(values) > 1 else mean


def accuracies(row: dict[str, Any]) -> list[float]:
    """Return the accuracies of a row of runs, in the order of the seeds."""
    return [run["accuracy"] for run in row["runs"]]


def _trainability_table(rows: list[dict[str, Any]]) -> list[str]:
    cells: dict[str, dict[Any, str]] = {}
    for row in rows:
        text = "–"
        if row["runs"]:
            params = "" if row["budget"] is None else f" ({row['runs'][0]['params']:,})"
            text = spread(accuracies(row)) + params
        cells.setdefault(row["method"], {})[row["budget"]] = text
    lines = [
        [method, *(found.get(budget, found.get(None, "")) if budget in found else "" for budget in BUDGETS)]
        if None not in found
        else [f"{method} (control)", "", "", found[None]]
        for method, found in cells.items()
    ]
    return table(["method", *(f"≤ {budget:,}" for budget in BUDGETS)], lines)


def _winners(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for budget in BUDGETS:
        own = [row for row in rows if row["budget"] == budget and row["runs"]]
        own.sort(key=lambda row: -statistics.mean(accuracies(row)))
        first, *rest = own
        deep = next(row for row in own if row["method"].endswith("ReLU"))
        line = f"- **At most {budget:,} parameters**: {first['method']} ({spread(accuracies(first))})"
        if deep is not first:
            line += f"; the best network with activations is {deep['method']} ({spread(accuracies(deep))})"
        last = rest[-1]
        lines.append(f"{line}; last {last['method']} ({spread(accuracies(last))}).")
    return lines


def _activation(rows: list[dict[str, Any]]) -> list[str]:
    found = {(row["method"], row["budget"]): row for row in rows if row["runs"]}
    lines = []
    for with_relu, without in PAIRS:
        cells = []
        for budget in BUDGETS:
            a, b = (accuracies(found[method, budget]) for method in (with_relu, without))
            cells.append(spread([x - y for x, y in zip(a, b)], "{:+.1f}"))
        lines.append([with_relu.partition(",")[0], *cells])
    return table(["ReLU over no activation, points", *(f"≤ {budget:,}" for budget in BUDGETS)], lines)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Return Spearman's rank correlation."""
    ranks = np.argsort(np.argsort(np.asarray((x, y))))
    matrix: Any = np.corrcoef(ranks)
    return float(matrix[0, 1])


def _why(rows: list[dict[str, Any]]) -> list[str]:
    own = [row for row in rows if row["runs"] and row["budget"] == BUDGETS[-1]]
    own.sort(key=lambda row: -statistics.mean(accuracies(row)))
    lines = []
    for row in own:
        before = row["runs"][0]["stage_gradients"]["before"]
        ratio = max(before) / max(min(before), 1e-30)
        lines.append(
            [
                row["method"],
                spread(accuracies(row)),
                f"{row['runs'][0]['rank']}",
                spread([run["effective_rank"] for run in row["runs"]]),
                "–" if len(before) == 1 else f"{ratio:.1f}",
                spread([run["train_accuracy"] - run["accuracy"] for run in row["runs"]]),
            ]
        )
    return table(
        ["method", "accuracy %", "rank", "effective rank", "gradients, largest / smallest stage", "train − test"], lines
    )


def _ablation(rows: list[dict[str, Any]]) -> list[str]:
    base = accuracies(rows[0])
    lines = []
    for row in rows:
        own = accuracies(row)
        gap = "" if row is rows[0] else spread([a - b for a, b in zip(own, base)], "{:+.2f}")
        lines.append([row["variant"], f"{row['runs'][0]['params']:,}", spread(own, "{:.2f}"), gap])
    return table(["variant", "parameters", "accuracy %", "against the recipe, paired"], lines)


def _recipes(data: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    best, deep = data["tables"]["best"], data["tables"]["deep"]
    by_name = {row["variant"]: accuracies(row) for row in best}
    gaps = {name: statistics.mean(by_name[name]) - statistics.mean(by_name["the recipe"]) for name in by_name}
    job = best[0]["job"]["recipe"]
    own = next(accuracies(row) for row in rows if row["method"] == "BrickWall, ReLU" and row["budget"] == 2068)
    return [
        "## The best recipe for at most 2,068 parameters",
        "",
        f"Chosen on the validation split, then run with {len(data['seeds'])} seeds: `TTMatrix(rank=2)` with legs "
        "(16, 16) for the rows and (28, 28), the pixels, for the columns; "
        f"{job['epochs']} epochs, learning rate {job['core_lr']:g} for the cores and {job['lr']:g} for the head, decay "
        f"{job['decay']:g} of W. It reaches {spread(by_name['the recipe'], '{:.2f}')} % with "
        f"{best[0]['runs'][0]['params']:,} parameters instead of 200,704. A dense first layer reaches "
        f"{spread(by_name['dense, 6 epochs, no decay'], '{:.2f}')} % in 6 epochs "
        f"({gaps['dense, 6 epochs, no decay']:+.2f} points) and {spread(by_name['dense'], '{:.2f}')} % with the same "
        f"{job['epochs']} epochs and its own tuned decay ({gaps['dense']:+.2f} points). **The tuning was not equal**: the recipe is the "
        "best of about 67 single runs on the validation split (layouts, families, rates, decays, lengths), the dense layer the best "
        "of 11 (rates, decays), so the comparison favors the recipe. For the deep network below, only layout and bond were tuned.",
        "",
        *_ablation(best),
        "",
        "The same ingredients in a deep network, `BrickWall(layers=8, bond=2)` with ReLU, with legs 2 … 2 for the rows and "
        "(2, 2, 7, 2, 2, 7) for the columns, interleaved:",
        "",
        *_ablation(deep),
        "",
        f"The same wall on its default layout (2,068 parameters, in the first table, its own learning rate, no decay) reaches "
        f"{spread(own, '{:.2f}')} % after 6 epochs.",
        "",
        "“Own layout” means the family's largest network within the budget on its default layout. Warm start and "
        "distillation need a trained dense model (ten epochs), which the others do not. “Grown” starts with fewer parameters "
        "and ends with the number in the table.",
        "",
    ]


def trainability_page(data: dict[str, Any], recipes: dict[str, Any] | None) -> str:
    """Return the page on which topology trains at which budget."""
    rows = data["rows"]
    generated = [row for row in rows if row["budget"] is not None and row["runs"]]
    ranks = [statistics.mean(run["effective_rank"] for run in row["runs"]) for row in generated]
    means = [statistics.mean(accuracies(row)) for row in generated]
    dense = next(row for row in rows if row["method"] == "dense")
    dense_gap = statistics.mean(run["train_accuracy"] - run["accuracy"] for run in dense["runs"])
    rates = [
        [
            method,
            *(f"**{a:.1f}**" if rate == data["rates"][method] else f"{a:.1f}" for rate, a in zip(data["grid"], found)),
        ]
        for method, found in data["validation"].items()
    ]
    lines = [
        "# Which topology trains",
        "",
        f"FC-2 on Fashion-MNIST: 784→256→10 with ReLU; only the first weight (256 × 784) is generated. The table shows test accuracy in "
        f"percent, mean ± standard deviation over {len(data['seeds'])} paired seeds (same head, same batches). In brackets: the "
        "parameters of the first weight, which is the largest network of the family within the budget; a dash means that the family "
        f"has none. Training: {data['epochs']} epochs, Adam, one cycle, batch {data['batch']}; learning rate {data['head_lr']:g} for "
        "everything that is not generated. Every family uses its default layout.",
        "",
        *_trainability_table(rows),
        "",
        "![Accuracy against parameters and against effective rank; spectra of the trained weights](trainability.svg)",
        "",
        "## Which one wins",
        "",
        *_winners(rows),
        "",
        "What activations add, paired by seed:",
        "",
        *_activation(rows),
        "",
        "## Why",
        "",
        f"Over all {len(generated)} networks of the table, accuracy follows the *effective rank* of the trained weight as a "
        "matrix (exp of the entropy of its squared singular values): Spearman's rank correlation is "
        f"{rank_correlation(ranks, means):.2f}. If all row legs come before the column legs, the rank of a linear network is at "
        "most its bond in the middle. An activation removes this bound, and so does a layout that pairs row legs with column "
        "legs, as in TTMatrix: each of its terms is a Kronecker product, which can have full rank. This fits with what we see: TTMatrix "
        "wins with the fewest parameters, and activations help most where bonds are small. But a correlation is not a proof. At "
        "the largest budget:",
        "",
        *_why(rows),
        "",
        "“Gradients” are norms relative to the norm of the cores, before training (seed 0): the stage with the largest divided by "
        f"the one with the smallest. The dense layer's training accuracy is {dense_gap:.1f} points above its test accuracy.",
        "",
        *([] if recipes is None else _recipes(recipes, rows)),
        "## Learning rates",
        "",
        "Chosen once for each method, on 10,000 validation images, with seed 0, at the middle budget (or the family's smallest size, if "
        "that is larger). They apply to the cores; for the two controls, to all parameters:",
        "",
        *table(["method", *(f"{rate:g}" for rate in data["grid"])], rates),
        "",
        f"Measured by `python benchmarks/trainability.py` and `python benchmarks/recipes.py`: {about(data['environment'])}. "
        "All runs: `benchmarks/results/trainability.json` and `recipes.json`. This page is written by "
        "`benchmarks/pages.py`.",
        "",
    ]
    return "\n".join(lines)


def trainability_figure(data: dict[str, Any]) -> Any:
    """Plot accuracy against parameters and against effective rank, and the spectra at the largest budget."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, right, spectra = figure.subplots(1, 3)
    right.sharey(left)
    methods = list(dict.fromkeys(row["method"] for row in data["rows"] if row["budget"] is not None))
    families = list(dict.fromkeys(method.partition(",")[0] for method in methods))
    for method in methods:
        rows = [row for row in data["rows"] if row["method"] == method and row["runs"]]
        color = f"C{families.index(method.partition(',')[0])}"
        plain = method.endswith("none")
        style = {"color": color, "linestyle": ":" if plain else ("--" if "leaky" in method else "-")}
        marker = {"marker": "o", "markersize": 5, "markerfacecolor": "white" if plain else color}
        x = [row["runs"][0]["params"] for row in rows]
        y = [statistics.mean(accuracies(row)) for row in rows]
        error = [statistics.stdev(accuracies(row)) if len(row["runs"]) > 1 else 0.0 for row in rows]
        left.errorbar(x, y, error, capsize=2, label=method, **style, **marker)
        ranks = [statistics.mean(run["effective_rank"] for run in row["runs"]) for row in rows]
        right.plot(ranks, y, color=color, linestyle="none", **marker)
        values = rows[-1]["runs"][0]["spectrum"]
        spectra.plot(range(1, 4 * len(values), 4), values, **style)
    for row in data["rows"]:
        if row["budget"] is None:
            if row["method"] == "dense":
                values = row["runs"][0]["spectrum"]
                spectra.plot(range(1, 4 * len(values), 4), values, color="black", linewidth=0.8)
            y = statistics.mean(accuracies(row))
            left.axhline(y, color="black", linewidth=0.8, linestyle="-" if row["method"] == "dense" else "--")
            left.annotate(row["method"], (200, y), xytext=(0, 2), textcoords="offset points", fontsize=8)
    left.set_ylim(70, 90)  # LowRank, near 50 %, is in the table
    left.set_xscale("log")
    left.xaxis.set_major_locator(FixedLocator([200, 400, 1000, 2000]))
    left.xaxis.set_minor_locator(NullLocator())
    left.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    left.set_xlabel("parameters of the first weight")
    left.set_ylabel("test accuracy [%]")
    right.set_xscale("log")
    right.set_xlabel("effective rank of the trained weight")
    spectra.set_xscale("log")
    spectra.set_yscale("log")
    spectra.set_ylim(1e-3, 1)
    spectra.set_xlabel("singular value, by size (every fourth)")
    spectra.set_ylabel("share of the norm, at most 2,068 parameters")
    for ax in (left, right, spectra):
        ax.grid(True, alpha=0.25)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def depth_page(data: dict[str, Any]) -> str:
    """Return the page on moments, gradients and training against depth."""
    depths = data["depths"]
    accuracy: dict[tuple[str, int], list[float]] = {}
    for run in data["training"]:
        accuracy.setdefault((run["name"], run["layers"]), []).append(run["accuracy"])
    names = list(dict.fromkeys(row["name"] for row in data["gradients"]))
    trained = [[name, *(spread(accuracy[name, layers]) for layers in depths)] for name in names]
    flow = {(row["name"], row["layers"]): row["gradients"] for row in data["gradients"]}
    ratios = [[name, *(_first_to_last(flow[name, layers]) for layers in depths)] for name in names]
    worst_std = max(abs(row["std"] - 1) for row in data["moments"])
    worst_mean = max(abs(row["mean"]) for row in data["moments"])
    moments = [
        [
            row["name"] + ("" if row["layers"] is None else f", M={row['layers']}"),
            row["scheme"],
            f"{row['std']:.3f} ± {row['std_sd']:.3f}",
            f"{row['mean']:+.3f} ± {row['mean_sd']:.3f}",
            f"{row['kurtosis']:.1f}",
            f"{row['effective_rank']:.1f}",
        ]
        for row in data["moments"]
        if row["layers"] in (None, 1, 4, 16)
    ]
    working = {
        name: [layers for layers in depths if statistics.mean(accuracy[name, layers]) >= _best(accuracy, name) - 2]
        for name in names
    }
    lines = [
        "# Initialization and depth",
        "",
        "How gradients, training and the initial weight of a brick wall depend on its number of layers M. The scheme is orthogonal "
        "unless another is named, and the state is divided by its root mean square before each activation unless stated otherwise.",
        "",
        "![Gradient norms per stage, and accuracy against depth](depth.svg)",
        "",
        "## Gradients",
        "",
        "For a random normal G, we take the norm of the gradient of ⟨W, G⟩ with respect to the cores of a stage, multiply it by the "
        "norm of these cores and divide by that of W. W is 64 × 64, in double precision; geometric mean over 5 seeds. The table "
        "shows the first stage divided by the last: 1 means that the gradient reaches the first stage undiminished.",
        "",
        *table(["between the layers", *(f"M={layers}" for layers in depths)], ratios),
        "",
        "## Training",
        "",
        f"Test accuracy on the digits, 64→64→10 with the first weight generated, 10 epochs, learning rate 0.01 for the cores, "
        f"mean ± standard deviation over {data['seeds']} seeds (nothing was tuned):",
        "",
        *table(["between the layers", *(f"M={layers}" for layers in depths)], trained),
        "",
        "Depths within two points of the best of the row: "
        + "; ".join(f"{name}: {', '.join(map(str, found))}" for name, found in working.items())
        + ".",
        "",
        "## Moments",
        "",
        f"W is 120 × 400. Standard deviation and mean are in units of the requested standard deviation, mean ± standard deviation over "
        f"{data['moment_seeds']} seeds. Over all {len(data['moments'])} combinations of scheme, activation, topology and depth "
        f"(M = {', '.join(map(str, depths))}) the standard deviation is off by at most {100 * worst_std:.1f} %, and the mean by at most "
        f"{worst_mean:.3f}. Kurtosis is 3 for a normal distribution.",
        "",
        *table(["network", "scheme", "std", "mean", "kurtosis", "effective rank"], moments),
        "",
        f"Measured by `python benchmarks/depth.py`: {about(data['environment'])}. All figures: "
        "`benchmarks/results/depth.json`. This page is written by `benchmarks/pages.py`.",
        "",
    ]
    return "\n".join(lines)


def _best(accuracy: dict[tuple[str, int], list[float]], name: str) -> float:
    return max(statistics.mean(found) for (other, _), found in accuracy.items() if other == name)


def _first_to_last(gradients: Sequence[float]) -> str:
    return "" if len(gradients) == 1 else f"{gradients[0] / max(gradients[-1], 1e-30):.2g}"


def depth_figure(data: dict[str, Any]) -> Any:
    """Plot gradient norms per stage for each variant, and accuracy against depth for all."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["name"] for row in data["gradients"]))
    columns = 4
    figure = Figure(figsize=(11, 2.5 * math.ceil((len(names) + 2) / columns) + 0.6), layout="constrained")
    grid = figure.add_gridspec(math.ceil((len(names) + 2) / columns), columns)
    shared = None
    for place, name in enumerate(names):
        ax = figure.add_subplot(grid[divmod(place, columns)], sharey=shared)
        shared = shared or ax
        for number, row in enumerate(row for row in data["gradients"] if row["name"] == name and row["layers"] > 1):
            color = str(0.75 - 0.75 * number / max(len(data["depths"]) - 2, 1))
            ax.plot(range(1, row["layers"] + 1), row["gradients"], ".-", color=color, label=f"M={row['layers']}")
        ax.set_yscale("log")
        ax.set_title(name, fontsize=9)
        ax.grid(True, alpha=0.25)
        ax.set_xlabel("stage", fontsize=8)
        if place % columns == 0:
            ax.set_ylabel("gradient norm", fontsize=8)
        if place == 0:
            ax.legend(fontsize=6, ncols=2)
    row, column = divmod(len(names), columns)
    ax = figure.add_subplot(grid[row, column:])
    for number, name in enumerate(names):
        y = [
            statistics.mean(r["accuracy"] for r in data["training"] if (r["name"], r["layers"]) == (name, layers))
            for layers in data["depths"]
        ]
        ax.plot(data["depths"], y, "o-" if number < 5 else "s--", markersize=3, color=f"C{number}", label=name)
    ax.set_title("trained on the digits", fontsize=9)
    ax.set_xlabel("layers M", fontsize=8)
    ax.set_ylabel("accuracy [%]", fontsize=8)
    ax.set_ylim(65, 100)
    ax.grid(True, alpha=0.25)
    ax.legend(fontsize=6, ncols=2, loc="lower right")
    return figure
