"""Times and memory on a device: calls replayed from a graph between two events, and calls as Python makes them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from deeptn_torch import TNLinear
from peers import brickwall, gate_by_gate
from timing import TOLERANCE, difference
from torch import Tensor, nn

import deeptn as dtn
from deeptn.engine.machine import machine
from deeptn.topologies import describe

#: Calls before the first one that counts.
WARM = 3


@dataclass(frozen=True)
class Way:
    """One of several ways to compute something.

    Attributes
    ----------
    call : callable
        What is timed. It returns tensors that are compared, or None.
    replayed : callable, optional
        What is captured as a graph, where that is not `call`.
    """

    call: Callable[[], Any]
    replayed: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Stopwatch:
    """Takes the median of some calls on a device.

    Parameters
    ----------
    device : torch.device
    repeats : int
    seconds : float
        Fewer calls are made, five at least, where all would take longer.
    """

    device: torch.device
    repeats: int = 100
    seconds: float = 2.5

    def measure(self, way: Way) -> dict[str, Any]:
        """Times of one way.

        Returns
        -------
        dict
            ``device_seconds`` between two events around a replay of the graph, ``host_seconds`` until a call from
            Python returns, ``eager_seconds`` between two events around that call, ``graph`` (None, or why there is no
            replay: then ``device_seconds`` are ``eager_seconds``), ``peak_bytes`` allocated beyond what was there, and
            ``repeats``.
        """
        for _ in range(WARM):
            way.call()
        self.wait()
        start = time.perf_counter()
        way.call()
        self.wait()
        repeats = max(min(5, self.repeats), min(self.repeats, int(self.seconds / (time.perf_counter() - start))))
        row: dict[str, Any] = {"repeats": repeats, "peak_bytes": self.peak(way.call)}
        eager, host = self._median(way.call, repeats, settle=True)
        device, reason = eager, None
        try:
            replay = self.captured(way.replayed or way.call)
            device, _ = self._median(replay, repeats, settle=False)
        except Exception as error:  # not every call can be captured; why not is worth knowing
            reason = said(first_of(error))
        return {"device_seconds": device, "host_seconds": host, "eager_seconds": eager, "graph": reason} | row

    def wait(self) -> None:
        """Until the device has done everything."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak(self, call: Callable[[], Any]) -> int | None:
        """Bytes that a call allocates at most; None on a CPU."""
        if self.device.type != "cuda":
            return None
        self.wait()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        call()
        self.wait()
        return torch.cuda.max_memory_allocated(self.device) - before

    def captured(self, call: Callable[[], Any]) -> Callable[[], None]:
        """A call as a graph that only the device runs."""
        if self.device.type != "cuda":
            raise RuntimeError("graphs are captured on CUDA devices alone")
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM):
                call()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # The outer context puts the stream back where a capture that fails does not.
        with torch.cuda.stream(torch.cuda.current_stream(self.device)), torch.cuda.graph(graph):
            call()
        for _ in range(WARM):
            graph.replay()
        self.wait()
        return graph.replay

    def _median(self, call: Callable[[], Any], repeats: int, settle: bool) -> tuple[float, float]:
        """Seconds between two events, and until the call returns; with `settle` the device is idle before each."""
        on_device, on_host = [], []
        cuda = self.device.type == "cuda"
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)] if cuda else []
        for k in range(repeats):
            if settle:
                self.wait()
            if cuda:
                events[k][0].record()
            start = time.perf_counter()
            call()
            on_host.append(time.perf_counter() - start)
            if cuda:
                events[k][1].record()
        self.wait()
        on_device = [1e-3 * begin.elapsed_time(end) for begin, end in events] if cuda else on_host
        return statistics.median(on_device), statistics.median(on_host)


