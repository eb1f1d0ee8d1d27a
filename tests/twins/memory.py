"""Activation checkpointing and hooks on saved tensors."""

from __future__ import annotations

import functools

import torch
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    checkpoint_sequential,
    create_selective_checkpoint_contexts,
)

from .operations import operation
from .sides import pattern

GROUP = "Memory"


@operation(GROUP)
def checkpointed(side):
    """`checkpoint(use_reentrant=False)`"""
    return side.backward(lambdaed(side, lambda x: checkpoint(side.model, x, use_reentrant=False)))


@operation(GROUP)
def checkpointed_again(side):
    """the same, nested, and evaluated between steps"""
    inner = lambda x: checkpoint(side.model, x, use_reentrant=False)
    first = side.backward(lambdaed(side, lambda x: checkpoint(inner, x, use_reentrant=False)))
    with torch.no_grad():
        side.model(side.x)
    return {"first": first, "second": side.backward(lambdaed(side, inner))}


@operation(GROUP)
def checkpointed_reentrant(side):
    """`checkpoint(use_reentrant=True)`"""
    return side.backward(lambdaed(side, lambda x: checkpoint(side.model, x, use_reentrant=True)))


@operation(GROUP)
def checkpointed_selectively(side):
    """`checkpoint` with a policy that says what is saved"""
    policy = lambda ctx, op, *args, **kwargs: (
        CheckpointPolicy.MUST_SAVE if "mm" in str(op) else CheckpointPolicy.PREFER_RECOMPUTE
    )
    contexts = functools.partial(create_selective_checkpoint_contexts, policy)
    call = lambda x: checkpoint(side.model, x, use_reentrant=False, context_fn=contexts)
    return side.backward(lambdaed(side, call))


@operation(GROUP)
def checkpointed_sequentially(side):
    """`checkpoint_sequential`"""
    call = lambda x: checkpoint_sequential([side.model, torch.nn.Identity()], 2, x, use_reentrant=False)
    return side.backward(lambdaed(side, call))


@operation(GROUP)
def saved_elsewhere(side):
    """`saved_tensors_hooks` that turn tensors into NumPy arrays and back"""
    with saved_tensors_hooks(lambda t: t.detach().clone().numpy(), torch.from_numpy):
        return side.backward()


@operation(GROUP)
def saved_on_cpu(side):
    """`save_on_cpu`"""
    with save_on_cpu():
        return side.backward()


@operation(GROUP)
def all_is_saved(side):
    """hooks see all that decoding keeps: with zeros in place of it, the gradients of the cores are zero"""
    with saved_tensors_hooks(lambda t: (t.shape, t.dtype), lambda s: torch.zeros(s[0], dtype=s[1])):
        weight = getattr(side.layer, side.main)
        (weight * 1).backward(pattern(weight))
    holder, name = side.holder
    grad = getattr(holder, name).grad
    assert not side.generated or bool(((grad == 0) | grad.isnan()).all())
    return {"has a gradient": grad is not None}


@operation(GROUP)
def hooks_disabled(side):
    """within `disable_saved_tensors_hooks`"""
    with torch.autograd.graph.disable_saved_tensors_hooks("not now"):
        return side.backward()


class lambdaed(torch.nn.Module):
    """A module that calls a function of a model."""

    def __init__(self, side, call):
        super().__init__()
        self.layer, self.call = side.model.layer, call

    def forward(self, x):
        return self.call(x)
