"""Test that plans and cores do not depend on where they are found, nor on interruptions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from deeptn_torch import compress as compress_torch
from torch import nn

import deeptn as dtn
from deeptn.errors import MissingBackendError
from deeptn.files import StoredModel, load_checkpoint, save_checkpoint, save_model
from deeptn.models import Call, StoredView, Workers, compress, key_of
from deeptn.planning import plan

from .test_plans import tensors

BUDGET = {"params": "40%"}


def small(path, workers, found=None):
    """Plan and compress a checkpoint; return the bytes of the new file, and the plan."""
    view = StoredView(load_checkpoint(path))
    found = found or plan(view, BUDGET, workers=workers)
    compress(view, found, workers=workers)
    save_model(view.model, path.with_name("small.safetensors"))
    return path.with_name("small.safetensors").read_bytes(), found


@pytest.fixture
def dense(tmp_path):
    save_checkpoint(StoredModel({}, tensors()), tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


@pytest.mark.slow
def test_one_process_two_and_a_folder_give_the_same_file(dense, tmp_path):
    folder = tmp_path / "work"
    one, found = small(dense, Workers(1))
    two, again = small(dense, Workers(2, folder=folder))
    assert two == one
    assert again == found
    kept = sorted(folder.iterdir())
    assert len(kept) > 4 + 4
    read, same = small(dense, Workers(1, folder=folder))
    assert read == one
    assert same == found
    assert sorted(folder.iterdir()) == kept
    for file in kept:
        if file.suffix == ".safetensors":
            assert dtn.load(file)[0] in {layer.network for layer in found.layers.values()}


@pytest.mark.slow
def test_files_and_models_in_two_processes(tmp_path):
    """Arrays of every origin reach the processes: mapped from archives that are gone, torch's, half precision."""
    np.savez(tmp_path / "m.npz", **tensors())  # pyright: ignore[reportArgumentType]
    torch.save({name: torch.tensor(array) for name, array in tensors().items()}, tmp_path / "m.pt")
    one = plan(StoredModel({}, tensors()), BUDGET)
    for name in ("m.npz", "m.pt"):
        assert plan(tmp_path / name, BUDGET, workers=2) == one
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        model = nn.Sequential(nn.Linear(24, 32), nn.Linear(32, 16)).to(dtype)
        found = plan(model, {"params": "60%"}, workers=1)
        assert plan(model, {"params": "60%"}, workers=2) == found
        alone, apart = (compress_torch(model, found, workers=workers)[0].state_dict() for workers in (1, 2))
        assert alone.keys() == apart.keys()
        assert all(torch.equal(alone[name], apart[name]) for name in alone)


def test_damaged_and_foreign_results_are_found_again(dense, tmp_path):
    folder = tmp_path / "work"
    one, _ = small(dense, Workers(1, folder=folder))
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:-7])
    assert small(dense, Workers(1, folder=folder))[0] == one
    (folder / "mine.json").write_text("{}")
    Workers(folder=folder).store.clear()
    assert [file.name for file in folder.iterdir()] == ["mine.json"]
    (folder / "mine.json").unlink()
    Workers(folder=folder).store.clear()
    assert not folder.exists()


def test_keys_depend_on_everything():
    given = [
        ("a", np.ones(2)),
        ("a", np.zeros(2)),
        ("a", np.ones(2, "float32")),
        ("b", np.ones(2)),
        ("a", np.ones((2, 1))),
        ("a", np.ones(2), None),
    ]
    assert len({key_of(*parts) for parts in given}) == len(given)


def fail(kind):
    raise MissingBackendError("nothing", "demo") if kind == "missing" else dtn.SpecError("bad weight")


@pytest.mark.few(1)
@pytest.mark.parametrize("processes", [1, 2])
def test_errors_name_the_layer(processes):
    with pytest.raises(dtn.SpecError, match="layer 'fc1': bad weight"):
        list(Workers(processes).run([Call("fc1", 0, fail, ("spec",))]))
    with pytest.raises(MissingBackendError, match="needs the package 'nothing'"):
        list(Workers(processes).run([Call("fc1", 0, fail, ("missing",))]))


def test_wrong_workers():
    with pytest.raises(dtn.PlanError, match="processes must be at least 1, got 0"):
        Workers(0)
    pytest.importorskip("distributed")
    with pytest.raises(dtn.PlanError, match=r"no dask scheduler at 'tcp://127.0.0.1:9'"):
        list(Workers(scheduler="tcp://127.0.0.1:9").run([Call("fc1", 0, pow, (3, 2))]))


SCRIPT = """
import sys
from pathlib import Path
from deeptn.models import Workers
from tests.planning.test_workers import small
small(Path(sys.argv[1]), Workers(1, folder=sys.argv[2]))
print("done")
"""


@pytest.mark.slow
def test_a_killed_run_goes_on(dense, tmp_path):
    """A process is killed after each new file, until one comes to its end."""
    whole, _ = small(dense, Workers(1))
    target, folder = dense.with_name("small.safetensors"), tmp_path / "work"
    target.write_bytes(b"the old file")
    command = [sys.executable, "-c", SCRIPT, str(dense), str(folder)]
    kills = 0
    for wanted in (1, 5, 12, 1000):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            while process.poll() is None and len(list(folder.glob("*"))) < wanted:
                time.sleep(0.005)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
                assert target.read_bytes() == b"the old file"
    assert kills >= 2
    assert target.read_bytes() == whole


def die_once(marker, number):
    """Kill the process of the worker, the first time."""
    if number == 3 and not os.path.exists(marker):
        with open(marker, "w"):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


@pytest.mark.slow
def test_a_cluster_gives_the_same_file(dense, tmp_path):
    distributed = pytest.importorskip("distributed")
    whole, _ = small(dense, Workers(1))
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        assert small(dense, Workers(scheduler=cluster.scheduler_address))[0] == whole
        with distributed.Client(cluster) as client:
            assert small(dense, Workers(scheduler=client, folder=tmp_path / "work"))[0] == whole
            calls = [Call("fc", n, die_once, (str(tmp_path / "marker"), n)) for n in range(8)]
            assert sorted(Workers(scheduler=client).run(calls)) == [(n, n**2) for n in range(8)]
            assert (tmp_path / "marker").exists()
