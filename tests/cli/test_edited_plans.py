"""Test what ``deeptn`` says about plans that were edited, misspelled options, and files of other programs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import yaml

from deeptn.cli import main
from deeptn.files import StoredModel, save_checkpoint


@pytest.fixture
def model(tmp_path):
    """A checkpoint whose layers are called 1 and 3."""
    draw = np.random.default_rng(0)
    weights = {f"{name}.weight": draw.standard_normal((40, 50)).astype("float32") for name in (1, 3)}
    save_checkpoint(StoredModel({}, weights), tmp_path / "m.safetensors")
    return str(tmp_path / "m.safetensors")


@pytest.fixture
def edited(model, tmp_path, capsys):
    """A function that compresses with a plan whose text was changed, and returns the status and what was said."""
    plan, small = tmp_path / "p.yaml", tmp_path / "s.safetensors"
    assert main(["plan", model, "--budget", "30%", "-o", str(plan), "--jobs", "1", "--topologies", "LowRank"]) == 0

    def compress(change):
        found = yaml.safe_load(plan.read_text())
        plan.write_text(change(found) or yaml.safe_dump(found))
        capsys.readouterr()
        return main(["compress", model, "--plan", str(plan), "-o", str(small), "--jobs", "1"]), capsys.readouterr()

    return compress


@pytest.mark.slow
def test_names_without_quotes(edited, model, tmp_path, capsys):
    def change(found):
        return yaml.safe_dump(found | {"layers": {int(name): layer for name, layer in found["layers"].items()}})

    assert edited(change)[0] == 0
    words = ["--budget", "60%", "-o", str(tmp_path / "q.yaml"), "--override", "1: {max_error: 0.01}", "--jobs", "1"]
    assert main(["plan", model, *words]) == 0
    assert "dense" in yaml.safe_load((tmp_path / "q.yaml").read_text())["layers"]["1"]
    status, said = edited(lambda found: yaml.safe_dump(found).replace("  3:", "  1:"))
    assert status == 1
    assert "p.yaml': the plan has the key '1' twice" in said.err


def test_larger_networks_than_the_limit(edited):
    def change(found):
        found["layers"]["1"]["topology"]["rank"] = 15

    status, said = edited(change)
    assert status == 0
    assert "deeptn: the plan is for 1,200 parameters; with its networks, there are 1,980" in said.err


@pytest.mark.parametrize("limit", ["bytes=40%", "flops=60%", "40%"])
def test_plans_that_keep_their_limit_say_nothing(model, tmp_path, limit, capsys):
    plan, small = str(tmp_path / "p.yaml"), str(tmp_path / "s.safetensors")
    assert main(["plan", model, "--budget", limit, "-o", plan, "--jobs", "1", "--topologies", "LowRank"]) == 0
    assert main(["compress", model, "--plan", plan, "-o", small, "--jobs", "1"]) == 0
    assert "the plan is for" not in capsys.readouterr().err


def test_a_wrong_limit_in_a_plan_is_an_error_before_the_work(edited, tmp_path):
    status, said = edited(lambda found: yaml.safe_dump(found | {"budget": {"params": "1.2e4"}}))
    assert status == 1
    assert "'params' is '1.2e4'" in said.err
    assert not (tmp_path / "s.safetensors").exists()


@pytest.mark.slow
def test_warnings_are_plain_lines(edited, model, tmp_path):
    def change(found):
        found["layers"]["1"]["topology"]["rank"] = 400

    assert edited(change)[0] == 0
    words = ["compress", model, "--plan", str(tmp_path / "p.yaml"), "-o", str(tmp_path / "s.safetensors")]
    said = subprocess.run([sys.executable, "-m", "deeptn", *words], capture_output=True, text=True).stderr
    assert "deeptn: layer '1': LowRank(rank=400) has 3,600 parameters for a weight of 2,000" in said
    assert "UserWarning" not in said


def test_layers_that_the_model_does_not_have(edited):
    def change(found):
        found["layers"]["fc"] = found["layers"].pop("1")

    status, said = edited(change)
    assert status == 1
    assert "the plan: 'fc' matches none" in said.err


def test_without_a_file_a_plan_is_not_saved(model, capsys):
    assert main(["plan", model, "--budget", "30%", "--jobs", "1", "--topologies", "LowRank"]) == 0
    assert "the plan is not saved; -o plan.yaml writes it" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["plan", "compress"])
def test_misspelled_options_are_named(model, tmp_path, command, capsys):
    out = ["-o", str(tmp_path / "s.safetensors")]
    for words, message in ((["--budgte", "20%"], "unrecognized arguments: --budgte"), ([], "--budget is required")):
        with pytest.raises(SystemExit) as ended:
            main([command, model, *words, *out])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def test_files_that_are_missing_or_of_other_programs(model, tmp_path, capsys):
    out = ["-o", str(tmp_path / "s.safetensors")]
    assert main(["compress", model, "--plan", "plna.yaml", *out]) == 1
    assert "deeptn: no file 'plna.yaml'" in capsys.readouterr().err
    np.savez(tmp_path / "m.npz", w=np.ones((3, 3)))
    assert main(["info", str(tmp_path / "m.npz")]) == 1
    assert "is not a safetensors file" in (said := capsys.readouterr().err)
    assert "for other checkpoints, use deeptn inspect" in said


@pytest.mark.slow
def test_what_is_compressed_already_is_named(model, tmp_path, capsys):
    out = ["-o", str(tmp_path / "s.safetensors")]
    assert main(["compress", model, "--budget", "30%", *out, "--ignore", "3", "--jobs", "1"]) == 1
    assert main(["compress", model, "--budget", "60%", *out, "--ignore", "3", "--jobs", "1"]) == 0
    capsys.readouterr()
    assert main(["plan", str(tmp_path / "s.safetensors"), "--budget", "100"]) == 1
    assert "compressed already: '1'" in capsys.readouterr().err
    assert main(["compress", model, "--budget", "1", "-o", str(tmp_path / "t.safetensors")]) == 1
    assert not (tmp_path / "t.safetensors.work").exists() or any((tmp_path / "t.safetensors.work").iterdir())
