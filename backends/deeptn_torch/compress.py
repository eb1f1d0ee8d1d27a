"""Compressing a model: dense layers replaced by generated ones, and back."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from torch import nn

from deeptn.errors import PlanError
from deeptn.models import Report, Target, layer_report, resolve, select

from .fit import find_params
from .layers import (
    TNConv1d,
    TNConv2d,
    TNConv3d,
    TNConvTranspose1d,
    TNConvTranspose2d,
    TNConvTranspose3d,
    TNEmbedding,
    TNLayer,
    TNLinear,
    TNWeight,
    generated,
    generated_inside,
    register,
    unregister,
    weights_of,
)

M = TypeVar("M", bound=nn.Module)

#: The generated layers that stand for dense ones.
LAYERS: tuple[type[TNLayer], ...] = (
    TNLinear,
    TNConv1d,
    TNConv2d,
    TNConv3d,
    TNConvTranspose1d,
    TNConvTranspose2d,
    TNConvTranspose3d,
    TNEmbedding,
)


def compress(
    model: M, targets: Mapping[str, Target], ignore: Iterable[str] = (), fit: Any = "auto"
) -> tuple[M, Report]:
    """Return a copy of a model in which chosen layers have generated weights, and a report.

    Parameters
    ----------
    model : nn.Module
        Left as it is.
    targets : mapping of str to deeptn.Topology, deeptn.Network or str
        Which layers (`nn.Linear`, `nn.Embedding`, convolutions) and single weights (of recurrent modules and
        `nn.MultiheadAttention`: ``"attn.in_proj_weight"``) become what. A key is a layer's name, a glob
        (``"classifier.*"``), or ``"re:…"``, a regular expression for the whole name. If several match, an exact name
        wins, then the first.
    ignore : iterable of str
        Patterns of layers to leave alone.
    fit : {"auto"}, deeptn.Fit or None
        ``"auto"``: the closed form where the family has one (`deeptn.decompose`), else a fit by gradient with the
        defaults of `deeptn.Fit`. A `Fit`: by gradient, from the closed form where there is one. None: random cores that
        give W its root mean square.

    Returns
    -------
    model : nn.Module
    report : deeptn.report.Report
        Per layer shape, topology, parameters, error of W and cost; ``print`` it, show it with rich, or ``to_json``.

    Raises
    ------
    deeptn.PlanError
        If a pattern matches no layer, or a layer shares its weight with another module.

    Examples
    --------
    >>> import deeptn as dtn
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 10))
    >>> small, report = compress(model, {"0": dtn.TensorTrain(rank=4)})
    >>> report.params_before, report.params_after
    (48000, 424)
    """
    model = copy.deepcopy(model)
    return model, compress_(model, targets, ignore, fit)


def compress_(model: nn.Module, targets: Mapping[str, Target], ignore: Iterable[str] = (), fit: Any = "auto") -> Report:
    """Compress a model in place; see `compress`. Nothing is replaced unless all layers can be.

    Returns
    -------
    deeptn.report.Report

    Examples
    --------
    >>> import deeptn as dtn
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 10))
    >>> report = compress_(model, {"0": dtn.BrickWall(layers=1)}, fit=None)
    >>> type(model[0]).__name__, report.params_after
    ('TNLinear', 144)
    """
    dense: dict[str, Any] = {
        name: m
        for name, m in model.named_modules()
        if stand_in(m) is not None and not isinstance(m.weight, nn.UninitializedParameter)
    }
    shapes = {name: tuple(layer.weight.shape) for name, layer in dense.items()}
    inside: dict[str, tuple[nn.Module, str]] = {}
    for name, module in model.named_modules():
        for weight, tensor in weights_of(module).items():
            inside[path_of(name, weight)] = module, weight
            shapes[path_of(name, weight)] = tuple(tensor.shape)
    plan = resolve(shapes, targets, ignore)
    if "" in plan:
        raise PlanError("the model is a single layer; use TNLinear.from_linear or TNConv2d.from_conv")
    for name in plan:
        if name in dense:
            remedy = f", or add {name!r} to ignore"
            check_plain(name, dense[name], remedy)
            check_alone(model, name, dense[name], remedy)
        else:
            _check_own(model, name, *inside[name])
    before = count_params(model)
    made: dict[str, TNLayer] = {}
    rows = []
    for name, net in plan.items():
        if name in dense:
            old, make = dense[name].weight, stand_in(dense[name])
            assert make is not None
            made[name] = make.from_dense(dense[name], net, fit)
        else:
            module, weight = inside[name]
            old = module._parameters[weight]
            assert old is not None
            made[name] = TNWeight(net.shape, net, old.device, old.dtype)
            made[name].load_cores(find_params(net, old.detach(), fit))
        rows.append(layer_report(name, net, old, made[name].weight))
    replace_modules(model, {dense[name]: layer for name, layer in made.items() if name in dense})
    for name, layer in made.items():
        if isinstance(layer, TNWeight):
            module, weight = inside[name]
            register(module, weight, layer, bool(module._parameters[weight].requires_grad))  # type: ignore[union-attr]
    return Report(tuple(rows), before, count_params(model))


def fold_(model: nn.Module, targets: Iterable[str] | None = None) -> list[str]:
    """Put dense layers with the decoded weights back, in place.

    Parameters
    ----------
    model : nn.Module
    targets : iterable of str, optional
        Patterns as for `compress`; all generated layers by default.

    Returns
    -------
    list of str
        Names of the layers that were replaced.

    Raises
    ------
    deeptn.PlanError
        If the model has no generated layer, or a pattern matches none.

    Examples
    --------
    >>> from torch import nn
    >>> model = nn.Sequential(TNLinear(400, 120), nn.ReLU(), nn.Linear(120, 10))
    >>> fold_(model), type(model[0]).__name__
    (['0'], 'Linear')
    """
    layers = generated(model)
    if not layers or "" in layers:
        raise PlanError("the model has no generated layer inside; a single one has to_dense()")
    if isinstance(targets, str):
        raise PlanError(f"targets must be a list of patterns, got the string {targets!r}; write [{targets!r}]")
    names = list(layers)
    if targets is not None:
        wanted = {name for found in select(targets, names, "targets").values() for name in found}
        names = [name for name in names if name in wanted]
    swaps: dict[nn.Module, nn.Module] = {}
    for name in names:
        _check_hooks(name, layers[name])
        owner, _, weight = name.rpartition(".")
        if not isinstance(layers[name], TNWeight):
            continue
        module = model.get_submodule(owner)
        if weight not in generated_inside(module):
            raise PlanError(f"{name!r} is a TNWeight in a module of your own, where no weight can take its place")
        if weight not in vars(type(module)):  # where PyTorch looks for what it put there
            raise PlanError(
                f"{name!r}: its module was put into another class since (fully_shard does that); fold it before"
            )
    for name in names:
        if isinstance(layers[name], TNWeight):
            owner, _, weight = name.rpartition(".")
            unregister(model.get_submodule(owner), weight)
        else:
            swaps[layers[name]] = layers[name].to_dense()
    replace_modules(model, swaps)
    return names


def replace_modules(model: nn.Module, swaps: Mapping[nn.Module, nn.Module]) -> None:
    """Replace modules wherever they are registered, under several names too."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and child in swaps:
                setattr(parent, name, swaps[child])


