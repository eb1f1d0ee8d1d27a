"""Compare values and gradients of random networks with `numpy.einsum` and with the plain steps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from deeptn_torch.engine import runner as engine

from deeptn.engine import run_plain

from .. import tables
from ..drawn import STARTS, draw_any, parameters
from ..oracle import einsum
from ..tiers import grid

#: The real limits; limits so low that everything uses buffers, with operands kept; the same, but recomputed.
SIZES = ("small", "middle", "large")


@pytest.mark.few(2)
@grid(start=STARTS, size=SIZES)
def test_values_and_gradients(start, size, monkeypatch):
    if size != "small":
        tables.use(monkeypatch, tables.BUFFERED)
    for seed in range(start, start + 10):
        net = draw_any(seed)
        params = parameters(net, seed)
        program = dataclasses.replace(net.program("materialize"), recompute=size == "large")
        expected = einsum(net, params)
        tensors = [torch.tensor(array, requires_grad=k % 5 != 3) for k, array in enumerate(params.values())]
        found, plain = engine.run(program, tensors), run_plain(program, tensors)
        assert np.allclose(found.detach(), expected, rtol=1e-8, atol=1e-10), seed
        wanted = [tensor for tensor in tensors if tensor.requires_grad]
        grad = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(seed))
        theirs = torch.autograd.grad(plain, wanted, grad, allow_unused=True)
        first = torch.autograd.grad(found, wanted, grad, allow_unused=True, retain_graph=True)
        for mine, again, other in zip(first, torch.autograd.grad(found, wanted, grad, allow_unused=True), theirs):
            if other is None or mine is None:
                assert mine is None or not mine.any(), seed
                assert other is None or not other.any(), seed
                continue
            scale = 1.0 + float(other.abs().max())
            assert torch.allclose(mine, other, rtol=1e-7, atol=1e-9 * scale), seed
            assert torch.equal(mine, again), seed
