"""Plan, compress, heal and compare: what ``deeptn demo`` and ``benchmarks/healed.py`` do with a `ConvNet`."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from deeptn_torch import calibrate, compress, heal, train
from torch import nn

from deeptn.errors import PlanError
from deeptn.models import History, Report, at_rest, count, view_of
from deeptn.network import Network, network
from deeptn.planning import FAMILIES, Plan, plan
from deeptn.recipe import Recipe
from deeptn.topologies import BrickWall, Topology

from . import controls
from .data import Images
from .networks import ConvNet
from .scores import accuracy

#: Topologies of the compressed networks: what the planner may choose, or one family for all layers.
CHOICES: dict[str, tuple[str, ...]] = {
    "planned": FAMILIES,
    "low rank": ("LowRank",),
    "tensor train": ("TensorTrain",),
    "TT-matrix": ("TTMatrix",),
    "Tucker": ("Tucker",),
}

#: Names of these rows: low rank and the tensor train are controls, because they are what everybody else does.
USUAL = ("low rank", "tensor train")

#: One depth for all layers, and random cores: to plan depths takes long, and such fits heal worse.
WALL = "brick wall, ReLU"

#: Learning rates to choose from by the validation part: of the cores or, without cores, of all parameters.
RATES = (2e-3, 1e-2)

#: One of so many training rows is for validation: what is best there is kept and chosen.
VALIDATION = 10


@dataclass(frozen=True)
class Setting:
    """A kind of network, and how it is trained, compressed and healed.

    Attributes
    ----------
    kind : str
        Kind of `ConvNet`.
    share : float
        Parameters of the compressed network, as a share of those before.
    train, heal : Recipe
        For the dense networks; for everything that is compressed, and once more for the dense networks.
    """

    kind: str
    share: float
    train: Recipe
    heal: Recipe


SETTINGS = {
    "small": Setting("small", 0.05, Recipe(epochs=20, batch=64), Recipe(epochs=15, batch=64, distill=0.5)),
    "lenet5": Setting("lenet5", 0.05, Recipe(epochs=6), Recipe(epochs=5, distill=0.5)),
}


@dataclass
class Result:
    """A network at the end.

    Attributes
    ----------
    label, role : str
        As for `deeptn.report.Row`.
    params, bytes : int
        All parameters that the network needs, and bytes at rest.
    before, after : float
        Test accuracy in percent, before and after healing.
    validation : float
        Accuracy on the validation part, by which one is chosen.
    rate : float
        The better one of `RATES`.
    seconds : float
        Wall time to plan, compress and heal.
    note : str
    model : nn.Module
    report, plan, history : optional
        What `compress`, `plan` and `heal` returned.
    """

    label: str
    role: str
    params: int | None = None
    bytes: int | None = None
    before: float | None = None
    after: float | None = None
    validation: float | None = None
    rate: float | None = None
    seconds: float = 0.0
    note: str = ""
    model: Any = field(default=None, repr=False)
    report: Report | None = field(default=None, repr=False)
    plan: Plan | None = field(default=None, repr=False)
    history: History | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        names = ("label", "role", "params", "bytes", "before", "after", "validation", "rate", "seconds", "note")
        return {name: getattr(self, name) for name in names}


class Workflow:
    """Everything that happens with one seed.

    Parameters
    ----------
    setting : Setting
    data : Images
    seed : int
        Of the initial weights, the batches and random cores; every row has the same batches.
    """

    def __init__(self, setting: Setting, data: Images, seed: int):
        self.setting, self.data, self.seed = setting, data, seed
        order = torch.randperm(len(data.train_x), generator=torch.Generator().manual_seed(seed))
        held, rest = order[: len(order) // VALIDATION], order[len(order) // VALIDATION :]
        self.rows = data.train_x[rest], data.train_y[rest]
        self.validation = data.train_x[held], data.train_y[held]
        started = time.perf_counter()
        self.dense: Any = self._trained(ConvNet(setting.kind))
        self.seconds = time.perf_counter() - started
        self.calibration = calibrate(self.dense, self.rows[0], self.validation[0])
        self.limit = int(setting.share * count(view_of(self.dense)))

    def rows_of(self) -> Iterator[tuple[str, Callable[[], Result]]]:
        """Yield the name of every row, and what computes it."""
        yield "dense", self._dense
        for label in CHOICES:
            yield label, lambda label=label: self._planned(label)
        yield WALL, self._wall
        yield "TT-matrix in int8", self._planned_in_int8
        yield "narrower dense", self._narrower
        yield "fixed random", self._fixed
        yield "pruned, with its indices", self._pruned
        yield "narrower dense in int8", self._narrower_in_int8
        yield "int8 alone", self._int8

    def _trained(self, model: nn.Module) -> nn.Module:
        torch.manual_seed(self.seed)
        for part in model.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()  # type: ignore[operator]
        train(model, self.rows, self.setting.train, self.seed, validation=self.validation)
        return model

    def _score(self, model: nn.Module, which: tuple[torch.Tensor, torch.Tensor] | None = None) -> float:
        return accuracy(model, *(which or (self.data.test_x, self.data.test_y)))

    def _healed(self, result: Result, started: float) -> Result:
        """Score a model, heal copies of it with each learning rate, keep the best, and score it again."""
        result.before = self._score(result.model)
        start, rate = result.model, "lr" if result.report is None else "core_lr"
        for value in RATES:
            model, recipe = copy.deepcopy(start), replace(self.setting.heal, **{rate: value})
            history = heal(model, self.dense, self.rows, recipe, self.seed + 1, validation=self.validation)
            score = self._score(model, self.validation)
            if result.validation is None or score > result.validation:
                result.model, result.history, result.validation, result.rate = model, history, score, value
        result.after = self._score(result.model)
        result.params = count(view_of(result.model)) if result.params is None else result.params
        result.bytes = at_rest(view_of(result.model)) if result.bytes is None else result.bytes
        result.seconds = time.perf_counter() - started
        return result

    def _dense(self) -> Result:
        note = "the network before compression; healing means: trained further"
        result = Result("dense", "dense", model=copy.deepcopy(self.dense), note=note)
        result = self._healed(result, time.perf_counter())
        result.seconds += self.seconds
        return result

    def _planned(self, label: str) -> Result:
        started = time.perf_counter()
        result = Result(label, "control" if label in USUAL else "family")
        try:
            found = plan(self.dense, {"params": self.limit}, topologies=CHOICES[label], seed=self.seed)
        except PlanError as error:
            result.note = str(error)
            return result
        result.plan = found
        return self._compressed(result, found, started, calibration=self.calibration)

    def _planned_in_int8(self) -> Result:
        """Compress to more TT-matrices, so that with cores of 8 bits, there are as many bytes as in all other rows."""
        started = time.perf_counter()
        result = Result("TT-matrix in int8", "family", note="more cores, rounded after healing")
        params = min(4 * self.limit, count(view_of(self.dense)) - 1)
        while True:
            try:
                result.plan = plan(self.dense, {"params": params}, topologies=["TTMatrix"], seed=self.seed)
            except PlanError as error:
                result.note = str(error)
                return result
            torch.manual_seed(self.seed)
            result.model, result.report = compress(self.dense, result.plan, calibration=self.calibration)
            if (excess := controls.int8_bytes(result.model) - 4 * self.limit) <= 0:
                break
            params -= excess
        result = self._rounded(self._healed(result, started))
        result.report = None  # files have the cores in 8 bits, but models do not: not the one to save
        return result

    def _wall(self) -> Result:
        """Compress by brick walls of the largest depth that fits; small layers stay dense."""
        started = time.perf_counter()
        result, best = Result(WALL, "family"), None
        shapes = {weight.name: weight.shape for weight in view_of(self.dense).weights()}
        rest = count(view_of(self.dense)) - sum(_entries(shape) for shape in shapes.values())
        for depth in range(1, 65):
            nets: dict[str, Network] = {name: network(BrickWall(layers=depth), shape) for name, shape in shapes.items()}
            small = {name: net for name, net in nets.items() if net.num_params < net.size}
            left = sum(_entries(shape) for name, shape in shapes.items() if name not in small)
            if rest + left + sum(net.num_params for net in small.values()) > self.limit:
                break
            best, result.note = small, f"depth {depth} in {len(small)} of {len(shapes)} layers, random cores"
        if best is None:
            result.note = "no brick walls are this small"
            return result
        return self._compressed(result, best, started, fit=None)

    def _compressed(
        self, result: Result, targets: Plan | Mapping[str, Network | Topology], started: float, **options: Any
    ) -> Result:
        torch.manual_seed(self.seed)
        result.model, result.report = compress(self.dense, targets, **options)  # type: ignore[arg-type]
        return self._healed(result, started)

    def _narrower(self) -> Result:
        started = time.perf_counter()
        model = controls.narrower(self.setting.kind, self.limit, lambda model: count(view_of(model)))
        result = Result("narrower dense", "control", model=self._trained(model), note=f"widths {_widths(model)}")
        return self._healed(result, started)

    def _fixed(self) -> Result:
        started = time.perf_counter()
        torch.manual_seed(self.seed)
        names = [weight.name for weight in view_of(self.dense).weights()]
        model = controls.fixed_random(self.dense, names[1:-1])
        note = "all weights but those of the first and the last layer are random and stay so; a seed replaces them"
        result = Result("fixed random", "control", model=model, note=note)
        trained = [p for p in model.parameters() if p.requires_grad]
        result.params, result.bytes = sum(p.numel() for p in trained), sum(4 * p.numel() for p in trained)
        return self._healed(result, started)

    def _pruned(self) -> Result:
        started = time.perf_counter()
        model = controls.pruned(self.dense, 4 * self.limit)
        result = Result("pruned, with its indices", "control", model=model, note="the largest weights of the network")
        result.bytes = controls.pruned_bytes(model)
        left = sum(int(mask.sum()) for name, mask in model.named_buffers() if name.endswith("weight_mask"))
        result.params = left + sum(p.numel() for p in model.parameters() if p.ndim < 2)
        return self._healed(result, started)

    def _narrower_in_int8(self) -> Result:
        started = time.perf_counter()
        model = controls.narrower(self.setting.kind, 4 * self.limit, controls.int8_bytes)
        result = Result("narrower dense in int8", "control", model=self._trained(model))
        result.note = f"widths {_widths(model)}, rounded after healing"
        result = self._healed(result, started)
        return self._rounded(result)

    def _int8(self) -> Result:
        result = Result("int8 alone", "control", model=copy.deepcopy(self.dense), note="rounded, at its own size")
        result.before, result.params = self._score(self.dense), count(view_of(self.dense))
        return self._rounded(result)

    def _rounded(self, result: Result) -> Result:
        """Round the weights of a result to 8 bits."""
        result.bytes = controls.int8_bytes(result.model)
        result.model = controls.as_int8(result.model)
        result.after = self._score(result.model)
        result.validation = self._score(result.model, self.validation)
        return result


def chosen(results: list[Result]) -> Result:
    """Return the compressed network with the best score on the validation part; the first of equals."""
    made = [result for result in results if result.report is not None]
    if not made:
        raise PlanError("no network is this small; allow more parameters")
    return max(made, key=lambda result: result.validation or 0.0)


def _entries(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _widths(model: ConvNet) -> str:
    parts = (model.conv1, model.conv2, model.fc1, model.fc2)
    return "/".join(str(len(part.weight)) for part in parts)
