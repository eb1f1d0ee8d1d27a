"""What a model holds between its forward and its backward pass."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, gc, sys
import torch
from deeptn_torch import TNLinear
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
import deeptn as dtn

def resident():
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(open("/proc/self/statm").read().split()[1]) / 256

how, recompute = sys.argv[1], {"True": True, "False": False}[sys.argv[2]]
torch.set_num_threads(1)
layers = nn.Sequential(*[TNLinear(1024, 1024, dtn.BrickWall(layers=2)) for _ in range(4)])
for layer in layers:
    layer.recompute = recompute
x = torch.randn(16, 1024, requires_grad=True)

def forward():
    y = x
    for layer in layers:
        if how == "plain":
            y = layer(y)
        elif how == "checkpoint":
            y = checkpoint(layer, y, use_reentrant=False)
        else:
            with saved_tensors_hooks(lambda t: (t.shape, t.dtype), lambda s: torch.zeros(s[0], dtype=s[1])):
                y = layer(y)
    return y

forward().sum().backward()
before = resident()
y = forward()
print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
def test_hooks_free_what_decoding_keeps(recompute):
    def held(how: str) -> float:
        command = [sys.executable, "-c", PROGRAM, how, str(recompute)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    plain = held("plain")
    assert plain > 4 * (8 if recompute else 20)  # MiB: states of four layers, each of 4 MiB
    assert held("checkpoint") < 0.1 * plain
    assert held("hooks") < 0.1 * plain
