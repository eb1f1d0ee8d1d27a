"""The experiment of ``lenet5.py``: both hidden linear layers of a network, compressed by every family at equal size."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from deeptn_demo.data import Images
from deeptn_demo.networks import ConvNet
from deeptn_demo.scores import accuracy, mean_loss
from deeptn_torch.layers import TNLayer
from deeptn_torch.models import compress
from deeptn_torch.train import train
from torch import nn

from deeptn.errors import SpecError
from deeptn.network import Network, network
from deeptn.recipe import Recipe
from deeptn.topologies import BrickWall, topology

#: Families to compare with BrickWall, each at its largest size with no more parameters in total than BrickWall.
RIVALS = ("TensorTrain", "TTMatrix", "Tucker", "LowRank", "Tree")
#: Starting points for healing, each with its ``fit=`` of `compress`. Which is better depends on the family and the
#: size, so a family with a closed form is healed from both, and the lower training loss counts. Other families start
#: only at random: at these sizes, a fit by gradient captures almost nothing of a trained weight, and heals worse.
STARTS = {"weight": "auto", "random": None}


@dataclass(frozen=True)
class Setting:
    """A model, how to train and heal it, and what to compress.

    Attributes
    ----------
    model : str
        Kind of `ConvNet`.
    train, heal : Recipe
        Recipes for training the dense model, and for healing every compressed model.
    layers : tuple of int
        Depths M of BrickWall.
    hidden : tuple of str
        Linear layers to compress.
    """

    model: str
    train: Recipe
    heal: Recipe
    layers: tuple[int, ...]
    hidden: tuple[str, ...] = ("fc1", "fc2")


SETTINGS = {
    "small": Setting("small", Recipe(epochs=20, batch=64), Recipe(epochs=15, batch=64), (1, 2, 4)),
    "lenet5": Setting("lenet5", Recipe(epochs=6), Recipe(epochs=5), (1, 2, 4, 7)),
}


@dataclass(frozen=True)
class Method:
    """One row of the comparison: a family at a size, or a control."""

    family: str
    label: str
    budget: int | None = None
    plan: dict[str, Network] = field(default_factory=dict)
    #: Sizes of the hidden layers, if they are not those of the dense network.
    hidden: tuple[int, int] | None = None
    #: Why the family has no network of this size.
    missing: str | None = None

    @property
    def params(self) -> int | None:
        """Total parameters of the compressed layers."""
        return sum(net.num_params for net in self.plan.values()) if self.plan else None


def methods(setting: Setting) -> list[Method]:
    """Return the rows of the comparison: controls, BrickWall at each depth, and rivals with no more parameters."""
    shapes, total = shapes_of(setting), size_of(setting)
    weights = sum(math.prod(shape) for shape in shapes.values())
    rows = [Method("dense", "dense, trained further"), Method("fixed random", "fixed random")]
    for layers in setting.layers:
        walls = {name: network(BrickWall(layers=layers), shape) for name, shape in shapes.items()}
        wall = Method("BrickWall", f"BrickWall M={layers}", plan=walls)
        budget = wall.params
        rows.append(Method("BrickWall", wall.label, budget, walls))
        hidden = narrower(setting, total - weights + (budget or 0))
        rows.append(Method("narrower dense", f"narrower dense {hidden[0]}/{hidden[1]}", budget, hidden=hidden))
        for family in RIVALS:
            try:
                plan = share_budget(family, shapes, budget or 0)
            except SpecError as error:
                rows.append(Method(family, family, budget, missing=str(error)))
                continue
            size = "/".join(str(_size(net)) for net in plan.values())
            rows.append(Method(family, f"{family} rank {size}", budget, plan))
    return rows


def shapes_of(setting: Setting) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights to compress."""
    with torch.device("meta"):
        model = ConvNet(setting.model)
    return {name: tuple(getattr(model, name).weight.shape) for name in setting.hidden}


def size_of(setting: Setting, hidden: tuple[int, int] = (120, 84)) -> int:
    """Return the number of all parameters of a dense network."""
    with torch.device("meta"):
        return sum(p.numel() for p in ConvNet(setting.model, hidden).parameters())


