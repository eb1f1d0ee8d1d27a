"""Measure initialization against depth: moments of the weight, gradients per stage, and whether training still works.

python benchmarks/depth.py --jobs 2
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deeptn_demo.data import load_images
from deeptn_demo.environment import environment
from deeptn_demo.scores import accuracy
from deeptn_torch import TNLinear, train
from torch import nn

import deeptn as dtn
from deeptn.init import SCHEMES, target_std

RESULTS = Path(__file__).parent / "results"
DEPTHS = (1, 2, 4, 8, 16)
#: Number of seeds for the moments, and for the gradients.
MANY, SOME = 8, 5
LEAKY = "leaky_relu:0.2"
#: By the activation between the layers: the brick wall, and its initialization scheme.
VARIANTS: dict[str, tuple[dtn.BrickWall, str]] = {
    "none": (dtn.BrickWall(activation=None), "orthogonal"),
    "ReLU": (dtn.BrickWall(), "orthogonal"),
    "ReLU, not normalized": (dtn.BrickWall(normalize=None), "orthogonal"),
    "ReLU, residual": (dtn.BrickWall(residual=True), "orthogonal"),
    "leaky ReLU": (dtn.BrickWall(activation=LEAKY), "orthogonal"),
    "tanh": (dtn.BrickWall(activation="tanh"), "orthogonal"),
    "tanh, not normalized": (dtn.BrickWall(activation="tanh", normalize=None), "orthogonal"),
    "ReLU, gaussian": (dtn.BrickWall(), "gaussian"),
    "ReLU, identity": (dtn.BrickWall(), "identity"),
    "ReLU, copy": (dtn.BrickWall(), "copy"),
}
#: Families without a field for the depth; only their moments are measured.
SHALLOW = {
    "Tree, ReLU": dtn.Tree(rank=4),
    "Tree, none": dtn.Tree(rank=4, activation=None),
    "AugmentedTree, ReLU": dtn.AugmentedTree(rank=4),
    "MERA, ReLU": dtn.MERA(rank=3),
    "MERA, none": dtn.MERA(rank=3, activation=None),
    "TensorTrain": dtn.TensorTrain(rank=4),
    "TTMatrix": dtn.TTMatrix(rank=4),
    "Tucker": dtn.Tucker(rank=4),
    "LowRank": dtn.LowRank(rank=4),
}


def moments(job: tuple[str, int | None, str, int]) -> dict[str, Any]:
    """Return what `deeptn.analysis.inspect` reports for an initial 120 × 400 weight, averaged over seeds."""
    name, layers, scheme, seeds = job
    family = SHALLOW[name] if layers is None else replace(VARIANTS[name][0], layers=layers)
    net = dtn.network(family, (120, 400))
    goal = target_std(net.layout)
    found = []
    for seed in range(seeds):
        weight = net.materialize(net.init(seed=seed, dtype="float64", scheme=scheme))
        analysis = dtn.analysis.inspect(weight, dtn.Layout.single(net.shape))
        assert analysis.moments is not None
        figures = analysis.moments
        found.append((figures.std / goal, figures.mean / goal, figures.kurtosis, analysis.cuts[0].effective_rank))
    std, mean, kurtosis, rank = np.asarray(found, float).T
    return {
        "name": name,
        "layers": layers,
        "scheme": scheme,
        "std": std.mean(),
        "std_sd": std.std(),
        "mean": mean.mean(),
        "mean_sd": mean.std(),
        "kurtosis": kurtosis.mean(),
        "effective_rank": rank.mean(),
    }


def gradients(job: tuple[str, int, int]) -> dict[str, Any]:
    """Return the norm of the gradient of ``sum(W * G)`` for the cores of each stage, times their norm over W's norm.

    For a linear network, it does not depend on depth, except through the number of cores. Geometric mean over seeds.
    """
    name, layers, seeds = job
    family, scheme = VARIANTS[name]
    net = dtn.network(replace(family, layers=layers), (64, 64))
    rows = []
    for seed in range(seeds):
        params = net.init(seed=seed, like="torch", dtype="float64", scheme=scheme)
        leaves = {core: tensor.requires_grad_() for core, tensor in params.items()}
        weight = net.materialize(leaves)
        goal = torch.randn(net.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        found = dict(zip(leaves, torch.autograd.grad((weight * goal).sum(), list(leaves.values()))))
        scale = float(weight.detach().norm())
        rows.append([])
        for layer in range(1, layers + 1):
            own = [core for core in leaves if core.startswith(f"L{layer}_")]
            size = math.sqrt(sum(float(leaves[core].detach().square().sum()) for core in own))
            rows[-1].append(math.sqrt(sum(float(found[core].square().sum()) for core in own)) * size / scale)
    logs = np.log(np.maximum(np.asarray(rows), 1e-30))
    return {"name": name, "layers": layers, "gradients": np.exp(logs.mean(0)).tolist()}


def training(job: tuple[str, int, int]) -> dict[str, Any]:
    """Train 64→64→10, with the first weight generated, on the digits, and return the accuracy."""
    name, layers, seed = job
    torch.set_num_threads(1)
    family, scheme = VARIANTS[name]
    data = load_images("digits")
    torch.manual_seed(seed)
    head = nn.Linear(64, 10)
    torch.manual_seed(1000 + seed)
    layer = TNLinear(64, 64, replace(family, layers=layers))
    layer.reset_parameters(scheme)
    model = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), head)
    result: dict[str, Any] = {"name": name, "layers": layers, "seed": seed, "params": layer.network.num_params}
    try:
        train(model, data, dtn.recipe.Recipe(epochs=10, lr=2e-3, core_lr=1e-2, batch=64), seed)
        result["accuracy"] = accuracy(model, data.test_x, data.test_y)
    except dtn.DeepTNError as error:
        result |= {"accuracy": 10.0, "failed": str(error)}
    return result


def table_jobs(seeds: int, depths: Sequence[int]) -> list[tuple[str, int | None, str, int]]:
    """Return the jobs: every scheme with every activation and depth, and with every other family."""
    plain = [name for name, (_, scheme) in VARIANTS.items() if scheme == "orthogonal"]
    walls = [(name, layers, scheme, seeds) for scheme in SCHEMES for name in plain for layers in depths]
    return [*walls, *((name, None, scheme, seeds) for scheme in SCHEMES for name in SHALLOW)]


def main() -> None:
    """Measure everything and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds for the training")
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    parser.add_argument("--jobs", type=int, default=2, help="parallel processes, one thread each")
    parser.add_argument("--out", type=Path, default=RESULTS / "depth.json")
    options = parser.parse_args()
    runs = [(name, layers, seed) for layers in options.depths for name in VARIANTS for seed in range(options.seeds)]
    with multiprocessing.get_context("spawn").Pool(options.jobs, torch.set_num_threads, (1,)) as pool:
        found = {
            "moments": pool.map(moments, table_jobs(MANY, options.depths), chunksize=1),
            "gradients": pool.map(
                gradients, [(name, layers, SOME) for name in VARIANTS for layers in options.depths], chunksize=1
            ),
            "training": pool.map(training, runs[::-1], chunksize=1),
        }
    about = {
        "seeds": options.seeds,
        "moment_seeds": MANY,
        "depths": list(options.depths),
        "environment": environment() | {"torch_threads": 1},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(about | found, indent=1) + "\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
