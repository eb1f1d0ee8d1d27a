"""The result pages on networks that are compressed as a whole, and healed."""

from __future__ import annotations

import statistics
from typing import Any

from tables import about, table

ROLES = {"dense": "", "family": "", "control": " (control)"}


def spread(values: list[float]) -> str:
    """Return mean ± sd; a dash without values."""
    if not values:
        return "–"
    sd = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{sd}"


def healed_page(data: dict[str, Any]) -> str:
    """Return the page on LeNet-5 as a whole."""
    recipes, seeds = data["recipes"], data["seeds"]
    lines = [
        "# LeNet-5 as a whole",
        "",
        "LeNet-5, trained on Fashion-MNIST, is compressed as a whole: plan, fit with calibration data, heal, as `deeptn demo` does "
        f"with a smaller network. Mean ± standard deviation of the test accuracy in percent, over {len(seeds)} paired seeds (weights, "
        f"batches, random cores). The dense network trains for {recipes['train']['epochs']} epochs; every row is then healed for "
        f"{recipes['heal']['epochs']} epochs with the dense network as its teacher, once with each of the learning rates "
        f"{' and '.join(f'{rate:g}' for rate in recipes['rates'])} (of the cores, or of everything if there are none). A tenth of the "
        "training images chooses the rate, the best epoch, and below each table the best network; the test images choose nothing.",
        "",
        "“Planned” may use any family for each layer, where the errors of the weights are smallest. “Narrower” networks are trained "
        "as the dense one, then healed. A network in int8 has 8-bit weights (or cores) with a scale for each, and biases in "
        "float32; it is rounded after healing, and “int8 alone” is not healed. “Pruned” counts an index for each weight that is left.",
        "",
    ]
    for share in sorted({row["share"] for row in data["results"]}, reverse=True):
        rows = [row for row in data["results"] if row["share"] == share]
        labels = list(
            dict.fromkeys(row["label"] for row in sorted(rows, key=lambda row: list(ROLES).index(row["role"])))
        )
        cells = [_cells([row for row in rows if row["label"] == label]) for label in labels]
        headings = ["network", "parameters", "KB", "before healing", "healed", "seconds"]
        lines += [f"## At {share:.0%} of the parameters", "", *table(headings, cells), "", *_winner(rows), ""]
    lines += [*_elsewhere(data), *_drop(data)]
    lines += [
        f"Measured by `python benchmarks/healed.py`: {about(data['environment'])}; seeds {', '.join(map(str, seeds))}. All rows: "
        "`benchmarks/results/healed.json`. This page is written by `benchmarks/pages.py`.",
        "",
    ]
    return "\n".join(lines)


def _cells(rows: list[dict[str, Any]]) -> list[str]:
    made = [row for row in rows if row["after"] is not None]
    name = rows[0]["label"] + ROLES[rows[0]["role"]]
    if not made:
        return [name, "–", "–", "–", "not this small", "–"]
    params, size = (statistics.mean(row[key] for row in made) for key in ("params", "bytes"))
    scores = [spread([row[key] for row in made]) for key in ("before", "after")]
    return [name, f"{params:,.0f}", f"{size / 1000:.1f}", *scores, f"{statistics.mean(r['seconds'] for r in made):.0f}"]


def _means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean score on the validation part of every row."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["after"] is not None:
            found.setdefault(row["label"], []).append(row["validation"])
    return {label: statistics.mean(values) for label, values in found.items()}


def _winner(rows: list[dict[str, Any]]) -> list[str]:
    """Say who wins, among networks of this size."""
    means, roles = _means(rows), {row["label"]: row["role"] for row in rows}
    small = {label: mean for label, mean in means.items() if roles[label] != "dense" and label != "int8 alone"}
    best = max((label for label in small if roles[label] == "family"), key=small.__getitem__)
    other = max((label for label in small if roles[label] == "control"), key=small.__getitem__)
    pairs = {}
    for label in (best, other):
        pairs[label] = {row["seed"]: row["after"] for row in rows if row["label"] == label and row["after"] is not None}
    gaps = [pairs[best][seed] - pairs[other][seed] for seed in pairs[best] if seed in pairs[other]]
    verb = "above" if statistics.mean(gaps) > 0 else "below"
    return [
        f"The best generated network ({best}) is {abs(statistics.mean(gaps)):.1f} points {verb} the best control of its size in "
        f"bytes ({other}); by seed: {', '.join(f'{gap:+.1f}' for gap in gaps)}."
    ]


def _elsewhere(data: dict[str, Any]) -> list[str]:
    if not data["elsewhere"]:
        return []
    share = next(iter(data["elsewhere"].values()))["share"]
    wanted = ("TT-matrix", share, 0)
    torch = next(row for row in data["results"] if (row["label"], row["share"], row["seed"]) == wanted)
    rows = {"PyTorch": torch} | data["elsewhere"]
    cells = [
        [
            name,
            f"{row['before']:.2f}",
            f"{row['after']:.2f}",
            f"{row['after'] - torch['after']:+.2f}",
            f"{row['rate']:g}",
        ]
        for name, row in rows.items()
    ]
    return [
        "## In Equinox and NNX",
        "",
        f"The TT-matrices at {share:.0%} of the first seed, loaded from the file that PyTorch has written, and healed with the "
        "same recipe and the same batches.",
        "",
        *table(["library", "before healing", "healed", "difference", "rate"], cells),
        "",
    ]


