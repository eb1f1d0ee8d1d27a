"""What users attach to modules: parametrizations, norms, masks, hooks."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from .operations import operation
from .sides import KINDS, pattern

GROUP = "Parametrizations and hooks"
WITH_BIAS = tuple(kind for kind in KINDS if kind != "Embedding")


@operation(GROUP, kinds=WITH_BIAS)
def parametrized_bias(side):
    """a parametrization of the bias"""
    parametrize.register_parametrization(side.layer, side.bias, nn.Softplus())
    found = side.backward()
    return {key: found[key] for key in ("y", "x.grad")}


@operation(GROUP, kinds=WITH_BIAS)
def bias_as_buffer(side):
    """the bias as a buffer"""
    bias = getattr(side.layer, side.bias).detach()
    delattr(side.layer, side.bias)
    side.layer.register_buffer(side.bias, bias)
    return side.backward()


@operation(GROUP, kinds=WITH_BIAS)
def bias_as_tensor(side):
    """the bias as a plain tensor"""
    bias = getattr(side.layer, side.bias).detach()
    delattr(side.layer, side.bias)
    setattr(side.layer, side.bias, bias)
    return side.backward()


@operation(GROUP, kinds=WITH_BIAS)
def pruned_bias(side):
    """`prune` of the bias, then `prune.remove`"""
    prune.l1_unstructured(side.layer, side.bias, 0.5)
    y = side.model(side.x).detach()
    prune.remove(side.layer, side.bias)
    return {"y": y, "again": side.model(side.x).detach()}


@operation(GROUP)
def pruned_weight(side):
    """`prune` of the weight"""
    prune.l1_unstructured(side.layer, side.main, 0.5)
    return {"y": side.model(side.x).detach()}


@operation(GROUP)
def pruned_holder(side):
    """`prune` of the weight, or of a core of its network: two steps of an optimizer, then `prune.remove`"""
    holder, name = side.holder
    prune.l1_unstructured(holder, name, 0.5)
    optimizer = torch.optim.SGD(side.model.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        y = side.model(side.x)
        (y * pattern(y)).sum().backward()
        optimizer.step()
    prune.remove(holder, name)
    weight = getattr(holder, name)
    return {"share": round(float((weight == 0).double().mean()), 1), "finite": bool(weight.isfinite().all())}


def attached(norm):
    def run(side):
        norm(side.layer, side.main)
        side.model.eval()
        found = side.backward()
        return {key: found[key] for key in ("y", "x.grad")}

    return run


for name, norm in {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}.items():
    run = attached(norm)
    run.__name__, run.__doc__ = name, f"`parametrizations.{name}` of the weight"
    # The weights of the twins are equal up to rounding, which normalisations of small singular values enlarge.
    operation(GROUP, tolerance=2e-3)(run)


@operation(GROUP)
def legacy_weight_norm(side):
    """`torch.nn.utils.weight_norm`, which is deprecated"""
    nn.utils.weight_norm(side.layer, side.main)
    return {"y": side.model(side.x).detach()}


@operation(GROUP)
def legacy_spectral_norm(side):
    """`torch.nn.utils.spectral_norm`, which is deprecated"""
    nn.utils.spectral_norm(side.layer, side.main)
    return {"y": side.model.eval()(side.x).detach()}


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


@operation(GROUP)
def parametrized_holder(side):
    """a parametrization of the weight, or of a core of its network"""
    holder, name = side.holder
    parametrize.register_parametrization(holder, name, Doubled())
    with torch.no_grad():
        y, again = (side.model(side.x) for _ in range(2))
    parametrize.remove_parametrizations(holder, name)
    return {"kept": torch.equal(y, again), "still": torch.allclose(side.model(side.x), y, atol=1e-6)}


@operation(GROUP)
def forward_hooks(side):
    """forward hooks and pre-hooks, registered and removed"""
    calls = []
    handles = [
        side.layer.register_forward_pre_hook(lambda module, args, kwargs: calls.append("before"), with_kwargs=True),
        side.layer.register_forward_hook(lambda module, args, output: calls.append("after")),
        side.layer.register_forward_hook(lambda module, args, output: calls.append("always"), always_call=True),
    ]
    found = side.backward()
    for handle in handles:
        handle.remove()
    side.model(side.x)
    return found | {"calls": calls}


@operation(GROUP)
def backward_hooks(side):
    """full backward hooks and pre-hooks"""
    calls = []
    side.model.register_full_backward_pre_hook(lambda module, grads: calls.append("before"))
    side.model.register_full_backward_hook(lambda module, inputs, grads: calls.append("after"))
    return side.backward() | {"calls": calls}


@operation(GROUP)
def global_hooks(side):
    """global hooks for all modules"""
    calls = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, y: calls.append(module is side.layer))
    try:
        found = side.backward()
    finally:
        handle.remove()
    return found | {"calls": sum(calls)}


@operation(GROUP)
def tensor_hooks(side):
    """hooks on a parameter: `register_hook` and `register_post_accumulate_grad_hook`"""
    holder, name = side.holder
    calls = []
    getattr(holder, name).register_hook(lambda grad: calls.append("grad"))
    getattr(holder, name).register_post_accumulate_grad_hook(lambda param: calls.append("accumulated"))
    return side.backward() | {"calls": calls}


@operation(GROUP)
def state_hooks(side):
    """hooks of `state_dict` and `load_state_dict`"""
    calls = []
    side.layer.register_state_dict_post_hook(lambda module, state, prefix, metadata: calls.append("saved"))
    side.layer.register_load_state_dict_pre_hook(lambda module, *args: calls.append("loading"))
    side.layer.register_load_state_dict_post_hook(lambda module, keys: calls.append("loaded"))
    side.model.load_state_dict(side.model.state_dict())
    return {"calls": calls} | side.backward()
