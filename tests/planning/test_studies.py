"""Test searches over several sets of topologies: which trials are suggested, and that they repeat."""

from __future__ import annotations

import sys
from typing import Any

import deeptn_torch
import pytest
import torch
from torch import nn

import deeptn as dtn
from deeptn.planning.studies import CLOSE, FIRST, Trial, next_trial, smallest_within

optuna = pytest.importorskip("optuna")

NAMES = ("good", "bad")


def made_up(share: float, choice: str) -> Trial:
    """Return a trial of a network that is within the drop above 4 % of the parameters, or 40 % if it is bad."""
    least = 0.04 if choice == "good" else 0.4
    score = min(share / least, 1.0)
    return Trial(share, int(1e6 * share), 0.0, score, score == 1.0, 0.0, choice)


def searched(seed: int, count: int) -> list[Trial]:
    trials: list[Trial] = []
    while len(trials) < count and (following := next_trial(trials, NAMES, seed)) is not None:
        trials.append(made_up(following[1], following[0]))
    return trials


def test_each_choice_first_and_then_where_it_is_smaller():
    for seed in range(3):
        trials = searched(seed, 12)
        assert [(trial.choice, trial.share) for trial in trials[:2]] == [("good", FIRST), ("bad", FIRST)]
        assert {trial.choice for trial in trials[2:]} == {"good"}, seed  # the other one has failed at a larger size
        assert 0.04 <= smallest_within(trials) < 0.04 * CLOSE, seed
        assert len(trials) < 12


def test_close_choices():
    def trial(share: float, choice: str) -> Trial:
        least = 0.04 if choice == "good" else 0.05
        return Trial(share, int(1e6 * share), 0.0, 1.0, share >= least, 0.0, choice)

    ends = set[float]()
    for seed in range(4):
        trials: list[Trial] = []
        while (following := next_trial(trials, NAMES, seed)) is not None:
            trials.append(trial(following[1], following[0]))
            assert len(trials) < 30
        ends.add(smallest_within(trials))
        for number, one in enumerate(trials[2:], 2):
            known = [other.share for other in trials[:number] if other.choice == one.choice and not other.accepted]
            assert max(known, default=0.0) < one.share < smallest_within(trials[:number])
    assert max(ends) < 0.04 * CLOSE


def test_a_trial_depends_on_what_is_finished_alone():
    names = [f"choice {k}" for k in range(8)]
    trials = [Trial(FIRST, 10 + k, 0.0, 1.0, True, 0.0, name) for k, name in enumerate(names)]
    found = [next_trial(trials, names, seed) for seed in range(12)]
    assert all(one is not None and one[1] == FIRST / 2 for one in found)
    best = [*trials, Trial(FIRST / 2, 5, 0.0, 1.0, True, 0.0, names[6])]
    assert {next_trial(best, names, seed) for seed in range(4)} == {(names[6], FIRST / 4)}
    torch.manual_seed(0)
    assert [next_trial(trials, names, seed) for seed in range(12)] == found
    assert optuna.logging.get_verbosity() != optuna.logging.WARNING