def _drop(data: dict[str, Any]) -> list[str]:
    if data["drop"] is None:
        return []
    search, test = data["drop"]["search"], data["drop"]["test"]
    cells = []
    for number, trial in enumerate(search["trials"]):
        made = trial["params"] is not None
        verdict = "smallest" if number == search["best"] else "within" if trial["accepted"] else ""
        numbers = [f"{trial['params']:,}", f"{trial['score']:.2f}"] if made else ["–", "–"]
        cells.append([str(number + 1), trial["choice"], f"{trial['share']:.2%}", *numbers, verdict])
    best = search["trials"][search["best"]]
    return [
        "## As small as one point allows",
        "",
        f"`search_by_drop` with a drop of {search['drop']:.1f} points on the validation part ({search['before']:.2f} before), first seed, "
        "one rate.",
        "",
        *table(["trial", "topologies", "allowed", "parameters", "healed", ""], cells),
        "",
        f"The smallest network has {best['params']:,} parameters ({best['params'] / search['params']:.1%}). On the test set, the accuracy "
        f"falls from {test['before']:.2f} to {test['after']:.2f}: by {test['before'] - test['after']:.2f} points.",
        "",
    ]


def minilm_page(data: dict[str, Any]) -> str:
    """Return the page on MiniLM."""
    recipe, (tests, others) = data["recipe"], data["examples"]
    cells = [
        [
            f"{row['share']:.0%}",
            row["method"],
            f"{row['params']:,}",
            f"{row['bytes'] / 1e6:.1f}",
            *(
                f"{row['compressed'][key]:.3f} → {row['healed'][key]:.3f}"
                for key in ("cosine", "cosine_5_percent", "rank_correlation")
            ),
            f"{sum(row['seconds'].values()) / 60:.0f}",
            f"{row['peak_bytes'] / 1e9:.1f}",
        ]
        for row in sorted(data["rows"], key=lambda row: -row["share"])
    ]
    headings = [
        "size",
        "method",
        "parameters",
        "MB",
        "cosine",
        "cosine, worst 5 %",
        "rank correlation",
        "minutes",
        "peak [GB]",
    ]
    return "\n".join(
        [
            "# A sentence transformer",
            "",
            "The weights of all-MiniLM-L6-v2 (22.7 million parameters) are compressed to half and to a quarter, then healed by "
            f"matching features: {recipe['epochs']} epochs on {others:,} sentences, each layer's outputs and the embeddings compared with "
            "those of the original. The scores compare embeddings before and after compression on "
            f"{tests:,} other sentences: their mean cosine, the cosine that 5 % of them fall below, and the rank correlation of "
            "the similarities of 20,000 pairs. Each cell: compressed → healed.",
            "",
            "The sentences are quotations from Debian's package `fortunes` (BSD and other free licences), split by file: every second "
            "file is for the tests alone. SVD is low rank by the weights alone; all other methods know the layers' inputs. SVD, weighted SVD and "
            "TT-matrix give every layer the same share of its parameters (the two rows of token types stay dense). “Planned by outputs” chooses "
            f'{" or ".join(data["families"])} and the share of each layer by `deeptn.plan` with `objective="outputs"`, for one batch of '
            "sentences. One seed.",
            "",
            "At both sizes, the plan by outputs is the best after healing, and weighted SVD is second. Do not plan such a network by the "
            "errors of its weights, which is the default: the table of embeddings has half of all parameters, but counts as one layer "
            "of 40, and next to nothing is left of it (`deeptn.plan` warns; see [compressed checkpoints](checkpoints.md)). The plan by outputs would do the same at a quarter if it added up the squares of the changes: without the table, "
            "the outputs cannot get much worse than wrong. It multiplies cosines instead ({class}`~deeptn.planning.Sensitivity`). "
            + (
                f"With squares, the healed cosine was {data['squares']['healed']['cosine']:.3f}. The plan for a half in the table was "
                f"still made with squares; with cosines, it starts at {data['cosines_at_half']['cosine']:.3f}."
                if "squares" in data
                else ""
            ),
            "",
            *table(headings, cells),
            "",
            "Minutes: plan, fits and healing, with one thread; at most, because the machine did other work meanwhile. Peak: of the whole process, which also holds the original.",
            "",
            f"Measured by `python benchmarks/minilm.py`: {about(data['environment'])}; seed {data['seed']}. All rows: "
            "`benchmarks/results/minilm.json`. This page is written by `benchmarks/pages.py`.",
            "",
        ]
    )
