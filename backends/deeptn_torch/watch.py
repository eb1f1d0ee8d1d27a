"""Read the inputs of the weights of a PyTorch model while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from deeptn.models import Batch, Receive, unfolding

from .batches import moved
from .layers.conv import TNConv
from .places import Place, places_of

Found = Iterator[tuple[str, Any, Literal[0, 1]]]


@contextmanager
def watched(
    model: nn.Module, names: Iterable[str], receive: Receive
) -> Iterator[tuple[nn.Module, Callable[[Any], object]]]:
    """Pass on the inputs of weights while a model runs in evaluation mode, without gradients; see `WatchedView`."""
    wanted, places = set(names), places_of(model)
    by_module: dict[nn.Module, dict[str, str]] = {}
    for name, place in places.items():
        if name in wanted:
            module, key = _seen_at(model, place)
            by_module.setdefault(module, {})[key] = name
    modes = {module: module.training for module in model.modules()}

    def run(batch: Any) -> object:
        args, kwargs, _ = Batch.of(moved(batch, model))
        return model(*args, **kwargs)

    with ExitStack() as stack, torch.no_grad():
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)  # it calls no layers
        for module, keys in by_module.items():
            hook = _hook(keys, receive)
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        try:
            yield model.eval(), run
        finally:
            for module, mode in modes.items():
                module.training = mode


def _seen_at(model: nn.Module, place: Place) -> tuple[nn.Module, str]:
    """Return the module whose call shows the inputs of a weight, and the name of the weight there."""
    owner, _, own = place.owners[0].rpartition(".")
    above = model.get_submodule(owner)
    # Attention does not call its last layer.
    return (above, own) if isinstance(above, nn.MultiheadAttention) and own == "out_proj" else (place.module, place.key)


def _hook(keys: Mapping[str, str], receive: Receive) -> Callable[..., None]:
    def hook(called: nn.Module, args: Any, kwargs: Any) -> None:
        for key, inputs, axis in _inputs(called, set(keys), args, kwargs):
            if key in keys:
                receive(keys[key], inputs, axis)

    return hook


def _inputs(module: Any, keys: set[str], args: Any, kwargs: Any) -> Found:
    """Yield the inputs of the weights of a module."""
    first = args[0] if args else next(iter(kwargs.values()), None)
    if isinstance(module, nn.MultiheadAttention):
        yield from _of_attention(module, keys, args, kwargs)
    elif isinstance(module, nn.RNNBase):
        yield from _of_recurrent(module, *args, **kwargs)
    elif isinstance(module, nn.RNNCellBase):
        yield "weight_ih", first, 1
        state = kwargs.get("hx", args[1] if len(args) > 1 else None)
        if state is not None:
            yield "weight_hh", state[0] if isinstance(state, tuple) else state, 1
    elif not isinstance(first, Tensor):
        return
    elif isinstance(module, (_ConvNd, TNConv)):
        yield "weight", *_of_convolution(module, first)
    elif not first.is_floating_point():
        yield "weight", first, 0
    else:
        yield "weight", first, 1


def _of_convolution(module: Any, inputs: Tensor) -> tuple[Tensor, Literal[0, 1]]:
    axes = len(module.kernel_size)
    x = inputs if inputs.ndim == axes + 2 else inputs[None]
    if module.transposed:  # every group of inputs has its own outputs
        mask = torch.eye(module.groups).repeat_interleave(module.in_channels // module.groups, 1).to(x)
        return (x.movedim(1, -1).reshape(-1, 1, module.in_channels) * mask).flatten(0, 1), 0
    shape = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
    unfold = torch.from_numpy(unfolding(shape, module.groups)).to(x)
    found = getattr(module, "dense", type(module))._conv_forward(module, x, unfold, None)
    return found.movedim(1, -1).reshape(-1, math.prod(shape[1:])), 1


def _of_attention(module: nn.MultiheadAttention, keys: set[str], args: Any, kwargs: Any) -> Found:
    names = ("query", "key", "value")
    parts = [args[k] if k < len(args) else kwargs.get(name) for k, name in enumerate(names)]
    for name, part in zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), parts):
        yield name, part, 1
    if "in_proj_weight" in keys:
        for part in {id(part): part for part in parts}.values():  # three times the same in self-attention
            yield "in_proj_weight", part, 1
    if "out_proj" in keys:
        yield "out_proj", _unprojected(module, args, kwargs), 1


def _unprojected(module: nn.MultiheadAttention, args: Any, kwargs: Any) -> Tensor:
    """Return what attention passes to its last projection: its output, if that is the identity."""
    held, like = module._modules["out_proj"], args[0] if args else kwargs["query"]
    size = module.embed_dim
    last: Any = nn.utils.skip_init(nn.Linear, size, size, device=like.device, dtype=like.dtype)
    nn.init.eye_(last.weight)
    nn.init.zeros_(last.bias)
    module._modules["out_proj"] = last
    try:
        return module.forward(*args, **kwargs)[0]
    finally:
        module._modules["out_proj"] = held


def _of_recurrent(module: Any, input: Any, hx: Any = None) -> Found:
    """Yield the inputs and the states of every layer and direction, each run by itself."""
    directions = ("", "_reverse") if module.bidirectional else ("",)
    sequences = _sequences(module, input)
    for layer in range(module.num_layers):
        found: list[list[Tensor]] = [[] for _ in sequences]
        for direction, suffix in enumerate(directions):
            number = layer * len(directions) + direction
            for k, x in enumerate(sequences):
                yield f"weight_ih_l{layer}{suffix}", x, 1
                y, states = _run(module, f"_l{layer}{suffix}", x.flip(0) if suffix else x, _state(hx, number, k, x))
                yield f"weight_hh_l{layer}{suffix}", states, 1
                found[k].append(y.flip(0) if suffix else y)
        sequences = [torch.cat(parts, -1) for parts in found]


def _sequences(module: Any, inputs: Any) -> list[Tensor]:
    """Return sequences of shape (length, batch, size): one for a whole batch, or one for each packed sequence."""
    if isinstance(inputs, PackedSequence):
        padded, lengths = pad_packed_sequence(inputs)
        return [padded[:length, k : k + 1] for k, length in enumerate(lengths.tolist())]
    if inputs.ndim == 2:
        return [inputs[:, None]]
    return [inputs.transpose(0, 1) if module.batch_first else inputs]


def _state(hx: Any, number: int, k: int, x: Tensor) -> Any:
    """Return the first state of one layer and direction; None for zeros."""
    if hx is None:
        return None
    parts = hx if isinstance(hx, tuple) else (hx,)
    chosen = [part[number : number + 1] if part.ndim == 3 else part[number : number + 1, None] for part in parts]
    if chosen[0].shape[1] != x.shape[1]:  # of packed sequences
        chosen = [part[:, k : k + 1] for part in chosen]
    return tuple(part.contiguous() for part in chosen) if isinstance(hx, tuple) else chosen[0].contiguous()


def _run(module: Any, suffix: str, x: Tensor, state: Any) -> tuple[Tensor, Tensor]:
    """Run one layer in one direction; return its outputs, and the states that its next steps get."""
    options: dict[str, Any] = {"bias": module.bias, "device": "meta", "dtype": x.dtype}
    if module.mode.startswith("RNN"):
        options["nonlinearity"] = module.nonlinearity
    if module.proj_size:
        options["proj_size"] = module.proj_size
    kind: Any = {"LSTM": nn.LSTM, "GRU": nn.GRU}.get(module.mode, nn.RNN)
    single = kind(x.shape[-1], module.hidden_size, **options).to_empty(device=x.device)  # draws nothing
    single.load_state_dict(
        {name: getattr(module, name.replace("_l0", suffix)).detach() for name in single.state_dict()}
    )
    y, _ = single(x, state)
    first = y.new_zeros(1, *y.shape[1:]) if state is None else state[0] if isinstance(state, tuple) else state
    return y, torch.cat([first, y[:-1]])
