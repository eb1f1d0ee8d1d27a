"""Test ``deeptn plan``, ``deeptn compress`` and ``deeptn decompress``."""

from __future__ import annotations

import numpy as np
import pytest

import deeptn as dtn
from deeptn.cli import main
from deeptn.files import StoredModel, load_checkpoint, save_checkpoint


@pytest.fixture
def dense(tmp_path):
    draw = np.random.default_rng(0)
    left, right = draw.standard_normal((32, 3)), draw.standard_normal((3, 48))
    tensors = {"fc.weight": left @ right, "fc.bias": np.zeros(32), "head.weight": draw.standard_normal((8, 32))}
    save_checkpoint(
        StoredModel({}, {name: array.astype("float32") for name, array in tensors.items()}), tmp_path / "m.safetensors"
    )
    return tmp_path / "m.safetensors"


def test_there_and_back(dense, tmp_path, capsys):
    plan, small, back = (str(tmp_path / name) for name in ("plan.yaml", "small.safetensors", "back.safetensors"))
    assert main(["plan", str(dense), "--budget", "600", "-o", plan]) == 0
    said = capsys.readouterr().out
    assert "fc     32 × 48  LowRank(rank=3)" in said
    assert dtn.Plan.load(plan).params_after <= 600
    assert main(["compress", str(dense), "--plan", plan, "-o", small]) == 0
    said = capsys.readouterr()
    assert f"wrote {small}" in said.out
    assert said.err == ""
    assert list(dtn.load_model(small).layers) == ["fc"]
    assert main(["decompress", small, "-o", back]) == 0
    assert "decoded 1 weights" in capsys.readouterr().out
    before, after = load_checkpoint(dense).tensors, load_checkpoint(back).tensors
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, atol=1e-4)


@pytest.mark.slow
def test_a_budget_in_place_of_a_plan(dense, tmp_path, capsys):
    options = ["--budget", "30%", "--topologies", "LowRank", "--ignore", "head", "-o", str(tmp_path / "s.safetensors")]
    assert main(["compress", str(dense), *options]) == 0
    assert list(dtn.load_model(tmp_path / "s.safetensors").layers) == ["fc"]
    options = ["--budget", "240", "--targets", "*", "--jobs", "1", "-o", str(tmp_path / "t.safetensors")]
    assert main(["compress", str(dense), *options]) == 0
    said = capsys.readouterr().err
    assert "weights have an error above 10%" in said
    assert "train it, or choose a larger budget" in said


@pytest.mark.few(5)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compress", "MODEL", "--budget", "600", "-o", "OUT/no/s.safetensors"], "no directory"),
        (["compress", "MODEL", "--budget", "600", "-o", "OUT/s.pt"], "write a file name that ends in .safetensors"),
        (["compress", "MODEL", "--budget", "20", "-o", "OUT/s.safetensors"], "the budget is 20 of"),
        (
            ["compress", "MODEL", "--targets", "head", "--budget", "100%", "-o", "OUT/s.safetensors"],
            "leaves every layer dense",
        ),
        (["compress", "MODEL", "--plan", "MODEL", "-o", "OUT/s.safetensors"], "is not a text file"),
        (["plan", "OUT/none.npz", "--budget", "5%"], "no file"),
        (["plan", "MODEL", "--budget", "5percent"], "'params' is '5percent'"),
        (["plan", "MODEL", "--budget", "600", "--topologies", "LowRunk"], "did you mean 'LowRank'"),
        (["decompress", "MODEL", "-o", "OUT/b.safetensors"], "has no generated layer"),
    ],
)
def test_wrong_input(dense, tmp_path, capsys, arguments, message):
    before = sorted(tmp_path.iterdir())
    found = [word.replace("MODEL", str(dense)).replace("OUT", str(tmp_path)) for word in arguments]
    assert main(found) == 1
    said = capsys.readouterr().err
    assert message in said
    kept = tmp_path / "s.safetensors.work"  # what has been measured is not lost
    assert kept.is_dir() == (f"finished work is in {kept}" in said)
    assert sorted(path for path in tmp_path.iterdir() if path != kept) == before
