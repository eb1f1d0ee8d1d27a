"""Check that every family trains as a layer and can be saved."""

from __future__ import annotations

from typing import Any

import torch
from deeptn_torch import TNConv2d, TNLinear
from sklearn.datasets import load_digits

import deeptn as dtn

from ..market import FAMILIES
from ..tiers import choose

#: Families in every run, one of each kind: with an activation, with copies, with a sum.
FEW = ("brickwall", "mera", "ttmatrix", "residual")


DIGITS: Any = load_digits()
IMAGES = torch.tensor(DIGITS.images, dtype=torch.float32)[:512] / 16
LABELS = torch.tensor(DIGITS.target)[:512]


def falls(model: torch.nn.Module, images: torch.Tensor, steps: int = 30) -> None:
    """Check that a few steps of Adam lower the loss by more than a fifth."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(model(images), LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0], (losses[0], losses[-1])


@choose("family", FAMILIES, FEW)
def test_a_linear_layer_trains_and_is_saved(family, tmp_path):
    torch.manual_seed(0)
    layer = TNLinear(64, 32, family)
    falls(torch.nn.Sequential(torch.nn.Flatten(), layer, torch.nn.ReLU(), torch.nn.Linear(32, 10)), IMAGES)
    params = {name: core.detach() for name, core in layer.cores.items()}
    dtn.save(tmp_path / "layer.safetensors", layer.network, params)
    net, arrays = dtn.load(tmp_path / "layer.safetensors", like="torch")
    assert net == layer.network
    assert torch.equal(net.materialize(arrays), layer.weight.detach())
    other = TNLinear(64, 32, family)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, layer.weight)


@choose("family", FAMILIES, FEW)
def test_a_convolution_trains_and_is_saved(family, tmp_path):
    torch.manual_seed(0)
    layer = TNConv2d(8, 16, 3, topology=family)
    first = torch.nn.Conv2d(1, 8, 3)
    body = torch.nn.Sequential(
        first, torch.nn.ReLU(), layer, torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 10)
    )
    falls(body, IMAGES[:, None])
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other = TNConv2d(8, 16, 3, topology=family)
    other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    assert torch.equal(other.weight, layer.weight)


def test_graphs_are_layers_too():
    """Check layers with user-defined graphs, which fix the number of legs."""
    torch.manual_seed(0)
    deep = dtn.Graph(nodes=[{"S": "pq"}, {"U": "pax", "V": "xbq"}], output=["pq", "ab"], rank=6)
    layer = TNLinear(64, 32, deep)
    falls(torch.nn.Sequential(torch.nn.Flatten(), layer, torch.nn.ReLU(), torch.nn.Linear(32, 10)), IMAGES)
    kernel = TNConv2d(8, 16, 3, topology=dtn.Graph.from_einsum("ox,xiy,yhz,zw->oihw", rank=4))
    assert kernel.weight.shape == (16, 8, 3, 3)
    body = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), kernel, torch.nn.Flatten(), torch.nn.Linear(256, 10)
    )
    falls(body, IMAGES[:, None])
