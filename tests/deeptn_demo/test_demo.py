"""Run a shortened main job from the command line."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import replace

import pytest
import torch
from deeptn_demo import experiment
from deeptn_demo.data import Images, load_images
from deeptn_demo.experiment import SETTINGS, ConvNet, Result, methods, run_seed, steps, summarize
from deeptn_demo.page import takeaway
from deeptn_demo.scores import accuracy, mean_loss
from deeptn_torch import TNLinear, load_model
from deeptn_torch.train import train

import deeptn as dtn
from deeptn.cli import main
from deeptn.recipe import Recipe

from .test_data import tiny

command = importlib.import_module("deeptn_demo.command")


@pytest.fixture
def short(monkeypatch):
    """Shorten the small setting: two epochs of training, one of healing, one number of layers."""
    setting = replace(
        SETTINGS["small"], train=Recipe(epochs=2, batch=128), heal=Recipe(epochs=1, batch=256), layers=(1,)
    )
    monkeypatch.setitem(experiment.SETTINGS, "small", setting)
    return setting


def test_the_demo_writes_what_it_says(short, tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    for word in ("dense, trained further", "fixed random", "BrickWall M=1", "Tucker", "Tree", "LowRank"):
        assert word in printed, word
    assert {path.name for path in out.iterdir()} == {
        "report.html",
        "results.json",
        "model.safetensors",
        "compression.json",
        "demo.log",
    }
    numbers = json.loads((out / "results.json").read_text())
    rows = {(row["label"], row["budget"]): row for row in numbers["summary"]}
    wall = rows["BrickWall M=1", 264]
    assert (wall["params"], wall["seeds"], wall["start"]) == (264, 2, "random")
    assert wall["after_sd"] is not None
    assert rows["LowRank", 264]["params"] is None
    assert "580 parameters in total, more than 264" in rows["LowRank", 264]["missing"]
    assert all(
        row["params"] is None or row["budget"] is None or row["params"] <= row["budget"]
        for row in rows.values()
        if row["family"] != "narrower dense"
    )
    assert numbers["environment"]["versions"]["torch"]
    page = (out / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("<tr") == 1 + len(rows)
    assert numbers["takeaway"] in page
    assert len((out / "demo.log").read_text().splitlines()) == len(numbers["results"])
    assert page.count("data:image/svg+xml;base64,") == 3

    model = load_model(ConvNet("small"), out / "model.safetensors")
    data = load_images()
    best = min((r for r in numbers["results"] if r["start"]), key=lambda r: r["train_loss"])
    assert accuracy(model, data.test_x, data.test_y) == pytest.approx(best["after"])
    assert mean_loss(model, data.train_x, data.train_y) == pytest.approx(best["train_loss"], rel=1e-4)
    compression = json.loads((out / "compression.json").read_text())
    assert compression["params_after"] == best["params"]


def test_lenet5_on_a_local_folder(tmp_path, monkeypatch, capsys):
    tiny(tmp_path)
    brief = Recipe(epochs=1, batch=4)
    monkeypatch.setitem(
        experiment.SETTINGS, "lenet5", replace(SETTINGS["lenet5"], train=brief, heal=brief, layers=(1,))
    )
    out = tmp_path / "out"
    arguments = ["demo", "--data", "fashion-mnist", "--data-dir", str(tmp_path), "--model", "lenet5", "--out", str(out)]
    assert main(arguments) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "lenet5 on fashion-mnist: 58,080 weights in fc1 (120 × 400) and fc2 (84 × 120) compressed" in printed
    assert "6 training and 3 test images" in (out / "report.html").read_text()


WRONG = {
    "command": (["dmo"], 2, "invalid choice"),
    "option": (["demo", "--epochs", "3"], 2, "unrecognized arguments"),
    "data": (["demo", "--data", "imagenet"], 2, "invalid choice"),
    "seeds text": (["demo", "--seeds", "many"], 2, "invalid int"),
    "seeds 0": (["demo", "--seeds", "0"], 1, "--seeds must be at least 1"),
    "digits folder": (["demo", "--data-dir", "/nowhere"], 1, "bundled with scikit-learn; leave out the folder"),
    "folder": (["demo", "--data", "mnist", "--data-dir", "/nowhere"], 1, "no file train-images-idx3-ubyte"),
    "model": (["demo", "--model", "lenet5"], 1, "digits has 8 x 8; write --model small"),
}


@pytest.mark.parametrize(("arguments", "status", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arguments(arguments, status, message, capsys):
    try:
        found = main(arguments)
    except SystemExit as stop:
        found = stop.code
    assert found == status
    assert message in capsys.readouterr().err


def test_out_is_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(["demo", "--out", str(tmp_path / "file")]) == 1
    assert "is a file; name a folder" in capsys.readouterr().err
    assert main(["demo", "--out", str(tmp_path / "file" / "below")]) == 1
    assert "Not a directory" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("deeptn 0.")


def test_a_command_whose_package_is_missing(monkeypatch, capsys):
    from importlib.metadata import EntryPoint

    broken = EntryPoint("demo", "deeptn_nothing.demo:DEMO", "deeptn.commands")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [broken])
    assert main(["demo"]) == 1
    assert "needs an optional package" in capsys.readouterr().err


def test_lenet5_rows_are_at_most_as_large_as_brickwall():
    rows = methods(SETTINGS["lenet5"])
    walls = [row.params for row in rows if row.family == "BrickWall"]
    assert walls == [268, 716, 1612, 2956]
    for row in rows:
        assert row.params is None or row.budget is None or row.params <= row.budget
        assert (row.params is None) == (row.missing is not None or "dense" in row.family or "random" in row.family)


def test_the_narrower_network_is_as_large_as_the_budget_allows():
    setting = SETTINGS["lenet5"]
    dense = sum(p.numel() for p in ConvNet("lenet5").parameters())
    rows = [row for row in methods(setting) if row.family == "narrower dense"]
    assert len(rows) == len(setting.layers)
    for row in rows:
        assert row.hidden is not None
        assert row.budget is not None
        first, second = row.hidden
        total = dense - 58_080 + row.budget
        sizes = [sum(p.numel() for p in ConvNet("lenet5", h).parameters()) for h in (row.hidden, (first, second + 1))]
        assert sizes[0] <= total < sizes[1]


def test_steps_counts_all_runs(short):
    data = load_images()
    taken = []

    class Count:
        def begin(self, what, steps):
            pass

        def step(self):
            taken.append(1)

    run_seed(short, data, 0, Count())
    assert len(taken) == steps(short, len(data.train_x))


def test_the_takeaway_says_when_a_control_wins():
    def row(family, after, budget=None):
        return {"family": family, "label": family, "after": after, "budget": budget, "ratio": 26.0, "seeds": 1}

    rows = [row("dense", 98.0), row("fixed random", 95.0), row("narrower dense", 96.0, 100), row("Tree", 97.0, 100)]
    words = takeaway(rows, rows[-1])
    assert "Tree classifies 97.0 % of the test images correctly with 26 times fewer parameters" in words
    assert "Controls: narrower dense 96.0 %, fixed random 95.0 %." in words
    assert "not worth" not in words
    assert "one seed" in words
    assert "at this size" not in words
    assert " TTMatrix reaches 97.2 % at this size." in takeaway([*rows, row("TTMatrix", 97.2, 100)], rows[-1])
    rows[2]["after"] = 97.5
    assert "not worth their parameters: narrower dense is at least as good" in takeaway(rows, rows[-1])


def test_paired_seeds_and_controls(short):
    data = load_images()
    kept = []
    rows = [run_seed(short, data, 3, keep=lambda r, m, p: kept.append((r, m)), skip=lambda m, s: m.family not in
            ("dense", "fixed random")) for _ in range(2)]  # fmt: skip
    for first, second in zip(*rows):
        assert (first.before, first.after, first.train_loss) == (second.before, second.after, second.train_loss)
    random_model = next(m for r, m in kept if r.family == "fixed random")
    assert not random_model.fc1.weight.requires_grad
    assert random_model.fc3.weight.requires_grad
    dense = next(r for r, _ in kept if r.family == "dense")
    assert (dense.params, dense.ratio) == (40_800, 1.0)


def test_summary_takes_the_start_with_the_lower_training_loss():
    def row(start, loss, after, seed):
        return Result("Tree", "Tree rank 2", 100, seed, 90, start=start, train_loss=loss, before=1.0, after=after)

    rows = [
        row("weight", 0.5, 70.0, 0),
        row("random", 0.4, 60.0, 0),
        row("weight", 0.7, 80.0, 1),
        row("random", 0.3, 64.0, 1),
    ]
    (summary,) = summarize(rows)
    assert (summary["start"], summary["after"], summary["after_other"]) == ("random", 62.0, 75.0)
    assert summary["after_sd"] == pytest.approx(2.8284, rel=1e-4)


def test_training_that_diverges_is_reported():
    x, y = torch.full((8, 1, 8, 8), torch.inf), torch.zeros(8, dtype=torch.int64)
    with pytest.raises(dtn.DeepTNError, match="lower the learning rate"):
        train(ConvNet("small"), Images("x", x, y, x, y), Recipe(epochs=1), seed=0)


def test_the_time_to_decode_is_the_best_of_the_repeats(monkeypatch):
    model = torch.nn.Sequential(TNLinear(8, 4), torch.nn.ReLU(), TNLinear(4, 2))
    ticks = iter([0.0, 0.5, 1.0, 1.003, 2.0, 2.004])  # of three repeats
    decoded = []
    monkeypatch.setattr(experiment.time, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(dtn.Network, "materialize", lambda net, params: decoded.append(net.shape))
    assert experiment._decode_ms(model, repeats=3) == pytest.approx(3.0)
    assert decoded == [(4, 8), (2, 4)] * 3
    assert next(ticks, None) is None
    assert experiment._decode_ms(torch.nn.Linear(2, 2)) is None
