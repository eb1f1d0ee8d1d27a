"""Checkpoints of compressed models: plain tensors, the plan in the safetensors header."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any, TypeVar

from autoray import get_dtype_name
from torch import Tensor, nn
from torch.nn.utils import parametrize

from deeptn.arrays import KINDS, cast, from_raw
from deeptn.errors import FormatError, PlanError
from deeptn.files import StoredLayer, StoredModel
from deeptn.files import model_file as core

from .compress import LAYERS, check_alone, check_plain, path_of, replace_modules
from .layers import TNLayer, TNWeight, generated, generated_inside, register, weights_of

M = TypeVar("M", bound=nn.Module)


def save_model(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model with generated layers: its ``state_dict``, and in the header the network of every such layer.

    Parameters
    ----------
    model : nn.Module
        Tensors that several names share are stored once. Constrained cores are stored as they are used; the constraint
        itself is not, `TNLayer.constrain` sets it again.
    path : path
        Replaced as a whole, or not at all.

    Raises
    ------
    deeptn.PlanError
        If the model has no generated layer.

    Examples
    --------
    >>> import tempfile, os
    >>> from deeptn_torch import TNLinear
    >>> path = os.path.join(tempfile.mkdtemp(), "small.safetensors")
    >>> save_model(nn.Sequential(TNLinear(400, 120), nn.ReLU(), nn.Linear(120, 10)), path)
    >>> os.path.getsize(path) < 4 * 400 * 120 / 4
    True
    """
    state: dict[str, Tensor] = {}
    seen: dict[Any, Tensor] = {}
    for name, tensor in _plain_state(model).items():
        if not isinstance(tensor, Tensor) or tensor.is_meta:
            raise PlanError(f"the entry {name!r} of the state_dict is no tensor with data, and cannot be stored")
        if hasattr(tensor, "full_tensor"):
            raise PlanError(f"{name!r} is sharded; gather it first, with torch.distributed.checkpoint.state_dict")
        # What several names share comes to the CPU once.
        key = (tensor.device, tensor.data_ptr() or name, tensor.shape, tensor.stride(), tensor.dtype)
        state[name] = seen.setdefault((*key, tensor.is_conj(), tensor.is_neg()), tensor.detach().cpu().contiguous())
    layers = {}
    for prefix, layer in generated(model, remove_duplicate=False).items():
        start = f"{prefix}." if prefix else ""
        cores = {name: state.pop(f"{start}cores.{name}") for name in layer.network.spec.param_shapes}
        layers[prefix] = StoredLayer(layer.kind, layer.network, cores, state.pop(f"{start}bias", None))
    core.save_model(path, StoredModel(layers, state))


def _plain_state(model: nn.Module) -> dict[str, Any]:
    """The ``state_dict`` under plain names: constrained cores as they are used, weights as `generated` has them."""
    state = dict(model.state_dict())
    plain: dict[str, Any] = {}
    used: dict[int, dict[str, Tensor]] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        start = f"{prefix}." if prefix else ""
        if isinstance(module, TNLayer) and parametrize.is_parametrized(module.cores):
            state = {name: tensor for name, tensor in state.items() if not name.startswith(f"{start}cores.")}
            if id(module) not in used:  # under another name already
                used[id(module)] = {name: module.cores[name] for name in module.network.spec.param_shapes}
            state |= {f"{start}cores.{name}": core for name, core in used[id(module)].items()}
    for prefix, module in model.named_modules(remove_duplicate=False):
        start = f"{prefix}." if prefix else ""
        for name in generated_inside(module):
            place = f"{start}parametrizations.{name}."
            for key in [key for key in state if key.startswith(place)]:
                tensor = state.pop(key)
                if key != f"{place}original":
                    plain[f"{start}{name}." + key.removeprefix(f"{place}0.")] = tensor
    return state | plain


