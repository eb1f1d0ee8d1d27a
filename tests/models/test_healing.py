"""Test training and healing of whole models: any data, any task, teachers, early stopping, interruptions."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import deeptn_torch
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from deeptn_jax import equinox as tne
from deeptn_jax import nnx as tnx
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import deeptn as dtn
from deeptn.recipe import Recipe

from .perceptrons import CLASSES, NUMBERS, NoisyEquinox, NoisyNNX, X, equinox_of, losses, mlp, nnx_of, outputs_of, small


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (NUMBERS, {}),
        (CLASSES, {"clip": 0.5, "decay": 0.1, "core_lr": 0.03}),
        (CLASSES, {"distill": 0.4, "temperature": 2.0}),
        (NUMBERS, {"distill": 0.4, "features": 0.3}),
        (None, {"schedule": "cosine"}),
    ],
    ids=["numbers", "clip and decay", "logits", "features", "no labels"],
)
def test_all_frameworks_make_the_same_steps(labels, options):
    model, teacher = small(3 if labels is CLASSES else 2), mlp(3 if labels is CLASSES else 2, 1)
    data: Any = X if labels is None else (X, labels)
    recipe = Recipe(epochs=4, lr=0.01, batch=96, **options)  # one step per epoch, so the order does not matter
    more: dict[str, Any] = {"validation": data}
    taught = labels is None or "distill" in options
    theirs = [equinox_of(model), nnx_of(model)]
    guides = [equinox_of(teacher), nnx_of(teacher)]
    names = [["0", "2"], ["layers.0", "layers.1"], ["layers.0", "layers.2"]] if "features" in options else [[]] * 3
    given = {"teacher": teacher, "features": names[0]} if taught else {}
    expected = deeptn_torch.train(model, data, recipe, **more, **given)
    trains: list[Any] = [tne.train, tnx.train]
    for train, one, guide, own in zip(trains, theirs, guides, names[1:]):
        given = {"teacher": guide, "features": own} if taught else {}
        result: Any = train(one, data, recipe, **more, **given)
        found, history = result
        assert losses(history) == pytest.approx(losses(expected), rel=1e-3)
        assert history.score == pytest.approx(expected.score, rel=1e-3)
        assert np.allclose(outputs_of(found), model(torch.from_numpy(X)).detach().numpy(), atol=2e-3)


def batches(labels: Any) -> list[Any]:
    return [(torch.from_numpy(X[k::4]), torch.from_numpy(labels[k::4])) for k in range(4)]


DATA: dict[str, Any] = {
    "arrays of NumPy": (X.astype("float64"), NUMBERS.astype("float64")),
    "tensors": (torch.from_numpy(X), torch.from_numpy(NUMBERS)),
    "a list": batches(NUMBERS),
    "lists": [list(batch) for batch in batches(NUMBERS)],
    "a loader": DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(NUMBERS)), 24, shuffle=True),
    "mappings": [{"input": x, "labels": y} for x, y in batches(NUMBERS)],
    "a mapping of arrays": {"input": X, "labels": NUMBERS},
}


@pytest.mark.few(1)
@pytest.mark.parametrize("data", DATA.values(), ids=list(DATA))
def test_any_data(data):
    model = small()
    history = deeptn_torch.train(model, data, Recipe(epochs=15, lr=0.02, core_lr=0.03, batch=24))
    assert losses(history)[-1] < 0.8 * losses(history)[0]
    assert not model.training
    if not isinstance(data, dict) and not (isinstance(data, list) and isinstance(data[0], dict)):
        for train, of in ((tne.train, equinox_of), (tnx.train, nnx_of)):
            _, history = train(of(small()), data, Recipe(epochs=15, lr=0.02, core_lr=0.03, batch=24))
            assert losses(history)[-1] < 0.8 * losses(history)[0]


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 8), nn.Linear(8, 20)

    def forward(self, ids: Any, scale: float = 1.0) -> Any:
        return {"logits": self.head(self.table(ids)) * scale}


def test_tokens():
    torch.manual_seed(0)
    ids = torch.randint(20, (32, 5))
    labels = (ids + 1) % 20
    labels[:, 0] = -100
    model, _ = deeptn_torch.compress(Tokens(), {"*": dtn.TTMatrix(rank=2)}, fit=None, seed=0)
    data = [{"ids": ids, "scale": 1.0, "labels": labels}]
    history = deeptn_torch.train(model, data, Recipe(epochs=80, lr=0.05))
    assert history.loss < 0.5 * losses(history)[0]
    labels[:, 0] = 0  # were ignored
    assert float((model(ids)["logits"][:, 1:].argmax(-1) == labels[:, 1:]).float().mean()) > 0.5


def test_losses_of_the_users_own():
    target = np.abs(NUMBERS)

    def huber(outputs: Any, labels: Any) -> Any:
        return nn.functional.huber_loss(outputs, labels)

    history = deeptn_torch.train(small(), (X, target), Recipe(epochs=10, lr=0.02, batch=24), loss=huber)
    assert losses(history)[-1] < losses(history)[0]
    with pytest.raises(dtn.SpecError, match=r"the loss must return a tensor with one entry, got \(24, 2\)"):
        deeptn_torch.train(small(), (X, target), Recipe(epochs=1, batch=24), loss=lambda a, b: a - b)
    _, history = tne.train(
        equinox_of(small()), (X, target), Recipe(epochs=10, lr=0.02, batch=24), loss=lambda a, b: jnp.abs(a - b).mean()
    )
    assert losses(history)[-1] < losses(history)[0]
    with pytest.raises(dtn.SpecError, match="the loss must return an array with one entry"):
        tne.train(equinox_of(small()), (X, target), Recipe(epochs=1, batch=24), loss=lambda a, b: a - b)


def test_healing_brings_the_outputs_back():
    teacher = mlp(3)
    model, _ = deeptn_torch.compress(teacher, {"0": dtn.LowRank(rank=3)})
    x = torch.from_numpy(X)

    def gap(model: Any) -> float:
        return float((model(x) - teacher(x)).detach().norm())

    before, again = gap(model), copy.deepcopy(model)
    data = list(x.split(24))
    recipe = Recipe(epochs=40, lr=0.02)
    history = deeptn_torch.heal(model, teacher, data[:3], recipe, validation=data[3:])
    assert gap(model) < 0.7 * before
    assert history.best is not None
    assert all(tensor.grad is None for tensor in teacher.parameters())
    deeptn_torch.heal(again, teacher, data, recipe, features=["0", "2"])  # features alone
    assert gap(again) < 0.7 * before
    libraries: list[Any] = [(tne, equinox_of), (tnx, nnx_of)]
    for library, of in libraries:
        guide = of(teacher)
        start, _ = library.compress(guide, {"layers.0": dtn.LowRank(rank=3)})
        healed: Any = library.heal(start, guide, X, Recipe(epochs=40, lr=0.02, batch=24))[0]
        assert float(np.linalg.norm(outputs_of(healed) - teacher(x).detach().numpy())) < 0.7 * before


def test_early_stopping_keeps_the_best():
    x, y = torch.from_numpy(X), torch.from_numpy(CLASSES)
    torch.manual_seed(1)
    noise = torch.randint(3, (96,))  # nothing to learn, so the score falls
    scores: list[float] = []
    states: list[dict[str, Any]] = []
    model = mlp(3)

    def evaluate(model: Any) -> float:
        assert not model.training
        scores.append(-float(nn.functional.cross_entropy(model(x), y)))
        states.append(copy.deepcopy(model.state_dict()))
        return scores[-1]

    recipe = Recipe(epochs=50, lr=0.05, batch=32, patience=3, schedule="constant")
    history = deeptn_torch.train(model, (x, noise), recipe, evaluate=evaluate)
    best = int(np.argmax(scores))
    assert (history.best, history.stopped, len(history.epochs)) == (best, True, best + 4)
    assert history.score == scores[best]
    assert all(torch.equal(tensor, states[best][name]) for name, tensor in model.state_dict().items())
    validated = deeptn_torch.train(mlp(3), (x, noise), recipe, validation=(x, y))
    assert [epoch.score for epoch in validated.epochs] == pytest.approx(scores, rel=1e-5)
    found, history = tne.train(equinox_of(mlp(3)), (X, noise), recipe, validation=(X, CLASSES))
    assert history.stopped
    score = -np.asarray(jax.nn.log_softmax(jax.vmap(found)(X)))[np.arange(96), CLASSES].mean()
    assert history.score == pytest.approx(-score, rel=1e-5)


@pytest.mark.slow
def test_statistics_and_dropout_of_jax():
    model, _ = tnx.train(NoisyNNX(), (X, CLASSES), Recipe(epochs=2, batch=20))
    assert bool(jnp.any(model.norm.mean[...] != 0))
    assert np.array_equal(model(X), model(X))  # in evaluation mode
    found, _ = tne.train(NoisyEquinox(), (X, CLASSES), Recipe(epochs=1, batch=20))
    assert isinstance(found, NoisyEquinox)


def wrong() -> dict[str, tuple[Any, str]]:
    x, recipe = torch.from_numpy(X), Recipe(epochs=1)
    train: Any = deeptn_torch.train
    heal: Any = deeptn_torch.heal
    dataset = TensorDataset(x, torch.from_numpy(CLASSES))
    spoiled, patient = X.copy(), Recipe(epochs=1, patience=1)
    spoiled[3] = np.nan
    same = small()
    wider = nn.Sequential(nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 2))
    return {
        "no data": (lambda: train(small(), [], recipe), "the data has no batches"),
        "no rows": (lambda: train(small(), (X[:0], NUMBERS[:0]), recipe), "the data has no rows"),
        "rows": (lambda: train(small(), (X, NUMBERS[:5]), recipe), r"different numbers of rows: \{0: 96, 1: 5\}"),
        "once": (lambda: train(small(), iter(batches(NUMBERS)), recipe), "pass list.data. or a DataLoader"),
        "dataset": (lambda: train(small(), dataset, recipe), r"write DataLoader\(data, batch_size=128, shuffle=True\)"),
        "number": (lambda: train(small(), 3, recipe), "expected|iterable of batches; got int"),
        "no labels": (lambda: train(small(), [x], recipe), r"the batches have no labels: pass \(inputs, labels\)"),
        "nan": (lambda: train(small(), (spoiled, NUMBERS), recipe), "the training loss became nan; lower"),
        "column": (lambda: train(small(1), (X, NUMBERS[:, 0]), recipe), r"shape \(96, 1\), but the labels \(96,\)"),
        "floats as classes": (
            lambda: train(small(3), (X, NUMBERS), recipe, loss="cross_entropy"),
            "the labels must be class numbers, got torch.float32; convert them to integers, or write loss='mse'",
        ),
        "classes": (
            lambda: train(small(2), (X, CLASSES), recipe),
            "the labels range from 0 to 2, but the outputs have classes 0 to 1",
        ),
        "one-hot": (lambda: train(small(3), (X, np.eye(3, dtype=int)[CLASSES]), recipe), r"expected \(…, classes\)"),
        "loss": (lambda: train(small(), (X, NUMBERS), recipe, loss="l1"), "loss = 'l1'; expected 'cross_entropy' or"),
        "teacher's outputs": (
            lambda: heal(small(2), mlp(3), [x], recipe),
            r"the teacher returned shape \(96, 3\), but the model \(96, 2\)",
        ),
        "no teacher": (lambda: heal(small(), [x], mlp(), recipe), r"got a list; write heal\(model, teacher, data\)"),
        "its own teacher": (lambda: heal(same, same, [x], recipe), "model and teacher are the same"),
        "features": (lambda: heal(small(), mlp(), [x], recipe, features=["3"]), "'3'"),
        "features without": (lambda: train(small(), (X, NUMBERS), recipe, features=["0"]), "pass teacher="),
        "feature of another shape": (
            lambda: heal(small(), wider, [x], recipe, features="0"),
            r"feature '0': the model returned \(96, 8\) there, the teacher \(96, 9\)",
        ),
        "patience": (
            lambda: train(small(), (X, NUMBERS), patient),
            "pass validation= or evaluate=",
        ),
        "two scores": (
            lambda: train(small(), (X, NUMBERS), recipe, validation=(X, NUMBERS), evaluate=lambda m: 1.0),
            "pass one of them",
        ),
        "evaluate": (
            lambda: train(small(), (X, NUMBERS), recipe, evaluate=lambda m: "good"),
            "evaluate must return a number, higher is better; got a str",
        ),
        "score": (
            lambda: train(small(), (X, NUMBERS), recipe, evaluate=lambda m: math.nan),
            "the score on the validation data became nan",
        ),
        "JAX: classes": (
            lambda: tne.train(equinox_of(small(2)), (X, CLASSES), recipe),
            "the labels range from 0 to 2, but the outputs have classes 0 to 1",
        ),
        "JAX: no labels": (lambda: tnx.train(nnx_of(small()), [X], recipe), "the batches have no labels"),
        "JAX: nan": (
            lambda: tne.train(equinox_of(small()), (spoiled, NUMBERS), recipe),
            "the training loss became nan",
        ),
        "JAX: column": (
            lambda: tnx.train(nnx_of(small(1)), (X, NUMBERS[:, 0]), recipe),
            r"shape \(96, 1\), but the labels \(96,\)",
        ),
        "JAX: teacher's outputs": (
            lambda: tne.heal(equinox_of(small(2)), equinox_of(mlp(3)), [X], recipe),
            r"the teacher returned shape \(96, 3\), but the model \(96, 2\)",
        ),
        "JAX: growth": (
            lambda: tne.train(equinox_of(small()), (X, NUMBERS), Recipe(epochs=2, grow=((1, 3),))),
            "Recipe.grow is for",
        ),
        "JAX: feature": (
            lambda: tnx.heal(nnx_of(small()), nnx_of(mlp()), [X], recipe, features=["layers.7"]),
            "'layers.7'",
        ),
    }


WRONG = wrong()


@pytest.mark.few(5)
@pytest.mark.parametrize(("call", "text"), WRONG.values(), ids=list(WRONG))
def test_wrong_use(call, text):
    with pytest.raises(dtn.DeepTNError, match=text):
        call()


def test_an_error_leaves_the_model_as_it_was():
    model = small()
    before = copy.deepcopy(model.state_dict())
    spoiled = X.copy()
    spoiled[:] = np.nan
    with pytest.raises(dtn.DeepTNError, match="the training loss became nan"):
        deeptn_torch.train(model, (spoiled, NUMBERS), Recipe(epochs=1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert not model.training


def test_a_best_score_of_zero_is_a_score():
    scores = iter([0.0, -1.0, -2.0, -3.0])
    history = deeptn_torch.train(small(), (X, NUMBERS), Recipe(epochs=4), evaluate=lambda model: next(scores))
    assert (history.best, history.score) == (0, 0.0)
    history = deeptn_torch.train(small(), (X, NUMBERS), Recipe(epochs=20, patience=2), evaluate=lambda model: 0.0)
    assert (history.stopped, len(history.epochs)) == (True, 3)


def test_the_best_parameters_come_back_without_the_random_numbers():
    drawn: list[float] = []

    def evaluate(model: Any) -> float:
        drawn.append(float(torch.rand(())))
        return -float(len(drawn))

    torch.manual_seed(0)
    deeptn_torch.train(small(), (X, NUMBERS), Recipe(epochs=3), evaluate=evaluate)
    assert float(torch.rand(())) not in drawn


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(zip(torch.from_numpy(X), torch.from_numpy(NUMBERS)))


class Pair(NamedTuple):
    x: Any
    y: Any


def test_streams_and_named_tuples():
    history = deeptn_torch.train(small(), DataLoader(Stream(), 24), Recipe(epochs=2))
    assert len(history.epochs) == 2
    assert deeptn_torch.calibrate(mlp(), DataLoader(Stream(), 24)).inputs["0"].count == 96
    assert len(deeptn_torch.train(small(), [Pair(X, NUMBERS)], Recipe(epochs=2)).epochs) == 2
    loader = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(NUMBERS)), 24)
    for calibrate, made in ((tne.calibrate, equinox_of(mlp())), (tnx.calibrate, nnx_of(mlp()))):
        assert calibrate(made, loader).inputs["layers.0"].count == 96


@pytest.mark.slow
def test_models_are_evaluated_in_evaluation_mode():
    def evaluate(model: Any) -> float:
        return -float(jnp.square(jax.vmap(model)(X)).mean())

    found, _ = tne.train(NoisyEquinox(), (X, CLASSES), Recipe(epochs=1, batch=20), evaluate=evaluate)
    assert found.drop.inference


@pytest.mark.slow
def test_labels_that_are_all_ignored():
    ids = np.full(96, -100)
    for train, made in ((deeptn_torch.train, small(3)), (tne.train, equinox_of(small(3)))):
        result: Any = train(made, (X, ids), Recipe(epochs=1))  # type: ignore[operator]
        history = result[1] if isinstance(result, tuple) else result
        assert history.loss == 0.0
    with pytest.raises(dtn.SpecError, match="the labels range from 0 to 2"):
        tne.train(equinox_of(small(2)), (X, CLASSES % 2), Recipe(epochs=1), validation=(X, CLASSES))
