"""Sections that survey many networks: curves, the choice between two ways, and the search for a contraction order."""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from peers import brickwall, gate_by_gate
from timing import Settings, console, fresh, measure, show

import deeptn as dtn
from deeptn.topologies import describe

#: The largest estimated time at which gate by gate is measured, and the estimate per gate and entry [s].
LONGEST, PER_ENTRY = 10.0, 2e-9


def curves(settings: Settings) -> dict[str, Any]:
    """Measure the time to decode against the size of the weight, and against depth."""
    legs = range(10, 17 if settings.quick else 29, 2)
    largest = 16 if settings.quick else 26  # with activations, two copies of the state exist
    size = [_curve(q, m, settings) for m in (1, 3) for q in legs if m == 1 or q <= largest]
    depth_legs = 12 if settings.quick else 20
    depth = [_curve(depth_legs, m, settings) for m in (1, 2, 4, 8, 16)]
    return {"depth_legs": depth_legs, "size": size, "depth": depth}


@torch.no_grad()
def _curve(legs: int, layers: int, settings: Settings) -> dict[str, Any]:
    net = brickwall(legs, layers)
    params = net.init(settings.seed, like="torch")
    weight = net.materialize(params)
    ways: dict[str, Callable[[], Any]] = {"deeptn": lambda: net.materialize(params), "W.clone()": weight.clone}
    if layers * (legs - 1) * 2**legs * PER_ENTRY < LONGEST:
        ways["gate by gate"] = lambda: gate_by_gate(params, legs, layers)
    row = {"legs": legs, "layers": layers, "cost": net.cost().to_dict(), **measure(ways, settings)}
    show(f"2^{legs} entries, M={layers}", row)
    return row


def choose(settings: Settings) -> dict[str, Any]:
    """Check how often `Network.choose` picks the faster way."""
    families = [
        *(dtn.BrickWall(layers=layers, activation=None) for layers in (1, 2, 4)),
        *(dtn.TensorTrain(rank=rank) for rank in (4, 16)),
        *(dtn.TTMatrix(rank=rank) for rank in (4, 16)),
        dtn.Tucker(rank=8),
        *(dtn.LowRank(rank=rank) for rank in (8, 64)),
        dtn.Tree(rank=4, activation=None),
    ]
    shapes = ((120, 400), (512, 512), (1024, 4096))
    batches = (1, 16, 128, 1024)
    if settings.quick:
        shapes, batches = shapes[:1], batches[::2]
    torch.manual_seed(settings.seed)
    rows = []
    for family, shape in itertools.product(families, shapes):
        net = dtn.network(family, shape)
        params = net.init(settings.seed, like="torch")
        for batch in batches:
            x = torch.randn(batch, shape[1])
            ways = {
                "materialize": lambda net=net, params=params, x=x: x @ net.materialize(params).T,
                "apply": lambda net=net, params=params, x=x: net.apply(params, x),
            }
            with torch.no_grad():
                found = measure(ways, settings)
            chosen, seconds = _chosen(net, batch), found["seconds"]
            loss = seconds[chosen] / min(seconds.values())
            row = {"label": describe(family), "shape": shape, "batch": batch, "seconds": seconds}
            row |= {"quartiles": found["ratios"]["apply"]["quartiles"], "difference": found["differences"]["apply"]}
            rows.append(row | {"chosen": chosen, "right": loss == 1.0, "loss": loss})
        worst = max(row["loss"] for row in rows[-len(batches) :])
        console.print(f"  {describe(family):44} {shape}   largest loss [bold]{worst:.2f}[/]")
    losses = [row["loss"] for row in rows]
    summary = {
        "cases": len(rows),
        "right": statistics.mean(row["right"] for row in rows),
        "within_10_percent": statistics.mean(loss <= 1.1 for loss in losses),
        "mean_loss": statistics.mean(losses),
        "largest_loss": max(losses),
    }
    return {"summary": summary, "rows": rows}


def _chosen(net: dtn.Network, batch: int) -> str:
    choice: Callable[..., Any] = net.choose
    try:
        return choice(batch, like="torch").mode
    except TypeError:  # older versions have no `like`
        return choice(batch).mode


def search(settings: Settings) -> dict[str, Any]:
    """Measure the seconds to compile a network's programs in a new process, without and with its paths on disk."""
    shape, repeats = ((256, 256), 1) if settings.quick else ((4096, 4096), 3)
    families: list[dtn.Topology] = [
        *(dtn.BrickWall(layers=layers) for layers in (1, 4, 16)),
        *(dtn.BrickWall(layers=layers, activation=None) for layers in (4, 16)),
        dtn.TensorTrain(rank=8),
        dtn.TTMatrix(rank=8),
        dtn.Tucker(rank=4),
        dtn.LowRank(rank=8),
        dtn.Tree(rank=4),
    ]
    rows = []
    for family in families[:: 4 if settings.quick else 1]:
        task = {"family": type(family).__name__, "fields": asdict(family), "shape": shape, "batch": 128}
        runs: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                for kind in runs:
                    runs[kind].append(fresh("search", settings.threads, {"DEEPTN_CACHE": folder}, **task))
        row: dict[str, Any] = {"label": describe(family)}
        for kind, found in runs.items():
            row[kind] = {key: statistics.median(run[key] for run in found) for key in found[0]}
        rows.append(row)
        modes = [mode for mode in ("materialize", "apply") if mode in row["cold"]]
        text = "   ".join(f"{m} [bold]{row['cold'][m]:.3f}[/] s, then [bold]{row['warm'][m]:.4f}[/] s" for m in modes)
        console.print(f"  {row['label']:44} {text}")
    return {"shape": shape, "repeats": repeats, "rows": rows}
