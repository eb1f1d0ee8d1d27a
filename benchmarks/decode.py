"""Time to decode one large weight, against a copy of it and against the paper's gate-by-gate way.

Rounds are interleaved (A B C A B C …), medians and ratios are reported; torch, float32, without gradient.

    python benchmarks/decode.py            # Q = 24: W has 2^24 entries, 64 MiB
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from deeptn_torch.demo.environment import environment

import deeptn as dtn

RESULTS = Path(__file__).parent / "results"


def gate_by_gate(params: dict[str, torch.Tensor], legs: int, layers: int, relu: bool) -> torch.Tensor:
    """Apply one gate after another to the whole state, left to right, each as a (4, 4) matrix product.

    Source: arXiv:2305.06058, whose code applies every gate to the full tensor.
    """
    state = torch.zeros((2,) * legs)
    state[(0,) * legs] = 1.0
    for layer in range(1, layers + 1):
        gate = 0
        for half in (0, 1):
            for left in range(half, legs - 1, 2):
                matrix = params[f"L{layer}_g{gate}"]
                gate += 1
                if matrix.ndim == 2:  # the part that v selects: a gate that maps v⊗v to this vector
                    matrix = torch.nn.functional.pad(matrix.reshape(4, 1), (0, 3))
                before, after = 2**left, 2 ** (legs - left - 2)
                state = torch.matmul(matrix.reshape(4, 4), state.reshape(before, 4, after))
        if relu and layer < layers:
            state = state.relu()
    return state


def interleave(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each way, all of them run once in every round."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for name in ways:
        ways[name]()
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            result = way()
            times[name].append(time.perf_counter() - start)
            del result
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Run, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--legs", type=int, default=24, help="Q, even")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "decode.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    side = 2 ** (options.legs // 2)
    rows = []
    for layers, activation in ((1, None), (2, "relu"), (3, "relu")):
        net = dtn.network(dtn.BrickWall(layers=layers, activation=activation, normalize=None), (side, side))
        params = net.init(seed=0, like="torch")
        with torch.no_grad():
            weight = net.materialize(params)
            slow = gate_by_gate(params, options.legs, layers, activation is not None).reshape(side, side)
            error = float((slow - weight).abs().max() / weight.abs().max())
            ways = {
                "materialize": lambda net=net, params=params: net.materialize(params),
                "clone": weight.clone,
                "gate by gate": lambda params=params, m=layers, a=activation: gate_by_gate(
                    params, options.legs, m, a is not None
                ),
            }
            seconds = interleave(ways, options.rounds)
        row = {"layers": layers, "activation": activation, "seconds": seconds, "largest_relative_difference": error}
        row["times_clone"] = seconds["materialize"] / seconds["clone"]
        row["faster_than_gate_by_gate"] = seconds["gate by gate"] / seconds["materialize"]
        row["cost"] = net.cost().to_dict()
        rows.append(row)
        print(
            f"M={layers} {activation or 'linear':6}  {row['times_clone']:6.2f} x the time of W.clone()   "
            f"{row['faster_than_gate_by_gate']:6.1f} x faster than gate by gate   (difference {error:.0e})"
        )
    result = {"legs": options.legs, "rounds": options.rounds, "seed": 0, "environment": environment(), "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
