"""Test one network for several weights."""

from __future__ import annotations

import numpy as np
import pytest

import deeptn as dtn
from deeptn.arrays import to_numpy

SHAPES = [(12, 10), (6, 4, 3, 3), (5, 12)]


@pytest.mark.parametrize("family", [dtn.BrickWall(layers=3), dtn.MERA(rank=3), dtn.TensorTrain(rank=4), dtn.CP(rank=3)])
def test_the_weights_are_slices_with_their_own_scale(family, library):
    together = dtn.joint.joint(family, SHAPES)
    params = together.init(seed=1, like=library)
    weights = together.materialize(params)
    whole = to_numpy(together.net.materialize(params))
    start = 0
    for weight, shape in zip(weights, SHAPES):
        assert type(weight) is type(next(iter(params.values())))
        std = np.sqrt(2 / np.prod(shape[1:]))
        part = whole[start : start + np.prod(shape)].reshape(shape) * std
        assert np.allclose(to_numpy(weight), part, rtol=1e-5, atol=1e-6)
        start += np.prod(shape)
    assert start == together.net.size
    assert np.isclose(np.sqrt((whole**2).mean()), 1.0, rtol=1e-4)
    assert together.num_params == sum(p.size if library != "torch" else p.numel() for p in params.values())


def test_two_layers_train_together(torch):
    together = dtn.joint.joint(dtn.BrickWall(layers=4), [(32, 64), (10, 32)])
    cores = {name: p.requires_grad_() for name, p in together.init(seed=0, like="torch").items()}
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(256, 64, generator=generator), torch.randint(10, (256,), generator=generator)
    optimizer = torch.optim.Adam(cores.values(), lr=0.02)
    losses = []
    for _ in range(60):
        first, second = together.materialize(cores)
        loss = torch.nn.functional.cross_entropy((x @ first.T).relu() @ second.T, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]


def test_bad_shapes():
    with pytest.raises(dtn.LayoutError, match=r"shapes = \[\]; expected at least one shape"):
        dtn.joint.joint(dtn.BrickWall(), [])
    with pytest.raises(dtn.LayoutError, match=r"shapes\[1\]\[0\] must be at least 1, got 0"):
        dtn.joint.joint(dtn.BrickWall(), [(3, 4), (0, 2)])
    with pytest.raises(dtn.SpecError, match="column legs"):
        dtn.joint.joint(dtn.LowRank(), [(3, 4), (4, 2)])
