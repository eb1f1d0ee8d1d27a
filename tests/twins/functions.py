"""Transformations of torch.func, eager and compiled."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

from .operations import operation
from .sides import KINDS, pattern, twins

GROUP = "torch.func"
# The Jacobian of an embedding with respect to integers does not exist.
FLOATS = tuple(kind for kind in KINDS if kind != "Embedding")
# vmap has no rule for the fused kernels of recurrent modules, dense ones included.
BATCHED = tuple(kind for kind in KINDS if kind not in ("LSTM", "GRU"))


def params_of(model):
    return {name: param.detach() for name, param in model.named_parameters() if param.requires_grad}


def loss_of(model):
    def loss(params, x):
        y = functional_call(model, params, (x,))
        return (y * pattern(y)).sum()

    return loss


def grads_of(side):
    return lambda params, x: grad(loss_of(side.model))(params, x)


def samples(side):
    """Return inputs with a new first axis: one sample each."""
    return torch.stack([side.batch(2) for _ in range(3)])


@operation(GROUP)
def gradient(side):
    """`grad` of a `functional_call`"""
    return {"grads": grads_of(side)(params_of(side.model), side.x)}


@operation(GROUP, kinds=BATCHED)
def per_sample_gradients(side):
    """`vmap(grad)`: gradients per sample"""
    found = vmap(grads_of(side), in_dims=(None, 0))(params_of(side.model), samples(side))
    return {"grads": {name: value[1] for name, value in found.items()}}


@operation(GROUP, kinds=BATCHED)
def mapped_inputs(side):
    """`vmap` over inputs"""
    return {"y": vmap(side.model)(samples(side)).detach()}


@operation(GROUP, kinds=FLOATS)
def forward_mode(side):
    """`jvp` and `jacfwd` with respect to the input"""
    x = side.x[:, :1] if side.x.ndim == 3 else side.x[:1]
    return {"jvp": jvp(side.model, (x,), (pattern(x),)), "jacfwd": jacfwd(side.model)(x).detach()}


@operation(GROUP, kinds=FLOATS)
def reverse_mode(side):
    """`vjp` and `jacrev` with respect to the input"""
    x = side.x[:, :1] if side.x.ndim == 3 else side.x[:1]
    pull = vjp(side.model, x)[1]
    return {"vjp": pull(pattern(side.model(x)).detach())[0].detach(), "jacrev": jacrev(side.model)(x).detach()}


@operation(GROUP, kinds=("Linear", "Linear, apply"))
def second_derivatives(side):
    """`hessian` with respect to the input"""
    return {"hessian": hessian(lambda x: side.model(x).square().sum())(side.x[:1]).detach()}


@operation(GROUP)
def other_parameters(side):
    """`functional_call` with the parameters of another module, and tied ones"""
    other = dict(side.fresh().named_parameters())
    with torch.no_grad():
        y = side.model(side.x)
        z = functional_call(side.model, {name: 0 * param for name, param in other.items()}, (side.x,))
        return {"y": y, "again": side.model(side.x), "z": float(z.abs().max()) < 1e-6}


def stacked(side):
    models = [twins(side.kind, seed)[side.generated].model for seed in range(3)]
    params: Any = stack_module_state(models)[0]
    base = copy.deepcopy(models[0])

    def call(params, x):
        return functional_call(base, params, (x,))

    return call, params


@operation(GROUP, kinds=BATCHED)
def ensemble(side):
    """an ensemble by `stack_module_state` and `vmap`"""
    call, params = stacked(side)
    return {"y": vmap(call, in_dims=(0, None))(params, side.x).detach()}


def compiled(call, *args):
    torch._dynamo.reset()
    return torch.compile(call, backend="eager")(*args)


@operation(GROUP, slow=True)
def compiled_gradient(side):
    """`torch.compile` of `grad`"""
    return {"grads": compiled(grads_of(side), params_of(side.model), side.x)}


@operation(GROUP, slow=True, kinds=BATCHED)
def compiled_samples(side):
    """`torch.compile` of gradients per sample"""
    found = compiled(vmap(grads_of(side), in_dims=(None, 0)), params_of(side.model), samples(side))
    return {"grads": {name: value[1] for name, value in found.items()}}


@operation(GROUP, slow=True, kinds=BATCHED)
def compiled_ensemble(side):
    """`torch.compile` of an ensemble"""
    call, params = stacked(side)
    return {"y": compiled(vmap(call, in_dims=(0, None)), params, side.x).detach()}


@operation(GROUP, slow=True, kinds=FLOATS)
def compiled_forward_mode(side):
    """`torch.compile` of `jvp`"""
    return {"jvp": compiled(lambda x: jvp(side.model, (x,), (pattern(x),)), side.x)}
