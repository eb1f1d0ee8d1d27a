"""Measure times and memory on a device, with calls replayed from a CUDA graph and with calls made from Python."""

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
from deeptn.arrays import CPU, library_of
from deeptn.engine.machine import machine
from deeptn.engine.runner import run
from deeptn.topologies import describe

#: Number of warm-up calls.
WARM = 3


@dataclass(frozen=True)
class Way:
    """One of several ways to compute something.

    Attributes
    ----------
    call : callable
        The function to time. It returns tensors to compare, or None.
    replayed : callable, optional
        The function to capture as a graph, if it is not `call`.
    """

    call: Callable[[], Any]
    replayed: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Stopwatch:
    """Measures the median time of repeated calls on a device.

    Parameters
    ----------
    device : torch.device
    repeats : int
    seconds : float
        Time limit: if all repeats would take longer, fewer are made, but at least five.
    """

    device: torch.device
    repeats: int = 100
    seconds: float = 2.5

    def measure(self, way: Way) -> dict[str, Any]:
        """Return the times of one way.

        Returns
        -------
        dict
            ``device_seconds``: between two events around a replay of the graph. ``host_seconds``: until a call from
            Python returns. ``eager_seconds``: between two events around that call. ``graph``: None, or why capturing
            failed (then ``device_seconds`` is ``eager_seconds``). ``peak_bytes``: allocated in addition to what was
            allocated before. ``repeats``.
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
        except Exception as error:  # not every call can be captured; record the reason
            reason = said(first_of(error))
        return {"device_seconds": device, "host_seconds": host, "eager_seconds": eager, "graph": reason} | row

    def wait(self) -> None:
        """Wait until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak(self, call: Callable[[], Any]) -> int | None:
        """Return the peak bytes that a call allocates; None on a CPU."""
        if self.device.type != "cuda":
            return None
        self.wait()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        call()
        self.wait()
        return torch.cuda.max_memory_allocated(self.device) - before

    def captured(self, call: Callable[[], Any]) -> Callable[[], None]:
        """Capture a call as a CUDA graph, and return its replay function."""
        if self.device.type != "cuda":
            raise RuntimeError("graphs can only be captured on CUDA devices")
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM):
                call()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # The outer context restores the stream; a failed capture does not.
        with torch.cuda.stream(torch.cuda.current_stream(self.device)), torch.cuda.graph(graph):
            call()
        for _ in range(WARM):
            graph.replay()
        self.wait()
        return graph.replay

    def _median(self, call: Callable[[], Any], repeats: int, settle: bool) -> tuple[float, float]:
        """Return the seconds between two events, and until the call returns; `settle` first waits for the device."""
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
    """Return an error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def first_of(error: BaseException) -> BaseException:
    """Return the root cause of an error: if a call cannot be captured, ending the capture fails too."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def compared(label: str, ways: Mapping[str, Way], watch: Stopwatch) -> dict[str, Any]:
    """Check and time several ways; return a row of results.

    Parameters
    ----------
    label : str
    ways : mapping of str to Way
        The first way is deeptn.
    watch : Stopwatch

    Returns
    -------
    dict
        ``label``, ``ways``, ``ratios`` (device seconds of the first way divided by those of each other one),
        ``differences`` (of the results from those of the first way), and ``passed`` (the first way works and no other
        differs). A way that fails has an ``error`` in ``ways``; the others are still measured.
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
        except Exception as error:  # measure the other ways anyway
            row["ways"][name] = {"error": said(error)}
            row["passed"] &= name != base
    seconds = {name: found["device_seconds"] for name, found in row["ways"].items() if "error" not in found}
    row["ratios"] = {name: seconds[base] / seconds[name] for name in seconds if name != base and base in seconds}
    return row


def decode(watch: Stopwatch, legs: int, seed: int) -> Iterator[dict[str, Any]]:
    """Time decoding a weight of 2^legs entries without a gradient."""
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
    """Time decoding and the gradient of ``sum(W * G)``."""
    random = torch.Generator().manual_seed(seed)
    for layers in (1, 3):
        net = brickwall(legs, layers)
        params = {name: p.requires_grad_() for name, p in net.init(seed, like="torch", device=watch.device).items()}
        incoming = torch.randn(net.shape, generator=random).to(watch.device)

        def naive(params: Mapping[str, Tensor] = params, layers: int = layers) -> Tensor:
            return gate_by_gate(params, legs, layers)

        ways = {
            "deeptn": _gradients(lambda net=net, params=params: net.materialize(params), params, incoming),
            "gate by gate": _gradients(naive, params, incoming),
            "copy": _copy(incoming),
        }
        yield compared(f"gradient 2^{legs}, M={layers}", ways, watch)


def tables(watch: Stopwatch, legs: int, seed: int) -> Iterator[dict[str, Any]]:
    """Time decoding and the gradient with the thresholds for this device, and with those for a CPU."""
    random = torch.Generator().manual_seed(seed)
    side = 2 ** (5 * legs // 12)
    for net in (brickwall(legs, 3), *(dtn.network(family(), (side, side)) for family in (dtn.MERA, dtn.Tree))):
        params = {name: p.requires_grad_() for name, p in net.init(seed, like="torch", device=watch.device).items()}
        incoming = torch.randn(net.shape, generator=random).to(watch.device)
        ways = {}
        for name, tuning in (("deeptn", library_of(incoming).tuning), ("CPU's table", CPU)):
            program = net.program("materialize", tuning=tuning)
            inputs = list(params.values())
            ways[name] = _gradients(lambda program=program, inputs=inputs: run(program, inputs), params, incoming)
        yield compared(f"gradient {describe(net.topology)} {net.shape[0]} × {net.shape[1]}", ways, watch)


def _gradients(make: Callable[[], Tensor], params: Mapping[str, Tensor], incoming: Tensor) -> Way:
    """Return a way that makes a weight and passes a gradient back to the parameters."""

    def call() -> list[Any]:
        make().reshape(incoming.shape).backward(incoming)
        found = [p.grad for p in params.values()]
        for p in params.values():
            p.grad = None
        return found

    return Way(call)


def _copy(tensor: Tensor) -> Way:
    """Return a way that reads and writes as many entries as a tensor has; it has no result to compare."""

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
    """A layer with the cores of a TT-matrix; it multiplies the input by one core after another."""

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
    """Time a training step of a layer: forward, backward, Adam."""
    torch.manual_seed(seed)
    for into, out in sides:
        x, y = torch.randn(batch, into).to(watch.device), torch.randn(batch, out).to(watch.device)
        for family in (dtn.TTMatrix(rank=8), dtn.BrickWall(layers=2)):
            layer = TNLinear(into, out, family)
            naive = CoreByCore(layer) if isinstance(family, dtn.TTMatrix) else GateByGate(layer, family.layers)
            dense = layer.to_linear()
            for module in (layer, naive, dense):  # drawn on the CPU, whatever the device's generator does
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
    """Return a step with Adam's defaults; the graph uses ``capturable``, which keeps the step count on the device."""

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
