"""Controls: other ways to make a `ConvNet` as small as a compressed one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn.utils import prune

from deeptn.files.rounding import rounded

from .networks import WIDTHS, ConvNet


def narrower(kind: str, limit: int, cost: Callable[[nn.Module], int]) -> ConvNet:
    """Return the widest network that costs at most so much; all widths have the same share of the usual ones.

    If even widths of one channel cost more, those are returned.
    """
    best: tuple[int, ...] = (1, 1, 1, 1)
    for per_mille in range(1, 1001):
        widths = tuple(max(1, round(per_mille * width / 1000)) for width in WIDTHS[kind])
        if widths == best:
            continue
        with torch.device("meta"):
            if cost(ConvNet(kind, widths[2:], widths[:2])) > limit:  # type: ignore[arg-type]
                break
        best = widths
    return ConvNet(kind, best[2:], best[:2])  # type: ignore[arg-type]


def fixed_random(model: nn.Module, layers: Iterable[str]) -> nn.Module:
    """Return a copy whose weights in some layers are random, with the same root mean square, and stay so."""
    copied = copy.deepcopy(model)
    for name in layers:
        weight = copied.get_submodule(name).weight
        with torch.no_grad():
            weight.copy_(torch.randn_like(weight) * weight.square().mean().sqrt())  # type: ignore[operator, arg-type]
        weight.requires_grad_(False)
    return copied


def pruned(model: nn.Module, limit: int) -> nn.Module:
    """Return a copy in which as many of the largest weights are left as fit into so many bytes; see `pruned_bytes`."""
    copied = copy.deepcopy(model)
    layers = _layers(copied)
    everything = torch.cat([layer.weight.detach().abs().flatten() for layer in layers])
    room = limit - sum(p.numel() * p.element_size() for p in copied.parameters() if p.ndim < 2)
    each = torch.cat([torch.full((layer.weight.numel(),), 4 + _index(layer.weight)) for layer in layers])
    order = everything.argsort(descending=True)
    kept = torch.zeros(len(everything), dtype=torch.bool)
    kept[order[each[order].cumsum(0) <= room]] = True
    for layer, mask in zip(layers, kept.split([layer.weight.numel() for layer in layers])):
        prune.custom_from_mask(layer, "weight", mask.view_as(layer.weight))
    return copied


def pruned_bytes(model: nn.Module) -> int:
    """Return the bytes of a pruned model: each weight that is left with its index (2 bytes, or 4), and the biases."""
    stored = 0
    for layer in _layers(model):
        mask = getattr(layer, "weight_mask", torch.ones_like(layer.weight))
        stored += int(mask.sum()) * (layer.weight.element_size() + _index(layer.weight))
    return stored + sum(p.numel() * p.element_size() for p in model.parameters() if p.ndim < 2)


def as_int8(model: nn.Module) -> nn.Module:
    """Return a copy whose weights (or cores) are rounded to 8 bits, with one scale for each; see `int8_bytes`."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            if parameter.ndim > 1:
                numbers, scale = rounded(parameter.detach(), "int8")
                parameter.copy_(torch.from_numpy(numbers).float() * scale)
    return copied


def int8_bytes(model: nn.Module) -> int:
    """Return the bytes of a model in 8 bits: one per entry, a scale for each weight or core, biases as they are."""
    return sum(p.numel() + 4 if p.ndim > 1 else p.numel() * p.element_size() for p in model.parameters())


def _layers(model: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    return [part for part in model.modules() if isinstance(part, (nn.Linear, nn.Conv2d))]


def _index(weight: torch.Tensor) -> int:
    """Return the bytes of an index into a weight."""
    return 2 if weight.numel() <= 2**16 else 4
