"""Test the options of ``deeptn plan`` and ``deeptn compress``: limits, overrides, output, work that is kept."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml

import deeptn as dtn
from deeptn.cli import main
from deeptn.files import StoredModel, load_checkpoint, save_checkpoint

from ..planning.test_plans import TOTAL, tensors


@pytest.fixture
def dense(tmp_path):
    save_checkpoint(StoredModel({}, tensors()), tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_json_is_the_plan_and_the_report(dense, tmp_path, capsys):
    plan, small, back = (str(tmp_path / name) for name in ("p.yaml", "s.safetensors", "b.safetensors"))
    common = [str(dense), "--jobs", "1", "--topologies", "LowRank", "--json"]
    assert main(["plan", *common, "--budget", "40%", "-o", plan, "--pareto"]) == 0
    said = json.loads(capsys.readouterr().out)
    points = said.pop("pareto")
    assert said == yaml.safe_load((tmp_path / "p.yaml").read_text())
    assert [point["error"] for point in points] == sorted((point["error"] for point in points), reverse=True)
    assert main(["compress", str(dense), "--plan", plan, "-o", small, "--jobs", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model_after"] == said["params_after"] <= 0.4 * TOTAL
    assert report["disk_bytes"] == (tmp_path / "s.safetensors").stat().st_size
    for layer in report["layers"]:
        assert layer["bytes_after"] == 4 * layer["params_after"]
        assert layer["bytes_running"] == 4 * (layer["params_after"] + layer["params_before"])
        assert layer["ratio"] == layer["params_before"] / layer["params_after"]
    assert main(["decompress", small, "-o", back, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decoded"] == [layer["name"] for layer in report["layers"]]
    assert names(tmp_path) == ["b.safetensors", "m.safetensors", "p.yaml", "s.safetensors"]


def test_quiet_says_nothing(dense, tmp_path, capsys):
    plan, small = str(tmp_path / "p.yaml"), str(tmp_path / "s.safetensors")
    options = ["--jobs", "1", "--topologies", "LowRank", "--quiet"]
    assert main(["plan", str(dense), "--budget", "90%", "-o", plan, *options]) == 0
    assert main(["compress", str(dense), "--plan", plan, "-o", small, "--jobs", "1", "--quiet"]) == 0
    assert main(["decompress", small, "-o", str(tmp_path / "b.safetensors"), "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == ""


@pytest.mark.slow
def test_several_limits_and_overrides(dense, tmp_path, capsys):
    words = ["plan", str(dense), "--budget", "bytes=60%", "--budget", "flops=80%", "--json", "--jobs", "1"]
    words += ["--topologies", "LowRank,TensorTrain", "--override", "fc2: {topologies: [TensorTrain]}"]
    assert main([*words, "--override", "fc1: {max_error: 0.2}"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["budget"] == {"bytes": "60%", "flops": "80%"}
    assert said["layers"]["fc1"].get("error", 0.0) <= 0.2
    assert said["layers"]["fc2"].get("topology", {}).get("name") in (None, "TensorTrain")


def test_work_is_deleted_or_kept(dense, tmp_path, capsys):
    small, work = tmp_path / "s.safetensors", tmp_path / "work"
    words = ["compress", str(dense), "--budget", "40%", "-o", str(small), "--jobs", "1", "--topologies", "LowRank"]
    assert main([*words, "--work", str(work)]) == 0
    kept, first = names(work), small.read_bytes()
    assert any(name.endswith(".json") for name in kept)
    assert any(name.endswith(".safetensors") for name in kept)
    assert main([*words, "--work", str(work)]) == 0
    assert names(work) == kept
    assert small.read_bytes() == first
    assert main(words) == 0
    assert names(tmp_path) == ["m.safetensors", "s.safetensors", "work"]
    assert small.read_bytes() == first
    capsys.readouterr()


def test_the_picture(dense, tmp_path, capsys):
    picture = tmp_path / "curve.svg"
    words = ["plan", str(dense), "--budget", "40%", "--jobs", "1", "--topologies", "LowRank", "--pareto"]
    assert main([*words, str(picture)]) == 0
    assert "same share for every layer" in capsys.readouterr().out
    assert picture.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "40%", "--pareto", "OUT/curve.gif"], "write a file name that ends in .svg, .png, .pdf"),
        (["--budget", "40%", "--pareto", "OUT/no/curve.svg"], "no directory"),
        (["--budget", "40%", "-o", "OUT"], "is a directory"),
        (["--budget", "byte=40%"], "budget = {'byte': '40%'}; write"),
        (["--budget", "bytes=0"], "'bytes' is 0; expected a positive whole number"),
        (["--budget", "40%", "--override", "fc1"], "write for example 'fc*: {max_error: 0.1}'"),
        (["--budget", "40%", "--override", "fc1: {"], "is not YAML"),
        (["--budget", "40%", "--override", "fx: {max_error: 1}"], "overrides: 'fx' matches none"),
        (["--budget", "40%", "--jobs", "0"], "processes must be at least 1, got 0"),
    ],
)
def test_wrong_options(dense, tmp_path, capsys, words, message):
    assert main(["plan", str(dense), *(word.replace("OUT", str(tmp_path)) for word in words)]) == 1
    assert message in capsys.readouterr().err
    assert names(tmp_path) == ["m.safetensors"]


@pytest.mark.slow
def test_input_that_cannot_be_compressed(dense, tmp_path, capsys):
    small = tmp_path / "s.safetensors"
    small.write_bytes(b"old")
    whole = dense.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    np.savez(tmp_path / "nan.npz", **(tensors() | {"fc2.weight": np.full((32, 24), np.nan)}))  # pyright: ignore[reportArgumentType]
    np.savez(tmp_path / "other.npz", **(tensors() | {"fc1.weight": np.ones((24, 65))}))  # pyright: ignore[reportArgumentType]
    assert main(["plan", str(dense), "--budget", "40%", "-o", str(tmp_path / "p.yaml"), "--jobs", "1"]) == 0
    capsys.readouterr()
    for name, words, message in (
        ("cut.safetensors", ["--budget", "40%"], "is not a safetensors file"),
        ("nan.npz", ["--budget", "40%"], "layer 'fc2': the weight has entries that are not finite"),
        ("other.npz", ["--plan", str(tmp_path / "p.yaml")], "layer 'fc1' has a weight of shape (24, 65)"),
        ("m.safetensors", ["--budget", "bytes=900"], "at least"),
    ):
        assert main(["compress", str(tmp_path / name), *words, "-o", str(small), "--jobs", "1"]) == 1
        assert message in capsys.readouterr().err
        assert small.read_bytes() == b"old"


FULL = """
import resource, sys
from deeptn.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.few(1)
@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_a_full_disk_loses_nothing(dense, tmp_path, command, capsys):
    """Files cannot grow beyond a limit, as on a disk that is full."""
    old = tmp_path / "old.safetensors"
    words = ["compress", str(dense), "--budget", "60%", "-o", str(old), "--jobs", "1", "--topologies", "LowRank"]
    assert main(words) == 0
    capsys.readouterr()
    before = old.read_bytes()
    if command == "decompress":
        words = ["decompress", str(old), "-o", str(tmp_path / "back.safetensors")]
        (tmp_path / "back.safetensors").write_bytes(b"old")
    found = subprocess.run([sys.executable, "-c", FULL, *words], capture_output=True, text=True)
    assert found.returncode == 1
    assert "File too large" in found.stderr
    assert "Traceback" not in found.stderr
    assert old.read_bytes() == before
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]
    if command == "decompress":
        assert (tmp_path / "back.safetensors").read_bytes() == b"old"