def test_one_choice_that_is_left_needs_no_optuna(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    trials = [made_up(FIRST, name) for name in NAMES]
    assert next_trial(trials, NAMES, 0) == ("good", FIRST / 2)
    both = [Trial(FIRST, 1, 0.0, 1.0, True, 0.0, name) for name in NAMES]
    with pytest.raises(dtn.MissingBackendError, match="search"):
        next_trial(both, NAMES, 0)


def test_the_end_and_the_beginning():
    close = [
        Trial(share, 1, 0.0, 1.0, accepted, 0.0, name)
        for share, accepted, name in (
            (0.045, True, "good"),
            (0.044, False, "good"),
            (0.0445, False, "bad"),
        )
    ]
    assert next_trial(close, NAMES, 0) is None
    nothing = [Trial(FIRST, None, None, None, False, 0.0, name) for name in NAMES]
    following = next_trial(nothing, NAMES, 0)
    assert following is not None
    assert following[1] == 2 * FIRST


torch.manual_seed(0)
X = torch.randn(300, 16) @ (torch.randn(16, 16) * torch.exp(-torch.arange(16) / 4.0)[:, None])
NET = nn.Sequential(nn.Linear(16, 36), nn.Tanh(), nn.Linear(36, 12))
with torch.no_grad():
    GOAL = NET(X)
CHOICES = {"low rank": ["LowRank"], "TT-matrix": ["TTMatrix"]}


def score(model: Any) -> float:
    return -float((model(X[200:]) - GOAL[200:]).norm() / GOAL[200:].norm())


class Stop(Exception):
    pass


@pytest.mark.few(1)
@pytest.mark.parametrize("after", [1, 3])
def test_what_was_killed_repeats(after, tmp_path):
    calibration = deeptn_torch.calibrate(NET, X[:200])
    options: dict[str, Any] = {"trials": 5, "choices": CHOICES, "calibration": calibration, "seed": 3}
    expected, whole = deeptn_torch.search_by_drop(NET, {"drop": 0.6}, score, **options)
    assert {trial.choice for trial in whole.trials} == set(CHOICES)
    assert "topologies" in str(whole)
    assert str(whole.trials[0].choice) in str(whole)
    calls: list[int] = []

    def dying(model: Any) -> float:
        calls.append(1)
        if len(calls) == after + 1:
            raise Stop
        return score(model)

    with pytest.raises(Stop):
        deeptn_torch.search_by_drop(NET, {"drop": 0.6}, dying, folder=tmp_path, **options)
    found, again = deeptn_torch.search_by_drop(NET, {"drop": 0.6}, score, folder=tmp_path, **options)
    for one, other in zip(again.trials, whole.trials, strict=True):
        assert (one.choice, one.share, one.params, one.score) == (other.choice, other.share, other.params, other.score)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name])
    changes: list[dict[str, Any]] = [{"seed": 4}, {"choices": {"low rank": ["LowRank"]}}, {"calibration": None}]
    for change in changes:
        with pytest.raises(dtn.FormatError, match="the trials belong to another search"):
            deeptn_torch.search_by_drop(NET, {"drop": 0.6}, score, folder=tmp_path, **options | change)


def test_calibrated_trials_are_better():
    calibration = deeptn_torch.calibrate(NET, X[:200])
    scores = [
        deeptn_torch.search_by_drop(NET, {"drop": 2.0}, score, trials=1, topologies=["LowRank"], calibration=known)[1]
        .trials[0]
        .score
        for known in (None, calibration)
    ]
    assert scores[0] is not None
    assert scores[1] is not None
    assert scores[1] > scores[0] + 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choices": {}}, "choices must be a mapping"),
        ({"choices": ["LowRank"]}, "choices must be a mapping"),
        ({"choices": {"low rank": "LowRank"}}, "choices must be a mapping"),
        ({"choices": {"": ["LowRank"]}}, "choices must be a mapping"),
        ({"choices": CHOICES, "topologies": ["LowRank"]}, "leave out topologies"),
        ({"choices": {"a": ["LowRnk"], "b": ["LowRank"]}}, "LowRnk"),
        ({"choices": {"a": ["LowRank"], "b": ["LowRnk"]}, "trials": 1}, "LowRnk"),
        ({"choices": {"a": [], "b": ["LowRank"]}}, "choices must be a mapping"),
        ({"choices": {"a": None}}, "choices must be a mapping"),
        ({"choices": {"a": dtn.LowRank(rank=2)}}, "choices must be a mapping"),
        ({"choices": CHOICES, "seed": -1}, "expected a non-negative integer"),
    ],
)
def test_wrong_choices(options, message):
    with pytest.raises(dtn.DeepTNError, match=message):
        deeptn_torch.search_by_drop(NET, {"drop": 1.0}, score, **options)
