"""Copies of modules, and files of whole modules or their states."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .operations import operation
from .sides import KINDS

GROUP = "Copies"


def reread(value: Any, **options: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, **options)


@operation(GROUP)
def deep_copies(side):
    """`copy.deepcopy`, before, between and after calls"""
    first = copy.deepcopy(side.model)
    side.backward()
    second = copy.deepcopy(side.model)
    with torch.no_grad():
        side.model.eval()(side.x)
    third = copy.deepcopy(side.model).train()
    return {str(k): side.backward(model) for k, model in enumerate((first, second, third))}


@operation(GROUP)
def copies_are_independent(side):
    """a deep copy does not follow changes of the original"""
    twin = copy.deepcopy(side.model)
    y = side.model(side.x).detach()
    with torch.no_grad():
        for param in side.model.parameters():
            param.add_(1.0)
    return {"same": torch.equal(twin(side.x), y), "moved": not torch.allclose(side.model(side.x), y)}


@operation(
    GROUP, slow=True, kinds=[kind for kind in KINDS if kind not in ("LSTM", "GRU")]
)  # PyTorch copies these wrongly
def copies_of_compiled(side):
    """a deep copy after `module.compile(backend="eager")`"""
    torch._dynamo.reset()
    side.layer.compile(backend="eager")
    side.model(side.x)
    twin = copy.deepcopy(side.model)
    with torch.no_grad():
        for param in side.model.parameters():
            param.add_(1.0)
    return side.backward(twin)


@operation(GROUP)
def shallow_copy(side):
    """`copy.copy` shares the parameters"""
    other = copy.copy(side.model)
    return side.backward(other)


@operation(GROUP)
def pickled(side):
    """`pickle` of a whole module"""
    return side.backward(pickle.loads(pickle.dumps(side.model)))


@operation(GROUP)
def saved_whole(side):
    """`torch.save` of a whole module"""
    return side.backward(reread(side.model, weights_only=False))


@operation(GROUP)
def saved_state(side):
    """`torch.save` of the `state_dict`, read with `weights_only=True`"""
    other = side.fresh()
    other.load_state_dict(reread(side.model.state_dict(), weights_only=True))
    return side.backward(other)


@operation(GROUP)
def saved_optimizer(side):
    """the `state_dict` of an optimizer, saved and loaded again"""
    optimizer = torch.optim.Adam(side.model.parameters())
    side.backward()
    optimizer.step()
    other = torch.optim.Adam(side.model.parameters())
    other.load_state_dict(reread(optimizer.state_dict()))
    side.backward()
    other.step()
    return {"finite": all(torch.isfinite(param).all() for param in side.model.parameters())}


@operation(GROUP)
def clones_with_graphs(side):
    """clones whose parameters are results of a graph (as for meta-learning), with gradients through them"""
    clone = with_graph(side.model)
    x = side.x
    loss = clone(x).square().sum()
    params = [p for p in side.model.parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss, params, create_graph=True)
    second = torch.stack([grad.square().sum() for grad in grads]).sum()
    outer = torch.autograd.grad(second, params, allow_unused=True)
    return {"y": clone(x), "finite": all(torch.isfinite(g).all() for g in outer if g is not None)}


def with_graph(module: Any) -> Any:
    """Clone a module as libraries for meta-learning do: its parameters become clones that are not leaves."""
    clone = module.__new__(type(module))
    clone.__dict__ = module.__dict__.copy()
    clone._parameters = {k: None if p is None else p.clone() for k, p in module._parameters.items()}
    clone._buffers = dict(module._buffers)
    clone._modules = {k: None if m is None else with_graph(m) for k, m in module._modules.items()}
    if hasattr(clone, "flatten_parameters"):
        clone._apply(lambda x: x)
    return clone


@operation(GROUP)
def graph_clone_evaluated(side):
    """such a clone, evaluated and deep-copied while its original is trained"""
    side.model.eval()
    with torch.no_grad():
        side.model(side.x)
        clone = with_graph(side.model)
        y = clone(side.x)
        for param in side.model.parameters():
            param.mul_(2.0)
        return {"y": y, "same": torch.equal(clone(side.x), y), "z moved": not torch.allclose(side.model(side.x), y)}


@operation(GROUP)
def averaged(side):
    """`AveragedModel` (SWA) of two states"""
    mean = AveragedModel(side.model)
    mean.update_parameters(side.model)
    mean.update_parameters(side.model)
    with torch.no_grad():
        return {"y": mean(side.x), "again": mean(side.x)}


@operation(GROUP)
def moving_average(side):
    """`AveragedModel` with an exponential moving average, evaluated between updates"""
    mean = AveragedModel(side.model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    mean.update_parameters(side.model)
    with torch.no_grad():
        y = mean(side.x)
        for param in side.model.parameters():
            param.mul_(3.0)
        mean.update_parameters(side.model)
        return {"y": y, "moved": not torch.allclose(mean(side.x), y)}


@operation(GROUP)
def target_network(side):
    """a target network that follows by `lerp_`, evaluated after each step"""
    target = copy.deepcopy(side.model).requires_grad_(False)
    with torch.no_grad():
        y = target(side.x)
        for old, new in zip(target.parameters(), side.model.parameters()):
            old.lerp_(new * 2, 0.5)
        return {"y": y, "moved": not torch.allclose(target(side.x), y)}


@operation(GROUP)
def shared_memory(side):
    """`share_memory` and `nn.utils.parameters_to_vector` and back"""
    side.model.share_memory()
    params = list(side.model.parameters())
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(params), params)
    return side.backward()
