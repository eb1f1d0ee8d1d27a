"""Wrappers around modules: for several devices or processes, compilers, averages."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from .moves import reset
from .operations import operation
from .sides import process_group

GROUP = "Wrappers"
CPU = torch.device("cpu")


def replica(module):
    """Do what torch.nn.parallel.replicate does to a module, without its broadcast over GPUs."""
    other = module._replicate_for_data_parallel()
    other._modules = {name: None if part is None else replica(part) for name, part in module._modules.items()}
    for name, param in module._parameters.items():
        if param is None:
            other._parameters[name] = None
        else:
            setattr(other, name, param.clone())
    return other


@operation(GROUP)
def replicas(side):
    """replicas of `DataParallel`"""
    model = replica(side.model)
    x = side.x.clone().requires_grad_(side.x.is_floating_point())
    y = model(x)
    y.square().sum().backward()
    return {
        "y": y,
        "x.grad": x.grad,
        "flows": all(p.grad is not None for p in side.model.parameters() if p.requires_grad),
    }


@operation(GROUP)
def replicas_evaluated(side):
    """replicas of a model that was evaluated before, without gradients"""
    with torch.no_grad():
        side.model.eval()(side.x)
        model = replica(side.model)
        return {"y": model(side.x), "again": model(side.x)}


@operation(GROUP)
def data_parallel(side):
    """`nn.DataParallel` without a GPU"""
    return side.backward(nn.DataParallel(side.model))


def trained_and_evaluated(side, model):
    found = side.backward(model)
    with torch.no_grad():
        y = [model.eval()(side.x) for _ in range(2)][-1]
    return {key: found[key] for key in ("y", "x.grad")} | {"evaluated": y}


@operation(GROUP, slow=True)
def distributed(side):
    """`DistributedDataParallel`, with one process"""
    process_group()
    return side.backward(DistributedDataParallel(side.model))


@operation(GROUP, slow=True)
def distributed_static(side):
    """`DistributedDataParallel(static_graph=True, gradient_as_bucket_view=True)`, three steps"""
    process_group()
    model = DistributedDataParallel(side.model, static_graph=True, gradient_as_bucket_view=True)
    return [side.backward(model) for _ in range(3)][-1]


@operation(GROUP, slow=True)
def fsdp1(side):
    """`FullyShardedDataParallel` with flat parameters"""
    process_group()
    found = side.backward(FullyShardedDataParallel(side.model, device_id=CPU))
    return {key: found[key] for key in ("y", "x.grad")}


@operation(GROUP, slow=True)
def fsdp1_original(side):
    """`FullyShardedDataParallel(use_orig_params=True)`: training, then evaluation"""
    process_group()
    model = FullyShardedDataParallel(side.model, device_id=CPU, use_orig_params=True)
    return trained_and_evaluated(side, model)


@operation(GROUP, slow=True)
def fsdp1_meta(side):
    """`FullyShardedDataParallel` of a model on the meta device"""
    process_group()
    model = FullyShardedDataParallel(side.fresh().to("meta"), device_id=CPU, use_orig_params=True)
    return {"finite": bool(model(side.x).isfinite().all())}


@operation(GROUP, slow=True)
def fsdp2(side):
    """`fully_shard` (FSDP2): training, then evaluation"""
    process_group()
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(side.model.layer, mesh=mesh)
    model = fully_shard(side.model, mesh=mesh)
    return trained_and_evaluated(side, model)


@operation(GROUP, slow=True)
def fsdp2_meta(side):
    """`fully_shard`, `to_empty` and `reset_parameters` of a model on the meta device"""
    process_group()
    mesh = init_device_mesh("cpu", (1,))
    model = side.fresh().to("meta")
    fully_shard(model.layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    for part in model.modules():
        if any(True for _ in part.parameters(recurse=False)):
            reset(part)
    return {"finite": bool(model(side.x).isfinite().all())}


@operation(GROUP)
def checkpoint_wrapped(side):
    """`checkpoint_wrapper` of FSDP's activation checkpointing"""
    return side.backward(checkpoint_wrapper(side.model))


@operation(GROUP)
def compiled_prefix(side):
    """the `state_dict` of a model from `torch.compile`, with its prefix, loaded into another"""
    other: Any = torch.compile(side.fresh(), backend="eager")
    model: Any = torch.compile(side.model, backend="eager")
    other.load_state_dict(model.state_dict())
    return side.backward(other._orig_mod)


@operation(GROUP)
def inside_containers(side):
    """inside `nn.Sequential`, `nn.ModuleList` and `nn.ModuleDict`"""
    parts = nn.ModuleDict({"a": nn.ModuleList([side.model])})
    model: Any = nn.Sequential(*next(parts.children()).children())
    with torch.no_grad():
        return {"y": model(side.x), "count": len(list(model.buffers()))}
