"""Pairs of modules that compute the same: a dense one of torch.nn and its twin, whose weights networks generate."""

from __future__ import annotations

import atexit
import contextlib
import copy
import functools
import gc
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from deeptn_torch import TNLinear, compress_, fold_
from deeptn_torch.layers import TNLayer, TNWeight
from torch import Tensor, nn

import deeptn as dtn

WALL = dtn.BrickWall(layers=2)

#: Dense modules, and what becomes generated in them.
DENSE: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "Linear": (lambda: nn.Linear(24, 16), WALL),
    "Linear, apply": (lambda: nn.Linear(24, 16), dtn.TTMatrix(rank=2)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3), WALL),
    "Embedding": (lambda: nn.Embedding(20, 12), WALL),
    "LSTM": (lambda: nn.LSTM(8, 12), WALL),
    "GRU": (lambda: nn.GRU(8, 12), WALL),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(16, 4), WALL),
}
KINDS = tuple(DENSE)
INPUTS: dict[str, tuple[int, ...]] = {
    "Linear": (5, 24),
    "Linear, apply": (5, 24),
    "Conv2d": (5, 4, 8, 7),
    "Embedding": (5, 3),
    "LSTM": (5, 3, 8),
    "GRU": (5, 3, 8),
    "MultiheadAttention": (5, 3, 16),
}
#: The axis of the inputs that can have any size; of recurrent modules and attention, the second one is the batch.
BATCH = {kind: 1 if len(shape) == 3 else 0 for kind, shape in INPUTS.items()} | {"Embedding": 0}

#: What wrappers put into the names of parameters.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


class Model(nn.Module):
    """A layer with one tensor as input and one as output."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        self.attends, self.recurs = isinstance(layer, nn.MultiheadAttention), isinstance(layer, nn.RNNBase)

    def forward(self, x: Tensor) -> Tensor:
        if self.attends:
            return self.layer(x, x, x, need_weights=False)[0]
        return self.layer(x)[0] if self.recurs else self.layer(x)


@dataclass
class Side:
    """One of the twins: the dense module or the generated one."""

    kind: str
    generated: bool
    model: Model
    x: Tensor

    @property
    def layer(self) -> Any:
        return self.model.layer

    @property
    def main(self) -> str:
        """The name of the weight, or of the one that is read at every step."""
        return {"LSTM": "weight_hh_l0", "GRU": "weight_hh_l0", "MultiheadAttention": "in_proj_weight"}.get(
            self.kind, "weight"
        )

    @property
    def bias(self) -> str | None:
        names = {"LSTM": "bias_hh_l0", "GRU": "bias_hh_l0", "MultiheadAttention": "in_proj_bias", "Embedding": None}
        return names.get(self.kind, "bias")

    @property
    def holder(self) -> tuple[nn.Module, str]:
        """A parameter that stands for the weight: the weight itself, or the first core of its network."""
        if not self.generated:
            return self.layer, self.main
        made = self.layer if isinstance(self.layer, TNLayer) else self.layer.parametrizations[self.main][0]
        return made.cores, next(iter(made.cores))

    def fresh(self) -> Model:
        """Return another module of this kind, with other values."""
        return twins(self.kind, seed=1)[self.generated].model

    def batch(self, size: int) -> Tensor:
        """Return inputs with another size of the batch."""
        return inputs(self.kind, size)

    def backward(self, model: nn.Module | None = None, x: Tensor | None = None) -> dict[str, Any]:
        """Run forwards and backwards; return the output, the gradient of the input, and those of the parameters."""
        model = self.model if model is None else model
        x = self.x if x is None else x
        x = x.detach().clone().requires_grad_(x.is_floating_point())
        model.zero_grad()
        y = model(x)
        y.backward(pattern(y))
        return {"y": y.detach(), "x.grad": x.grad, "grads": gradients(model)}


def twins(kind: str, seed: int = 0) -> tuple[Side, Side]:
    """Return the dense module and its twin, with equal weights, and the same inputs."""
    dense, made = (copy.deepcopy(model) for model in _models(kind, seed))
    x = inputs(kind, INPUTS[kind][BATCH[kind]])
    return Side(kind, False, dense, x), Side(kind, True, made, x)


@functools.cache
def _models(kind: str, seed: int) -> tuple[Model, Model]:
    make, topology = DENSE[kind]
    torch.manual_seed(seed)
    model = Model(make())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # networks with as many parameters as the small weights
        compress_(model, {"*": topology}, fit=None)
    if kind == "Linear, apply":
        layer: Any = model.layer
        applied = TNLinear(24, 16, layer.network, mode="apply")
        applied.load_state_dict(layer.state_dict())
        model.layer = applied
    dense = copy.deepcopy(model)
    fold_(dense)
    return dense, model


def inputs(kind: str, size: int) -> Tensor:
    shape = list(INPUTS[kind])
    shape[BATCH[kind]] = size
    draw = torch.Generator().manual_seed(7)
    if kind == "Embedding":
        return torch.randint(20, shape, generator=draw)
    return torch.randn(shape, generator=draw)


def pattern(y: Tensor) -> Tensor:
    """Return a gradient for an output, in which no two entries are equal."""
    return torch.cos(torch.arange(y.numel(), dtype=torch.float64).reshape(y.shape)).to(y.dtype)


def named(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Iterate over parameters under the names that they have without wrappers."""
    for name, param in model.named_parameters():
        yield ".".join(part for part in name.split(".") if part not in WRAPPERS), param


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: param.grad.clone() for name, param in named(model) if param.grad is not None}


