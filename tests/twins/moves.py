"""Other dtypes, devices, layouts of memory, and modules that are born without memory."""

from __future__ import annotations

import torch
from torch import nn

from .operations import operation
from .sides import KINDS

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


@operation(GROUP)
def born_on_meta(side):
    """born on the meta device; `to_empty` and `reset_parameters` for each module that owns parameters"""
    with torch.device("meta"):
        model = side.fresh()
    for part in model.modules():
        if any(param.is_meta for param in part.parameters(recurse=False)):
            part.to_empty(device="cpu", recurse=False)
            reset = getattr(part, "reset_parameters", getattr(part, "_reset_parameters", None))
            assert reset is not None, f"{type(part).__name__} has no reset_parameters"
            reset()
    y = model(side.x)
    return {"scale": 0.2 < float(y.std()) / float(side.fresh()(side.x).std()) < 5, "finite": bool(y.isfinite().all())}


@operation(GROUP)
def assigned(side):
    """`load_state_dict(assign=True)` into a model on the meta device"""
    with torch.device("meta"):
        model = side.fresh()
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
