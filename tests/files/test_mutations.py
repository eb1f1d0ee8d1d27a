"""Test that files with hostile contents are refused with an error of deeptn, quickly, or can be used."""

from __future__ import annotations

import io
import json
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import deeptn_torch
import numpy as np
import pytest
import torch
import yaml
from torch import nn

import deeptn as dtn
from deeptn.base import CACHE, files
from deeptn.engine import search
from deeptn.files import StoredLayer, StoredModel, load_checkpoint
from deeptn.planning import Plan
from deeptn.recipe import Recipe

from . import mutations

DATA = Path(__file__).parents[1] / "data"

#: Time for reading and using a file, in seconds. The machines that run tests may be busy.
PATIENCE = 10.0

#: Memory for it, in bytes: more address space is an error.
SPACE = 2**30


class Kind(NamedTuple):
    """A kind of file: contents, a mutation, and how it is read and used."""

    data: bytes
    mutate: Callable[[bytes, random.Random], bytes]
    use: Callable[[Path], object]


def network_file(net: dtn.Network, **options: Any) -> Kind:
    def use(path: Path) -> None:
        found, params = dtn.load(path)
        found.materialize(params)

    with tempfile.TemporaryDirectory() as folder:
        dtn.save(Path(folder, "w"), net, net.init(**options))
        return Kind(Path(folder, "w").read_bytes(), mutations.safetensors, use)


def stored(name: str) -> Kind:
    whole = network_file(dtn.network("LowRank", (4, 4))) if name.startswith("network") else model_file(None)
    return whole._replace(data=(DATA / f"{name}.safetensors").read_bytes())


def model_file(cores: Any) -> Kind:
    def use(path: Path) -> None:
        for layer in dtn.load_model(path).layers.values():
            layer.network.materialize(layer.params)
        for array in load_checkpoint(path).tensors.values():
            float(np.abs(array.astype("complex128")).sum())

    wall, low = dtn.network(dtn.BrickWall(layers=2), (8, 12)), dtn.network(dtn.LowRank(rank=2), (4, 8))
    shared = low.init()
    layers = {
        "fc": StoredLayer("linear", wall, wall.init(), np.zeros(8, "float32")),
        "head": StoredLayer("linear", low, shared, None),
        "tied": StoredLayer("linear", low, shared, None),
    }
    tensors = {"x": np.ones(3), "y": np.ones((2, 2), "float16"), "z": np.ones(4, "complex64")}
    with tempfile.TemporaryDirectory() as folder:
        dtn.save_model(StoredModel(layers, tensors), Path(folder, "m"), cores)
        return Kind(Path(folder, "m").read_bytes(), mutations.safetensors, use)


def plan_file() -> Kind:
    weights = {"a.weight": np.diag(0.5 ** np.arange(16.0)), "b.weight": np.eye(12, 20)}
    text = dtn.plan(StoredModel({}, weights), {"params": "60%"}).to_yaml()

    def mutate(data: bytes, dice: random.Random) -> bytes:
        if dice.random() < 0.2:
            return mutations.damaged(data, dice)
        return mutations.dumps(mutations.mutated(yaml.safe_load(data), dice)).encode()  # JSON is YAML

    def use(path: Path) -> None:
        for net in Plan.load(path).targets.values():
            assert net.num_params > 0

    return Kind(text.encode(), mutate, use)


def training_checkpoint() -> Kind:
    recipe, data = Recipe(epochs=2, batch=8), (torch.ones(8, 6), torch.ones(8, 4))

    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(deeptn_torch.TNLinear(6, 4, dtn.LowRank(rank=1)))

    def use(path: Path, on_step: Any = None) -> None:
        deeptn_torch.train(model(), data, recipe, 0, on_step, validation=data, checkpoint=path)

    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(StopIteration):  # in the second epoch
            use(Path(folder, "c"), on_step=iter([None]).__next__)
        return Kind(Path(folder, "c").read_bytes(), mutations.safetensors, use)


