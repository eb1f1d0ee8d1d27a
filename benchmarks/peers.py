"""The peers of the engine: other ways to compute the same results from the same parameters."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from deeptn_demo.environment import environment
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import deeptn as dtn

#: Packages of the peers.
PACKAGES = ("tensorly-torch", "torchTT", "tensorkrowch", "opt_einsum")

#: Modules that `optional` did not find.
MISSING: set[str] = set()


def about() -> dict[str, Any]:
    """Return the environment with the versions of the peers, and which peers were missing."""
    found = environment()
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found["versions"][package] = importlib.metadata.version(package)
    return {"environment": found, "missing": sorted(MISSING)}


def optional(module: str) -> Any:
    """Return a peer's module, or None if it is not installed."""
    # JAX reads the size of its thread pool from here, once
    os.environ["PJRT_NPROC"] = str(torch.get_num_threads())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s).*C\+\+ implementation not available")  # torchTT
        try:
            return importlib.import_module(module)
        except ImportError:
            MISSING.add(module)
            return None


def brickwall(legs: int, layers: int, activation: str | None = "relu") -> dtn.Network:
    """Return the network that most sections measure: a square weight of 2^legs entries, in the paper's form."""
    side = 2 ** (legs // 2)
    activation = activation if layers > 1 else None
    return dtn.network(dtn.BrickWall(layers=layers, activation=activation, normalize=None), (side, side))


def gate_by_gate(
    params: Mapping[str, Tensor], legs: int, layers: int, relu: bool = True, normalize: bool = False
) -> Tensor:
    """Apply one gate after another to the whole state, left to right, each as a (4, 4) matrix product.

    Source: arXiv:2305.06058, whose code applies every gate to the full tensor.
    """
    state = next(iter(params.values())).new_zeros(2**legs)
    state[:1].fill_(1.0)  # an assignment would copy from the CPU, which no CUDA graph can hold
    for layer in range(1, layers + 1):
        gate = 0
        for half in (0, 1):
            for left in range(half, legs - 1, 2):
                matrix = params[f"L{layer}_g{gate}"]
                gate += 1
                if matrix.ndim == 2:  # only what v selects is stored: pad it to a gate that maps v⊗v to this vector
                    matrix = nn.functional.pad(matrix.reshape(4, 1), (0, 3))
                before, after = 2**left, 2 ** (legs - left - 2)
                state = torch.matmul(matrix.reshape(4, 4), state.reshape(before, 4, after))
        if normalize and layer < layers:
            state = state * state.square().mean().rsqrt()
        if relu and layer < layers:
            state = state.relu()
    return state


def quimb_decode(net: dtn.Network, params: Mapping[str, Tensor]) -> Callable[[], Tensor]:
    """Contract the stages one by one with quimb and its default options, with ReLU in between."""
    with torch.no_grad():  # `decode` replaces the states in these networks
        networks = dtn.to_quimb(net, params)
    stages = net.spec.stages
    outputs = [*(stage.output for stage in stages[:-1]), tuple(leg.name for leg in net.layout.axis_legs)]

    def decode() -> Tensor:
        state: Any = None
        for number, (tn, output) in enumerate(zip(networks, outputs)):
            if number:
                tn = tn.copy()
                tn["STATE"].modify(data=state.relu())
            state = tn.contract(output_inds=output).data
        return state.reshape(net.shape)

    return decode


def jax_decode(
    net: dtn.Network, params: Mapping[str, Tensor], gradient: Tensor | None = None
) -> tuple[Callable[[], Any], float] | None:
    """Return decoding in JAX under jit, or the gradient of ``sum(W * gradient)``, and the seconds to compile it."""
    jax = optional("jax")
    if jax is None:
        return None
    import deeptn_jax

    arrays = [{name: jax.numpy.asarray(p.detach().numpy()) for name, p in params.items()}]
    if gradient is None:
        function = lambda p: deeptn_jax.materialize(net, p)  # noqa: E731
    else:
        arrays.append(jax.numpy.asarray(gradient.numpy()))
        function = jax.value_and_grad(lambda p, g: (deeptn_jax.materialize(net, p) * g).sum())
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arrays).compile()
    seconds = time.perf_counter() - start

    def call() -> Any:
        result = jax.block_until_ready(compiled(*arrays))
        return result if gradient is None else [result[1][name] for name in params]

    return call, seconds


#: Products in the chain of `state_products`.
PRODUCTS = 4


