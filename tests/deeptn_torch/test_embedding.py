"""Test rows of a weight: `Network.gather` and the embedding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from deeptn_torch import TNEmbedding, compress, fold_, load_model, save_model
from torch import nn

import deeptn as dtn

from ..market import LINEAR, NETWORKS

TABLES = {
    "ttmatrix": dtn.TTMatrix(rank=3),
    "train": dtn.TensorTrain(rank=3),
    "wall": dtn.BrickWall(layers=2, activation=None),
    "sum": dtn.Sum(terms=(dtn.LowRank(rank=2), dtn.TTMatrix(rank=2))),
    "relu": dtn.BrickWall(layers=2),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_gather_reads_rows(name):
    net = NETWORKS[name]
    params = net.init(dtype="float64")
    weight, last = net.materialize(params), net.shape[0] - 1
    for rows in (np.array([last]), np.array([[last, 0, last // 2]]), np.arange(last + 1)[::-1], np.zeros((0,), int)):
        found = net.gather(params, rows)
        assert found.shape == weight[rows].shape
        assert np.allclose(found, weight[rows])


@pytest.mark.parametrize("name", list(LINEAR)[::3])
def test_gather_has_gradients(name):
    net = LINEAR[name]
    params = net.init(like="torch", dtype="float64")
    leaves = {key: p.requires_grad_() for key, p in params.items()}
    rows = torch.tensor([net.shape[0] - 1, 0, 0])
    goal = torch.randn(3, *net.shape[1:], dtype=torch.float64)
    mine = torch.autograd.grad((net.gather(leaves, rows) * goal).sum(), list(leaves.values()))
    theirs = torch.autograd.grad((net.materialize(leaves)[rows] * goal).sum(), list(leaves.values()))
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a, b)


def test_gather_in_jax_under_jit():
    net = dtn.network(dtn.TTMatrix(rank=3), (30, 16))
    params, rows = net.init(like="jax"), jnp.array([3, 29, 3])
    found = jax.jit(lambda p, r: net.gather(p, r))(params, rows)
    assert np.allclose(found, net.materialize(params)[rows], atol=1e-6)


def test_gather_costs_less_than_the_table():
    net = dtn.network(dtn.TTMatrix(rank=8), (30_000, 512))
    table, rows = net.cost("materialize"), net.cost("gather", 64)
    assert rows.peak < table.peak / 50
    assert rows.flops < table.flops / 50
    assert net.cost("gather", 33) == rows
    deep = dtn.network(dtn.BrickWall(layers=2), (16, 16))
    assert deep.cost("gather", 4) == deep.cost("materialize")
    with pytest.raises(dtn.SpecError, match="gather"):
        net.cost("gathr")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["auto", "materialize", "apply"])
@pytest.mark.parametrize("family", TABLES.values(), ids=TABLES)
def test_embedding_is_its_dense_twin(family, mode):
    torch.manual_seed(0)
    layer = TNEmbedding(50, 12, family, padding_idx=-1, mode=mode)
    assert layer.padding_idx == 49
    assert abs(float(layer.weight.detach().std()) - 1) < 0.05
    dense = layer.to_embedding()
    indices = torch.tensor([[0, 49, 7], [7, 7, 48]])
    for train in (True, False):
        layer.train(train)
        assert torch.allclose(layer(indices), dense(indices), atol=1e-5)
        with torch.no_grad():
            assert torch.allclose(layer(indices), dense(indices), atol=1e-5)
    assert layer(torch.zeros((2, 0), dtype=torch.int64)).shape == (2, 0, 12)
    assert layer(torch.tensor(3, dtype=torch.int32)).shape == (12,)
    goal = torch.randn(2, 3, 12)
    layer.zero_grad()
    (layer(indices) * goal).sum().backward()
    found = [core.grad.clone() for core in layer.cores.values()]
    weight = layer.weight
    kept = (indices != 49).unsqueeze(-1)
    expected = torch.autograd.grad((weight[indices] * goal * kept).sum(), list(layer.cores.values()))
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_embedding_in_half_precision():
    layer = TNEmbedding(50, 12, dtn.TTMatrix(rank=3), mode="apply", dtype=torch.bfloat16)
    rows = layer(torch.tensor([3, 4]))
    assert rows.dtype == torch.bfloat16
    assert torch.allclose(rows.float(), layer.weight[3:5].float(), atol=0.05)


def test_embeddings_are_compressed_and_saved(tmp_path):
    model = nn.Sequential(nn.Embedding(40, 12, padding_idx=0), nn.Flatten(), nn.Linear(36, 3))
    small, report = compress(model, {"0": dtn.TTMatrix(rank=3)})
    assert isinstance(small[0], TNEmbedding)
    assert (small[0].padding_idx, report.layers[0].shape) == (0, (40, 12))
    indices = torch.tensor([[0, 5, 39]])
    save_model(small, tmp_path / "e.safetensors")
    assert torch.equal(load_model(model, tmp_path / "e.safetensors")(indices), small(indices))
    before = small(indices)
    fold_(small)
    assert torch.allclose(small(indices), before, atol=1e-5)
    assert not small[0](torch.tensor([0])).any()  # type: ignore[operator]


def test_embedding_under_compile():
    layer = TNEmbedding(50, 12, dtn.TTMatrix(rank=3), padding_idx=1)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    indices = torch.tensor([[0, 1], [49, 1]])
    assert torch.allclose(compiled(indices), layer(indices), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: TNEmbedding(10, 4, padding_idx=10), dtn.SpecError, "padding_idx = 10 is outside a table of 10 rows"),
        (lambda: TNEmbedding(0, 4), dtn.SpecError, "num_embeddings"),
        (lambda: TNEmbedding(10, 4, mode="gather"), dtn.SpecError, "mode"),  # type: ignore[arg-type]
        (lambda: TNEmbedding(10, 4, mode="apply")(torch.tensor([10])), IndexError, "rows 0 to 9"),
        (lambda: TNEmbedding(10, 4, mode="apply")(torch.tensor([-1])), IndexError, "from -1"),
        (
            lambda: TNEmbedding.from_embedding(nn.Embedding(10, 4, max_norm=1.0), dtn.TTMatrix()),
            dtn.SpecError,
            "max_norm",
        ),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
