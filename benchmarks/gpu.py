"""Check that deeptn computes correctly on a GPU, and time it: with one command, within five minutes.

First, networks of all families in PyTorch and JAX are compared with NumPy in float64; then the device is timed, in
float32 without TF32. A failure is recorded and does not stop the rest, but makes the exit status 1. The file
``gpu-<card>.json`` is written after every section.

    python benchmarks/gpu.py --out FOLDER     # on a machine with a CUDA card
    python benchmarks/gpu.py --quick          # small, on a CPU, keeps nothing: checks that it runs

It needs PyTorch and, of deeptn's requirements, only NumPy, autoray, cotengra and rich. deeptn itself need not be
installed: ``PYTHONPATH=.:backends`` is enough.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from deeptn_demo.environment import environment
from gpu_networks import Case, check, jax_engine, large, small, torch_engine
from gpu_times import Stopwatch, decode, gradient, said, tables, training
from peers import optional
from rich.markup import escape
from timing import console

import deeptn
from deeptn.base import write_atomically

#: The rows of a section.
Rows = Iterator[dict[str, Any]]


class LeftOut(Exception):
    """Raised if a section cannot run here; not a failure."""


@dataclass(frozen=True)
class Run:
    """What to run, and where.

    Attributes
    ----------
    device : torch.device
    quick : bool
        Whether to use small sizes.
    seed : int
    """

    device: torch.device
    quick: bool
    seed: int

    @property
    def watch(self) -> Stopwatch:
        """The stopwatch for this device."""
        return Stopwatch(self.device, 2 if self.quick else 100)

    @property
    def legs(self) -> int:
        """Number of binary legs of the weight to decode."""
        return 12 if self.quick else 24

    def cases(self, count: int, first: int = 0, skip: int = 1) -> Iterator[Case]:
        """Yield `count` small networks (a third with --quick), and every `skip`-th of the large ones."""
        few = itertools.islice(small(self.seed, first), count // 3 if self.quick else count)
        many = itertools.islice(large(18 if self.quick else 20), 0, 3 if self.quick else None, skip)
        return itertools.chain(few, many)


def correct_torch(run: Run) -> Rows:
    """Check PyTorch with 22 small networks and 8 large ones."""
    engine = torch_engine(run.device)
    for case in run.cases(22):
        yield check(case, engine)


def correct_jax(run: Run) -> Rows:
    """Check JAX with 7 small networks, starting at another family, and 3 large ones."""
    jax = optional("jax")
    if jax is None:
        raise LeftOut("JAX is not installed")
    if run.device.type == "cuda" and jax.default_backend() != "gpu":
        raise LeftOut(f"JAX sees no GPU, only {jax.devices()}")
    jax.config.update("jax_default_matmul_precision", "highest")
    engine = jax_engine(jax)
    for case in run.cases(7, first=11, skip=3):
        yield check(case, engine)


def train(run: Run) -> Rows:
    """Time a training step of layers of two sizes."""
    sides = ((40, 12), (64, 64)) if run.quick else ((400, 120), (4096, 4096))
    return training(run.watch, sides, 8 if run.quick else 128, run.seed)


#: By name: a function that yields the rows, and the seconds after which no new row is started.
SECTIONS: dict[str, tuple[Callable[[Run], Rows], float]] = {
    "correct: torch": (correct_torch, 50),
    "correct: JAX": (correct_jax, 50),
    "decode": (lambda run: decode(run.watch, run.legs, run.seed), 25),
    "gradient": (lambda run: gradient(run.watch, run.legs, run.seed), 35),
    "training": (train, 50),
    "tables": (lambda run: tables(run.watch, run.legs, run.seed), 25),
}


def section(name: str, run: Run) -> dict[str, Any]:
    """Run a section and return its rows; ``cut_short``, ``left_out`` or ``error`` say why rows are missing."""
    rows, seconds = SECTIONS[name]
    found: dict[str, Any] = {"rows": []}
    start = time.perf_counter()
    try:
        for row in rows(run):
            found["rows"].append(row)
            show(row)
            if time.perf_counter() - start > seconds:
                found["cut_short"] = f"no further row after {len(found['rows'])}: over {seconds} s"
                break
    except LeftOut as reason:
        found["left_out"] = str(reason)
    except Exception as error:  # run the other sections anyway
        console.print_exception()
        found["error"] = said(error)
    for word in ("cut_short", "left_out", "error"):
        if word in found:
            console.print(f"  [bold]{word.replace('_', ' ')}[/]: {escape(found[word])}")
    return found | {"took_seconds": time.perf_counter() - start}


def show(row: dict[str, Any]) -> None:
    """Print a row: relative errors, or milliseconds on the device (and on the host)."""
    if "ways" in row:
        cells = [f"{name} {shown(way)}" for name, way in row["ways"].items()]
    elif row["error"] is None:
        cells = [f"{name} {row[name]:.1e}" for name in ("value", "gradient", "apply") if row[name] is not None]
    else:
        cells = [row["error"]]
    console.print(
        f"  {'[green]pass[/]' if row['passed'] else '[red]FAIL[/]'} {row['label']:40} ", escape("   ".join(cells))
    )


def shown(way: dict[str, Any]) -> str:
    """Format the times of one way, with a star if they were not measured with a graph."""
    if "error" in way:
        return way["error"]
    star = "" if way["graph"] is None else "*"
    return f"{1e3 * way['device_seconds']:.3g}{star} ({1e3 * way['host_seconds']:.3g})"


def about(device: torch.device) -> dict[str, Any]:
    """Return the environment: device, versions and precision."""
    found = environment()
    found["versions"].setdefault("deeptn", getattr(deeptn, "__version__", "not installed"))
    found |= {"card": card(device), "cuda": torch.version.cuda, "driver": None}
    found["matmul_precision"] = torch.get_float32_matmul_precision()  # "highest": no TF32
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["memory_bytes"] = properties.total_memory
        found["capability"] = f"{properties.major}.{properties.minor}"
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        with suppress(OSError, subprocess.SubprocessError):
            answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
            found["driver"] = answer.splitlines()[0].strip()
    return found


def card(device: torch.device) -> str:
    """Return the name of the card."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def measure(run: Run, folder: Path) -> bool:
    """Run all sections, writing the file after each; return whether everything is correct."""
    name = re.sub(r"[^a-z0-9]+", "-", card(run.device).lower()).strip("-")
    out = folder / f"gpu-{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = {"environment": about(run.device), "quick": run.quick, "seed": run.seed, "sections": {}}
    for name in SECTIONS:
        console.rule(name)
        data["sections"][name] = section(name, run)
        text = json.dumps(data, indent=1) + "\n"
        write_atomically(out, lambda new, text=text: new.write_text(text))
    wrong = [row["label"] for found in data["sections"].values() for row in found["rows"] if not row["passed"]]
    failed = [name for name, found in data["sections"].items() if "error" in found]
    for label in (*failed, *wrong):
        console.print(f"[red]FAIL[/] {escape(label)}")
    console.print(f"wrote {out}")
    return not (wrong or failed)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the JSON file")
    parser.add_argument("--quick", action="store_true", help="small networks on a CPU; keep nothing")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not options.quick and options.out is None:
        parser.error("name a folder for the results: --out FOLDER")
    if not options.quick and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; write --quick to try the script on a CPU")
    torch.set_float32_matmul_precision("highest")
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # so JAX, imported later, leaves memory on the card for torch
    if options.quick:
        os.environ["JAX_PLATFORMS"] = "cpu"
    run = Run(torch.device("cpu" if options.quick else "cuda"), options.quick, options.seed)
    with tempfile.TemporaryDirectory() as nowhere:
        right = measure(run, Path(nowhere) if options.quick else options.out)
    raise SystemExit(0 if right else 1)


if __name__ == "__main__":
    main()
