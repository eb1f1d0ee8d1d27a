"""Training and evaluation, with and without gradients, in every order; parts that are frozen."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from .operations import operation
from .sides import Side

GROUP = "Modes"


def evaluated(side: Side, mode: Any) -> Tensor:
    side.model.eval()
    with mode():
        return side.model(side.x).clone()


def trained(side: Side) -> Tensor:
    side.model.train()
    return side.backward()["y"]


STEPS = {
    "train": trained,
    "no_grad": lambda side: evaluated(side, torch.no_grad),
    "inference": lambda side: evaluated(side, torch.inference_mode),
    "eval": lambda side: evaluated(side, torch.enable_grad),
}


@operation(GROUP)
def every_order(side):
    """`train`, `eval`, `no_grad` and `inference_mode` in every order"""
    found = {}
    for order in itertools.permutations(STEPS):
        for step in order:
            found["-".join(order), step] = STEPS[step](side)
    return found


@operation(GROUP)
def each_repeated(side):
    """each of them many times, with an optimizer's steps between"""
    found = {}
    for name, step in STEPS.items():
        y = [step(side) for _ in range(6)][-1]
        with torch.no_grad():
            for p in side.model.parameters():
                p.mul_(1.0)  # a write that changes nothing
        found[name] = y.clone()
    return found | side.backward()


@operation(GROUP)
def frozen_with_gradients(side):
    """all parameters frozen, gradients on: the input has a gradient, many times"""
    side.model.requires_grad_(False)
    return [side.backward() for _ in range(3)][-1]


@operation(GROUP)
def frozen_without_gradients(side):
    """all parameters frozen, gradients off, then unfrozen"""
    side.model.requires_grad_(False)
    with torch.no_grad():
        y = [side.model(side.x) for _ in range(3)][-1]
    side.model.requires_grad_(True)
    return side.backward() | {"frozen": y}


@operation(GROUP)
def weight_frozen(side):
    """the weights frozen, the rest trained"""
    for name, param in side.model.named_parameters():
        param.requires_grad_("bias" in name)
    return [side.backward() for _ in range(2)][-1]


@operation(GROUP)
def bias_frozen(side):
    """the biases frozen, the weights trained"""
    for name, param in side.model.named_parameters():
        if "bias" in name:
            param.requires_grad_(False)
    return [side.backward() for _ in range(2)][-1]


@operation(GROUP)
def gradients_switched(side):
    """`set_grad_enabled` off and on within a call of a larger model"""
    with torch.set_grad_enabled(False):
        a = side.model(side.x)
        with torch.set_grad_enabled(True):
            b = side.model(side.x)
    return {"same": torch.allclose(a, b), "flows": b.requires_grad, "stops": a.requires_grad} | side.backward()


@operation(GROUP)
def changed_between_evaluations(side):
    """evaluate, double all parameters under `no_grad`, evaluate: the output is another one"""
    before = evaluated(side, torch.no_grad)
    with torch.no_grad():
        for param in side.model.parameters():
            param.mul_(2.0)
    return {"before": before, "moved": not torch.allclose(before, evaluated(side, torch.no_grad))}


@operation(GROUP)
def data_set_between_evaluations(side):
    """evaluate, write to `param.data`, evaluate: the output is another one"""
    before = evaluated(side, torch.inference_mode)
    for param in side.model.parameters():
        param.data *= 2.0
    return {"moved": not torch.allclose(before, evaluated(side, torch.inference_mode))}


@operation(GROUP)
def used_twice_in_a_graph(side):
    """called twice before one backward pass"""
    x = side.x.clone().requires_grad_(side.x.is_floating_point())
    (side.model(x).square().sum() + side.model(x).sum()).backward()
    with torch.no_grad():
        y = side.model(side.x)
    return {"y": y, "x.grad": x.grad}