def count_params(model: nn.Module) -> int:
    """Entries of all parameters, shared ones once; lazy ones have none yet."""
    return sum(p.numel() for p in model.parameters() if not isinstance(p, nn.UninitializedParameter))


def stand_in(layer: nn.Module) -> type[TNLayer] | None:
    """The generated layer for a dense one, if there is one."""
    return next((made for made in LAYERS if isinstance(layer, made.dense)), None)


def path_of(module: str, weight: str) -> str:
    """Name of a weight of a module in the model."""
    return f"{module}.{weight}" if module else weight


def check_plain(name: str, layer: nn.Module, remedy: str = "") -> None:
    """Refuse a layer that computes something else than its base class, or on which others listen."""
    made = stand_in(layer)
    assert made is not None
    if type(layer).forward is not made.dense.forward:
        raise PlanError(f"layer {name!r} is a {type(layer).__name__} with a forward of its own; use the class{remedy}")
    _check_hooks(name, layer, remedy)


def _check_hooks(name: str, layer: nn.Module, remedy: str = "") -> None:
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    if any(hooks):
        raise PlanError(f"layer {name!r} has hooks, which would be lost; remove them first{remedy}")


def _check_own(model: nn.Module, name: str, owner: nn.Module, weight: str) -> None:
    """Refuse a weight inside of a module that also stands elsewhere."""
    tensor = owner._parameters[weight]
    for other, module in model.named_modules():
        for key, found in module._parameters.items():
            if found is tensor and (module is not owner or key != weight):
                raise PlanError(f"{name!r} is also {path_of(other, key)!r}; untie them, or add {name!r} to ignore")


def check_alone(model: nn.Module, name: str, layer: Any, remedy: str = "") -> None:
    """Refuse a layer whose weight or bias also stands elsewhere."""
    for what, tensor in (("weight", layer.weight), ("bias", getattr(layer, "bias", None))):
        for other, module in model.named_modules():
            if module is not layer and tensor is not None and any(p is tensor for p in module._parameters.values()):
                raise PlanError(f"layer {name!r} shares its {what} with {other!r}; untie them{remedy}")
