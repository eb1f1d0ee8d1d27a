"""Other dtypes, devices, layouts of memory, and modules that are born without memory."""

from __future__ import annotations

from typing import Any

import torch
from deeptn_torch import TNConv1d, TNConv2d, TNConv3d
from torch import nn

from .operations import operation
from .sides import KINDS, WALL, pattern

GROUP = "Moves"


@operation(GROUP, tolerance=1e-6)
def to_double(side):
    """`double()`, after evaluation"""
    with torch.no_grad():
        side.model.eval()(side.x)
    side.model.double().train()
    return side.backward(x=side.x.double() if side.x.is_floating_point() else side.x)


@operation(GROUP, tolerance=0.06)
def to_bfloat16(side):
    """`bfloat16()`, forwards"""
    side.model.bfloat16()
    x = side.x.bfloat16() if side.x.is_floating_point() else side.x
    return {"y": side.model(x).detach(), "again": side.model(x).detach()}


@operation(GROUP, tolerance=0.02)
def to_half_and_back(side):
    """`half()` and back to `float()` between evaluations"""
    with torch.no_grad():
        side.model.half().float().eval()
        return {"y": side.model(side.x)}


@operation(GROUP)
def moved_without_gradients(side):
    """`to` within `no_grad`, between evaluations"""
    side.model.eval()
    with torch.no_grad():
        y = side.model(side.x)
        side.model.double()
        z = side.model(side.x.double() if side.x.is_floating_point() else side.x)
        side.model.float()
        return {"y": y, "z": z, "again": side.model(side.x)}


@operation(GROUP)
def channels_last(side):
    """`to(memory_format=torch.channels_last)`, which reorders every 4-d parameter, between evaluations"""
    side.model.eval()
    with torch.no_grad():
        side.model(side.x)
        side.model.to(memory_format=torch.channels_last)
        y = side.model(side.x)
    x = side.x.contiguous(memory_format=torch.channels_last) if side.x.ndim == 4 else side.x
    return {"evaluated": y} | side.backward(x=x)


@operation(GROUP, kinds=[kind for kind in KINDS if kind != "Conv2d"])  # its 4-d kernel has no such format
def channels_last_3d(side):
    """`to(memory_format=torch.channels_last_3d)`"""
    return side.backward(side.model.to(memory_format=torch.channels_last_3d))


def reset(module):
    """Call the method that draws the module's own parameters again; attention has one of another name."""
    getattr(module, "_reset_parameters" if isinstance(module, nn.MultiheadAttention) else "reset_parameters")()


@operation(GROUP)
def born_on_meta(side):
    """on the meta device; `to_empty` and `reset_parameters` for each module that owns parameters"""
    model = side.fresh().to("meta")
    for part in model.modules():
        if any(param.is_meta for param in part.parameters(recurse=False)):
            part.to_empty(device="cpu", recurse=False)
            reset(part)
    y = model(side.x)
    return {"scale": 0.1 < float(y.std()) / float(side.fresh()(side.x).std()) < 10, "finite": bool(y.isfinite().all())}


@operation(GROUP)
def assigned(side):
    """`load_state_dict(assign=True)` into a model on the meta device"""
    model = side.fresh().to("meta")
    model.load_state_dict(side.model.state_dict(), assign=True)
    return side.backward(model.requires_grad_())


@operation(GROUP)
def assigned_after_evaluation(side):
    """`load_state_dict(assign=True)` between evaluations"""
    model = side.fresh().eval()
    with torch.no_grad():
        model(side.x)
        model.load_state_dict(side.model.state_dict(), assign=True)
        return {"y": model(side.x)}


@operation(GROUP)
def emptied(side):
    """`to_empty` and then `load_state_dict`"""
    state = side.model.state_dict()
    model = side.fresh().to_empty(device="cpu")
    model.load_state_dict(state)
    return side.backward(model)


@operation(GROUP)
def swapped(side):
    """moves that swap tensors (`torch.__future__.set_swap_module_params_on_conversion`)"""
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with torch.no_grad():
            y = side.model(side.x)
        del y
        return side.backward(side.model.double().float())
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


@operation(GROUP)
def overwritten(side):
    """moves that replace parameters (`set_overwrite_module_params_on_conversion`)"""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with torch.no_grad():
            side.model(side.x)
        return side.backward(side.model.double().float())
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


@operation(GROUP)
def parameter_replaced(side):
    """a parameter replaced by another `nn.Parameter`, between evaluations"""
    holder, name = side.holder
    with torch.no_grad():
        y = side.model(side.x)
        setattr(holder, name, nn.Parameter(getattr(holder, name).clone()))
        z = side.model(side.x)
        setattr(holder, name, nn.Parameter(getattr(holder, name).cos()))
        return {"y": y, "z": z, "moved": not torch.allclose(side.model(side.x), y)}


def convolved(side, axes, memory_format):
    """Run a convolution with other numbers of axes forwards and backwards; return the output and its gradients."""
    dense: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](4, 6, 3, padding=1)
    made = (TNConv1d, TNConv2d, TNConv3d)[axes - 1].from_conv(dense, WALL, fit=None)
    layer = made if side.generated else made.to_conv()
    x = torch.randn(2, 4, *[5] * axes, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = layer.to(memory_format=memory_format)(x if axes == 1 else x.contiguous(memory_format=memory_format))
    y.backward(pattern(y))
    with torch.no_grad():
        again = layer.eval()(x)
    # The layout of the outputs is the same as that of the dense layer, too.
    return {"y": y.detach(), "again": again, "x.grad": x.grad, "stride": y.stride()}


@operation(GROUP, kinds=("Conv2d",))
def images_1d(side):
    """convolutions of 3-d inputs"""
    return convolved(side, 1, torch.preserve_format)


@operation(GROUP, kinds=("Conv2d",))
def images_2d(side):
    """convolutions of 4-d inputs, `channels_last`"""
    return convolved(side, 2, torch.channels_last)


@operation(GROUP, kinds=("Conv2d",))
def images_3d(side):
    """convolutions of 5-d inputs, `channels_last_3d`"""
    return convolved(side, 3, torch.channels_last_3d)