def state_products(legs: int) -> Callable[[], Tensor]:
    """Return a chain of `PRODUCTS` products of a 32 × 32 matrix with the middle of a ``2**legs`` state, in torch."""
    matrix, state = torch.eye(32), torch.randn(2 ** (legs // 4), 32, 2 ** (legs - 5 - legs // 4))
    buffers = [torch.empty_like(state), torch.empty_like(state)]

    def chain() -> Tensor:
        x = state
        for k in range(PRODUCTS):
            x = torch.bmm(matrix.expand(len(x), -1, -1), x, out=buffers[k % 2])
        return x

    return chain


@dataclass(frozen=True)
class Layer:
    """A layer with the same weight as deeptn's layer.

    Attributes
    ----------
    module : nn.Module
        Module with the parameters.
    call : callable
        Maps a batch of rows to a batch of rows.
    cores : callable, optional
        Returns the gradients of the cores, in deeptn's order of axes; None if the layer has no cores.
    """

    module: nn.Module
    call: Callable[[Tensor], Tensor]
    cores: Callable[[], list[Tensor]] | None = None

    def training(self, x: Tensor) -> list[Tensor] | None:
        """Run forward and backward."""
        self.module.zero_grad(set_to_none=True)
        self.call(x).sum().backward()
        return None if self.cores is None else self.cores()


def dense_layer(weight: Tensor, bias: Tensor | None = None) -> Layer:
    """Return `torch.nn.Linear` with this weight."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return Layer(linear, linear)


def train_layers(factors: tuple[int, ...], rank: int, cores: list[Tensor]) -> dict[str, Layer]:
    """Return the TT-matrix layer of every installed peer.

    Parameters
    ----------
    factors : tuple of int
        Leg sizes of the rows; the columns have the same.
    rank : int
    cores : list of Tensor
        Each with the axes (bond), row leg, column leg, (bond).
    """
    layers = {}
    if (tltorch := optional("tltorch")) is not None:
        options = {"factorization": "BlockTT", "rank": rank, "bias": False}
        for name in ("factorized", "reconstructed"):
            layer = tltorch.FactorizedLinear(factors, factors, implementation=name, **options)
            layers[f"tltorch {name}"] = _with_cores(layer, list(layer.parameters()), cores, layer)
    if optional("torchtt") is not None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="__array_wrap__", category=DeprecationWarning)
            ranks = [1, *[rank] * (len(factors) - 1), 1]
            layer = optional("torchtt.nn").LinearLayerTT(list(factors), list(factors), ranks)
        call = lambda x, layer=layer: layer(x.reshape(-1, *factors)).flatten(1)  # noqa: E731
        layers["torchTT"] = _with_cores(layer, list(layer.cores), cores, call)
    if (tensorkrowch := optional("tensorkrowch")) is not None:
        layers["TensorKrowch"] = _tensorkrowch(tensorkrowch, factors, cores)
    return layers


def _with_cores(module: nn.Module, parameters: list[Any], cores: list[Tensor], call: Any) -> Layer:
    with torch.no_grad():
        for parameter, core in zip(parameters, cores, strict=True):
            parameter.copy_(core.reshape(parameter.shape))
    return Layer(module, call, lambda: [parameter.grad for parameter in parameters])


def _tensorkrowch(tk: Any, factors: tuple[int, ...], cores: list[Tensor]) -> Layer:
    """Contract the cores of the package's MPO, which takes product states, with one data node for all column legs."""

    class DenseInput(tk.models.MPO):
        def set_data_nodes(self) -> None:
            names = [f"in_{k}" for k in range(len(factors))]
            node = tk.Node(shape=(1, *factors), axes_names=("batch", *names), name="x", network=self, data=True)
            for name, core in zip(names, self.mats_env):
                _ = node[name] ^ core["input"]

        def add_data(self, data: Tensor) -> None:
            self.data_nodes["x"].tensor = data

        def contract(self) -> Any:
            first, *inner, last = self.mats_env
            result = self.data_nodes["x"] @ (self.left_node @ first)
            for core in inner:
                result = result @ core
            return result @ (last @ self.right_node)

    # MPO's axes: (bond), column leg, (bond), row leg; unit vectors close the outer bonds
    first, *inner, last = cores
    turned = [first.permute(1, 2, 0), *(core.permute(0, 2, 3, 1) for core in inner), last.permute(0, 2, 1)]
    model = DenseInput(tensors=[core.clone() for core in turned])

    def gradients() -> list[Tensor]:
        first, *inner, last = (core.grad for core in model.mats_env)
        return [first[0].permute(2, 0, 1), *(g.permute(0, 3, 1, 2) for g in inner), last[:, :, 0].permute(0, 2, 1)]

    return Layer(model, lambda x: model(x.reshape(-1, *factors)).flatten(1), gradients)


class _Products(TorchDispatchMode):
    """Records the shapes of the matrix products that torch computes."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[torch.Size, torch.Size]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm):
            self.shapes.append((args[0].shape, args[1].shape))
        return func(*args, **(kwargs or {}))


def plain_products(call: Callable[[], Any]) -> Callable[[], None]:
    """Return the matrix products of a call, and nothing else, on contiguous random matrices already in place."""
    with torch.no_grad(), _Products() as found:
        call()
    pairs = [(torch.randn(left), torch.randn(right)) for left, right in found.shapes]
    products = [(left, right, torch.matmul(left, right)) for left, right in pairs]

    def run() -> None:
        for left, right, out in products:
            torch.matmul(left, right, out=out)

    return run
