"""Test plans at their edges: unusual dtypes, names, budgets, outputs, and damaged work."""

from __future__ import annotations

import json
from typing import Any

import equinox as eqx
import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import deeptn as dtn
from deeptn.cli import main
from deeptn.files import StoredModel, load_checkpoint, save_checkpoint
from deeptn.models import StoredView, Workers, compress, matches, select
from deeptn.planning import Candidate, Sensitivity, pareto, plan
from deeptn.planning.search import _candidates

from .test_plans import tensors

BUDGET = {"params": "40%"}


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


@pytest.mark.slow
def test_outputs_of_jax_models_weigh_layers():
    x = jax.numpy.asarray(weight(20, 16))
    tree = eqx.nn.MLP(16, 24, 32, 1, key=jax.random.key(0))
    flat = nnx.Sequential(nnx.Linear(16, 32, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(32, 24, rngs=nnx.Rngs(0)))
    for model in (tree, flat):
        found = plan(model, {"params": "60%"}, objective="outputs", inputs=x)
        assert found.targets
        assert all(found.sensitivities[name](0.5) > 0 for name in found.targets)


@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_half_precision_there_and_back(tmp_path, dtype, jobs, capsys):
    number = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    left, right = weight(32, 3), weight(3, 48)
    dense, small, back = (str(tmp_path / f"{name}.safetensors") for name in "dsb")
    save_checkpoint(StoredModel({}, {"fc.weight": (left @ right).astype(number)}), dense)
    words = ["--budget", "300", "-o", small, "--jobs", jobs, "--topologies", "LowRank"]
    assert main(["compress", dense, *words]) == 0
    assert main(["decompress", small, "-o", back]) == 0
    assert capsys.readouterr().err == ""
    after = load_checkpoint(back).tensors["fc.weight"]
    assert after.dtype == number
    error = np.linalg.norm(after.astype(float) - left @ right) / np.linalg.norm(left @ right)
    assert error < (0.02 if dtype == "bfloat16" else 0.003)


def test_large_ranks_come_back_from_the_folder():
    net = dtn.network(dtn.LowRank(rank=5000), (16384, 16384))
    data = json.loads(json.dumps([(dtn.files.network_to_dict(net), 0.5)]))
    assert _candidates(data) == [Candidate(net, 0.5)]


@pytest.mark.parametrize("data", [[[1]], [3], 7, {"a": 1}, [[{"topology": "no"}, 0.5]]])
def test_damaged_results_are_measured_again(data):
    assert _candidates(data) is None


@pytest.mark.slow
def test_a_name_with_brackets_selects_itself(tmp_path):
    assert matches("l[0]", "l0")
    assert select(["l[0]"], ["l0", "l[0]"], "targets") == {"l[0]": ["l[0]"]}
    model = StoredModel({}, {"l0.weight": weight(24, 32), "l[0].weight": weight(24, 32, seed=1)})
    found = plan(model, {"params": "80%"}, ignore=["l0"])
    _, report = compress(StoredView(model), found)
    assert [row.name for row in report.layers] == ["l[0]"]
    assert report.model_after == found.params_after


@pytest.mark.slow
def test_a_plan_does_not_take_other_choices(tmp_path, capsys):
    save_checkpoint(StoredModel({}, tensors()), tmp_path / "m.safetensors")
    words = [str(tmp_path / "m.safetensors"), "--jobs", "1"]
    assert main(["plan", *words, "--budget", "40%", "-o", str(tmp_path / "p.yaml")]) == 0
    words += ["--plan", str(tmp_path / "p.yaml"), "-o", str(tmp_path / "s.safetensors")]
    for more in (["--targets", "fc1"], ["--override", "fc1: {max_error: 0.1}"], ["--topologies", "LowRank"]):
        assert main(["compress", *words, *more]) == 1
        assert "--plan says what layers become" in capsys.readouterr().err
    assert main(["compress", *words, "--ignore", "fc1"]) == 0
    assert "fc1" not in dtn.load_model(tmp_path / "s.safetensors").layers
    assert main(["plan", *words[:3], "--budget", "40%", "--budget", "50%"]) == 1
    assert "there is another limit of 'params'" in capsys.readouterr().err


class Strange(nn.Module):
    def __init__(self, kind: str):
        super().__init__()
        self.kind, self.fc, self.last = kind, nn.Linear(24, 24), nn.Linear(24, 24)
        nn.init.zeros_(self.last.weight)
        self.saved = self.fc.weight.detach().clone()

    def forward(self, x):
        y = self.fc(x)
        if self.kind == "object":
            return object()
        if self.kind == "infinite" and not torch.equal(self.fc.weight, self.saved):
            return y * torch.inf
        return y + self.last(y)


@pytest.mark.slow
def test_zero_weights_and_strange_outputs():
    torch.manual_seed(0)
    x = weight(10, 24)
    found = plan(Strange("zero"), {"params": "60%"}, objective="outputs", inputs=x)
    assert found.sensitivities["last"].measured == ()
    assert found.layers["last"].error < 1e-6
    with pytest.raises(dtn.PlanError, match="the model returns a object without floating-point tensors"):
        plan(Strange("object"), {"params": "60%"}, objective="outputs", inputs=x)
    with pytest.raises(dtn.PlanError, match="layer 'fc': with a network in its place, the outputs"):
        plan(Strange("infinite"), {"params": "60%"}, objective="outputs", inputs=x)
    curves = {"a": [Candidate(None, 0.0), Candidate(dtn.network(dtn.LowRank(rank=1), (40, 40)), 0.5)]}
    assert pareto(curves, {"a": Sensitivity(1.0, ((0.1, 0.0), (0.5, 0.0)))}, 1600, [0.5]).points[0].error < 1e-20
    assert pareto(curves, {"a": Sensitivity(0.0)}, 1600, [0.5]).points[0].error == 0.0
    with pytest.raises(dtn.PlanError, match="no budget between"):
        pareto(curves, {}, 1600, [0.001]).plot()


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"params": None}, "'params' is None; expected a positive whole number"),
        ({"params": 500.5}, "'params' is 500.5; expected a positive whole number"),
        ({"params": "0.001%"}, "which is less than 1 of"),
        ({"params": True}, "expected a positive whole number"),
        ({}, "write"),
        ({"bytes": 1300}, "at least|no choice of networks keeps 1,300 bytes"),
    ],
)
def test_odd_budgets(budget, message):
    with pytest.raises(dtn.PlanError, match=message):
        plan(StoredModel({}, tensors()), budget, topologies=["LowRank"])


