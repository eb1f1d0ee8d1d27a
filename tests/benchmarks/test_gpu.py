"""Check that `benchmarks/gpu.py` runs without deeptn installed and with only a few of its requirements."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).parents[2]

#: Packages installed on such a machine.
PRESENT = ("numpy", "autoray", "cotengra", "msgspec", "rich", "torch")

#: Runs first: hides some packages, and deeptn's entry points, which a checkout does not have.
BARE = """
import importlib.machinery, importlib.metadata, json, runpy, sys
missing = set(json.loads({missing!r}))
class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in missing else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Finder
known = importlib.metadata.entry_points
importlib.metadata.entry_points = lambda **wanted: (
    () if wanted.get("group", "").startswith("deeptn") else known(**wanted)
)
"""


def closure(names: tuple[str, ...]) -> set[str]:
    """Return the distributions with everything they require."""
    found: set[str] = set()
    waiting = [*names]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting += [re.split(r"[^A-Za-z0-9._-]", text)[0] for text in requires if "extra ==" not in text]
    return found


def bare(code: str, *present: str) -> str:
    """Run code in a process that has only these packages and their requirements; return what it prints."""
    there = closure(present)
    modules = importlib.metadata.packages_distributions()
    own = {"deeptn", "deeptn_torch", "deeptn_jax", "deeptn_demo"}
    missing = {
        module
        for module, owners in modules.items()
        if module not in own and not any(re.sub(r"[-_.]+", "-", owner).lower() in there for owner in owners)
    }
    assert {"quimb", "safetensors", "tensorly", "optax"} <= missing
    path = os.pathsep.join((str(ROOT), str(ROOT / "backends")))
    environment = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "DEEPTN_CACHE": "off"}
    code = BARE.format(missing=json.dumps(sorted(missing))) + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_script_runs_on_few_packages_and_uninstalled():
    code = """
sys.path.insert(0, "benchmarks")
sys.argv = ["gpu.py", "--quick"]
runpy.run_path("benchmarks/gpu.py", run_name="__main__")
"""
    said = bare(code, *PRESENT, "jax")
    assert said.count("pass") == 24
    assert "FAIL" not in said
    assert "left out" not in said


@pytest.mark.slow
def test_without_jax_torch_has_its_own_engine():
    """ml_dtypes, which JAX installs, is missing too."""
    code = """
import deeptn, deeptn_torch, torch
net = deeptn.network(deeptn.BrickWall(layers=2), (8, 8))
params = {name: p.requires_grad_() for name, p in net.init(like="torch").items()}
print(net.materialize(params).grad_fn.name(), deeptn.engine.runner_of("jax").__name__)
"""
    assert bare(code, *PRESENT).split() == ["_ContractionBackward", "run_plain"]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu")


def test_what_is_wrong_is_written_down_and_does_not_stop_the_others(script, monkeypatch, tmp_path):
    right = script.torch_engine(torch.device("cpu"))

    def engine(device):
        def compute(case, params, incoming, x):
            value, applied, grads = right(case, params, incoming, x)
            if case.seed == 1:
                grads = {name: 1.001 * grad for name, grad in grads.items()}
            if case.seed == 2:
                raise ValueError("no such kernel")
            return value, applied, grads

        return compute

    def broken(run):
        yield {"label": "one row", "passed": True, "ways": {}}
        raise RuntimeError("out of memory [/on the card]")

    monkeypatch.setattr(script, "torch_engine", engine)
    monkeypatch.setattr(script.Run, "cases", lambda run, count: script.itertools.islice(script.small(0), 4))
    sections = {"correct": (script.correct_torch, 60), "broken": (broken, 60), "slow": (script.train, 0)}
    monkeypatch.setattr(script, "SECTIONS", sections)
    assert not script.measure(script.Run(torch.device("cpu"), True, 0), tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.name == "gpu-cpu.json"
    data = json.loads(file.read_text())
    rows = data["sections"]["correct"]["rows"]
    assert [row["passed"] for row in rows] == [True, False, False, True]
    assert rows[1]["gradient"] == pytest.approx(1e-3, rel=0.1)
    assert rows[2]["error"] == "ValueError: no such kernel"
    assert rows[2]["network"]["topology"].startswith("BrickWall")
    assert data["sections"]["broken"]["error"] == "RuntimeError: out of memory [/on the card]"
    assert len(data["sections"]["broken"]["rows"]) == 1
    assert data["sections"]["slow"]["cut_short"] == "no further row after 1: over 0 s"
    assert {"torch", "deeptn", "python"} <= data["environment"]["versions"].keys()


def test_the_clock_of_a_device(script, monkeypatch):
    """Fake CUDA's events, graphs and memory, since this machine may have no GPU."""
    calls: list[str] = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = len(calls)

        def elapsed_time(self, other):
            return float(other.at - self.at)

    class Context:
        def __init__(self, *of):
            pass

        def __enter__(self):
            return self

        def __exit__(self, kind, *error):
            pass

        def wait_stream(self, other):
            pass

        def replay(self):
            calls.extend(["replay"] * 5)

    class Capture(Context):
        def __exit__(self, kind, *error):
            if kind is not None:
                raise RuntimeError("invalidated by a previous error")

    cuda = SimpleNamespace(
        Event=Event,
        Stream=Context,
        stream=Context,
        current_stream=Context,
        CUDAGraph=Context,
        graph=Capture,
        synchronize=lambda device: None,
        reset_peak_memory_stats=lambda device: None,
        memory_allocated=lambda device: 100,
        max_memory_allocated=lambda device: 130,
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    times = importlib.import_module("gpu_times")
    watch, way = script.Stopwatch(torch.device("cuda"), repeats=7), times.Way(lambda: calls.append("call"))
    row = watch.measure(way)
    assert (row["device_seconds"], row["eager_seconds"], row["graph"]) == (5e-3, 1e-3, None)
    assert (row["peak_bytes"], row["repeats"]) == (30, 7)

    def refuse() -> None:
        raise RuntimeError("not permitted\nwhen stream is capturing")

    row = watch.measure(times.Way(way.call, refuse))
    assert (row["device_seconds"], row["eager_seconds"]) == (1e-3, 1e-3)
    assert row["graph"] == "RuntimeError: not permitted when stream is capturing"
