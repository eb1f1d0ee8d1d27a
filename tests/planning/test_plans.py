"""Test plans: the limit is kept, nothing uniform is better, and the file says it all."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import deeptn as dtn
from deeptn import models
from deeptn.files import StoredModel, save_checkpoint
from deeptn.planning import LayerPlan, Plan, plan


def tensors() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)

    def weight(rows: int, columns: int, decay: float) -> np.ndarray:
        left = draw.standard_normal((rows, rows)) / np.arange(1, rows + 1) ** decay
        return (left @ draw.standard_normal((rows, columns))).astype("float32")

    return {
        "fc1.weight": weight(24, 64, 1.5),
        "fc1.bias": np.zeros(24, "float32"),
        "fc2.weight": weight(32, 24, 0.2),
        "head.weight": weight(10, 32, 0.0),
        "flat.weight": np.ones((16, 16), "float32"),
        "norm.weight": np.ones(8, "float32"),
    }


TOTAL = sum(array.size for array in tensors().values())


@pytest.fixture(scope="module")
def found() -> Plan:
    return plan(StoredModel({}, tensors()), {"params": "40%"})


def test_the_limit_is_kept_and_used(found):
    assert found.params_before == TOTAL
    assert 0.38 * TOTAL < found.params_after <= 0.4 * TOTAL
    assert found.params_after == 24 + 8 + sum(layer.params for layer in found.layers.values())
    assert list(found.layers) == ["fc1", "fc2", "head", "flat"]
    flat = found.layers["flat"]
    assert flat.network is not None
    assert flat.params <= 32
    assert flat.error < 1e-6


def test_errors_and_parameters_are_those_of_the_compressed_model(found):
    view = models.StoredView(StoredModel({}, tensors()))
    _, report = models.compress(view, found)
    assert report.model_after == found.params_after
    for row in report.layers:
        assert row.error <= found.layers[row.name].error * 1.001 + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("percent", [20, 40, 70])
@pytest.mark.parametrize("family", ["LowRank", "TensorTrain"])
def test_no_uniform_budget_is_better(percent, family):
    source = tensors()
    whole = plan(StoredModel({}, source), {"params": f"{percent}%"})
    total = sum(layer.error**2 for layer in whole.layers.values())
    weights = {name[:-7]: array for name, array in source.items() if array.ndim == 2}
    size = sum(array.size for array in weights.values())
    share = (int(TOTAL * percent / 100) - (TOTAL - size)) / size
    uniform = 0.0
    for array in weights.values():
        try:
            uniform += dtn.decompose(array, family, budget=int(share * array.size)).error ** 2
        except dtn.SpecError:  # below the smallest network
            uniform += 1.0
    assert total <= uniform * (1 + 1e-9)


def test_the_file_is_the_plan(found, tmp_path):
    found.save(tmp_path / "plan.yaml")
    read = Plan.load(tmp_path / "plan.yaml")
    assert read == found
    assert read.targets == found.targets
    assert "topology: {name: LowRank, rank: " in (tmp_path / "plan.yaml").read_text()
    text = str(found)
    assert "fc1" in text
    assert f"{TOTAL:,} -> {found.params_after:,}" in text


def test_an_edited_file(found):
    text = found.to_yaml()
    start = text.index("  head:")
    head = "  head:\n    shape: [10, 32]\n    topology: {name: LowRank, rank: 1}\n"
    edited = text[:start] + head + text[text.index("  flat:") :]
    changed = Plan.from_yaml(edited)
    assert changed.layers["head"].params == 42
    assert math.isnan(changed.layers["head"].error)
    assert replace(changed, layers={**changed.layers, "head": found.layers["head"]}) == found


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("format: deeptn.plan", "format: other", "a plan starts with 'format: deeptn.plan'"),
        ("version: 1", "version: 9", "a plan of version 9"),
        ("budget:", "bugdet:", r"the plan has the key 'bugdet'.*did you mean 'budget'"),
        ("name: LowRank", "name: LowRunk", r"layer '\w+' of the plan: .*did you mean 'LowRank'"),
        ("shape: [24, 64]", "shape: 24", r"layer 'fc1' of the plan: Expected `array`, got `int` - at `.\.shape`"),
        ("    shape: [24, 64]", "    shape: [24, 64]\n    color: red", "layer 'fc1' of the plan has the key 'color'"),
        ("layers:", "layers: [", "the plan is not YAML"),
    ],
)
def test_files_that_are_no_plans(found, tmp_path, old, new, message):
    text = found.to_yaml()
    assert old in text
    (tmp_path / "plan.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(dtn.FormatError, match=message):
        Plan.load(tmp_path / "plan.yaml")


@pytest.mark.slow
def test_processes_and_paths_change_nothing(found, tmp_path):
    save_checkpoint(StoredModel({}, tensors()), tmp_path / "m.safetensors")
    assert plan(tmp_path / "m.safetensors", {"params": "40%"}, workers=2) == found


def test_models_of_frameworks(found):
    torch = pytest.importorskip("torch")
    deeptn_torch = pytest.importorskip("deeptn_torch")
    source = tensors()
    shapes = {name[:-7]: array.shape for name, array in source.items() if array.ndim == 2}
    parts = {name: torch.nn.Linear(*reversed(shape), bias=f"{name}.bias" in source) for name, shape in shapes.items()}
    model = torch.nn.ModuleDict(parts | {"norm": torch.nn.RMSNorm(8)})
    model.load_state_dict({name: torch.as_tensor(array) for name, array in source.items()})
    assert plan(model, {"params": "40%"}) == found
    small, report = deeptn_torch.compress(model, found)
    assert sum(p.numel() for p in small.parameters()) == found.params_after == report.model_after


def test_models_of_equinox():
    jax, equinox = pytest.importorskip("jax"), pytest.importorskip("equinox")
    model = equinox.nn.MLP(24, 10, 16, 1, key=jax.random.key(0))
    found = plan(model, {"params": "60%"}, topologies=["LowRank"])
    assert list(found.layers) == ["layers.0", "layers.1"]
    from deeptn_jax.equinox import compress

    assert compress(model, found)[1].model_after == found.params_after


def test_layers_that_stay_dense():
    limit = int(0.9 * TOTAL)
    found = plan(StoredModel({}, tensors()), {"params": limit}, targets=["fc*", "head"], ignore=["head"])
    why = {name: layer.why for name, layer in found.layers.items()}
    assert why["head"] == "ignored"
    assert why["flat"] == "not among the targets"
    assert found.params_after <= limit
    everything = plan(StoredModel({}, tensors()), {"params": "100%"}, topologies=["LowRank"])
    assert everything.layers["fc2"] == LayerPlan((32, 24), None, 0.0, "its parameters are worth most here")


@pytest.mark.few(4)
@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"params": "1%"}, r"the budget is \d+ of 2,\d+ parameters; .* at least \d+ are needed, 32 of them outside"),
        ({"params": "0%"}, "'params' is '0%'; expected a positive whole number or a percentage"),
        ({"params": "many"}, "'params' is 'many'"),
        ({"params": 0.5}, "'params' is 0.5"),
        ({"parms": 5}, r"budget = \{'parms': 5\}; write"),
        (5, "budget = 5; write"),
    ],
)
def test_bad_budgets(budget, message):
    with pytest.raises(dtn.PlanError, match=message):
        plan(StoredModel({}, tensors()), budget)


def test_bad_models():
    with pytest.raises(dtn.PlanError, match=r"or a model of PyTorch, Equinox or NNX.*; got int|no dense layer"):
        plan(3, {"params": 5})
    with pytest.raises(dtn.PlanError, match="no dense layer that can be compressed"):
        plan(StoredModel({}, {"bias": np.ones(3)}), {"params": 5})
    bad = tensors() | {"fc2.weight": np.full((32, 24), np.nan)}
    with pytest.raises(dtn.PlanError, match="layer 'fc2': the weight has entries that are not finite"):
        plan(StoredModel({}, bad), {"params": "40%"})
    with pytest.raises(dtn.PlanError, match="targets: 'fx' matches none"):
        plan(StoredModel({}, tensors()), {"params": "40%"}, targets=["fx"])
