"""Generated weights inside of modules that deeptn has no layer for: recurrent ones, attention, your own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from deeptn.base import Shape
from deeptn.errors import SpecError, near_match
from deeptn.fitting import How
from deeptn.models import Target
from deeptn.spec import Layout

from ..fit import find_params
from .base import TNLayer
from .cache import trainable


class TNWeight(TNLayer):
    """A weight that a deep tensor network generates, and nothing around it; called without arguments it is decoded.

    Parameters
    ----------
    shape : tuple of int
    topology, device, dtype, layout
        As for `TNLayer`.
    axes : tuple of int, optional
        Where the axes of the network's weight are in what a call returns.

    Examples
    --------
    >>> import torch, deeptn as dtn
    >>> weight = TNWeight((64, 16), dtn.Tree(rank=2))
    >>> weight().shape, weight.network.num_params
    (torch.Size([64, 16]), 68)
    """

    kind = "weight"

    def __init__(
        self,
        shape: Shape,
        topology: Target = "BrickWall",
        device: Any = None,
        dtype: Any = None,
        *,
        layout: Layout | None = None,
        axes: tuple[int, ...] | None = None,
    ):
        super().__init__()
        self.axes = tuple(range(len(shape))) if axes is None else axes
        self._make(tuple(shape), topology, layout, device, dtype)

    def forward(self, original: Tensor | None = None) -> Tensor:
        return self.weight.permute([self.axes.index(axis) for axis in range(len(self.axes))])

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What `torch.nn.utils.parametrize` stores of an assigned weight: nothing. The cores are fitted to it."""
        sizes = dict(zip(self.axes, self.network.shape))
        if tuple(weight.shape) != tuple(sizes[axis] for axis in sorted(sizes)):
            raise SpecError(f"the weight has shape {tuple(weight.shape)}, the network makes {self.network.shape}")
        if getattr(self, "_ready", False):
            self.load_cores(find_params(self.network, weight.detach().permute(self.axes), "auto"))
        self._ready = True
        return weight.new_empty(0)


def parametrize_(
    module: nn.Module, name: str, topology: Target, fit: How = "auto", layout: Layout | None = None
) -> TNWeight:
    """Let a deep tensor network generate a weight of a module, in place, whatever the module does with it.

    Parameters
    ----------
    module, name
        A parameter with two axes at least, not parametrized: ``"weight_hh_l0"`` of an LSTM, ``"in_proj_weight"``.
    topology, fit, layout
        As for `TNLayer.from_dense`.

    Notes
    -----
    The cores of the returned `TNWeight` become parameters of the module, ``"parametrizations.NAME.0.cores.…"``. Within
    ``torch.nn.utils.parametrize.cached()`` the weight is decoded once. `fold_` turns it back into a parameter. PyTorch
    cannot pickle parametrized modules; use `deeptn_torch.save_model` or the ``state_dict``.

    Examples
    --------
    >>> import torch, deeptn as dtn
    >>> lstm = torch.nn.LSTM(32, 64)
    >>> weight = parametrize_(lstm, "weight_hh_l0", dtn.BrickWall(layers=2), fit=None)
    >>> lstm(torch.ones(5, 3, 32))[0].shape, weight.network.num_params < 256 * 64 // 30
    (torch.Size([5, 3, 64]), True)
    """
    if parametrize.is_parametrized(module, name):
        raise SpecError(f"{name!r} of {type(module).__name__} is parametrized already")
    old = module._parameters.get(name)
    if old is None or old.ndim < 2:
        known = [key for key, value in module._parameters.items() if value is not None and value.ndim > 1]
        raise SpecError(f"{type(module).__name__} has no weight {name!r}; {near_match(name, known)}")
    weight = TNWeight(tuple(old.shape), topology, "meta", old.dtype, layout=layout)
    weight.filled(module, old, find_params(weight.network, old.detach(), fit))
    register(module, name, weight)
    return weight


def register(module: nn.Module, name: str, weight: TNWeight) -> None:
    """Put a generated weight in the place of a parameter."""
    _own_class(module)
    parametrize.register_parametrization(module, name, weight, unsafe=True)  # the stored tensor has another shape
    parametrizations: Any = module.parametrizations
    parametrizations[name].original.requires_grad_(False)
    own: Any = type(module)
    for base, methods in _RECURRENT.items():
        for method in methods if isinstance(module, base) else ():
            setattr(own, method.__name__, method)


def _own_class(module: nn.Module) -> None:
    """Copies of a parametrized module share its class, on which PyTorch sets and deletes properties."""
    if parametrize.is_parametrized(module):
        old = type(module)
        names = {name: value for name, value in vars(old).items() if name not in ("__dict__", "__weakref__")}
        own: Any = type(old.__name__, old.__bases__, names)
        module.__class__ = own


def _next(module: Any, ours: Callable[..., Any]) -> Callable[..., Any]:
    """The method that a module would have without ours; a subclass made since then may call it."""
    found = [vars(base).get(ours.__name__) for base in type(module).__mro__]
    last = max(number for number, method in enumerate(found) if method is ours)
    return next(method for method in found[last + 1 :] if method is not None)


def _forget(module: Any) -> None:
    """A recurrent module holds on to its weights; a copy of it could not take along what has a gradient."""
    module._flat_weights = [w if isinstance(w, nn.Parameter) else None for w in module._flat_weights]


def forward(module: Any, *args: Any, **kwargs: Any) -> Any:
    """A recurrent module asks for each weight several times: it is decoded once."""
    try:
        with parametrize.cached():
            return _next(module, forward)(module, *args, **kwargs)
    finally:
        _forget(module)


def _apply(module: Any, fn: Any, recurse: bool = True) -> Any:
    """A recurrent module that is moved asks for its weights too."""
    _next(module, _apply)(module, fn, recurse)
    _forget(module)
    return module


def reset_parameters(module: Any, *args: Any, **kwargs: Any) -> None:
    """A recurrent module draws all of its parameters alike, the cores too; these are to give weights of that size."""
    _next(module, reset_parameters)(module, *args, **kwargs)
    for name in generated_inside(module):
        module.parametrizations[name][0].reset_parameters(std=(3 * module.hidden_size) ** -0.5)


#: What recurrent modules do otherwise where a weight is generated.
_RECURRENT: dict[type, tuple[Any, ...]] = {
    nn.RNNBase: (forward, _apply, reset_parameters),
    nn.RNNCellBase: (reset_parameters,),
}


def unregister(module: nn.Module, name: str) -> None:
    """Put the decoded weight in the place of a generated one."""
    parametrizations: Any = module.parametrizations
    trains = trainable(parametrizations[name][0].cores.values())
    weight = parametrizations[name][0]().detach().clone(memory_format=torch.contiguous_format)
    _own_class(module)
    parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    setattr(module, name, nn.Parameter(weight, requires_grad=trains))  # recurrent modules take note of it


def generated_inside(module: nn.Module) -> list[str]:
    """Names of the weights of a module that networks generate."""
    if not parametrize.is_parametrized(module):
        return []
    parametrizations: Any = module.parametrizations
    return [name for name, parts in parametrizations.items() if isinstance(parts[0], TNWeight)]


def weights_of(module: nn.Module) -> list[str]:
    """Names of the weights that `compress` may let networks generate one by one: packed and recurrent ones."""
    recurrent = isinstance(module, (nn.RNNBase, nn.RNNCellBase))
    if not recurrent and not isinstance(module, nn.MultiheadAttention):
        return []
    held = [name for name, weight in module._parameters.items() if weight is not None]
    return [name for name in held if (name.startswith("weight_") if recurrent else name.endswith("_proj_weight"))]
