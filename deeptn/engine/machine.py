"""Measure how fast an array library is on this machine, once, and cache the figures on disk for later choices."""

from __future__ import annotations

import hashlib
import importlib
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np
from autoray import do

from ..arrays import convert, library_of, target, to_numpy
from ..base import cache_folder, read_cache, write_cache
from ..spec import Leg, NetworkSpec, Node, Stage
from .compiler import compile_network
from .cost import TYPICAL, Cost, Machine
from .runner import run

#: Increased whenever the measurements change; part of the file names.
VERSION = 2


def machine(like: Any) -> Machine:
    """Return the speed of a library on this machine and device, in float32.

    Parameters
    ----------
    like : str or array
        ``"numpy"``, ``"torch"``, ``"jax"``, or an array, which also sets the device.

    Returns
    -------
    Machine
        Measured in about a second on the first call, then read from a file in `deeptn.base.cache_folder`: one for each
        library, version, device and number of threads. JAX is measured under ``jax.jit``. If nothing can be measured
        (under a tracer, or with arrays without data), these are typical figures, which are not cached.
    """
    found, _, device = target(like, "float32", None)
    device = found.home if device is None else str(device)
    try:
        return _machine(found.name, device, found.threads())
    except Exception:  # arrays without data (meta, fake, traced): each library raises its own error for these
        return TYPICAL


@cache
def _machine(name: str, device: str | None, threads: int | None) -> Machine:
    version = importlib.import_module(name).__version__
    key = [VERSION, name, version, device, threads, platform.machine(), platform.processor(), platform.node()]
    folder = cache_folder()
    if folder is None:
        return measure(name, device)
    file = folder / f"machine-{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.json"
    known = _figures(read_cache(file, dict[str, float]))
    if known is not None:
        return known
    found = measure(name, device)
    write_cache(file, found.to_dict())
    return found


def _figures(data: dict[str, float] | None) -> Machine | None:
    """Return figures from a file; None if they are not all positive numbers."""
    if data is None or data.keys() != {field.name for field in fields(Machine)} or not min(data.values()) > 0.0:
        return None
    return Machine(**data)


def measure(name: str, device: str | None = None) -> Machine:
    """Time a program of many small steps, a program dominated by arithmetic, and permuted copies."""
    seconds, cost = _decode_seconds(_chain(16), name, device)
    step = seconds / cost.steps
    seconds, cost = _decode_seconds(_product(1024, 512), name, device)
    flop = max(seconds - step, 0.1 * seconds) / cost.flops
    moved = []
    for size in (16, 160):  # 4 MiB, and more than `deeptn.engine.cost.FRESH` elements
        array = np.ones((64, size, 1024), "float32")
        seconds = _seconds(_permuted_copy, [convert(array, name, "float32", device)])
        moved.append(max(seconds - 3 * step, 0.1 * seconds) / array.size)
    return Machine(step, flop, *moved)


def _permuted_copy(arrays: Sequence[Any]) -> Any:
    return do("reshape", do("transpose", arrays[0], (1, 0, 2)), (-1,))


def _decode_seconds(spec: NetworkSpec, name: str, device: str | None) -> tuple[float, Cost]:
    """Return the time that decoding a network takes, and its cost."""
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal(shape) for shape in spec.param_shapes.values()]
    inputs = [convert(array, name, "float32", device) for array in arrays]
    order = tuple(leg.name for leg in spec.legs)
    program = compile_network(spec, order, tuning=library_of(inputs[0]).tuning)
    return _seconds(lambda some: run(program, some), inputs), program.cost


def _seconds(call: Callable[[Sequence[Any]], Any], inputs: Sequence[Any]) -> float:
    """Return the minimum time over several calls, so that other load on the machine does not count."""
    lib = library_of(inputs[0])
    call = lib.compiled(call)
    to_numpy(call(inputs).reshape(-1)[:1])  # raises if the arrays have no data
    times = []
    begin = time.perf_counter()
    while len(times) < 4 or (time.perf_counter() - begin < 0.1 and len(times) < 200):
        start = time.perf_counter()
        lib.wait(call(inputs))
        times.append(time.perf_counter() - start)
    return min(times)


def _chain(length: int) -> NetworkSpec:
    """Build a tensor train whose cores differ in shape, so that no two of its steps can be merged."""
    legs = tuple(Leg(f"x{k}", 1 + k % 3, 0) for k in range(length))
    bonds = tuple((f"b{k}", 2 + k % 5) for k in range(1, length))
    nodes = tuple(
        Node(f"G{k}", tuple(ix for ix in (f"b{k}", f"x{k}", f"b{k + 1}") if ix not in ("b0", f"b{length}")))
        for k in range(length)
    )
    return NetworkSpec(legs, (Stage(nodes, tuple(leg.name for leg in legs)),), bonds)


def _product(side: int, rank: int) -> NetworkSpec:
    legs = (Leg("x", side, 0), Leg("y", side, 1))
    nodes = (Node("A", ("x", "k")), Node("B", ("k", "y")))
    return NetworkSpec(legs, (Stage(nodes, ("x", "y")),), (("k", rank),))
