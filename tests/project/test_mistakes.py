"""What users write by mistake, and the call that the error names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import deeptn_torch
import pytest
import torch
from deeptn_torch import TNEmbedding, TNLinear, compress, load_model, save_model, train
from torch import nn

import deeptn as dtn
from deeptn.recipe import Recipe

RULES = {"0": dtn.TTMatrix(rank=2)}


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 4))


def compress_twice():
    small, _ = compress(model(), RULES)
    compress(small, RULES)


def saved(path: str) -> str:
    save_model(compress(model(), RULES)[0], path)
    return path


NET = dtn.network("BrickWall", (4, 4))

#: What is written, the error, and what it says.
MISTAKES = {
    "a field by position": (lambda p: dtn.BrickWall(2), "write BrickWall(layers=2)"),  # pyright: ignore
    "a family's field": (lambda p: dtn.Tree(layers=2), "Tree has no field 'layers'; expected one of"),  # pyright: ignore
    "a name in other capitals": (lambda p: dtn.Brickwall, "did you mean 'BrickWall'?"),  # pyright: ignore
    "a name that is in a package": (lambda p: dtn.analyze, "write deeptn.analysis.analyze"),  # pyright: ignore
    "a class for a topology": (lambda p: TNLinear(4, 4, dtn.Tree), "got the class Tree; write Tree()"),  # pyright: ignore
    "compress a file": (lambda p: compress("file.pt", RULES), "got the path 'file.pt'; the model comes first"),  # pyright: ignore
    "compress a state_dict": (
        lambda p: compress(model().state_dict(), RULES),  # pyright: ignore
        "if it is a state_dict, load it into its model first: model.load_state_dict(...)",
    ),
    "compress swapped": (lambda p: compress(RULES, model()), "compress(model, targets)"),  # pyright: ignore
    "compress a list of layers": (lambda p: compress([model()], RULES), "expected a torch.nn.Module, got list"),  # pyright: ignore
    "compress twice": (lambda p: compress_twice(), "which is already generated; fold it first"),
    "compress a single layer": (lambda p: compress(nn.Linear(4, 4), {"*": "Tree"}), "write from_dense"),
    "rules for no layer": (lambda p: compress(model(), {"fc1": "Tree"}), "expected one of '0', '2'"),
    "save swapped": (lambda p: save_model(p, model()), "the model comes first: save_model(model, path)"),  # pyright: ignore
    "save a dense model": (lambda p: save_model(model(), p), "compress it first"),
    "load swapped": (lambda p: load_model(saved(p), model()), "load_model(model, path)"),  # pyright: ignore
    "load a model as a network": (lambda p: dtn.load(saved(p)), "a model; read it with load_model"),
    "load a network as a model": (
        lambda p: (dtn.save(p, NET, NET.init()), dtn.load_model(p)),
        "a network; read it with deeptn.load",
    ),
    "save a network swapped": (lambda p: dtn.save(NET, NET.init(), p), "write deeptn.save(path, net, params)"),  # pyright: ignore
    "no folder": (lambda p: save_model(compress(model(), RULES)[0], p + "/nowhere/a"), "no directory"),
    "no file": (lambda p: dtn.load(p + "nowhere"), "no file"),
    "train with a pair": (
        lambda p: train(model(), (torch.ones(4, 20), torch.ones(4)), Recipe(epochs=1), 0),  # pyright: ignore
        "mse: the outputs have shape (4, 4), but the labels (4,)",
    ),
    "float rows": (lambda p: TNEmbedding(8, 4)(torch.ones(2)), "indices must be integers"),
    "bool rows": (lambda p: TNEmbedding(8, 4, mode="apply")(torch.ones(2) > 0), "indices must be integers"),
    "like in capitals": (lambda p: NET.init(like="PyTorch"), "'torch'"),
    "parameters of another network": (
        lambda p: NET.materialize(dtn.network("Tree", (4, 4)).init()),
        "params of another network",
    ),
    "a weight of another size": (
        lambda p: dtn.at_budget("Tree", (64, 64), params=3),
        "has at least 27 parameters (rank=1)",
    ),
}


@pytest.mark.parametrize(("mistake", "says"), MISTAKES.values(), ids=MISTAKES)
def test_the_error_names_the_call(mistake, says, tmp_path):
    with pytest.raises((dtn.DeepTNError, AttributeError, OSError)) as caught:
        mistake(str(tmp_path / "a.safetensors"))
    assert says in str(caught.value)


def test_a_network_as_large_as_its_weight_is_named():
    dense = nn.Sequential(nn.Linear(131, 127), nn.ReLU())
    compress(dense, {"0": dtn.TTMatrix(rank=8)})  # pads both sides
    exact = dtn.network(dtn.TTMatrix(rank=8), (127, 131), dtn.Layout.balanced((127, 131), even=True))
    with pytest.warns(UserWarning, match=r"TTMatrix\(rank=8\) has 16,637 parameters for a weight of 16,637") as caught:
        compress(dense, {"0": exact})
    (warning,) = caught
    assert warning.filename == __file__
    layout = dtn.Layout.padded((127, 131))
    net = dtn.network(dtn.TTMatrix(rank=8), (127, 131), layout)
    assert f"deeptn.Layout.padded((127, 131)) needs {net.num_params:,}" in str(warning.message)
    compress(dense, {"0": net})  # without a warning


@pytest.mark.parametrize("mode", ["auto", "materialize", "apply"])
@pytest.mark.parametrize("rows", [torch.ones(2), torch.ones(2) > 0], ids=["float", "bool"])
def test_an_embedding_takes_integers_only(mode, rows):
    layer = TNEmbedding(8, 4, mode=mode)
    with pytest.raises(dtn.SpecError, match="indices must be integers"):
        layer(rows)
    with torch.no_grad():
        layer(torch.tensor([1]))
        with pytest.raises(dtn.SpecError, match="indices must be integers"):
            layer(rows)


def test_train_takes_any_object_with_both_tensors():
    x, y = torch.ones(4, 20), torch.zeros(4, dtype=torch.int64)
    data: Any = SimpleNamespace(train_x=x, train_y=y)
    deeptn_torch.train(model(), data, Recipe(epochs=1), seed=0)
