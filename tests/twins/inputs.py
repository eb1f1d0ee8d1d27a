"""Inputs of every dtype, shape and layout; sizes that are not Python's integers."""

from __future__ import annotations

import numpy as np
import torch
from deeptn_torch import TNConv2d, TNEmbedding, TNLinear, parametrize_
from torch import nn

from .operations import operation
from .sides import BATCH, WALL

GROUP = "Inputs"
SIZED = ("Linear", "Linear, apply", "Conv2d", "Embedding", "LSTM")


def answer(call):
    try:
        return str(call().dtype)
    except Exception:  # of whatever type
        return "refused"


def answers(side, x):
    """Return the dtypes of the outputs in training and evaluation."""
    found = {"train": answer(lambda: side.model.train()(x))}
    with torch.no_grad():
        for k in range(2):
            found[f"eval {k}"] = answer(lambda: side.model.eval()(x))
    return found


for name in ("float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool", "complex64"):

    def run(side, name=name):
        return answers(side, side.x.to(getattr(torch, name)))

    run.__name__, run.__doc__ = f"input_{name}", f"inputs of {name}, in training and evaluation"
    operation(GROUP)(run)


@operation(GROUP)
def no_rows(side):
    """an empty batch, in training and evaluation"""
    x = side.batch(0)
    found = side.backward(x=x)
    with torch.no_grad():
        return {"y": found["y"], "x.grad": found["x.grad"], "evaluated": side.model.eval()(x)}


@operation(GROUP)
def not_contiguous(side):
    """inputs that are not contiguous"""
    x = side.x.transpose(0, -1).contiguous().transpose(0, -1)
    return side.backward(x=x)


@operation(GROUP)
def strided(side):
    """inputs with steps, and reversed by `flip`"""
    axis = BATCH[side.kind]
    x = torch.cat([side.x, side.x], axis).flip(axis)
    x = x[::2] if axis == 0 else x[:, ::2]
    return side.backward(x=x)


@operation(GROUP)
def expanded(side):
    """expanded inputs, whose rows share memory"""
    axis = BATCH[side.kind]
    return {"y": side.model(side.batch(1).expand(*[4 if k == axis else -1 for k in range(side.x.ndim)])).detach()}


@operation(GROUP)
def without_batch(side):
    """inputs without an axis for the batch"""
    return {"y": side.model(side.x.select(BATCH[side.kind], 0)).detach()}


@operation(GROUP)
def of_inference(side):
    """inputs that were made in inference mode, with a frozen module"""
    with torch.inference_mode():
        x = side.x + 0
    side.model.requires_grad_(False)
    return {"y": side.model(x), "again": side.model(x)}


@operation(GROUP)
def parameter_as_input(side):
    """an `nn.Parameter` as input"""
    x = nn.Parameter(side.x.clone(), requires_grad=side.x.is_floating_point())
    return {"y": side.model(x).detach()}


@operation(GROUP)
def wrong_size(side):
    """inputs of a wrong size"""
    return side.model(torch.ones(5, 3, 7, dtype=side.x.dtype) if side.x.is_floating_point() else side.x + 100)


@operation(GROUP, kinds=tuple(k for k in SIZED if k.startswith("Linear")))
def scalar(side):
    """an input without axes"""
    return side.model(torch.tensor(1.0))


@operation(GROUP, kinds=[kind for kind in SIZED if kind != "Embedding"], tolerance=0.0)
def complex_module(side):
    """a module of complex numbers"""
    model = side.model.to(torch.complex64)
    x = side.x.to(torch.complex64) if side.x.is_floating_point() else side.x
    return {"dtype": str(model(x).dtype), "shape": model(x).shape}


def sized(side, integer):
    n = integer
    if side.kind == "LSTM":
        layer = nn.LSTM(n(8), n(12))
        if side.generated:
            parametrize_(layer, "weight_hh_l0", WALL, fit=None)
        return layer(side.x)[0].shape
    dense, made, arguments = {
        "Linear": (nn.Linear, TNLinear, (n(24), n(16))),
        "Linear, apply": (nn.Linear, TNLinear, (n(24), n(16))),
        "Conv2d": (nn.Conv2d, TNConv2d, (n(4), n(6), n(3))),
        "Embedding": (nn.Embedding, TNEmbedding, (n(20), n(12))),
    }[side.kind]
    layer = (made if side.generated else dense)(*arguments)
    y = layer(side.x)
    y.sum().backward()
    with torch.no_grad():
        return y.shape, layer.eval()(side.x).shape, layer(side.batch(2)).shape


@operation(GROUP, kinds=SIZED)
def numpy_sizes(side):
    """sizes that are NumPy's integers"""
    return sized(side, np.int64)


@operation(GROUP, kinds=SIZED)
def tensor_sizes(side):
    """sizes that are integers in tensors"""
    return sized(side, torch.tensor)
