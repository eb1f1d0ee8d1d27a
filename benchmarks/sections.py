"""Sections that compare the engine with its peers; each returns plain data, with ``rows`` from `timing.measure`."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from deeptn_torch import TNLinear
from peers import (
    PRODUCTS,
    Layer,
    brickwall,
    dense_layer,
    gate_by_gate,
    jax_decode,
    plain_products,
    quimb_decode,
    state_products,
    train_layers,
)
from profiles import profile
from timing import Settings, console, fresh, measure, show
from torch import Tensor

import deeptn as dtn
from deeptn.engine import Contract
from deeptn.engine.machine import machine


def label(layers: int, activation: str | None) -> str:
    """Return the label of a brick wall in the tables."""
    return f"M={layers} {activation or 'linear'}"


def decode(settings: Settings) -> dict[str, Any]:
    """Time decoding of large weights without a gradient."""
    legs = 16 if settings.quick else 24
    rows = []
    for layers, activation in ((1, None), (2, "relu"), (3, "relu")):
        net = brickwall(legs, layers)
        params = net.init(settings.seed, like="torch")
        with torch.no_grad():
            weight = net.materialize(params)
            ways: dict[str, Callable[[], Any]] = {
                "deeptn": lambda net=net, params=params: net.materialize(params),
                "W.clone()": weight.clone,
                "gate by gate": lambda params=params, layers=layers: gate_by_gate(params, legs, layers),
                "quimb": quimb_decode(net, params),
            }
            jax = jax_decode(net, params)
            if jax is not None:
                ways["JAX"] = jax[0]
            row = {"label": label(layers, activation), "cost": net.cost().to_dict(), **measure(ways, settings)}
        row |= {} if jax is None else {"jax_compile_seconds": jax[1]}
        show(row["label"], row)
        rows.append(row)
    large = [
        step for step in net.program("materialize").steps if isinstance(step, Contract) and reads(step) == net.size
    ]
    with torch.no_grad():
        alone = measure({"torch": state_products(legs)}, settings)["seconds"]["torch"]
    floor = {"products": len(large), "label": row["label"], "seconds": alone / PRODUCTS}
    return {"legs": legs, "rows": rows, "floor": floor}


def reads(step: Contract) -> int:
    """Return the number of elements of the larger operand."""
    return max(math.prod(view.shape) for view in (step.left, step.right))


def backward(settings: Settings) -> dict[str, Any]:
    """Time decoding with the gradient of ``sum(W * G)``."""
    legs = 16 if settings.quick else 24
    torch.manual_seed(settings.seed)
    rows = []
    for layers, activation in ((1, None), (3, "relu")):
        net = brickwall(legs, layers)
        params = {name: p.requires_grad_() for name, p in net.init(settings.seed, like="torch").items()}
        incoming = torch.randn(net.shape)

        def gradient(make: Callable[[], Tensor], params=params, incoming=incoming) -> Callable[[], list[Any]]:
            def run() -> list[Any]:
                make().reshape(incoming.shape).backward(incoming)
                grads = [p.grad for p in params.values()]
                for p in params.values():
                    p.grad = None
                return grads

            return run

        def forward(net=net, params=params) -> None:
            with torch.no_grad():
                net.materialize(params)

        ways: dict[str, Callable[[], Any]] = {
            "deeptn": gradient(lambda net=net, params=params: net.materialize(params)),
            "forward alone": forward,
            "gate by gate": gradient(lambda params=params, layers=layers: gate_by_gate(params, legs, layers)),
            "quimb": gradient(quimb_decode(net, params)),
        }
        jax = jax_decode(net, params, incoming)
        if jax is not None:
            ways["JAX"] = jax[0]
        row = {"label": label(layers, activation), **measure(ways, settings, give_up={"quimb": 10.0})}
        row |= {} if jax is None else {"jax_compile_seconds": jax[1]}
        show(row["label"], row)
        rows.append(row)
    return {"legs": legs, "rows": rows}


def memory(settings: Settings) -> dict[str, Any]:
    """Measure the growth of the resident memory during a gradient, and while a weight is streamed to a file."""
    if sys.platform != "linux":
        return {"left_out": "the peak of the resident memory is read from /proc, which only Linux has"}
    legs, large = (18, 20) if settings.quick else (24, 28)
    rows = []
    for layers, activation in ((1, None), (3, "relu")):
        task: dict[str, Any] = {"legs": legs, "layers": layers, "seed": settings.seed}
        ways = {way: fresh("backward", settings.threads, way=way, **task) for way in ("deeptn", "gate by gate")}
        rows.append({"label": f"{label(layers, activation)}, gradient", "legs": legs, "ways": ways})
    ways = {"deeptn": fresh("stream", settings.threads, legs=large, part=8, seed=settings.seed)}
    rows.append({"label": "M=1 linear, in blocks to a file", "legs": large, "ways": ways})
    for row in rows:
        text = "   ".join(f"{way} [bold]{found['times_weight']:.3g}[/] W" for way, found in row["ways"].items())
        console.print(f"  {row['label']:34} {text}")
    return {"rows": rows}


def apply(settings: Settings) -> dict[str, Any]:
    """Time the product of a batch with W without forming W."""
    factors, rank, batch = ((4,) if settings.quick else (8,)) * 4, 8, 128
    side = factors[0] ** 4
    layout = dtn.Layout((side, side), factors=(factors, factors), order="interleaved")
    torch.manual_seed(settings.seed)
    layer = TNLinear(side, side, dtn.TTMatrix(rank=rank), layout=layout, bias=False, mode="apply")
    cores = [core.detach() for core in layer.cores.values()]
    layers = {"deeptn": Layer(layer, layer, lambda: [core.grad for core in layer.cores.values()])}
    layers |= train_layers(factors, rank, cores)
    x = torch.randn(batch, side)
    ways: dict[str, Callable[[], Any]]
    with torch.no_grad():
        layers["nn.Linear"] = dense_layer(layer.weight)
        ways = {name: lambda peer=peer: peer.call(x) for name, peer in layers.items()}
        ways["plain GEMMs"] = plain_products(lambda: layer(x))
        rows = [{"label": f"TTMatrix rank {rank}, batch {batch}, forward", **measure(ways, settings)}]
    ways = {name: lambda peer=peer: peer.training(x) for name, peer in layers.items()}
    rows.append({"label": f"TTMatrix rank {rank}, batch {batch}, training", **measure(ways, settings)})
    net = brickwall(2 * (side.bit_length() - 1), 1)
    params = net.init(settings.seed, like="torch")
    with torch.no_grad():
        dense = dense_layer(net.materialize(params))
        for size in (1, batch):
            some = x[:size].clone()
            ways = {
                "deeptn": lambda some=some: net.apply(params, some),
                "nn.Linear": lambda some=some: dense.call(some),
            }
            rows.append({"label": f"BrickWall M=1, batch {size}, forward", **measure(ways, settings)})
    for row in rows:
        show(row["label"], row)
    return {"side": side, "rows": rows}


def small(settings: Settings) -> dict[str, Any]:
    """Time layers of LeNet-5's size, to see what the steps cost in addition to the arithmetic."""
    torch.manual_seed(settings.seed)
    x = torch.randn(128, 400)
    families = {
        "BrickWall M=2 linear": dtn.BrickWall(layers=2, activation=None),
        "BrickWall M=2 relu": dtn.BrickWall(layers=2),
        "BrickWall M=2 relu, normalize=None": dtn.BrickWall(layers=2, normalize=None),
        "TTMatrix rank 3": dtn.TTMatrix(rank=3),
        "LowRank rank 4": dtn.LowRank(rank=4),
    }
    rows = []

    def training(module: torch.nn.Module) -> Tensor:
        module.zero_grad(set_to_none=True)
        out = module(x)
        out.sum().backward()
        return out

    for name, family in families.items():
        layer = TNLinear(400, 120, family)
        assert layer.bias is not None
        with torch.no_grad():
            dense = dense_layer(layer.weight, layer.bias)
        ways = {"deeptn": lambda layer=layer: training(layer), "nn.Linear": lambda dense=dense: training(dense.module)}
        rows.append({"label": f"{name}, training", **measure(ways, settings)})
        layer.eval()
        dense.module.eval()
        with torch.no_grad():
            frozen = copy.deepcopy(layer).freeze()  # does not compare its cores
            ways = {
                "deeptn": lambda layer=layer: layer(x),
                "nn.Linear": lambda dense=dense: dense.module(x),
                "frozen": lambda frozen=frozen: frozen(x),
            }
            finer = replace(settings, rounds=12 * settings.rounds)  # the differences are a few microseconds
            rows.append({"label": f"{name}, eval", **measure(ways, finer)})
    for row in rows:
        show(row["label"], row)
    # The cost of the same number of parameters, stacked but otherwise idle.
    net = dtn.network(families["BrickWall M=2 linear"], (120, 400))
    plain = torch.nn.Linear(400, 120)
    idle = Idle(plain, net.init(settings.seed, like="torch"))
    floor = measure({"nn.Linear": lambda: training(plain), "idle": lambda: training(idle)}, settings)
    where = []
    for name in list(families)[:2]:
        layer = TNLinear(400, 120, families[name])
        way = layer.network.choose(128, "torch")
        where.append(
            {
                "label": name,
                "cost": layer.network.cost(way.mode, 128).to_dict(),
                "profile": profile(lambda layer=layer: training(layer), 50 if settings.quick else 300),
            }
        )
    return {
        "rows": rows,
        "floor": {"parameters": len(idle.cores), "seconds": floor["seconds"]},
        "where": where,
        "machine": machine("torch").to_dict(),
    }


class Idle(torch.nn.Module):
    """A dense layer with additional parameters that are stacked by shape and do nothing else."""

    def __init__(self, dense: torch.nn.Linear, cores: Mapping[str, Tensor]):
        super().__init__()
        self.dense = dense
        self.cores = torch.nn.ParameterList(torch.nn.Parameter(core) for core in cores.values())

    def forward(self, x: Tensor) -> Tensor:
        shapes: dict[torch.Size, list[Tensor]] = {}
        for core in self.cores._parameters.values():
            assert core is not None
            shapes.setdefault(core.shape, []).append(core)
        return self.dense(x) + 0.0 * sum(torch.stack(cores).sum() for cores in shapes.values())
