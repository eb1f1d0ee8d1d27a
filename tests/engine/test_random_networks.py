"""Compare random networks with `numpy.einsum`."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import deeptn as dtn
from deeptn.engine import run

from .. import tables
from ..drawn import STARTS, draw, draw_any, parameters
from ..oracle import einsum


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("buffered", [False, True])
def test_values(start, buffered, monkeypatch):
    """Use the real limits, and limits so low that everything uses buffers."""
    if buffered:
        tables.use(monkeypatch, tables.BUFFERED)
    for seed in range(start, start + 10):
        net = draw_any(seed)
        params = parameters(net, seed)
        with np.errstate(invalid="ignore"):
            expected = einsum(net, params)
        if np.isfinite(expected).all():  # else the oracle normalized a state of only zeros
            found = run(net.program("materialize"), list(params.values()))
            assert np.allclose(found, expected, rtol=1e-8, atol=1e-10), seed


@pytest.mark.parametrize("batch", [1, 2, 7, 33])
def test_products(batch):
    for seed in range(60):
        net = draw(seed)
        if not net.is_linear:
            continue
        legs = net.layout.legs
        if len(legs) < 2:
            continue
        rows = tuple(leg.size for leg in legs[:1])
        columns = tuple(leg.size for leg in legs[1:])
        layout = dtn.Layout((rows[0], int(np.prod(columns))), (rows, columns))
        names = dict(zip((leg.name for leg in legs), (leg.name for leg in layout.legs)))
        rename = lambda indices, names=names: tuple(names.get(ix, ix) for ix in indices)
        stage = net.spec.stages[0]
        nodes = tuple(dataclasses.replace(node, indices=rename(node.indices)) for node in stage.nodes)
        spec = dtn.NetworkSpec(layout.legs, (dtn.Stage(nodes, rename(stage.output)),), net.spec.sizes)
        matrix = dtn.Network(spec, layout)
        params = parameters(matrix, seed)
        x = np.random.default_rng(seed + 1).standard_normal((batch, matrix.shape[1]))
        assert np.allclose(matrix.apply(params, x), x @ einsum(matrix, params).T, rtol=1e-8, atol=1e-10), seed
