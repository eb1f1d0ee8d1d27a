"""Compress LeNet-5, trained on Fashion-MNIST, to 5 % and 2 % of its parameters, heal it, and compare it with controls.

This is the workflow of ``deeptn demo`` with every seed and share. Then the TT-matrices of 5 % and the first seed are
healed once more in Equinox and Flax NNX, and `search_by_drop` looks for the smallest network whose accuracy on the
validation part is at most 1 point lower. Every finished network is appended to a log, so an interrupted run continues
where it stopped. Parts run alone: ``--only 0.05:1`` is one share and seed, ``--only jax``, ``--only drop``.

    python benchmarks/healed.py                 # hours; --jobs 2 for two processes
    python benchmarks/healed.py --collect       # only write the JSON from the log
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent / "results" / "healed.json"
SHARES = (0.05, 0.02)
#: Sets of topologies among which the search chooses, and its trials.
SEARCHED, TRIALS = ("TT-matrix", "Tucker", "low rank", "planned"), 14


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the rows in the log."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def part(share: float, seed: int, threads: int, log: Path) -> None:
    """Compute what is missing of one share and seed."""
    import torch
    from deeptn_demo.data import load_images
    from deeptn_demo.workflow import SETTINGS, Workflow

    torch.set_num_threads(threads)
    done = {row["label"] for row in read_log(log) if (row["share"], row["seed"]) == (share, seed)}
    flow = Workflow(replace(SETTINGS["lenet5"], share=share), load_images("fashion-mnist"), seed)
    for label, compute in flow.rows_of():
        if label in done:
            continue
        row = {"share": share, "seed": seed, **compute().to_dict()}
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


def others(what: str, threads: int, log: Path) -> None:
    """Heal in the other libraries, or search for the smallest network, with the first share and seed."""
    import torch
    from deeptn_demo.data import load_images
    from deeptn_demo.workflow import RATES, SETTINGS, Workflow

    torch.set_num_threads(threads)
    if any(row["label"].startswith(what) for row in read_log(log)):
        return
    flow = Workflow(replace(SETTINGS["lenet5"], share=SHARES[0]), load_images("fashion-mnist"), 0)
    rows = healed_elsewhere(flow, RATES) if what == "jax" else [searched(flow, RATES[-1], log.with_suffix(".search"))]
    with log.open("a") as file:
        for row in rows:
            file.write(json.dumps({"share": SHARES[0], "seed": 0, **row}) + "\n")
            print(row, flush=True)


def healed_elsewhere(flow: Any, rates: tuple[float, ...]) -> list[dict[str, Any]]:
    """Return a row for each library."""
    import torch
    from deeptn_torch import compress
    from healed_jax import LIBRARIES, healed_in

    import deeptn as dtn

    torch.manual_seed(flow.seed)
    plan = dtn.plan(flow.dense, {"params": flow.limit}, topologies=["TTMatrix"], seed=flow.seed)
    small, _ = compress(flow.dense, plan, calibration=flow.calibration)
    return [{"label": f"jax, {name}", **healed_in(name, flow, small, rates)} for name in LIBRARIES]


def searched(flow: Any, rate: float, folder: Path) -> dict[str, Any]:
    """Return the trials of a search, and what the smallest network does on the test set."""
    from deeptn_demo.scores import accuracy
    from deeptn_demo.workflow import CHOICES
    from deeptn_torch import heal, search_by_drop

    recipe = replace(flow.setting.heal, core_lr=rate)

    def healed(small: Any, teacher: Any, checkpoint: Path | None) -> None:
        heal(small, teacher, flow.rows, recipe, flow.seed + 1, validation=flow.validation, checkpoint=checkpoint)

    small, search = search_by_drop(
        flow.dense,
        {"drop": 1.0},
        lambda model: accuracy(model, *flow.validation),
        healed,
        trials=TRIALS,
        folder=folder,
        choices={name: CHOICES[name] for name in SEARCHED},
        calibration=flow.calibration,
        seed=flow.seed,
    )
    models = {"before": flow.dense, "after": small}
    test = {name: accuracy(model, flow.data.test_x, flow.data.test_y) for name, model in models.items()}
    return {"label": "drop", "search": search.to_dict(), "test": test}


def main() -> None:
    """Compute all parts, and write the JSON."""
    from deeptn_demo.environment import environment
    from deeptn_demo.workflow import RATES, SETTINGS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="parallel processes")
    parser.add_argument("--threads", type=int, default=1, help="torch threads per process")
    parser.add_argument("--only", help="share:seed, jax or drop")
    parser.add_argument("--collect", action="store_true", help="only write the JSON from the log")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    log = options.out.with_suffix(".log.jsonl")
    parts = [(share, seed) for seed in range(options.seeds) for share in SHARES]
    if options.only:
        share, _, seed = options.only.partition(":")
        parts = [(float(share), int(seed))] if seed else []
    if not options.collect:
        jobs = [(*one, options.threads, log) for one in parts]
        with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
            pool.starmap(part, jobs, chunksize=1)
        for what in ("jax", "drop"):
            if options.only in (None, what):
                others(what, options.threads, log)
    setting = SETTINGS["lenet5"]
    rows = sorted(read_log(log), key=lambda row: (-row["share"], row["seed"]))
    elsewhere = {row["label"].removeprefix("jax, "): row for row in rows if row["label"].startswith("jax")}
    drop = next((row for row in rows if row["label"] == "drop"), None)
    rows = [row for row in rows if "role" in row]
    data = {
        "task": "LeNet-5 on Fashion-MNIST, the whole network",
        "environment": environment() | {"torch_threads": options.threads},
        "recipes": {"train": vars(setting.train), "heal": vars(setting.heal), "rates": RATES},
        "seeds": sorted({row["seed"] for row in rows}),
        "results": rows,
        "elsewhere": elsewhere,
        "drop": drop,
    }
    options.out.write_text(json.dumps(data, indent=1) + "\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
