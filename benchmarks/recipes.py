"""Measure the best recipe found for at most 2,068 parameters, and what each ingredient is worth; five paired seeds.

FC-2 on Fashion-MNIST as in `trainability.py`. `BEST` is the best of about 67 single runs on the validation split, the
dense control the best of 11; for `DEEP`, only the layout and the bond were tuned. Every variant changes one thing.
An interrupted run continues where it stopped.

    python benchmarks/recipes.py --seeds 5 --jobs 2
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from deeptn_demo.environment import environment
from fc2 import HEAD, RESULTS, Job, Log

import deeptn as dtn
from deeptn.recipe import Recipe

BEST = Job(
    "TTMatrix",
    dtn.TTMatrix(rank=2),
    Recipe(epochs=20, lr=HEAD, core_lr=3e-2, decay=0.1),
    layout="pixels",
)
DEEP = Job(
    "BrickWall, ReLU",
    dtn.BrickWall(layers=8, bond=2),
    Recipe(epochs=15, lr=HEAD, core_lr=1e-2, decay=0.1),
    layout="pixels, prime",
)
#: A single core, the weight itself: a dense layer on which the same decay acts.
DENSE = dtn.Graph(nodes={"W": "ab"}, output="ab")


def vary(job: Job, **changes: Any) -> Job:
    """Return the job with changes to itself or to its recipe."""
    own = {name: value for name, value in changes.items() if name in Job.__dataclass_fields__}
    rest = {name: value for name, value in changes.items() if name not in own}
    return replace(job, **own, recipe=replace(job.recipe, **rest))


def common(base: Job) -> dict[str, Job]:
    """Return the variants that both ablations contain."""
    return {
        "the recipe": base,
        "no decay": vary(base, decay=0.0),
        "6 epochs": vary(base, epochs=6),
        "scheme gaussian": vary(base, scheme="gaussian"),
        "warm start from a dense model": vary(base, start="fit"),
    }


def ablations() -> dict[str, dict[str, Job]]:
    """Return the tables of variants, by name."""
    dense = vary(BEST, label="dense", topology=DENSE, layout="single", core_lr=1e-3, decay=0.3)
    tree = dtn.Tree(rank=8, activation="leaky_relu:0.2")
    best = common(BEST) | {
        "6 epochs, own layout": vary(BEST, epochs=6, layout="own", topology=dtn.TTMatrix(rank=4)),
        "learning rate of the cores / 3": vary(BEST, core_lr=1e-2),
        "scheme identity": vary(BEST, scheme="identity"),
        "learning rate of the cores = that of the head": vary(BEST, core_lr=HEAD),
        "cosine schedule, warm-up 5 %": vary(BEST, schedule="cosine", warmup=0.05),
        "clipping at 1": vary(BEST, clip=1.0),
        "a learned scale": vary(BEST, scale=True),
        "distillation from a dense model": vary(BEST, distill=0.5),
        "grown from rank 1 after a quarter": vary(BEST, topology=dtn.TTMatrix(rank=1), grow=((5, 2),)),
        "Tree(rank=8), leaky ReLU": vary(BEST, topology=tree, layout="pixels, small", core_lr=1e-2),
        "Tree(rank=8), no activation": vary(
            BEST, topology=replace(tree, activation=None), layout="pixels, small", core_lr=1e-2
        ),
        "dense": dense,
        "dense, no decay": vary(dense, decay=0.0),
        "dense, 6 epochs, no decay": vary(dense, decay=0.0, epochs=6),
    }
    wall = DEEP.topology
    assert isinstance(wall, dtn.BrickWall)
    deep = common(DEEP) | {
        "no activation": vary(DEEP, topology=replace(wall, activation=None)),
        "not normalized": vary(DEEP, topology=replace(wall, normalize=None)),
        "residual": vary(DEEP, topology=replace(wall, residual=True)),
        "grown from 2 layers: 4 after a fifth, 8 after two": vary(
            DEEP, topology=replace(wall, layers=2), grow=((3, 4), (6, 8))
        ),
    }
    return {"best": best, "deep": deep}


def main() -> None:
    """Run everything and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="parallel processes, one thread each")
    parser.add_argument("--data-dir", help="folder of the IDX files")
    parser.add_argument("--out", type=Path, default=RESULTS / "recipes.json")
    options = parser.parse_args()
    log = Log(options.out.with_suffix(".log.jsonl"))
    tables = ablations()
    jobs = [
        replace(job, seed=seed) for table in tables.values() for seed in range(options.seeds) for job in table.values()
    ]
    log.run(jobs, options.jobs, options.data_dir)
    data = {
        "task": "FC-2 on Fashion-MNIST, 784→256→10, the first weight generated",
        "seeds": list(range(options.seeds)),
        "environment": environment() | {"torch_threads": 1},
        "tables": {
            name: [
                {
                    "variant": variant,
                    "job": job.to_dict(),
                    "runs": [log[replace(job, seed=seed)] for seed in range(options.seeds)],
                }
                for variant, job in table.items()
            ]
            for name, table in tables.items()
        },
    }
    options.out.write_text(json.dumps(data, indent=1) + "\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
