"""Compare random networks with `numpy.einsum`.

Every part of ten thousand networks (one thousand in JAX) is a test of its own, named after its first seed. After an
interruption, ``-k`` chooses the parts that are left.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import numpy as np
import pytest

import deeptn as dtn
from deeptn.arrays import convert_params, to_numpy

from .. import tables
from ..drawn import draw, draw_any, parameters
from ..oracle import einsum

#: Networks for every run, networks in all, and networks in a part.
COUNTS = {"numpy": (500, 10_000, 100), "torch": (500, 10_000, 100), "jax": (40, 1000, 20)}
PARTS = [
    pytest.param(like, start, part, id=f"{like}-{start}", marks=[] if start < few else [pytest.mark.slow])
    for like, (few, most, part) in COUNTS.items()
    for start in range(0, most, part)
]


@pytest.mark.few(1)
@pytest.mark.parametrize(("like", "start", "count"), PARTS)
def test_values(like, start, count, monkeypatch):
    """Use the real limits, and every second time limits so low that everything uses buffers."""
    lib: Any = pytest.importorskip(like)
    with lib.enable_x64(True) if like == "jax" else contextlib.nullcontext():
        for seed in range(start, start + count):
            with monkeypatch.context() as patch:
                if seed // 2 % 2:
                    tables.use(patch, tables.BUFFERED)
                net = draw_any(seed)
                params = parameters(net, seed)
                found = to_numpy(net.materialize(convert_params(params, like, "float64")))
            assert np.allclose(found, einsum(net, params).reshape(net.shape), rtol=1e-8, atol=1e-10), seed


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