def said(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def first_of(error: BaseException) -> BaseException:
    """The error that led to the others: where a call cannot be captured, the end of the capture fails too."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def compared(label: str, ways: Mapping[str, Way], watch: Stopwatch) -> dict[str, Any]:
    """A row of results.

    Parameters
    ----------
    label : str
    ways : mapping of str to Way
        The first one is that of deeptn.
    watch : Stopwatch

    Returns
    -------
    dict
        ``label``, ``ways``, ``ratios`` (device seconds of the first way by those of each other), ``differences`` of
        what the others compute from what the first does, and ``passed``: the first way works and no other differs.
        A way that fails is an ``error`` among the ways; the others are measured.
    """
    row: dict[str, Any] = {"label": label, "ways": {}, "differences": {}, "passed": True}
    base, expected = next(iter(ways)), None
    for name, way in ways.items():
        try:
            result = way.call()
            if name == base:
                expected = result
            elif result is not None and expected is not None:
                row["differences"][name] = difference(result, expected)
                row["passed"] &= row["differences"][name] < TOLERANCE
            del result
            row["ways"][name] = watch.measure(way)
        except Exception as error:  # the other ways are to be measured too
            row["ways"][name] = {"error": said(error)}
            row["passed"] &= name != base
    seconds = {name: found["device_seconds"] for name, found in row["ways"].items() if "error" not in found}
    row["ratios"] = {name: seconds[base] / seconds[name] for name in seconds if name != base and base in seconds}
    return row


def decode(watch: Stopwatch, legs: int, seed: int) -> Iterator[dict[str, Any]]:
    """Decode one weight of 2^legs entries without a gradient."""
    for layers in (1, 3):
        net = brickwall(legs, layers)
        params = net.init(seed, like="torch", device=watch.device)
        weight = net.materialize(params)

        def naive(params: Mapping[str, Tensor] = params, layers: int = layers) -> Tensor:
            return gate_by_gate(params, legs, layers)

        ways = {
            "deeptn": Way(lambda net=net, params=params: net.materialize(params)),
            "gate by gate": Way(naive),
            "copy": _copy(weight),
        }
        with torch.no_grad():
            row = compared(f"decode 2^{legs}, M={layers}", ways, watch)
        yield row


def gradient(watch: Stopwatch, legs: int, seed: int) -> Iterator[dict[str, Any]]:
    """Decode, and take the gradient of ``sum(W * G)``."""
    random = torch.Generator().manual_seed(seed)
    for layers in (1, 3):
        net = brickwall(legs, layers)
        params = {name: p.requires_grad_() for name, p in net.init(seed, like="torch", device=watch.device).items()}
        incoming = torch.randn(net.shape, generator=random).to(watch.device)

        def gradients(make: Callable[[], Tensor], params: Any = params, incoming: Tensor = incoming) -> Way:
            def call() -> list[Any]:
                make().reshape(incoming.shape).backward(incoming)
                found = [p.grad for p in params.values()]
                for p in params.values():
                    p.grad = None
                return found

            return Way(call)

        ways = {
            "deeptn": gradients(lambda net=net, params=params: net.materialize(params)),
            "gate by gate": gradients(lambda params=params, layers=layers: gate_by_gate(params, legs, layers)),
            "copy": _copy(incoming),
        }
        yield compared(f"gradient 2^{legs}, M={layers}", ways, watch)


def _copy(tensor: Tensor) -> Way:
    """What it takes to read and write as many entries; nothing to compare."""

    def call() -> None:
        tensor.clone()

    return Way(call)


class GateByGate(nn.Module):
    """A layer with the cores of a brick wall, decoded by `peers.gate_by_gate`."""

    def __init__(self, layer: TNLinear, layers: int):
        super().__init__()
        self.cores = nn.ParameterDict({name: core.detach().clone() for name, core in layer.cores.items()})
        self.bias = nn.Parameter(layer.bias.detach().clone()) if layer.bias is not None else None
        self.layout, self.layers = layer.network.layout, layers

    def forward(self, x: Tensor) -> Tensor:
        state = gate_by_gate(dict(self.cores.items()), len(self.layout.legs), self.layers, normalize=True)
        rows, columns = self.layout.shape
        return F.linear(x, state.reshape(self.layout.padded_shape)[:rows, :columns], self.bias)


class CoreByCore(nn.Module):
    """A layer with the cores of a TT-matrix, each of which is multiplied by the input in turn."""

    def __init__(self, layer: TNLinear):
        super().__init__()
        cores = [core.detach().clone() for core in layer.cores.values()]
        cores[0], cores[-1] = cores[0][None], cores[-1][..., None]
        self.cores = nn.ParameterList(cores)
        self.bias = nn.Parameter(layer.bias.detach().clone()) if layer.bias is not None else None

    def forward(self, x: Tensor) -> Tensor:
        rows, state = x.shape[0], x
        for core in self.cores:
            left, out, into, right = core.shape
            matrix = core.permute(1, 3, 0, 2).reshape(out * right, left * into)
            state = torch.matmul(matrix, state.reshape(rows, left * into, -1))
            rows *= out
        y = state.reshape(x.shape[0], -1)
        return y if self.bias is None else y + self.bias


def training(watch: Stopwatch, sides: tuple[tuple[int, int], ...], batch: int, seed: int) -> Iterator[dict[str, Any]]:
    """A step of a layer: forward, backward, Adam."""
    torch.manual_seed(seed)
    for into, out in sides:
        x, y = torch.randn(batch, into).to(watch.device), torch.randn(batch, out).to(watch.device)
        for family in (dtn.TTMatrix(rank=8), dtn.BrickWall(layers=2)):
            layer = TNLinear(into, out, family)
            naive = CoreByCore(layer) if isinstance(family, dtn.TTMatrix) else GateByGate(layer, family.layers)
            dense = layer.to_linear()
            for module in (layer, naive, dense):  # drawn on the CPU, whatever became of the device's generator
                module.to(watch.device)
            with torch.no_grad():
                expected = dense(x)
                apart = {
                    name: difference(one(x), expected) for name, one in (("deeptn", layer), ("gate by gate", naive))
                }
            ways = {
                "deeptn": _step(layer, x, y),
                "nn.Linear": _step(dense, x, y),
                "gate by gate": _step(naive, x, y),
                "copy": _copy(dense.weight.detach().clone()),
            }
            row = compared(f"{into} → {out}, {describe(family)}", ways, watch)
            row["differences"] = apart
            row["passed"] &= max(apart.values()) < TOLERANCE
            core = next(iter(layer.cores.values()))
            like = core if core.is_cuda else "torch"
            row["chosen"], row["machine"] = str(layer.network.choose(batch, like)), machine(like).to_dict()
            yield row


def _step(module: nn.Module, x: Tensor, y: Tensor) -> Way:
    """A step with Adam's defaults; for a graph with ``capturable``, which keeps the count of steps on the device."""

    def way(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        def call() -> None:
            optimizer.zero_grad(set_to_none=True)
            F.mse_loss(module(x), y).backward()
            optimizer.step()

        return call

    adam = way(torch.optim.Adam(module.parameters()))
    if not x.is_cuda:
        return Way(adam)
    return Way(adam, way(torch.optim.Adam(module.parameters(), capturable=True)))