def narrower(setting: Setting, total: int) -> tuple[int, int]:
    """Return the hidden sizes of the widest dense network with at most `total` parameters.

    The first layer gets as wide as the usual proportion of 120 to 84 allows, then the second as wide as still fits.
    """
    first = max(k for k in range(1, 121) if k == 1 or size_of(setting, (k, max(1, 84 * k // 120))) <= total)
    return first, max(k for k in range(1, 85) if k == 1 or size_of(setting, (first, k)) <= total)


def _size(net: Network) -> Any:
    """Return the number of layers or the rank of a network."""
    return net.topology.size if net.topology is not None else None


def share_budget(family: str, shapes: dict[str, tuple[int, ...]], budget: int) -> dict[str, Network]:
    """Return the largest networks of a family for several layers, with at most `budget` parameters in total.

    First all layers get the largest common size that fits; then each layer in turn grows as far as the budget allows.

    Raises
    ------
    deeptn.SpecError
        If even the smallest networks exceed the budget.
    """
    base = topology(family)

    def build(sizes: dict[str, int]) -> dict[str, Network]:
        return {n: network(base.resized(sizes[n]), shape) for n, shape in shapes.items()}

    def total(sizes: dict[str, int]) -> int:
        return sum(net.num_params for net in build(sizes).values())

    best = dict.fromkeys(shapes, 1)
    if total(best) > budget:
        raise SpecError(f"the smallest {family} networks have {total(best)} parameters in total, more than {budget}")
    moves = [list(shapes), *([name] for name in shapes)]
    while moves:
        larger = best | {name: best[name] + 1 for name in moves[0]}
        if total(best) < total(larger) <= budget:
            best = larger
        else:
            moves.pop(0)
    return build(best)


@dataclass(frozen=True)
class Result:
    """Result of one method with one seed.

    Attributes
    ----------
    params : int or None
        Parameters of the compressed layers; None if the family has no network that small.
    ratio : float or None
        Number of dense weights of those layers, divided by `params`.
    start : {"weight", "random"} or None
        Whether the cores start from the trained weight (by the closed form) or at random; None if there are no cores.
    before, after : float or None
        Test accuracy in percent, before and after healing.
    train_loss : float or None
        Mean cross entropy over the training images after healing.
    decode_ms : float or None
        Time to decode all compressed layers once, without gradients: the shortest of 15.
    """

    family: str
    label: str
    budget: int | None
    seed: int
    params: int | None
    ratio: float | None = None
    start: str | None = None
    train_loss: float | None = None
    before: float | None = None
    after: float | None = None
    decode_ms: float | None = None
    missing: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


class Progress(Protocol):
    """Receives the progress of a running experiment."""

    def begin(self, what: str, steps: int) -> None:
        """Note the start of a training run of `steps` steps."""

    def step(self) -> None:
        """Note that one step is done."""


class Silent:
    """Reports no progress."""

    def begin(self, what: str, steps: int) -> None:
        """Do nothing."""

    def step(self) -> None:
        """Do nothing."""


def run_seed(
    setting: Setting,
    data: Images,
    seed: int,
    progress: Progress | None = None,
    keep: Callable[[Result, nn.Module, Any], object] = lambda result, model, report: None,
    skip: Callable[[Method, str | None], bool] = lambda method, start: False,
) -> list[Result]:
    """Train the dense model, compress it with every method, and heal each result by the same recipe.

    Parameters
    ----------
    setting, data
        What to train, and on which data.
    seed : int
        Seed of the initial weights, batches and random cores; the same for every method (paired comparison).
    progress : Progress, optional
    keep : callable
        Called with every result, its model and, if compressed, the compression report.
    skip : callable
        Called with every method and start; returns whether to skip it (an interrupted run may already have it).

    Returns
    -------
    list of Result
    """
    progress = progress or Silent()
    rows = len(data.train_x)
    torch.manual_seed(seed)
    dense = ConvNet(setting.model)
    progress.begin("dense", setting.train.steps(rows))
    train(dense, data, setting.train, seed, progress.step)
    weights = _hidden_weights(dense, setting)
    results = []
    for method in methods(setting):
        row: dict[str, Any] = {"family": method.family, "label": method.label, "budget": method.budget, "seed": seed}
        if method.missing and not skip(method, None):
            results.append(Result(**row, params=None, missing=method.missing))
            keep(results[-1], dense, None)
        for start in _starts(method):
            if skip(method, start):
                continue
            torch.manual_seed(seed)
            report = None
            if method.hidden is not None:
                model = ConvNet(setting.model, method.hidden)
                progress.begin(f"{method.label}, before", setting.train.steps(rows))
                train(model, data, setting.train, seed, progress.step)
                own = _hidden_weights(model, setting)
                row |= {"params": own, "ratio": weights / own}
            elif start is not None:
                model, report = compress(dense, dict(method.plan), fit=STARTS[start])
                row |= {"params": method.params, "ratio": weights / (method.params or 1)}
            else:
                model = copy.deepcopy(dense)
                row |= {"params": weights, "ratio": 1.0}
                if method.family == "fixed random":
                    _fix_at_random(model, setting.hidden)
                    row |= {"params": 0, "ratio": None}
            before = accuracy(model, data.test_x, data.test_y)
            progress.begin(
                method.label if start is None else f"{method.label}, {start} start", setting.heal.steps(rows)
            )
            train(model, data, setting.heal, seed + 1, progress.step)
            scores: dict[str, Any] = {"before": before, "after": accuracy(model, data.test_x, data.test_y)}
            scores |= {"train_loss": mean_loss(model, data.train_x, data.train_y), "decode_ms": _decode_ms(model)}
            result = Result(**row, start=start, **scores)
            results.append(result)
            keep(result, model, report)
    return results


def steps(setting: Setting, rows: int) -> int:
    """Return the number of training steps of `run_seed` with so many training images."""
    runs = methods(setting)
    dense = 1 + sum(method.hidden is not None for method in runs)
    return dense * setting.train.steps(rows) + sum(len(_starts(m)) for m in runs) * setting.heal.steps(rows)


def _hidden_weights(model: nn.Module, setting: Setting) -> int:
    """Return the number of weights in the layers to compress."""
    return sum(getattr(model, name).weight.numel() for name in setting.hidden)


def _starts(method: Method) -> tuple[str | None, ...]:
    if method.missing:
        return ()
    families = [net.topology for net in method.plan.values() if net.topology is not None]
    return tuple(s for s in STARTS if s == "random" or families[0].closed_form_suffices) if families else (None,)


def _fix_at_random(model: nn.Module, hidden: Sequence[str]) -> None:
    """Replace the hidden weights with normal random ones of the same root mean square, and freeze them."""
    for name in hidden:
        weight = getattr(model, name).weight
        with torch.no_grad():
            weight.copy_(torch.randn_like(weight) * weight.square().mean().sqrt())
        weight.requires_grad_(False)


def _decode_ms(model: nn.Module, repeats: int = 15) -> float | None:
    layers = [m for m in model.modules() if isinstance(m, TNLayer)]
    if not layers:
        return None
    times = []
    with torch.no_grad():
        for _ in range(repeats):
            start = time.perf_counter()
            for layer in layers:
                layer.network.materialize(dict(layer.cores.items()))
            times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def summarize(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return mean and sample standard deviation over seeds for each method, in the order of the first seed.

    The start with the lower mean training loss counts; the accuracy of the other is kept as ``after_other``.
    """
    groups: dict[tuple[str, int | None], dict[str | None, list[Result]]] = {}
    for result in results:
        groups.setdefault((result.label, result.budget), {}).setdefault(result.start, []).append(result)
    rows = []
    for starts in groups.values():
        best, *others = sorted(starts.values(), key=lambda group: _mean(group, "train_loss") or 0.0)
        first = best[0]
        row: dict[str, Any] = {key: getattr(first, key) for key in ("family", "label", "budget", "params", "ratio")}
        row |= {"missing": first.missing, "seeds": len(best), "start": first.start}
        row["after_other"] = _mean(others[0], "after") if others else None
        for key in ("train_loss", "before", "after", "decode_ms"):
            values = [value for value in (getattr(result, key) for result in best) if value is not None]
            row[key] = _mean(best, key)
            row[f"{key}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        rows.append(row)
    return rows


def _mean(group: Sequence[Result], key: str) -> float | None:
    values = [value for value in (getattr(result, key) for result in group) if value is not None]
    return statistics.fmean(values) if values else None