@pytest.mark.slow
def test_numbers_of_numpy_and_infinite_importance():
    source = StoredModel({}, tensors())
    budget: Any = {"params": np.int64(1200)}
    found = plan(source, budget, topologies=["LowRank"])
    assert dtn.Plan.from_yaml(found.to_yaml()) == found
    with pytest.raises(dtn.PlanError, match="'importance' is inf; expected a positive number"):
        plan(source, BUDGET, overrides={"*": {"importance": float("inf")}})
    with pytest.raises(dtn.PlanError, match="max_error excludes smaller networks of 'fc1'"):
        plan(source, BUDGET, overrides={"*": {"max_error": 0.01}})


def test_tensors_that_files_do_not_have_matter_to_bytes_alone():
    source = StoredModel({}, tensors() | {"names": np.array(["a", "b"])})
    assert plan(source, BUDGET, topologies=["LowRank"]).targets
    with pytest.raises(dtn.PlanError, match="the size of the file is not known"):
        plan(source, {"bytes": 5000})


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        plan(StoredModel({}, tensors()), BUDGET, workers=Workers(1, folder=tmp_path / "file"))


def test_a_large_layer_that_is_sacrificed_is_named():
    """A table of embeddings without structure, and small layers."""
    weights = {"table.weight": weight(600, 32)} | {f"fc{k}.weight": weight(32, 32, seed=k) for k in range(12)}
    options: dict[str, Any] = {"topologies": ["LowRank"], "workers": 1}
    with pytest.warns(UserWarning, match=r"'table', 61% of all entries, gets an error of 9\d%, and \d+ others stay"):
        sacrificed = plan(StoredModel({}, weights), {"params": "45%"}, **options)
    matters = {"table": {"importance": 20.0}}
    assert plan(StoredModel({}, weights), {"params": "45%"}, overrides=matters, **options).layers["table"].error < 0.9
    assert sacrificed.layers["table"].error > 0.9
