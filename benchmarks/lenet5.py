"""Compress both hidden linear layers of LeNet-5 on Fashion-MNIST with every family, for several seeds.

The experiment is in ``experiment.py``; there is one process per seed. Every finished
method is appended to a log, so an interrupted run continues where it stopped.

    python benchmarks/lenet5.py --seeds 3 --jobs 2
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def read_log(path: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the results in the log. Its first line records how they were made; a different recipe is an error."""
    if not path.exists():
        path.write_text(json.dumps(about) + "\n")
    head, *rows = map(json.loads, path.read_text().splitlines())
    for key in ("recipe", "torch_threads"):
        if head[key] != about[key]:
            raise SystemExit(f"{path} was written with {key} = {head[key]}, not {about[key]}; choose another --out")
    return rows


def one_seed(seed: int, folder: str | None, threads: int, log: Path, about: dict[str, Any]) -> None:
    """Run one seed; append every result as it arrives, and skip what is already in the log."""
    import torch
    from deeptn_demo.data import load_images
    from experiment import SETTINGS, run_seed

    torch.set_num_threads(threads)
    done = {(r["seed"], r["label"], r["budget"], r["start"]) for r in read_log(log, about)}
    start = time.perf_counter()

    def keep(result: Any, model: Any, report: Any) -> None:
        with log.open("a") as file:
            file.write(json.dumps(result.to_dict()) + "\n")
        print(
            f"{time.perf_counter() - start:5.0f} s  seed {seed}  {result.label}, {result.start}: {result.after}",
            flush=True,
        )

    data = load_images("fashion-mnist", folder)
    skip = lambda method, start: (seed, method.label, method.budget, start) in done  # noqa: E731
    run_seed(SETTINGS["lenet5"], data, seed, keep=keep, skip=skip)


def main() -> None:
    """Run the seeds, and write the table as JSON."""
    from deeptn_demo.environment import environment
    from experiment import RIVALS, SETTINGS, Result, summarize

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="parallel processes")
    parser.add_argument("--threads", type=int, default=1, help="torch threads per process")
    parser.add_argument("--data-dir", help="folder of the IDX files")
    parser.add_argument("--out", type=Path, default=RESULTS / "lenet5.json")
    parser.add_argument("--collect", action="store_true", help="run nothing, only write the table from the log")
    options = parser.parse_args()
    setting = SETTINGS["lenet5"]
    recipe = {"train": vars(setting.train), "heal": vars(setting.heal)}
    about = {"recipe": recipe, "torch_threads": options.threads, "environment": environment()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    log = options.out.with_suffix(".log.jsonl")
    rows = read_log(log, about)
    if not options.collect:
        jobs = [(seed, options.data_dir, options.threads, log, about) for seed in range(options.seeds)]
        with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
            pool.starmap(one_seed, jobs, chunksize=1)
        rows = read_log(log, about)
    families = ["dense", "fixed random", "BrickWall", "narrower dense", *RIVALS]
    rows = [row for row in rows if row["seed"] < options.seeds]
    rows.sort(key=lambda r: (r["seed"], r["budget"] or 0, families.index(r["family"])))
    head = json.loads(log.read_text().splitlines()[0])
    result = {
        "task": "LeNet-5 on Fashion-MNIST, fc1 (120x400) and fc2 (84x120) compressed, 58,080 -> params",
        "recipe": recipe,
        "seeds": list(range(options.seeds)),
        "environment": head["environment"] | {"torch_threads": options.threads},
        "summary": summarize([Result(**row) for row in rows]),
        "results": rows,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