def arrays_of_numpy() -> Kind:
    def use(path: Path) -> None:
        path = path.rename(path.with_suffix(".npz"))
        for array in load_checkpoint(path).tensors.values():
            array.tobytes()

    content = io.BytesIO()
    np.savez_compressed(content, a=np.arange(30.0).reshape(5, 6), b=np.ones(4, "int8"))
    return Kind(content.getvalue(), mutations.damaged, use)


def cached_path() -> Kind:
    net = dtn.network(dtn.BrickWall(layers=2, activation=None), (8, 12))
    params = net.init(dtype="float64")
    expected = net.materialize(params)

    def mutate(data: bytes, dice: random.Random) -> bytes:
        if dice.random() < 0.2:
            return mutations.damaged(data, dice)
        return mutations.dumps(mutations.mutated(json.loads(data), dice)).encode()

    def use(path: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(search, "read_cache", lambda file, kind: files.read_cache(path, kind))
            patch.setattr(search, "write_cache", lambda file, data: None)
            patch.setattr(search, "cache_folder", lambda: path.parent)
            CACHE.clear()
            search.PATHS.clear()
            assert np.allclose(net.materialize(params), expected, rtol=1e-12, atol=1e-14)
        CACHE.clear()
        search.PATHS.clear()

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPTN_CACHE", folder)
        CACHE.clear()
        search.PATHS.clear()
        net.program("materialize")
        (file,) = Path(folder).iterdir()
        return Kind(file.read_bytes(), mutate, use)


def own_family() -> dtn.Network:
    wall = dtn.network(dtn.BrickWall(layers=2), (8, 12))
    return dtn.Network(wall.spec, wall.layout)


KINDS: dict[str, Callable[[], Kind]] = {
    "wall": lambda: network_file(dtn.network(dtn.BrickWall(layers=2), (8, 12))),
    "complex": lambda: network_file(dtn.network(dtn.TTMatrix(rank=2), (8, 12)), dtype="complex64"),
    "sum": lambda: network_file(
        dtn.network(dtn.Sum(terms=(dtn.LowRank(rank=1), dtn.BrickWall(layers=1))), (4, 4)), dtype="float16"
    ),
    "specification": lambda: network_file(own_family()),
    "version 1": lambda: stored("network-1-bfloat16"),
    "version 1, complex": lambda: stored("network-1-complex64"),
    "version 2": lambda: stored("network-2-own"),
    "model": lambda: model_file(None),
    "model in int8": lambda: model_file("int8"),
    "model in bfloat16": lambda: model_file("bfloat16"),
    "model of version 1": lambda: stored("model-1"),
    "model of version 2": lambda: stored("model-2"),
    "version 3": lambda: stored("network-3"),
    "model of version 3": lambda: stored("model-3"),
    "plan": plan_file,
    "training": training_checkpoint,
    "path": cached_path,
    "arrays of NumPy": arrays_of_numpy,
}


def check(name: str, seeds: range, folder: Path) -> None:
    """Read and use a file with the mutation of every seed."""
    kind, path, wrong = KINDS[name](), folder / "mutated.safetensors", list[str]()
    kind.use(_written(path, kind.data))

    def give_up(*_: object) -> None:
        raise TimeoutError

    before, space = signal.signal(signal.SIGALRM, give_up), resource.getrlimit(resource.RLIMIT_AS)
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + SPACE, space[1]))
        for seed in seeds:
            _written(path, kind.mutate(kind.data, random.Random(f"{name} {seed}")))
            started = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # overflow, where a mutation makes large numbers
                    kind.use(path)
            except dtn.DeepTNError:
                pass
            except Exception as error:
                wrong.append(f"seed {seed}, after {time.monotonic() - started:.1f} s: {error!r:.200}")
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, space)
    assert not wrong, "\n".join(wrong[:20])


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("name", KINDS)
def test_mutated_files(name, tmp_path):
    check(name, range(130), tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("name", KINDS)
def test_many_mutated_files(name, tmp_path):
    check(name, range(130, 3500), tmp_path)
