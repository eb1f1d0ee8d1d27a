"""Print models with generated layers: one line per layer, not one per core."""

from __future__ import annotations

import pytest

import deeptn as dtn

WALL = dtn.BrickWall(layers=2)
FACTS = ("topology=BrickWall(layers=2)", "num_params=384")


def test_torch():
    import torch
    from deeptn_torch import TNConv2d, TNLinear

    model = torch.nn.Sequential(TNLinear(400, 120, WALL), torch.nn.ReLU(), TNConv2d(4, 8, 3, dtn.Tucker(rank=2)))
    lines = str(model).splitlines()
    assert len(lines) == 5
    assert lines[1].startswith("  (0): TNLinear(in_features=400, out_features=120")
    assert all(fact in lines[1] for fact in FACTS)
    assert "(2): TNConv2d(" in lines[3]
    assert "Tucker(rank=2)" in lines[3]


@pytest.mark.slow
def test_equinox():
    import equinox as eqx
    import jax
    from deeptn_jax.equinox import TNLinear

    keys = jax.random.split(jax.random.key(0))
    model = eqx.nn.Sequential([TNLinear(400, 120, WALL, key=keys[0]), eqx.nn.Linear(120, 10, key=keys[1])])
    (line,) = (line for line in str(model).splitlines() if "TNLinear" in line)
    assert "shape=(120, 400)" in line
    assert all(fact in line for fact in FACTS)
    assert "L1_g0" not in str(model)


def test_nnx():
    from deeptn_jax.nnx import TNLinear
    from flax import nnx

    model = nnx.Sequential(TNLinear(400, 120, WALL, rngs=nnx.Rngs(0)), nnx.relu)
    (line,) = (line for line in str(model).splitlines() if "TNLinear" in line)
    assert "shape=(120, 400)" in line
    assert all(fact in line for fact in FACTS)
    assert "L1_g0" not in str(model)
