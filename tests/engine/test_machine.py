"""Test the measured figures of this machine, and the choices based on them."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest

import deeptn as dtn
from deeptn.engine import TYPICAL, Machine, seconds

# `deeptn.network` is a function, so the module of that name has to come from import_module.
machine = importlib.import_module("deeptn.engine.machine")
network = importlib.import_module("deeptn.network")

NET = dtn.network(dtn.TTMatrix(rank=3), (64, 64))
QUICK = Machine(1e-6, 1e-11, 1e-9, 2e-9)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPTN_CACHE", str(tmp_path / "figures"))
    machine._machine.cache_clear()
    yield tmp_path / "figures"
    machine._machine.cache_clear()


@pytest.mark.few(1)
def test_figures_are_positive_and_of_the_right_size(library):
    found = machine.measure(library)
    assert 1e-8 < found.step < 1e-2
    assert 1e-14 < found.flop < 1e-8
    assert 1e-12 < found.element < 1e-6
    assert 1e-12 < found.fresh < 1e-6


def test_figures_are_measured_once(folder, monkeypatch):
    first = machine.machine("numpy")
    (file,) = folder.iterdir()
    assert Machine(**json.loads(file.read_text())) == first
    machine._machine.cache_clear()
    monkeypatch.setattr(machine, "measure", None)  # another measurement would raise
    assert machine.machine(np.ones(3)) == first


BAD = [json.dumps(QUICK.to_dict() | {"flop": value}) for value in (0.0, -1.0, float("nan"), 10**400)]


def test_arrays_without_data_are_not_measured(folder, torch, jax):
    with torch.device("meta"):
        found = machine.machine("torch")  # measured on the CPU anyway
    assert found.flop > 1e-14
    assert len(list(folder.glob("machine-*"))) == 1
    assert machine.machine(torch.ones(3, device="meta")) == TYPICAL
    seen = []
    machine._machine.cache_clear()
    jax.jit(lambda x: seen.append(machine.machine("jax")) or x)(1.0)
    assert seen == [TYPICAL]
    assert len(list(folder.glob("machine-*"))) == 1


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"step": 1}', '{"step": "a", "flop": 1, "element": 1, "fresh": 1}', "[" * 10000, *BAD]
)
def test_a_damaged_file_is_measured_anew(folder, monkeypatch, text):
    monkeypatch.setattr(machine, "measure", lambda library, device: QUICK)
    machine.machine("numpy")
    (file,) = folder.iterdir()
    file.write_text(text)
    machine._machine.cache_clear()
    assert machine.machine("numpy") == QUICK
    assert json.loads(file.read_text()) == QUICK.to_dict()


def test_without_a_folder_the_figures_are_kept_in_memory(monkeypatch):
    monkeypatch.setenv("DEEPTN_CACHE", "off")
    machine._machine.cache_clear()
    calls = []
    monkeypatch.setattr(machine, "measure", lambda library, device: calls.append(library) or QUICK)
    assert machine.machine("numpy") is machine.machine("numpy")
    assert calls == ["numpy"]
    machine._machine.cache_clear()


@pytest.mark.parametrize(
    ("figures", "mode"),
    [
        (Machine(1e-9, 1e-9, 1e-9, 1e-9), "apply"),  # arithmetic is expensive, and apply needs less
        (Machine(1.0, 1e-15, 1e-15, 1e-15), "materialize"),  # a step is expensive, and decoding has fewer
    ],
)
def test_the_choice_follows_the_figures_and_explains_itself(monkeypatch, figures, mode):
    monkeypatch.setattr(network, "machine", lambda like: figures)
    choice = NET.choose(batch=4)
    assert choice.mode == mode
    assert choice.seconds[mode] == min(choice.seconds.values())
    for part in ("4 rows", "to decode W and multiply", "to apply", "steps", "flops", "elements", str(figures)):
        assert part in str(choice)


def test_seconds_is_linear():
    cost = NET.cost()
    assert seconds(cost, Machine(2.0, 3.0, 5.0, 7.0)) == 2 * cost.steps + 3 * cost.flops + 5 * cost.write
    large = dtn.network(dtn.TTMatrix(rank=3), (4096, 4096)).cost()
    assert seconds(large, Machine(0.0, 0.0, 5.0, 7.0)) == 7 * large.write


@pytest.mark.parametrize("batch", [0, -1, 1.5])
def test_choose_wants_a_batch(batch):
    with pytest.raises(dtn.SpecError, match="batch"):
        NET.choose(batch)


def test_choose_wants_a_library_that_there_is():
    with pytest.raises(dtn.SpecError, match="like = 'cupy'"):
        NET.choose(4, like="cupy")
