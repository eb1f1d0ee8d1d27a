"""Test the search for the smallest network within a drop of the score."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import deeptn_torch
import equinox as eqx
import jax
import numpy as np
import pytest
import torch
from deeptn_jax import equinox as tne
from torch import nn

import deeptn as dtn
from deeptn.planning.studies import Trial, next_trial
from deeptn.recipe import Recipe

torch.manual_seed(0)
X = torch.randn(400, 24) @ (torch.randn(24, 24) * torch.exp(-torch.arange(24) / 6.0)[:, None])
LABELS = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
#: A search among few candidates.
FAST: dict[str, Any] = {"topologies": ["LowRank"]}
RECIPE = Recipe(epochs=3, lr=0.01, batch=50, distill=0.5)


def model() -> Any:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))
    deeptn_torch.train(net, (X[:250], LABELS[:250]), Recipe(epochs=15, lr=0.01, batch=50))
    return net


NET = model()


def accuracy(net: Any) -> float:
    return 100 * float((net(X[250:]).argmax(1) == LABELS[250:]).float().mean())


def heal(small: Any, teacher: Any, checkpoint: Any) -> Any:
    return deeptn_torch.heal(small, teacher, (X[:250], LABELS[:250]), RECIPE, checkpoint=checkpoint)


def count(net: Any) -> int:
    return sum(param.numel() for param in net.parameters())


@pytest.mark.slow
def test_the_smallest_within_the_drop():
    before = {name: tensor.clone() for name, tensor in NET.state_dict().items()}
    small, found = deeptn_torch.search_by_drop(NET, {"drop": 4.0}, accuracy, heal, trials=6, **FAST)
    assert found.before == accuracy(NET)
    assert found.best is not None
    best: Any = found.trials[found.best]
    assert best.params == count(small) < count(NET) // 4
    assert accuracy(small) == best.score >= found.before - 4.0
    assert all(
        trial.accepted == (trial.score is not None and trial.score >= found.before - 4.0) for trial in found.trials
    )
    assert all(trial.params is None or trial.params >= best.params for trial in found.trials if trial.accepted)
    assert any(trial.score != trial.compressed for trial in found.trials)
    assert all(torch.equal(tensor, before[name]) for name, tensor in NET.state_dict().items())
    assert "largest drop 4\n" in str(found)
    assert "smallest" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["best"] == found.best


@pytest.mark.slow
def test_without_healing_a_smaller_drop_needs_more():
    sizes = [
        deeptn_torch.search_by_drop(NET, {"drop": drop}, accuracy, trials=5, **FAST)[1] for drop in (1.0, 10.0, 50.0)
    ]
    params = [found.trials[found.best].params for found in sizes if found.best is not None]
    assert len(params) == 3
    assert params[0] >= params[1] > params[2], params  # type: ignore[operator]


@pytest.mark.slow
def test_the_model_that_heal_returns_counts():
    def healed(small: Any, teacher: Any, checkpoint: Any) -> Any:
        replica = copy.deepcopy(small)
        heal(replica, teacher, checkpoint)
        return replica

    searches = [
        deeptn_torch.search_by_drop(NET, {"drop": 4.0}, accuracy, h, trials=3, **FAST)[1] for h in (heal, healed)
    ]
    assert [trial.score for trial in searches[0].trials] == [trial.score for trial in searches[1].trials]


class Stop(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 4, 8])
def test_what_was_killed_ends_with_the_same_network(after, tmp_path):
    expected, whole = deeptn_torch.search_by_drop(
        NET, {"drop": 3.0}, accuracy, heal, trials=3, folder=tmp_path / "whole", **FAST
    )
    steps = iter(range(1000))

    def dying(small: Any, teacher: Any, checkpoint: Any) -> Any:
        def stop() -> None:
            if next(steps) == 5 * after:
                raise Stop

        return deeptn_torch.heal(small, teacher, (X[:250], LABELS[:250]), RECIPE, on_step=stop, checkpoint=checkpoint)

    folder = tmp_path / "killed"
    torch.manual_seed(after)
    with pytest.raises(Stop):
        deeptn_torch.search_by_drop(NET, {"drop": 3.0}, accuracy, dying, trials=3, folder=folder, **FAST)
    torch.manual_seed(after + 100)
    found, again = deeptn_torch.search_by_drop(NET, {"drop": 3.0}, accuracy, heal, trials=3, folder=folder, **FAST)
    assert [(one.share, one.params, one.score) for one in again.trials] == [
        (one.share, one.params, one.score) for one in whole.trials
    ]
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name])
    alone, _ = deeptn_torch.search_by_drop(NET, {"drop": 3.0}, accuracy, heal, trials=3, **FAST)
    assert all(torch.equal(tensor, alone.state_dict()[name]) for name, tensor in expected.state_dict().items())


def test_a_finished_search_is_read(tmp_path):
    calls = []

    def counted(net: Any) -> float:
        calls.append(net)
        return accuracy(net)

    small = found = None
    for _ in range(2):
        small, found = deeptn_torch.search_by_drop(NET, {"drop": 5.0}, counted, trials=3, folder=tmp_path, **FAST)
    assert len(calls) == 2 + 3  # the second time, only the model before
    assert found is not None
    assert count(small) == found.trials[found.best or 0].params
    more = deeptn_torch.search_by_drop(NET, {"drop": 5.0}, accuracy, trials=5, folder=tmp_path, **FAST)[1]
    assert more.trials[:3] == found.trials
    with pytest.raises(dtn.FormatError, match="the trials belong to another search"):
        deeptn_torch.search_by_drop(NET, {"drop": 6.0}, accuracy, trials=3, folder=tmp_path, **FAST)
    (tmp_path / "trials.json").write_text("{")
    with pytest.raises(dtn.FormatError, match="not the trials of a search"):
        deeptn_torch.search_by_drop(NET, {"drop": 5.0}, accuracy, trials=3, folder=tmp_path, **FAST)


@pytest.mark.slow
def test_other_front_ends():
    mlp = eqx.nn.MLP(24, 3, 64, 2, key=jax.random.key(0))
    x: Any = X.numpy()
    goal = jax.vmap(mlp)(x)

    def score(small: Any) -> float:
        return -float(np.square(jax.vmap(small)(x) - goal).mean())

    def healed(small: Any, teacher: Any, checkpoint: Any) -> Any:
        return tne.heal(small, teacher, x, Recipe(epochs=5, lr=0.01, batch=50), checkpoint=checkpoint)

    limit = -0.3 * float(np.square(goal).mean())
    small, found = tne.search_by_drop(mlp, {"drop": -limit}, score, healed, trials=3, **FAST)
    assert score(small) >= limit
    assert found.best is not None


def trial(share: float, accepted: bool) -> Trial:
    return Trial(share, 1, 0.0, 0.0, accepted, 0.0)


def test_the_next_share():
    def after(*trials: Trial) -> Any:
        following = next_trial(trials, [""], 0)
        return following and following[1]

    assert after() == 0.25
    assert after(trial(0.25, True)) == 0.125
    assert after(trial(0.25, False)) == 0.5
    assert after(trial(0.25, False), trial(0.5, False)) == pytest.approx(math.sqrt(0.5))
    assert after(trial(0.25, True), trial(0.125, False)) == pytest.approx(0.25 / math.sqrt(2))
    assert after(trial(0.25, True), trial(0.24, False)) is None


@pytest.mark.slow
def test_wrong_use():
    search: Any = deeptn_torch.search_by_drop
    for call, text in (
        (lambda: search(NET, {"drop": 1.0}), "needs evaluate=, a function from a model to its score"),
        (lambda: search(NET, {"params": 10}, accuracy), "a search has one limit"),
        (lambda: search(NET, 0.3, accuracy), 'a search has one limit, {"drop": 1.0}; got 0.3'),
        (
            lambda: search(NET, {"drop": 1.0}, heal),
            "evaluate must be a function evaluate.model., which",
        ),
        (lambda: search(NET, {"drop": 1.0}, 3.0), "evaluate is a float; expected a function"),
        (
            lambda: search(NET, {"drop": 1.0}, accuracy, lambda small, model: None),
            "heal must be a function heal",
        ),
        (lambda: search(NET, {"drop": -1.0}, accuracy), "the drop must be a number of at least 0"),
        (lambda: search(NET, {"drop": 1.0}, lambda net: "good"), "evaluate must return a finite number"),
        (lambda: search(NET, {"drop": 1.0}, lambda net: math.nan), "evaluate must return a finite number"),
        (lambda: search(NET, {"drop": 1.0}, accuracy, trials=0), "trials must be a positive integer"),
        (
            lambda: search(NET, {"drop": 0.0}, lambda net: -count(net) if net is not NET else 1, trials=2),
            "within the drop",
        ),
        (lambda: search(NET, {"drop": 1.0}, accuracy, targets=["fc"]), "'fc'"),
        (lambda: search(NET, {"drop": 1.0}, accuracy, topology=["LowRank"]), "'topology'; options of a search are"),
        (lambda: dtn.plan(NET, {"drop": "1"}), "for a drop of the score, call search_by_drop"),
    ):
        with pytest.raises(dtn.DeepTNError, match=text):
            call()


def test_a_score_with_the_wrong_sign_raises_a_doubt():
    def loss(net: Any) -> float:
        return float(nn.functional.cross_entropy(net(X[:250]), LABELS[:250]))

    with pytest.warns(UserWarning, match="in evaluate, higher must be better"):
        _, search = deeptn_torch.search_by_drop(NET, {"drop": 0.1}, loss, trials=4, **FAST)
    assert [trial.accepted for trial in search.trials] == [True, True, False, True]
