"""Run a shortened main job from the command line."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from deeptn_demo import controls, workflow
from deeptn_demo.data import Images, load_images
from deeptn_demo.networks import ConvNet
from deeptn_demo.scores import accuracy
from deeptn_demo.workflow import CHOICES, RATES, SETTINGS, WALL, Result, Workflow, chosen
from deeptn_torch import heal, load_model
from deeptn_torch.train import train

import deeptn as dtn
from deeptn.cli import main
from deeptn.models import at_rest, count, view_of
from deeptn.recipe import Recipe

from .test_data import tiny

command = importlib.import_module("deeptn_demo.command")
BRIEF = {"train": Recipe(epochs=2, batch=128), "heal": Recipe(epochs=2, batch=256, distill=0.5)}


@pytest.fixture
def short(monkeypatch):
    """Shorten the small setting: two epochs of training and of healing, and two families."""
    monkeypatch.setitem(workflow.SETTINGS, "small", replace(SETTINGS["small"], **BRIEF))
    few = {label: CHOICES[label] for label in ("low rank", "TT-matrix")}
    monkeypatch.setattr(workflow, "CHOICES", few)
    return workflow.SETTINGS["small"]


def test_the_demo_writes_what_it_says(short, tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    for word in (
        "dense",
        "low rank",
        "TT-matrix",
        "brick wall",
        "narrower dense",
        "fixed random",
        "pruned",
        "int8 alone",
    ):
        assert word in printed, word
    written = {"report.html", "results.json", "model.safetensors", "compression.json", "demo.log"}
    assert {path.name for path in out.iterdir()} - {"plan.yaml"} == written
    numbers = json.loads((out / "results.json").read_text())
    first, second = numbers["results"]
    assert [row["label"] for row in first] == [row["label"] for row in second]
    assert all(row["after"] is not None for row in (*first, *second))
    assert all(row["rate"] in RATES for row in first if row["label"] != "int8 alone")
    rows = {row["label"]: row for row in first}
    limit = int(0.05 * rows["dense"]["params"])
    for label in ("low rank", "TT-matrix", WALL, "narrower dense"):
        assert rows[label]["params"] <= limit, label
    for label in ("pruned, with its indices", "narrower dense in int8"):
        assert 0.8 * 4 * limit < rows[label]["bytes"] <= 4 * limit, label
    assert rows["int8 alone"]["bytes"] < rows["dense"]["bytes"] / 3
    assert numbers["environment"]["versions"]["torch"]
    page = (out / "report.html").read_text()
    assert page.count('role="rowheader"') >= len(rows)
    assert numbers["takeaway"][0] in page
    assert len((out / "demo.log").read_text().splitlines()) == len(first) + len(second)

    model = load_model(ConvNet("small"), out / "model.safetensors")
    data = load_images()
    best = rows[numbers["chosen"]]
    assert best["validation"] == max(rows[label]["validation"] for label in ("low rank", "TT-matrix", WALL))
    assert accuracy(model, data.test_x, data.test_y) == pytest.approx(best["after"])
    assert json.loads((out / "compression.json").read_text())["model_after"] == best["params"]


@pytest.mark.slow
def test_lenet5_on_a_local_folder(tmp_path, monkeypatch, capsys):
    tiny(tmp_path)
    brief = Recipe(epochs=1, batch=4)
    monkeypatch.setitem(workflow.SETTINGS, "lenet5", replace(SETTINGS["lenet5"], train=brief, heal=brief))
    monkeypatch.setattr(workflow, "CHOICES", {"low rank": ("LowRank",)})
    monkeypatch.setattr(workflow, "VALIDATION", 3)
    out = tmp_path / "out"
    arguments = ["demo", "--data", "fashion-mnist", "--data-dir", str(tmp_path), "--model", "lenet5", "--out", str(out)]
    assert main(arguments) == 0
    page = (out / "report.html").read_text()
    assert "lenet5 on fashion-mnist, compressed to 5% of its parameters" in page
    assert "4 training, 2 validation and 3 test images" in page


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


@pytest.fixture(scope="module")
def flow():
    setting = replace(SETTINGS["small"], **BRIEF)
    return Workflow(setting, load_images(), 0)


@pytest.mark.slow
def test_rows_are_the_same_for_the_same_seed(flow):
    again = Workflow(flow.setting, flow.data, 0)
    for one, two in zip(flow.dense.parameters(), again.dense.parameters()):
        assert torch.equal(one, two)
    first, second = flow._planned("TT-matrix"), again._planned("TT-matrix")
    assert (first.before, first.after, first.validation) == (second.before, second.after, second.validation)
    assert first.params == count(view_of(first.model))
    assert first.bytes == at_rest(view_of(first.model))


def test_validation_rows_are_not_trained_on(flow):
    rows = {image.numpy().tobytes() for image in flow.rows[0]}
    held = [image.numpy().tobytes() for image in flow.validation[0]]
    assert len(held) == 143
    assert len(flow.rows[0]) == 1438 - 143
    assert sum(image in rows for image in held) <= 2  # the digits have a few equal images


def test_the_dense_network_stays_as_it_is(flow):
    before = [parameter.clone() for parameter in flow.dense.parameters()]
    for label, compute in flow.rows_of():
        if label in ("dense", "low rank", "fixed random", "pruned, with its indices", "int8 alone"):
            compute()
    assert all(torch.equal(one, two) for one, two in zip(before, flow.dense.parameters()))


@pytest.mark.parametrize("kind", ["small", "lenet5"])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_the_narrower_network_is_as_wide_as_the_limit_allows(kind, share):
    size = lambda model: sum(p.numel() for p in model.parameters())
    limit = int(share * size(ConvNet(kind)))
    model = controls.narrower(kind, limit, size)
    assert 0.8 * limit < size(model) <= limit
    x = torch.ones(1, 1, *(2 * [8 if kind == "small" else 28]))
    assert model(x).shape == (1, 10)


def test_the_narrowest_network():
    model = controls.narrower("small", 10, lambda model: sum(p.numel() for p in model.parameters()))
    assert len(model.fc1.weight) == len(model.conv1.weight) == 1


def test_a_pruned_network_stays_pruned(flow):
    limit = 10_000
    model: Any = controls.pruned(flow.dense, limit)
    assert 0.98 * limit < controls.pruned_bytes(model) <= limit
    left = torch.cat([part.weight.detach().flatten() for part in (model.conv1, model.fc1)])
    dropped = torch.cat([getattr(flow.dense, name).weight.detach().flatten() for name in ("conv1", "fc1")])[left == 0]
    assert left[left != 0].abs().min() >= dropped.abs().max()
    before = {name: mask.clone() for name, mask in model.named_buffers()}
    heal(model, flow.dense, flow.rows, flow.setting.heal)
    for name, mask in model.named_buffers():
        assert torch.equal(mask, before[name])
        part: Any = model.get_submodule(name.rpartition(".")[0])
        assert (part.weight[mask == 0] == 0).all()
        assert int((part.weight != 0).sum()) == int(mask.sum())


def test_int8_has_as_many_values_as_it_counts(flow):
    model = controls.as_int8(flow.dense)
    for one, two in zip(flow.dense.parameters(), model.parameters()):
        if one.ndim > 1:
            step = one.abs().max() / 127
            assert len(two.unique()) <= 255
            assert (one - two).abs().max() <= 0.5001 * step
        else:
            assert torch.equal(one, two)
    weights = [p.numel() for p in model.parameters() if p.ndim > 1]
    biases = sum(p.numel() for p in model.parameters() if p.ndim < 2)
    assert controls.int8_bytes(model) == sum(weights) + 4 * len(weights) + 4 * biases


def test_fixed_random_weights(flow):
    model: Any = controls.fixed_random(flow.dense, ["fc1"])
    assert not model.fc1.weight.requires_grad
    assert model.fc3.weight.requires_grad
    before, after = (float(one.fc1.weight.detach().square().mean()) for one in (flow.dense, model))
    assert after == pytest.approx(before, rel=0.05)
    assert not torch.equal(model.fc1.weight, flow.dense.fc1.weight)


def test_the_choice_is_by_validation():
    def made(label, validation, after, report=True):
        something: Any = object() if report else None
        return Result(label, "family", validation=validation, after=after, report=something)

    rows = [made("a", 90.0, 95.0), made("b", 91.0, 89.0), made("control", 99.0, 99.0, report=False)]
    assert chosen(rows).label == "b"
    with pytest.raises(dtn.PlanError, match="allow more parameters"):
        chosen(rows[2:])


@pytest.mark.slow
def test_a_family_without_small_networks(flow):
    limit = flow.limit
    flow.limit = 300
    try:
        for result in (flow._planned("Tucker"), flow._wall()):
            assert result.after is None
            assert result.note
    finally:
        flow.limit = limit


def test_training_that_diverges_is_reported():
    x, y = torch.full((8, 1, 8, 8), torch.inf), torch.zeros(8, dtype=torch.int64)
    with pytest.raises(dtn.DeepTNError, match="lower the learning rate"):
        train(ConvNet("small"), Images("x", x, y, x, y), Recipe(epochs=1), seed=0)
