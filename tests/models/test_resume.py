"""Test that training and healing go on after an interruption as if nothing had happened."""

from __future__ import annotations

import copy
import json
from typing import Any

import deeptn_torch
import equinox as eqx
import jax
import numpy as np
import pytest
import torch
from deeptn_jax import equinox as tne
from deeptn_jax import nnx as tnx
from flax import nnx
from safetensors.numpy import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import deeptn as dtn
from deeptn.base import previous
from deeptn.files import HEADER, write_tensors
from deeptn.recipe import Recipe

from .perceptrons import CLASSES, NUMBERS, NoisyEquinox, NoisyNNX, X, losses, mlp, noisy, small


class Stop(Exception):
    pass


def stopping(after: int) -> Any:
    steps = iter(range(1000))

    def stop() -> None:
        if next(steps) == after:
            raise Stop

    return stop


def test_what_was_killed_goes_on_as_if_nothing_had_happened(tmp_path):
    x, y = torch.from_numpy(X), torch.from_numpy(CLASSES)
    file, teacher = tmp_path / "heal.safetensors", mlp(3)
    recipe = Recipe(epochs=6, lr=0.02, distill=0.3, patience=5)

    def run(model: Any, **options: Any) -> Any:
        loader = DataLoader(TensorDataset(x, y), 20, shuffle=True)
        return deeptn_torch.heal(model, teacher, loader, recipe, seed=3, validation=(x, y), **options)

    whole = noisy()
    torch.manual_seed(5)
    expected = run(whole)
    for after in (3, 12, 26):
        killed = noisy()
        torch.manual_seed(5)
        with pytest.raises(Stop):
            run(killed, checkpoint=file, on_step=stopping(after))
        torch.manual_seed(5)  # before the first epoch has ended, the run starts again
        resumed = noisy() if after == 3 else killed
        torch.manual_seed(5)
        history = run(resumed, checkpoint=file)
        assert losses(history) == losses(expected)
        assert (history.best, history.score) == (expected.best, expected.score)
        for name, tensor in whole.state_dict().items():
            assert torch.equal(tensor, resumed.state_dict()[name]), name
        again = noisy()
        assert losses(run(again, checkpoint=file)) == losses(expected)  # nothing is left to do
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in whole.state_dict().items())
        file.unlink()


def arrays_of(model: Any) -> list[Any]:
    """Return the trained arrays of a JAX model."""
    return jax.tree.leaves(
        nnx.state(model, nnx.Param) if isinstance(model, nnx.Module) else eqx.filter(model, eqx.is_array)
    )


@pytest.mark.slow
@pytest.mark.parametrize(("train", "make"), [(tne.train, NoisyEquinox), (tnx.train, NoisyNNX)], ids=["equinox", "nnx"])
def test_jax_goes_on_as_if_nothing_had_happened(train, make, tmp_path):
    file, recipe = tmp_path / "train.safetensors", Recipe(epochs=5, lr=0.02, batch=20)
    more: dict[str, Any] = {"seed": 3, "validation": (X, CLASSES)}
    expected, history = train(make(), (X, CLASSES), recipe, **more)
    other, _ = train(make(), (X, CLASSES), recipe, **more | {"seed": 4})
    assert not all(np.array_equal(a, b) for a, b in zip(arrays_of(expected), arrays_of(other)))
    for after in (2, 11):
        with pytest.raises(Stop):
            train(make(), (X, CLASSES), recipe, checkpoint=file, on_step=stopping(after), **more)
        found, again = train(make(), (X, CLASSES), recipe, checkpoint=file, **more)
        assert losses(again) == losses(history)
        assert again.best == history.best
        assert all(np.array_equal(a, b) for a, b in zip(arrays_of(expected), arrays_of(found), strict=True))
        file.unlink()


def test_a_loader_with_its_own_generator_goes_on(tmp_path):
    file, recipe = tmp_path / "train.safetensors", Recipe(epochs=4, lr=0.02)

    def loader() -> Any:
        data = TensorDataset(torch.from_numpy(X), torch.from_numpy(NUMBERS))
        return DataLoader(data, 20, shuffle=True, generator=torch.Generator().manual_seed(3))

    whole = small()
    expected = deeptn_torch.train(whole, loader(), recipe)
    killed = small()
    with pytest.raises(Stop):
        deeptn_torch.train(killed, loader(), recipe, checkpoint=file, on_step=stopping(12))
    resumed = small()
    assert losses(deeptn_torch.train(resumed, loader(), recipe, checkpoint=file)) == losses(expected)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters()))
    with pytest.raises(dtn.FormatError, match="the checkpoint was written with loss = None, expected mse"):
        deeptn_torch.train(small(), loader(), recipe, checkpoint=file, loss="mse")
    wider = nn.Sequential(nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 2))
    before = copy.deepcopy(wider.state_dict())
    with pytest.raises(dtn.FormatError):
        deeptn_torch.train(wider, loader(), recipe, checkpoint=file)
    assert all(torch.equal(tensor, before[name]) for name, tensor in wider.state_dict().items())


