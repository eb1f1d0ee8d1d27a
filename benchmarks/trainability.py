"""Measure which topologies train: FC-2 on Fashion-MNIST at three budgets, with paired seeds.

The learning rate of every method (for the cores; for all parameters of the controls) is chosen once, on a validation
split at the middle budget, or at the next budget that the family fits. An interrupted run continues where it stopped.

    python benchmarks/trainability.py --seeds 3 --jobs 2
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from deeptn_demo.environment import environment
from fc2 import CONTROLS, GRID, HEAD, RESULTS, SHAPE, Job, Log

import deeptn as dtn
from deeptn import Topology
from deeptn.recipe import Recipe

BUDGETS = (436, 980, 2068)
LEAKY = "leaky_relu:0.2"
METHODS: dict[str, Topology] = {
    "BrickWall, ReLU": dtn.BrickWall(),
    "BrickWall, leaky ReLU": dtn.BrickWall(activation=LEAKY),
    "BrickWall, none": dtn.BrickWall(activation=None),
    "Tree, ReLU": dtn.Tree(activation="relu"),
    "Tree, none": dtn.Tree(activation=None),
    "AugmentedTree, ReLU": dtn.AugmentedTree(activation="relu"),
    "AugmentedTree, none": dtn.AugmentedTree(activation=None),
    "MERA, ReLU": dtn.MERA(activation="relu"),
    "MERA, none": dtn.MERA(activation=None),
    "TensorTrain": dtn.TensorTrain(),
    "TTMatrix": dtn.TTMatrix(),
    "LowRank": dtn.LowRank(),
}


def sizes(method: str) -> list[Topology | None]:
    """Return the family at each budget, None where even its smallest network is too large."""
    found: list[Topology | None] = []
    for budget in BUDGETS:
        try:
            found.append(dtn.at_budget(METHODS[method], SHAPE, budget).topology)
        except dtn.SpecError:
            found.append(None)
    return found


def recipe(epochs: int, rate: float, control: bool) -> Recipe:
    """Return the recipe, which is the same for all methods except for the tuned learning rate."""
    return Recipe(epochs=epochs, lr=rate if control else HEAD, core_lr=None if control else rate)


def tuning(epochs: int) -> dict[str, list[Job]]:
    """Return, for every method, one job per learning rate of the grid."""
    jobs = {}
    for method in (*CONTROLS, *METHODS):
        family = None
        if method in METHODS:
            at = sizes(method)
            family = at[1] or next(topology for topology in at if topology is not None)
        control = method in CONTROLS
        jobs[method] = [Job(method, family, recipe(epochs, rate, control), 0, "validation") for rate in GRID]
    return jobs


def final(epochs: int, seeds: int, rates: dict[str, float]) -> dict[str, list[list[Job]]]:
    """Return, for every method and budget (only one for the controls), a list of jobs, one per seed."""
    jobs: dict[str, list[list[Job]]] = {}
    for method, rate in rates.items():
        control = method in CONTROLS
        at = [None] if control else sizes(method)
        jobs[method] = [
            [Job(method, family, recipe(epochs, rate, control), seed) for seed in range(seeds)]
            if control or family is not None
            else []
            for family in at
        ]
    return jobs


def main() -> None:
    """Tune and run all methods, and write the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--jobs", type=int, default=2, help="parallel processes, one thread each")
    parser.add_argument("--data-dir", help="folder of the IDX files")
    parser.add_argument("--out", type=Path, default=RESULTS / "trainability.json")
    options = parser.parse_args()
    log = Log(options.out.with_suffix(".log.jsonl"))
    tuned = tuning(options.epochs)
    log.run([job for jobs in tuned.values() for job in jobs], options.jobs, options.data_dir)
    rates = {m: max(zip((log[job]["accuracy"] for job in jobs), GRID))[1] for m, jobs in tuned.items()}
    jobs = final(options.epochs, options.seeds, rates)
    queue = [job for rows in jobs.values() for row in rows for job in row]
    # The longest jobs first, so that no process is still busy alone at the end.
    queue.sort(key=lambda job: -(0 if job.topology is None else dtn.network(job.topology, SHAPE).cost().write))
    log.run(queue, options.jobs, options.data_dir)
    rows: list[dict[str, Any]] = []
    for method, at in jobs.items():
        for budget, row in zip(BUDGETS, at):
            results = [log[job] for job in row]
            rows.append({"method": method, "budget": None if method in CONTROLS else budget, "runs": results})
    data = {
        "task": "FC-2 on Fashion-MNIST, 784→256→10, the first weight generated",
        "epochs": options.epochs,
        "batch": 128,
        "head_lr": HEAD,
        "grid": GRID,
        "seeds": list(range(options.seeds)),
        "environment": environment() | {"torch_threads": 1},
        "validation": {m: [log[job]["accuracy"] for job in jobs] for m, jobs in tuned.items()},
        "rates": rates,
        "rows": rows,
    }
    options.out.write_text(json.dumps(data, indent=1) + "\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