def test_completion_knows_the_commands(capsys):
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    said = capsys.readouterr().out
    assert "decompress" in said
    assert "--pareto" in said


@pytest.mark.slow
def test_files_without_model_code(dense, tmp_path):
    """A compressed file opens in NumPy alone, and has what the dense one has."""
    small = tmp_path / "s.safetensors"
    assert main(["compress", str(dense), "--budget", "60%", "-o", str(small), "--jobs", "1", "--quiet"]) == 0
    found = dtn.load_model(small)
    assert found.layers.keys() | {name[:-7] for name in found.tensors if name.endswith(".weight")} == {
        name[:-7] for name in load_checkpoint(dense).tensors if name.endswith(".weight")
    }


@pytest.mark.few(1)
@pytest.mark.parametrize("command", ["plan", "compress", "decompress"])
def test_a_folder_without_permission_to_write(dense, tmp_path, monkeypatch, command, capsys):
    small, folder = tmp_path / "s.safetensors", tmp_path / "locked"
    folder.mkdir()
    assert main(["compress", str(dense), "--budget", "60%", "-o", str(small), "--jobs", "1"]) == 0
    capsys.readouterr()
    monkeypatch.setattr("os.access", lambda path, mode: path != folder)  # permissions do not stop root
    words = [str(small)] if command == "decompress" else [str(dense), "--budget", "60%", "--jobs", "1"]
    assert main([command, *words, "-o", str(folder / "x.safetensors")]) == 1
    assert f"no permission to write into the directory {str(folder)!r}" in capsys.readouterr().err
    assert not names(folder)