def test_the_checkpoint_of_the_epoch_before_is_kept_and_named(tmp_path):
    x, y = torch.from_numpy(X), torch.from_numpy(CLASSES)
    file, before = tmp_path / "heal.safetensors", previous(tmp_path / "heal.safetensors")
    recipe = Recipe(epochs=4, lr=0.02)

    def run(model: Any, **options: Any) -> Any:
        return deeptn_torch.heal(model, mlp(3), (x, y), recipe, seed=3, **options)

    expected = noisy()
    torch.manual_seed(5)
    run(expected)
    killed = noisy()
    torch.manual_seed(5)
    steps = -(-len(x) // recipe.batch)
    with pytest.raises(Stop):
        run(killed, checkpoint=file, on_step=stopping(3 * steps))
    file.write_bytes(file.read_bytes()[:-9])  # a disk that lost its end
    with pytest.raises(dtn.FormatError, match=f"not a training checkpoint .*{before.name}': rename it"):
        run(noisy(), checkpoint=file)
    before.rename(file)
    resumed = noisy()
    assert len(run(resumed, checkpoint=file).epochs) == 4
    for one, other in zip(resumed.state_dict().values(), expected.state_dict().values()):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("field", "value"), [("epoch", 7), ("best", 3), ("best", -1), ("about", [1]), ("epochs", 3)])
def test_checkpoints_with_other_fields(field, value, tmp_path):
    x, y, file = torch.from_numpy(X), torch.from_numpy(CLASSES), tmp_path / "c.safetensors"
    recipe = Recipe(epochs=1)
    deeptn_torch.heal(noisy(), mlp(3), (x, y), recipe, checkpoint=file)
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    table = json.loads(content[8:start])
    table["__metadata__"][HEADER] = json.dumps(json.loads(table["__metadata__"][HEADER]) | {field: value})
    text = json.dumps(table).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[start:])
    with pytest.raises(dtn.FormatError, match="not a training checkpoint"):
        deeptn_torch.heal(noisy(), mlp(3), (x, y), recipe, checkpoint=file)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.update({"rng": np.zeros(3, "uint8")}),
        lambda tensors: tensors.update({"rng": np.zeros(3, "float32")}),
        lambda tensors: tensors.update({"optimizer.x": np.zeros(3, "float32")}),
        lambda tensors: tensors.update({"optimizer.x.y": np.zeros(3, "float32")}),
        lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("optimizer.")],
        lambda tensors: tensors.pop("optimizer.0.exp_avg"),
        lambda tensors: tensors.update({"optimizer.0.exp_avg": np.zeros(3, "float32")}),
        lambda tensors: tensors.update({"optimizer.0.step": np.zeros(2, "float32")}),
        lambda tensors: tensors.update({"optimizer.77.step": np.zeros((), "float32")}),
        lambda tensors: tensors.update({name: tensors[name].astype("int32") for name in tensors if "model." in name}),
        lambda tensors: tensors.pop(next(name for name in tensors if name.startswith("best."))),
        lambda tensors: tensors.update(
            {next(name for name in tensors if name.startswith("best.")): np.zeros((1, 1, 1))}
        ),
    ],
)
def test_a_checkpoint_of_something_else_leaves_the_model_alone(change, tmp_path):
    x, y, file = torch.from_numpy(X), torch.from_numpy(CLASSES), tmp_path / "c.safetensors"
    recipe = Recipe(epochs=2, grow=((0, 4),))
    options: dict[str, Any] = {"seed": 3, "validation": (x, y), "checkpoint": file}
    steps = -(-len(x) // recipe.batch)
    with pytest.raises(Stop):
        deeptn_torch.heal(noisy(), mlp(3), (x, y), recipe, on_step=stopping(steps), **options)
    good = file.read_bytes()
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))["__metadata__"][HEADER]
    tensors = load_file(file)
    change(tensors)
    kept = {key: value for key, value in json.loads(header).items() if key not in ("version", "checksums")}
    write_tensors(file, kept, tensors)
    model = noisy()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(dtn.FormatError, match=r"another model|not a training checkpoint"):
        deeptn_torch.heal(model, mlp(3), (x, y), recipe, **options)
    assert model.state_dict().keys() == before.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    file.write_bytes(good)
    assert len(deeptn_torch.heal(model, mlp(3), (x, y), recipe, **options).epochs) == 2
