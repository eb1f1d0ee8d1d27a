"""Test that no writer loses the old file on a full disk, and that each names the file."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deeptn_torch
import numpy as np
import pytest
import torch

import deeptn as dtn
from deeptn.cli import main
from deeptn.files import StoredLayer, StoredModel, load_checkpoint, save_checkpoint
from deeptn.recipe import Recipe

from ..base.test_files import small_files

NET = dtn.network(dtn.LowRank(rank=16), (64, 64))
STORED = StoredModel({"fc": StoredLayer("linear", NET, NET.init(), None)}, {})
DENSE = {"fc.weight": np.random.default_rng(0).standard_normal((64, 64)).astype("float32")}


def model() -> torch.nn.Module:
    return torch.nn.Sequential(deeptn_torch.TNLinear(64, 64, dtn.LowRank(rank=16)))


def heal(path: Path) -> None:
    deeptn_torch.heal(model(), model(), torch.ones(8, 64), Recipe(epochs=1), loss="mse", checkpoint=path)


def report(path: Path) -> None:
    dense = torch.nn.Sequential(torch.nn.Linear(64, 64))
    dtn.report.write_report(path, deeptn_torch.compress(dense, {"0": dtn.LowRank(rank=4)})[1])


def long_plan(path: Path) -> None:
    weights = {f"layer{k}.weight": np.eye(8) for k in range(40)}
    dtn.plan(StoredModel({}, weights), {"params": "80%"}, topologies=["LowRank"], workers=1).save(path)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "network": lambda path: dtn.save(path, NET, NET.init()),
    "model": lambda path: dtn.save_model(STORED, path),
    "model of PyTorch": lambda path: deeptn_torch.save_model(model(), path),
    "dense model": lambda path: save_checkpoint(STORED, path),
    "plan": long_plan,
    "page": report,
    "ONNX": lambda path: deeptn_torch.export_onnx(model(), (torch.ones(1, 64),), path),
    "figure": lambda path: main(["draw", "BrickWall", "--shape", "64,64", "-o", str(path)]),
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_old_file_stays(name, tmp_path, capsys):
    path = tmp_path / ("figure.png" if name == "figure" else "file.html")
    path.write_text("old")
    with small_files(1000):
        if name == "figure":  # the command line prints the error
            assert WRITERS[name](path) == 1
            assert str(path) in capsys.readouterr().err
        else:
            with pytest.raises(OSError, match=r"large|space") as caught:
                WRITERS[name](path)
            assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    WRITERS[name](path)  # with space, each of them writes more than that
    assert path.stat().st_size > 1000


def test_a_checkpoint_of_training(tmp_path):
    path = tmp_path / "c.safetensors"
    with small_files(1000), pytest.raises(OSError, match=r"c\.safetensors"):
        heal(path)
    assert not list(tmp_path.iterdir())


COMMANDS = {
    "compress": ["compress", "m.safetensors", "--budget", "50%", "--topologies", "LowRank", "--jobs", "1", "-o", "out"],
    "decompress": ["decompress", "small.safetensors", "-o", "out"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_line(name, tmp_path):
    save_checkpoint(StoredModel({}, DENSE), tmp_path / "m.safetensors")
    dtn.save_model(STORED, tmp_path / "small.safetensors")
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); sys.argv[0] = 'deeptn'; "
    command = [sys.executable, "-c", code + "from deeptn.cli import main; sys.exit(main())", *COMMANDS[name]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "'out" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_is_not_unpacked(tmp_path, monkeypatch):
    path, folder = tmp_path / "m.npz", tmp_path / "unpacked"
    np.savez_compressed(path, w=np.zeros(2**20))
    assert path.stat().st_size < 2**14
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=2**20))
    with pytest.raises(OSError, match=r"takes 8,388,736 bytes, but .* has 1,048,576 left.*m\.npz"):
        load_checkpoint(path)
    assert not list(folder.iterdir())
    monkeypatch.undo()
    assert load_checkpoint(path).tensors["w"].shape == (2**20,)
