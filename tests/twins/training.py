"""Recipes of training: mixed precision, accumulation, optimizers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from .operations import operation
from .sides import KINDS, pattern

GROUP = "Training"


def losses(side, optimizer, steps=4):
    """Return whether a few steps reduce the loss."""
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = side.model(side.x).square().mean()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return {"falls": found[-1] < found[0], "first": torch.tensor(found[0])}


@operation(GROUP, tolerance=0.05)
def autocast(side):
    """`autocast` to bfloat16, forwards and backwards"""
    x = side.x.clone().requires_grad_(side.x.is_floating_point())
    with torch.autocast("cpu", torch.bfloat16):
        y = side.model(x)
        loss = y.float().square().mean()
    loss.backward()
    grads = {str(p.grad.dtype) for p in side.model.parameters() if p.grad is not None}
    return {"y": y.detach(), "dtypes": grads, "x.grad": x.grad}


@operation(GROUP, tolerance=1e-6)
def autocast_double(side):
    """`autocast` around a module of float64"""
    side.model.double()
    with torch.autocast("cpu", torch.bfloat16):
        return {"y": side.model(side.x.double() if side.x.is_floating_point() else side.x).detach()}


@operation(GROUP, tolerance=0.05)
def autocast_evaluated(side):
    """evaluation under `autocast`, and without it"""
    side.model.eval()
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            a = side.model(side.x)
        b = side.model(side.x)
        with torch.autocast("cpu", torch.bfloat16):
            return {"a": a, "b": b, "c": side.model(side.x)}


@operation(GROUP, tolerance=0.05)
def autocast_half_inputs(side):
    """bfloat16 inputs under `autocast`, as from a layer before"""
    x = side.x.bfloat16() if side.x.is_floating_point() else side.x
    with torch.autocast("cpu", torch.bfloat16):
        return {"y": side.model(x).detach()}


@operation(GROUP)
def scaled(side):
    """`GradScaler`"""
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer = torch.optim.SGD(side.model.parameters(), 1e-3)
    scaler.scale(side.model(side.x).square().mean()).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(side.model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    return {"finite": bool(norm.isfinite()), "scale": scaler.get_scale()}


@operation(GROUP)
def accumulated(side):
    """gradients accumulated over two backward passes"""
    for size in (2, 3):
        y = side.model(side.batch(size))
        y.backward(pattern(y))
    from .sides import gradients

    return {"grads": gradients(side.model)}


@operation(GROUP)
def graph_kept(side):
    """`retain_graph=True`, and a second pass through one graph"""
    x = side.x.clone().requires_grad_(side.x.is_floating_point())
    y = side.model(x)
    y.backward(pattern(y), retain_graph=True)
    y.backward(pattern(y))
    from .sides import gradients

    return {"grads": gradients(side.model), "x.grad": x.grad}


@operation(GROUP, kinds=tuple(kind for kind in KINDS if kind != "Embedding"))
def gradient_penalty(side):
    """the gradient of the norm of a gradient (`create_graph=True`)"""
    x = side.x.clone().requires_grad_()
    y = side.model(x)
    (slope,) = torch.autograd.grad(y, x, pattern(y), create_graph=True)
    slope.square().sum().backward()
    return {
        "slope": slope.detach(),
        "flows": all(bool(p.grad.isfinite().all()) for p in side.model.parameters() if p.grad is not None),
    }


@operation(GROUP)
def batched_gradients(side):
    """`torch.autograd.grad(is_grads_batched=True)`"""
    params = [p for p in side.model.parameters() if p.requires_grad]
    y = side.model(side.x)
    grads = torch.autograd.grad(
        y, params, torch.stack([pattern(y), 2 * pattern(y)]), is_grads_batched=True, allow_unused=True
    )
    return {"doubled": all(torch.allclose(2 * g[0], g[1], atol=1e-4) for g in grads if g is not None)}


@operation(GROUP)
def anomaly_detected(side):
    """within `detect_anomaly`"""
    with torch.autograd.detect_anomaly():
        return side.backward()


for name, make in {
    "SGD with momentum": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9),
    "AdamW, foreach": lambda p: torch.optim.AdamW(p, 1e-3, foreach=True),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, 1e-3, fused=True),
    "SGD, fused": lambda p: torch.optim.SGD(p, 1e-3, fused=True),
    "NAdam": lambda p: torch.optim.NAdam(p, 1e-3),
}.items():

    def run(side, make=make):
        return losses(side, make([p for p in side.model.parameters() if p.requires_grad]))

    run.__name__, run.__doc__ = name.replace(", ", "_").replace(" ", "_").lower(), name
    operation(GROUP)(run)


@operation(GROUP)
def lbfgs(side):
    """L-BFGS"""
    optimizer = torch.optim.LBFGS([p for p in side.model.parameters() if p.requires_grad], lr=0.01, max_iter=4)
    found = []

    def closure():
        optimizer.zero_grad()
        loss = side.model(side.x).square().mean()
        loss.backward()
        found.append(loss.item())
        return loss

    optimizer.step(closure)
    return {"falls": found[-1] < found[0]}


@operation(GROUP)
def optimizer_in_backward(side):
    """optimizers that step within the backward pass"""
    params = [p for p in side.model.parameters() if p.requires_grad]
    optimizers = {p: torch.optim.SGD([p], 1e-3) for p in params}

    def step(param):
        optimizers[param].step()
        optimizers[param].zero_grad()

    for param in params:
        param.register_post_accumulate_grad_hook(step)
    found = []
    for _ in range(4):
        loss = side.model(side.x).square().mean()
        loss.backward()
        found.append(loss.item())
    return {"falls": found[-1] < found[0], "cleared": all(p.grad is None for p in params)}


@operation(GROUP)
def evaluated_between_steps(side):
    """evaluation after every step of an optimizer"""
    optimizer = torch.optim.Adam([p for p in side.model.parameters() if p.requires_grad], 1e-3)
    found = []
    for _ in range(3):
        side.model.train()
        side.model(side.x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        side.model.eval()
        with torch.no_grad():
            found.append(side.model(side.x).square().mean().item())
    return {"falls": found[0] > found[1] > found[2]}


@operation(GROUP, slow=True, tolerance=0.05, kinds=[kind for kind in KINDS if kind != "MultiheadAttention"])
def quantized_beside(side):
    """`torchao.quantize_` of a model with such a module in it"""
    quantization = pytest.importorskip("torchao.quantization")
    torch.manual_seed(0)
    model = nn.Sequential(side.model, nn.Linear(side.model(side.x).shape[-1], 8)).eval()
    before = {name: param.clone() for name, param in side.model.named_parameters()}
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    if side.generated:
        assert all(torch.equal(param, before[name]) for name, param in side.model.named_parameters())
    with torch.no_grad():
        return {"y": model(side.x), "quantized": type(model[1].weight).__name__}
