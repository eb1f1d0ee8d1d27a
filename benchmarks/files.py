"""Save and load a model of 1 GB, against plain safetensors, in turns.

The peer writes and reads the same tensors with ``safetensors.numpy``; once as it is, and once with the ``fsync`` of
file and folder that deeptn does so that a file survives a power failure. deeptn also computes and compares checksums.

    python benchmarks/files.py                # a minute; --folder for another disk, --mb for another size
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from peers import about
from safetensors.numpy import load_file, save_file

import deeptn as dtn
from deeptn.files import StoredLayer, StoredModel, load_checkpoint, save_checkpoint

OUT = Path(__file__).parent / "results" / "files.json"
TENSOR = 2**24


def timed(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every call, in turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            result = call()
            seconds = time.perf_counter() - start
            del result
            if turn:  # the first one warms up
                found[name].append(seconds)
    return found


def synced(tensors: dict[str, np.ndarray], path: Path) -> None:
    """Write with safetensors, through to the disk."""
    save_file(tensors, path)
    for place in (path, path.parent):
        handle = os.open(place, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def main() -> None:
    """Measure, print the ratios, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    draw = np.random.default_rng(0)
    tensors = {f"t{k}.weight": draw.random((4096, TENSOR // 4096 // 4), "float32") for k in range(options.mb // 16)}
    net = dtn.network(dtn.BrickWall(layers=2), (400, 120))
    model = StoredModel({"fc": StoredLayer("linear", net, net.init(), None)}, tensors)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        own, dense, plain = (Path(folder, f"{name}.safetensors") for name in ("own", "dense", "plain"))
        save = timed(
            {
                "safetensors": lambda: save_file(tensors, plain),
                "safetensors, fsync": lambda: synced(tensors, plain),
                "save_model": lambda: dtn.save_model(model, own),
                "save_checkpoint": lambda: save_checkpoint(StoredModel({}, tensors), dense),
            },
            options.rounds,
        )
        load = timed(
            {
                "safetensors": lambda: load_file(plain),
                "load_model": lambda: dtn.load_model(own),
                "load_checkpoint, every tensor read": lambda: [
                    np.array(array) for array in load_checkpoint(own).tensors.values()
                ],
            },
            options.rounds,
        )
    seconds = {
        what: {name: statistics.median(found) for name, found in part.items()}
        for what, part in (("save", save), ("load", load))
    }
    ratios = {
        "save_model": seconds["save"]["save_model"] / seconds["save"]["safetensors, fsync"],
        "save_model, peer without fsync": seconds["save"]["save_model"] / seconds["save"]["safetensors"],
        "load_model": seconds["load"]["load_model"] / seconds["load"]["safetensors"],
    }
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f} times safetensors")
    result = about() | {
        "mb": options.mb,
        "seed": 0,
        "seconds": seconds,
        "ratios": ratios,
        "all": {"save": save, "load": load},
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
