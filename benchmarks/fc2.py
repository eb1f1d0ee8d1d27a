"""FC-2 on Fashion-MNIST, 784→256→10 with a generated first weight: training jobs, and a log that resumes them.

Used by `trainability.py` and `recipes.py`.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from deeptn_demo.data import Images, load_images
from deeptn_demo.scores import accuracy
from deeptn_torch import TNLinear
from deeptn_torch.fit import find_params
from deeptn_torch.train import train
from torch import nn

import deeptn as dtn
from deeptn.topologies import topology_to_dict

RESULTS = Path(__file__).parent / "results"
SHAPE = (256, 784)
#: Interleaved factors of rows and columns; the "pixels" layouts split the columns as 28 × 28. None: the topology's own
#: layout, for most topologies binary legs of a padded weight, those of the rows before those of the columns.
LAYOUTS: dict[str, Any] = {
    "own": None,
    "pixels": ((16, 16), (28, 28)),
    "pixels, small": ((4, 4, 4, 4), (4, 7, 4, 7)),
    "pixels, prime": ((2,) * 8, (2, 2, 7, 2, 2, 7)),
    "interleaved": ((2,) * 8, (2,) * 10),
    "single": ((256,), (784,)),
}
#: Methods without a generated weight: a dense first layer, trained or fixed.
CONTROLS = ("dense", "fixed random")
#: Learning rates tried for every method; layers that are not generated use HEAD.
GRID, HEAD = (1e-3, 3e-3, 1e-2, 3e-2), 2e-3


@dataclass(frozen=True)
class Job:
    """One model, trained once.

    Attributes
    ----------
    label : str
    topology : deeptn.Topology or None
        None for the controls, which `label` names.
    recipe : deeptn.recipe.Recipe
    seed : int
        Seed of the head, the cores and the order of the images.
    split : {"test", "validation"}
        Train on all images and evaluate on the test images; or train on 50,000 and evaluate on the other 10,000.
    scheme : str
        Initialization scheme.
    start : {"random", "fit"}
        Random cores, or cores fitted to the weight of a dense model of the same seed
        (in closed form, or by gradient).
    layout : str
        One of `LAYOUTS`.
    scale : bool
        Whether the network has a separate parameter for the scale of W.
    """

    label: str
    topology: dtn.Topology | None
    recipe: dtn.recipe.Recipe
    seed: int = 0
    split: str = "test"
    scheme: str = "orthogonal"
    start: str = "random"
    layout: str = "own"
    scale: bool = False

    @property
    def key(self) -> str:
        """The identity of a job, as JSON."""
        return json.dumps(self.to_dict(), sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the job as plain data."""
        data = {name: getattr(self, name) for name in ("label", "seed", "split", "scheme", "start", "layout", "scale")}
        family = None if self.topology is None else topology_to_dict(self.topology)
        return json.loads(json.dumps(data | {"topology": family, "recipe": asdict(self.recipe)}))


@cache
def images(split: str, folder: str | None) -> Images:
    """Return the data of a split."""
    data = load_images("fashion-mnist", folder)
    if split == "test":
        return data
    order = torch.randperm(len(data.train_x), generator=torch.Generator().manual_seed(0))
    kept, held = order[:50_000], order[50_000:]
    x, y = data.train_x, data.train_y
    return Images("fashion-mnist", x[kept], y[kept], x[held], y[held])


def make_net(job: Job) -> dtn.Network:
    """Return the network of a job."""
    assert job.topology is not None
    factors = LAYOUTS[job.layout]
    layout = None if factors is None else dtn.Layout(SHAPE, factors, order="interleaved")
    net = dtn.network(job.topology, SHAPE, layout)
    return dtn.fitting.with_scale(net) if job.scale else net


def make_model(job: Job, folder: str | None) -> nn.Sequential:
    """Return the initial model of a job. All jobs of a seed have the same head, except after a fit."""
    torch.manual_seed(job.seed)
    head = nn.Linear(SHAPE[0], 10)
    torch.manual_seed(1000 + job.seed)
    if job.topology is None:
        first: nn.Module = nn.Linear(SHAPE[1], SHAPE[0])
        if job.label == "fixed random":
            nn.init.normal_(first.weight, std=math.sqrt(2 / SHAPE[1])).requires_grad_(False)  # type: ignore[arg-type]
    else:
        layer = first = TNLinear(SHAPE[1], SHAPE[0], make_net(job))
        layer.reset_parameters(job.scheme)
        if job.start == "fit":
            dense = teacher(job.seed, job.split, folder)
            goal: Any = dense[1].weight
            layer.load_cores(find_params(layer.network, goal.detach(), "auto"))
            layer.bias.data.copy_(dense[1].bias)  # type: ignore[arg-type, union-attr]
            head.load_state_dict(dense[3].state_dict())
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), head)