def load_model(dense_model: M, path: str | os.PathLike[str], names: Mapping[str, str] | None = None) -> M:
    """Read a model that `save_model` wrote.

    Parameters
    ----------
    dense_model : nn.Module
        A model of the architecture before compression, or with the same generated layers, trained or not; left as it
        is. Dtypes and devices are its own, whatever the file has.
    path : path
        Of a file that any front-end wrote.
    names : mapping of str to str, optional
        Names of modules in the file to their names here, where they differ: ``{"layers.0": "0"}``.

    Returns
    -------
    nn.Module
        A copy with the layers of the plan replaced and all tensors loaded.

    Raises
    ------
    deeptn.FormatError
        If the file is damaged, was not written by `save_model`, or does not fit the model.
    deeptn.PlanError
        If a layer that is replaced has hooks or a forward of its own, or shares its weight or bias with another module.

    Examples
    --------
    >>> import tempfile, os
    >>> from deeptn_torch import TNLinear
    >>> path = os.path.join(tempfile.mkdtemp(), "small.safetensors")
    >>> save_model(nn.Sequential(TNLinear(400, 120), nn.ReLU()), path)
    >>> load_model(nn.Sequential(nn.Linear(400, 120), nn.ReLU()), path)[0].network.num_params
    384
    """
    stored = core.load_model(path).renamed(names or {})
    model = copy.deepcopy(dense_model)
    modules = dict(model.named_modules(remove_duplicate=False))
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise FormatError("the model is on the meta device, without memory; write model.to_empty(device='cpu') first")
    held = generated(model, remove_duplicate=False)
    swaps: dict[nn.Module, nn.Module] = {}
    read_as: dict[nn.Module, str] = {}
    for name, entry in stored.layers.items():
        net = entry.network
        old: Any = held.get(name, modules.get(name))
        if isinstance(old, TNLayer):
            if old.network != net or old.kind != entry.kind:
                raise FormatError(f"the plan has a {entry.kind!r:.20} layer {name!r} of another network than the model")
        elif entry.kind == TNWeight.kind:
            owner, _, weight = name.rpartition(".")
            tensor = weights_of(modules[owner]).get(weight) if owner in modules else None
            if tensor is None or tuple(tensor.shape) != net.shape:
                raise FormatError(
                    f"the plan has a generated weight {name!r} of shape {net.shape}; the model has it not"
                )
            made = TNWeight(net.shape, net, "meta", tensor.dtype).to_empty(device=tensor.device)
            register(modules[owner], weight, made, tensor.requires_grad)
            held = generated(model, remove_duplicate=False)  # the module may have two names
        elif old in swaps:
            core.check_same(stored.layers, read_as[old], name)
        else:
            swaps[old] = _generated(model, name, old, entry)
            read_as[old] = name
    replace_modules(model, swaps)
    raw = stored.state()
    originals = {}
    for name, layer in generated(model, remove_duplicate=False).items():
        owner, _, weight = name.rpartition(".")
        if parametrize.is_parametrized(layer.cores):
            raise FormatError(
                f"layer {name!r} of the model is constrained, what a file holds need not be; load into a model without "
                "constraints, then write layer.constrain()"
            )
        if isinstance(layer, TNWeight) and owner in modules and weight in generated_inside(modules[owner]):
            place = path_of(owner, f"parametrizations.{weight}")
            for param in layer.network.spec.param_shapes:
                if f"{name}.cores.{param}" in raw:
                    raw[f"{place}.0.cores.{param}"] = raw.pop(f"{name}.cores.{param}")
            originals[f"{place}.original"] = model.get_parameter(f"{place}.original")
    state: dict[str, Any] = {}
    first: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name not in raw or not isinstance(tensor, Tensor):
            continue
        if first.setdefault(id(tensor), name) != name:
            core.check_same(raw, first[id(tensor)], name)
        dtype = get_dtype_name(tensor)
        state[name] = from_raw(cast(raw[name], dtype, name) if dtype in KINDS else raw[name], "torch")
    state |= {name: from_raw(array, "torch") for name, array in raw.items() if name not in state} | originals
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise FormatError(f"the tensors of {str(path)!r} do not fit the model: {error}") from error
    return model


def _generated(model: nn.Module, name: str, old: Any, entry: StoredLayer) -> TNLayer:
    """A layer for the plan of a file, in the place of a dense one; its tensors are to come."""
    net = entry.network
    make: Any = {layer.kind: layer for layer in LAYERS}.get(entry.kind)
    if make is None or not isinstance(old, make.dense):
        raise FormatError(f"the plan has a {entry.kind!r:.20} layer {name!r}; the model has {old!r:.80} there")
    if tuple(old.weight.shape) != net.shape:
        raise FormatError(f"layer {name!r}: weight of shape {tuple(old.weight.shape)}, the plan says {net.shape}")
    check_plain(name, old)
    check_alone(model, name, old)
    # On the meta device nothing is drawn; the tensors come from the file.
    made = make.like(old, net, "meta").to_empty(device=old.weight.device).train(old.training)
    made.cores.requires_grad_(old.weight.requires_grad)
    if made.bias is not None:
        made.bias.requires_grad_(old.bias.requires_grad)
    return made
