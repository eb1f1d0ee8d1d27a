"""Measurements that need a new process: the growth of memory, and the first search for a contraction order.

python benchmarks/fresh.py TASK THREADS JSON        # called by `timing.fresh`
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def growth(call: Callable[[], Any]) -> int:
    """Return the largest growth of the resident memory during a call, in bytes (Linux).

    The peak is ``VmHWM``, because ``ru_maxrss`` of a new process starts at the value of its parent process.
    """
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def backward(way: str, legs: int, layers: int, seed: int) -> dict[str, Any]:
    """Return the growth during one decode with its backward pass; the incoming gradient is allocated before."""
    import torch
    from peers import brickwall, gate_by_gate

    def decode_backward(legs: int) -> Callable[[], None]:
        net = brickwall(legs, layers)
        params = {name: p.requires_grad_() for name, p in net.init(seed, like="torch").items()}
        net.program("materialize")
        gradient = torch.randn(net.shape)
        if way == "deeptn":
            return lambda: net.materialize(params).backward(gradient)
        return lambda: gate_by_gate(params, legs, layers).reshape(net.shape).backward(gradient)

    decode_backward(12)()  # warms up thread pools and libraries
    call = decode_backward(legs)
    return _result(growth(call), legs)


def stream(legs: int, part: int, seed: int) -> dict[str, Any]:
    """Return the growth while the weight is decoded block by block into a file."""
    import numpy as np
    from peers import brickwall
    from timing import difference

    net = brickwall(legs, 1)
    params = net.init(seed, like="torch")
    blocks = 0

    def write(file: Path) -> None:
        nonlocal blocks
        with file.open("wb") as out:
            for _, block in net.iter_blocks(params, max_bytes=4 * 2**legs // part):
                out.write(block.numpy().data)
                blocks += 1

    small = brickwall(12, 1)
    small.materialize(small.init(seed, like="torch"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weight"
        start = time.perf_counter()
        grown = growth(lambda: write(file))
        seconds = time.perf_counter() - start
        written = np.memmap(file, "float32", "r", shape=net.shape)
        middle = slice(net.shape[0] // 2 - 1, net.shape[0] // 2 + 1)
        wrong = difference(written[middle], net.materialize(params, rows=middle))
    return _result(grown, legs) | {"blocks": blocks, "seconds": seconds, "difference": wrong}


def _result(grown: int, legs: int) -> dict[str, Any]:
    return {"growth_bytes": grown, "weight_bytes": 4 * 2**legs, "times_weight": grown / (4 * 2**legs)}


def search(family: str, fields: dict[str, Any], shape: list[int], batch: int) -> dict[str, float]:
    """Return the seconds until a program is compiled; ``DEEPTN_CACHE`` may already contain its paths."""
    start = time.perf_counter()
    import deeptn as dtn

    seconds = {"import": time.perf_counter() - start}
    # the first search makes cotengra import some of its modules
    other = dtn.Tucker(rank=2) if family != "Tucker" else dtn.TensorTrain(rank=2)
    start = time.perf_counter()
    dtn.network(other, (64, 64)).program("materialize")
    seconds["trivial"] = time.perf_counter() - start
    net: Any = dtn.network(getattr(dtn, family)(**fields), shape)
    for mode, rows in (("materialize", 1), ("apply", batch)):
        if mode == "materialize" or net.is_linear:
            gc.collect()  # else a full collection of what the imports left, 9 ms, may happen while the clock runs
            start = time.perf_counter()
            net.program(mode, rows)
            seconds[mode] = time.perf_counter() - start
    return seconds


def main() -> None:
    """Run one task and print its result as JSON."""
    task, threads, arguments = sys.argv[1:]
    if task != "search":  # a search times the imports
        import torch

        torch.set_num_threads(int(threads))
    print(json.dumps(globals()[task](**json.loads(arguments))))


if __name__ == "__main__":
    main()