@cache
def teacher(seed: int, split: str, folder: str | None) -> nn.Sequential:
    """Return a dense model, trained for ten epochs."""
    job = Job("dense", None, dtn.recipe.Recipe(epochs=10, lr=1e-3), seed, split)
    model = make_model(job, folder)
    train(model, images(split, folder), job.recipe, seed)
    return model.requires_grad_(False)


def stage_gradients(model: nn.Sequential, data: Images) -> list[float]:
    """Return the norm of the loss gradient for the cores of each stage, over the norm of these cores; 1,000 images."""
    layer: Any = model[1]
    loss = nn.functional.cross_entropy(model(data.train_x[:1000]), data.train_y[:1000])
    names = list(layer.cores)
    gradients = dict(zip(names, torch.autograd.grad(loss, [layer.cores[name] for name in names])))
    shares = []
    for stage in layer.network.spec.stages:
        own = {node.param for node in stage.nodes if node.param in gradients}
        size = math.sqrt(sum(float(gradients[name].square().sum()) for name in own))
        shares.append(size / math.sqrt(sum(float(layer.cores[name].detach().square().sum()) for name in own)))
    return shares


def run(job: Job, folder: str | None = None) -> dict[str, Any]:
    """Train and evaluate a model."""
    data = images(job.split, folder)
    model = make_model(job, folder)
    layer: Any = model[1]
    result: dict[str, Any] = {"params": 0 if job.label == "fixed random" else layer.weight.numel()}
    if job.topology is not None:
        result["params"] = layer.network.num_params
        result["stage_gradients"] = {"before": stage_gradients(model, data)}
        result["start_accuracy"] = accuracy(model, data.test_x, data.test_y)
    guide = teacher(job.seed, job.split, folder) if job.recipe.distill else None
    begin = time.perf_counter()
    try:
        train(model, data, job.recipe, job.seed, teacher=guide)
        result["accuracy"] = accuracy(model, data.test_x, data.test_y)
        result["train_accuracy"] = accuracy(model, data.train_x[:10_000], data.train_y[:10_000])
    except dtn.DeepTNError as error:
        return result | {"accuracy": 10.0, "failed": str(error)}
    result["seconds"] = round(time.perf_counter() - begin, 1)
    if job.topology is not None:
        result["params"] = layer.network.num_params
        result["size"] = getattr(layer.network.topology, job.topology.size_field, None)
        result["stage_gradients"]["after"] = stage_gradients(model, data)
    weight = layer.weight.detach()
    cut = dtn.analysis.inspect(weight).cuts[0]
    result |= {"effective_rank": cut.effective_rank, "rank": cut.rank, "std": float(weight.std())}
    result["spectrum"] = [round(value, 5) for value in cut.spectrum[:: max(1, len(cut.spectrum) // 64)]]
    return result


def _work(arguments: tuple[Job, str | None]) -> tuple[Job, dict[str, Any]]:
    torch.set_num_threads(1)
    return arguments[0], run(*arguments)


@dataclass
class Log:
    """A log of results, one line per job; jobs already in it are not run again."""

    path: Path
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                entry = json.loads(line)
                self.done[json.dumps(entry["job"], sort_keys=True)] = entry["result"]

    def run(self, jobs: Iterable[Job], processes: int, folder: str | None) -> None:
        """Run the jobs that are not in the log yet, in parallel processes with one thread each."""
        wanted = [job for job in jobs if job.key not in self.done]
        if not wanted:
            return
        start = time.perf_counter()
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            for number, (job, result) in enumerate(pool.imap_unordered(_work, [(job, folder) for job in wanted]), 1):
                self.done[job.key] = result
                with self.path.open("a") as file:
                    file.write(json.dumps({"job": job.to_dict(), "result": result}) + "\n")
                took = time.perf_counter() - start
                where = f"{job.label} ({result['params']}), seed {job.seed}, {job.split}, {job.recipe.core_lr}"
                print(f"{took:6.0f} s  {number}/{len(wanted)}  {where}: {result['accuracy']:.2f}", flush=True)

    def __getitem__(self, job: Job) -> dict[str, Any]:
        return self.done[job.key]