def pulled_back(twin: Side, dense: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the gradients of dense weights into those of the cores that generate them."""
    twin.model.double()
    found = {name: grad.double() for name, grad in dense.items()}
    for name, part in twin.model.named_modules():
        if not isinstance(part, TNLayer):
            continue
        inside = isinstance(part, TNWeight)
        weight = part() if inside else part.weight
        own = name.removesuffix(".0").replace(".parametrizations.", ".") if inside else f"{name}.weight"
        if own in found:
            cores = {f"{name}.cores.{key}": core for key, core in part.cores.items()}
            grads = torch.autograd.grad(weight, list(cores.values()), found.pop(own).reshape(weight.shape))
            found |= dict(zip(cores, grads))
    dtype = next(iter(dense.values()), torch.ones(())).dtype
    return {name: grad.to(dtype) for name, grad in found.items()}


def compare(twin: Side, dense: Any, made: Any, tolerance: float = 2e-4, where: str = "") -> None:
    """Check that the results of an operation are equal."""
    if where.endswith("grads"):
        dense = pulled_back(twin, dense)
    if isinstance(dense, Mapping):
        assert dense.keys() == made.keys(), (where, sorted(dense), sorted(made))
        for key in dense:
            compare(twin, dense[key], made[key], tolerance, f"{where}.{key}")
    elif isinstance(dense, (tuple, list)) and any(isinstance(part, Tensor) for part in dense):
        compare(twin, dict(enumerate(dense)), dict(enumerate(made)), tolerance, where)
    elif isinstance(dense, Tensor):
        assert made.dtype == dense.dtype, (where, made.dtype, dense.dtype)
        assert made.shape == dense.shape, (where, made.shape, dense.shape)
        if dense.numel():
            wide = torch.complex128 if dense.is_complex() else torch.float64
            gap = (made.detach().to(wide) - dense.detach().to(wide)).abs().max()
            assert gap <= tolerance * max(1.0, float(dense.detach().abs().max())), (where, float(gap))
    else:
        assert made == dense, (where, made, dense)


@contextmanager
def counting() -> Iterator[Callable[[], int]]:
    """Give a function that counts the bytes of all tensors made since then to which something still refers."""
    gc.freeze()  # what is older is neither looked at nor counted
    try:
        yield _held
    finally:
        gc.unfreeze()


def _held() -> int:
    gc.collect()
    storages: dict[int, int] = {}
    for found in gc.get_objects():
        if type(found) in (Tensor, nn.Parameter) and not found.is_meta and found.layout == torch.strided:
            with contextlib.suppress(NotImplementedError, RuntimeError):  # inside a transformation
                storage = found.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def process_group() -> None:
    """Start a process group of one process. It stays: gloo may wait for ever when a group ends while gradients do."""
    distributed: Any = torch.distributed
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        atexit.register(distributed.destroy_process_group)
