"""Test the table of errors over parameters, and plans for models with other names."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
import torch
from deeptn_jax import equinox as dte
from deeptn_jax import nnx as dtx
from deeptn_torch import compress
from flax import nnx
from torch import nn

import deeptn as dtn
from deeptn.files import StoredModel
from deeptn.planning import Candidate, Plan, Sensitivity, pareto, plan
from deeptn.planning.allocation import allocate
from deeptn.planning.pareto import _params, _size

from .test_plans import tensors


def candidates(*pairs):
    """Return candidates of a 40 x 40 weight with these ranks and errors, and the dense one."""
    found = [Candidate(dtn.network(dtn.LowRank(rank=rank), (40, 40)), error) for rank, error in pairs]
    return [Candidate(None, 0.0), *found]


def test_points_are_the_best_choices():
    curves = {"a": candidates((1, 0.9), (3, 0.5), (8, 0.1)), "b": candidates((1, 0.3), (4, 0.2))}
    total, sensitivities = 3200 + 100, {"a": Sensitivity(4.0)}
    shares = (0.01, 0.1, 0.2, 0.5, 1.0)
    found = pareto(curves, sensitivities, total, shares)
    assert len(found.points) == 4
    for point, share in zip(found.points, shares[1:]):
        best = math.inf
        for pair in itertools.product(*curves.values()):
            params = sum(1600 if one.network is None else one.network.num_params for one in pair)
            if params + 100 <= total * share:
                best = min(best, math.sqrt((4 * pair[0].error ** 2 + pair[1].error ** 2) / 5))
        assert point.error == pytest.approx(best)
        assert point.params <= share * total
        assert point.uniform is None or point.error <= point.uniform + 1e-12
    assert found.points[-1].dense == 2
    assert found.points[-1].decibel == math.inf
    assert "100.0%" in str(found)


def test_the_plot_shows_both_lines():
    found = plan(StoredModel({}, tensors()), {"params": "40%"}, topologies=["LowRank"]).pareto()
    errors = [point.error for point in found.points]
    assert errors == sorted(errors, reverse=True)
    (ax,) = found.plot().axes
    assert [line.get_label() for line in ax.lines] == ["chosen for each layer", "same share for every layer"]
    assert np.asarray(ax.lines[0].get_ydata()).tolist() == [error for error in errors if error]
    with pytest.raises(dtn.PlanError, match="a plan from a file has no curves"):
        Plan.from_yaml(plan(StoredModel({}, tensors()), {"params": "40%"}, topologies=["LowRank"]).to_yaml()).pareto()


@pytest.mark.slow
def test_one_plan_for_three_frameworks(tmp_path: Path):
    """Closed forms give the same cores, whatever the names of the layers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 16))
    arrays: dict[str, Any] = {name: np.asarray(array.detach()) for name, array in model.named_parameters()}
    found = plan(model, {"params": "60%"})
    assert found.targets
    tree = eqx.nn.MLP(24, 16, 32, 1, key=jax.random.key(0))
    flat: Any = nnx.Sequential(nnx.Linear(24, 32, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(32, 16, rngs=nnx.Rngs(0)))
    for number, layer in zip("02", tree.layers):
        new = (arrays[f"{number}.weight"], arrays[f"{number}.bias"])
        layer = eqx.tree_at(lambda part: (part.weight, part.bias), layer, tuple(map(jax.numpy.asarray, new)))
        tree = eqx.tree_at(lambda whole, k=int(number) // 2: whole.layers[k], tree, layer)
    for number in "02":
        flat.layers[int(number)].kernel[...] = arrays[f"{number}.weight"].T
    small: Any
    small, report = compress(model, found)
    text = found.to_yaml().replace("layers:\n", "names: {'0': layers.0, '2': layers.1}\nlayers:\n", 1)
    (tmp_path / "plan.yaml").write_text(text)
    other = Plan.load(tmp_path / "plan.yaml")
    assert Plan.from_yaml(other.to_yaml()) == other
    mlp: Any
    mlp, again = dte.compress(tree, other)
    text = text.replace("'2': layers.1", "'2': layers.2")
    sequential: Any
    sequential, third = dtx.compress(flat, Plan.from_yaml(text))
    errors = [[row.error for row in one.layers] for one in (report, again, third)]
    np.testing.assert_allclose(errors[1:], errors[:1] * 2, rtol=1e-5, atol=1e-7)
    for number, one, two in ((0, mlp.layers[0], sequential.layers[0]), (2, mlp.layers[1], sequential.layers[2])):
        if str(number) in found.targets:
            for core, array in small[number].cores.items():
                np.testing.assert_allclose(one.cores[core], array.detach(), atol=1e-6)
                np.testing.assert_allclose(two.cores[core][...], array.detach(), atol=1e-6)


@pytest.mark.few(1)
@pytest.mark.parametrize("names", ["[a]", "{a: 1.5}", "3"])
def test_names_that_are_no_map(names):
    text = plan(StoredModel({}, tensors()), {"params": "40%"}, topologies=["LowRank"]).to_yaml()
    with pytest.raises(dtn.FormatError, match=r"Expected `(object|str)`, got .* at `.\.names"):
        Plan.from_yaml(text.replace("layers:\n", f"names: {names}\nlayers:\n", 1))


@pytest.mark.slow
def test_fits_by_gradient_agree_in_error(tmp_path):
    """A plan with a family without a closed form gives errors within 1 % in the three frameworks."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(32, 32, bias=False))
    weight = np.asarray(model[0].weight.detach())
    found = plan(model, {"params": "40%"}, topologies=[dtn.BrickWall()], workers=1)
    assert found.targets
    tree: Any = eqx.nn.Sequential([eqx.nn.Linear(32, 32, use_bias=False, key=jax.random.key(0))])
    tree = eqx.tree_at(lambda whole: whole.layers[0].weight, tree, jax.numpy.asarray(weight))
    flat: Any = nnx.Sequential(nnx.Linear(32, 32, use_bias=False, rngs=nnx.Rngs(0)))
    flat.layers[0].kernel[...] = weight.T
    renamed = Plan.from_yaml(found.to_yaml().replace("layers:\n", "names: {'0': layers.0}\nlayers:\n", 1))
    errors = [
        compress(model, found)[1].layers[0].error,
        dte.compress(tree, renamed)[1].layers[0].error,
        dtx.compress(flat, renamed)[1].layers[0].error,
    ]
    assert max(errors) < 1.01 * min(errors), errors


def test_changes_add_up_as_cosines_that_multiply():
    found = Sensitivity(measured=((0.01, 0.01), (1.0, 1.0)))
    assert found(0.0) == found(1e-20) == 0.0
    assert found(0.01) == pytest.approx(1e-4, rel=1e-4)
    for changes in ((0.3, 0.5), (0.1, 0.9, 1.2)):
        cosines = [1 - change**2 / 2 for change in changes]
        assert math.exp(-sum(map(found, changes)) / 2) == pytest.approx(math.prod(cosines))
    assert found(1.3) < found(1.5) == found(10.0) < math.inf  # nothing is left
    assert Sensitivity(2.0, found.measured)(0.5) == 2 * found(0.5)


def test_a_large_layer_is_not_sacrificed_to_many_others():
    """Its change of the outputs saturates: the squares would give up what everything else depends on."""
    curves, counts = {}, {}
    for name, size, top in [("large", 100, 1.35), *((f"small{k}", 4, 0.4) for k in range(25))]:
        nets = [dtn.network(dtn.LowRank(rank=rank), (8 * size, 8)) for rank in (1, 2, 4)]
        curves[name] = [Candidate(None, 0.0), *(Candidate(net, error) for net, error in zip(nets, (0.99, 0.8, 0.5)))]
        counts[name] = Sensitivity(measured=((0.2, 0.4 * top), (0.5, 0.75 * top), (1.0, top)))
    values = [np.array([counts[name](one.error) for one in curve]) for name, curve in curves.items()]
    costs = [np.array([[_params(one, _size(curve))] for one in curve]) for curve in curves.values()]
    limit = sum(cost[3, 0] for cost in costs)
    squares = [np.array([-2 * math.expm1(-value / 2) for value in found]) for found in values]
    assert allocate(values, costs, [limit])[0] == 3
    assert allocate(squares, costs, [limit])[0] < 3
