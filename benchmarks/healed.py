"""Compress LeNet-5, trained on Fashion-MNIST, to 5 % and 2 % of its parameters, heal it, and compare it with controls.

This is the workflow of ``deeptn demo`` with every seed and share. Every finished network is appended to a log, so an
interrupted run continues where it stopped. Parts run alone: ``--only 0.05:1`` is one share and seed.

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


def main() -> None:
    """Compute all parts, and write the JSON."""
    from deeptn_demo.environment import environment
    from deeptn_demo.workflow import RATES, SETTINGS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="parallel processes")
    parser.add_argument("--threads", type=int, default=1, help="torch threads per process")
    parser.add_argument("--only", help="share:seed")
    parser.add_argument("--collect", action="store_true", help="only write the JSON from the log")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    log = options.out.with_suffix(".log.jsonl")
    parts = [(share, seed) for seed in range(options.seeds) for share in SHARES]
    if options.only:
        share, _, seed = options.only.partition(":")
        parts = [(float(share), int(seed))]
    if not options.collect:
        jobs = [(*one, options.threads, log) for one in parts]
        with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
            pool.starmap(part, jobs, chunksize=1)
    setting = SETTINGS["lenet5"]
    rows = sorted(read_log(log), key=lambda row: (-row["share"], row["seed"]))
    data = {
        "task": "LeNet-5 on Fashion-MNIST, the whole network",
        "environment": environment() | {"torch_threads": options.threads},
        "recipes": {"train": vars(setting.train), "heal": vars(setting.heal), "rates": RATES},
        "seeds": sorted({row["seed"] for row in rows}),
        "results": rows,
    }
    options.out.write_text(json.dumps(data, indent=1) + "\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
