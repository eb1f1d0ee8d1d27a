"""Generated weights inside modules for which deeptn has no layer: recurrent modules, attention, your own."""

from __future__ import annotations

import contextlib
import copy
import weakref
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
from .base import refuse_mask
from .cache import trainable
from .weight import TNWeight, sharing


def parametrize_(
    module: nn.Module, name: str, topology: Target, fit: How = "auto", layout: Layout | None = None
) -> TNWeight:
    """Let a deep tensor network generate a weight of any module, in place.

    Parameters
    ----------
    module, name
        A parameter with at least two axes, not parametrized: ``"weight_hh_l0"`` of an LSTM, ``"in_proj_weight"``.
    topology, fit, layout
        As for `TNLayer.from_dense`.

    Notes
    -----
    The cores of the returned `TNWeight` become parameters of the module, ``"parametrizations.NAME.0.cores.…"``.
    Recurrent modules decode a weight once per call; others do so within ``torch.nn.utils.parametrize.cached()``.
    `fold_` turns it back into a parameter.

    Examples
    --------
    >>> import torch, deeptn as dtn
    >>> lstm = torch.nn.LSTM(32, 64)
    >>> weight = parametrize_(lstm, "weight_hh_l0", dtn.BrickWall(layers=2), fit=None)
    >>> lstm(torch.ones(5, 3, 32))[0].shape, weight.network.num_params < 256 * 64 // 30
    (torch.Size([5, 3, 64]), True)
    """
    if parametrize.is_parametrized(module, name):
        raise SpecError(f"{name!r} of {type(module).__name__} is already parametrized")
    old = module._parameters.get(name)
    if old is None or old.ndim < 2:
        known = [key for key, value in module._parameters.items() if value is not None and value.ndim > 1]
        raise SpecError(f"{type(module).__name__} has no weight {name!r}; {near_match(name, known)}")
    if reason := needs_rows(module):
        raise SpecError(f"{name!r} of {type(module).__name__} {reason}")
    weight = TNWeight(tuple(old.shape), topology, "meta", old.dtype, layout=layout)
    weight.filled(module, old, find_params(weight.network, old.detach(), fit))
    register(module, name, weight)
    return weight


def needs_rows(module: nn.Module) -> str | None:
    """Return why no network can generate the table of an embedding; None if one can."""
    used = [option for option in ("max_norm", "sparse") if getattr(module, option, None)]
    return f"uses {used[0]}, for which its rows have to be parameters; turn it off" if used else None


def register(module: nn.Module, name: str, weight: TNWeight) -> None:
    """Replace a parameter by a generated weight."""
    _own_class(module)
    parametrize.register_parametrization(module, name, weight, unsafe=True)  # the stored tensor has another shape
    parametrizations: Any = module.parametrizations
    del parametrizations[name]._parameters["original"]
    parametrizations[name].__class__ = Generating
    weight.std = weight.cores._std = _std(module, weight.shape)
    _override(module)


def unregister(module: nn.Module, name: str) -> None:
    """Replace a generated weight by its decoded value."""
    parametrizations: Any = module.parametrizations
    trains = trainable(parametrizations[name][0].cores.values())
    weight = parametrizations[name][0]().detach().clone(memory_format=torch.contiguous_format)
    _own_class(module)
    parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    setattr(module, name, nn.Parameter(weight, requires_grad=trains))  # recurrent modules override __setattr__


def generated_inside(module: nn.Module) -> list[str]:
    """Return the names of the generated weights inside a module."""
    if not parametrize.is_parametrized(module):
        return []
    parametrizations: Any = module.parametrizations
    return [name for name, parts in parametrizations.items() if isinstance(parts[0], TNWeight)]


def weights_of(module: nn.Module) -> list[str]:
    """Return the names of weights that `compress` can replace one by one: those of recurrent modules and attention."""
    recurrent = isinstance(module, (nn.RNNBase, nn.RNNCellBase))
    if not recurrent and not isinstance(module, nn.MultiheadAttention):
        return []
    held = [name for name, weight in module._parameters.items() if weight is not None]
    return [name for name in held if (name.startswith("weight_") if recurrent else name.endswith("_proj_weight"))]


class Generating(parametrize.ParametrizationList):
    """The parametrizations of a generated weight: its network, and those that were put on top."""

    @property
    def original(self) -> nn.Parameter:  # type: ignore[override]
        """What PyTorch would store of the weight itself: nothing. `remove_parametrizations` fills it."""
        core = next(self.parameters())
        return nn.Parameter(core.detach().new_empty(0), core.requires_grad)

    def forward(self) -> Tensor:
        first, *others = self
        weight = first()
        for parametrization in others:
            weight = parametrization(weight)
        return weight

    def append(self, module: Any) -> Any:
        """Put another parametrization on top; refuse those that only work with tensors of their own."""
        try:
            with torch.no_grad():
                module(self())
        except (TypeError, RuntimeError) as error:
            raise SpecError(
                f"{type(module).__name__} cannot follow the network that generates the weight ({error}); parametrize a "
                "core, or call fold_ first"
            ) from error
        return super().append(module)


def _std(module: Any, shape: Shape) -> float | None:
    """Return the standard deviation that new weights of a module have, if it is not Kaiming's."""
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return (3 * module.hidden_size) ** -0.5
    return (2 / sum(shape)) ** 0.5 if isinstance(module, nn.MultiheadAttention) else None


# --- The methods that modules with generated weights inside override


def _override(module: nn.Module) -> None:
    """Give the class of a module with generated weights the methods that differ."""
    own: Any = type(module)
    own.__deepcopy__ = _deepcopy
    own.__reduce_ex__ = _reduce
    own.register_parameter = _register_parameter
    for base, methods in _OVERRIDES.items():
        for method in methods if isinstance(module, base) else ():
            setattr(own, method.__name__, method)


def _own_class(module: nn.Module) -> None:
    """Give a parametrized module its own class, because PyTorch sets and deletes properties on it."""
    if parametrize.is_parametrized(module):
        old = type(module)
        names = {name: value for name, value in vars(old).items() if name not in ("__dict__", "__weakref__")}
        own: Any = type(old.__name__, old.__bases__, names)
        module.__class__ = own


def _next(module: Any, ours: Callable[..., Any]) -> Any:
    """Return the method that a module would have without ours, if any, even if a class created later calls ours."""
    found = [vars(base).get(_NAMES.get(ours, ours.__name__)) for base in type(module).__mro__]
    last = max(number for number, method in enumerate(found) if method is ours)
    return next((method for method in found[last + 1 :] if method is not None), None)


def _deepcopy(module: Any, memo: Any) -> Any:
    """Copy a module; the copy gets a class of its own, too."""
    inherited = _next(module, _deepcopy)
    if inherited is not None:
        replica = inherited(module, memo)
    else:
        own: Any = type(module)
        replica = memo[id(module)] = own.__new__(own)
        replica.__dict__ = copy.deepcopy(module.__dict__, memo)
    _own_class(replica)
    return replica


def _reduce(module: Any, protocol: Any) -> Any:
    """Tell pickle how to make the module again: PyTorch refuses, because it creates the class at run time."""
    if len(generated_inside(module)) < len(module.parametrizations):
        return _next(module, _reduce)(module, protocol)
    base: Any = type(module).__bases__[0]
    return _rebuilt, (base, dict(base.__getstate__(module)))


def _rebuilt(base: type[nn.Module], state: dict[str, Any]) -> nn.Module:
    """Make a module with generated weights from its state."""
    module: Any = base.__new__(base)
    module.__setstate__(state)
    if isinstance(module, nn.RNNBase):
        dead: Any = weakref.ref(nn.Identity())  # a changed weight; None would stand for a missing one
        module._flat_weight_refs = [dead if ref is None else ref for ref in module._flat_weight_refs]
    parametrize._inject_new_class(module)  # type: ignore[attr-defined]
    for name in state["_modules"]["parametrizations"]:
        parametrize._inject_property(module, name)  # type: ignore[attr-defined]
    _override(module)
    return module


def _register_parameter(module: Any, name: str, param: Any) -> None:
    """Register a parameter, but not what `torch.nn.utils.prune` would keep of a generated weight."""
    if name.removesuffix("_orig") in generated_inside(module):
        refuse_mask(name.removesuffix("_orig"))
    _next(module, _register_parameter)(module, name, param)


def forward(module: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a recurrent module, which reads each weight several times, with each weight decoded only once."""
    # Not within parametrize.cached(), which all threads share: one would read the old weights of another.
    with contextlib.nullcontext() if torch.compiler.is_compiling() else sharing({}):
        try:
            return _next(module, forward)(module, *args, **kwargs)
        finally:
            _forget(module)


def _forget(module: Any) -> None:
    """Clear a recurrent module's references to decoded weights, because non-leaf tensors cannot be deep-copied."""
    module._flat_weights = [w if isinstance(w, nn.Parameter) else None for w in module._flat_weights]


def _apply(module: Any, fn: Any, recurse: bool = True) -> Any:
    """Apply `fn` to a recurrent module, which then reads its weights for no use."""
    with sharing(_placeholders(module)):
        _next(module, _apply)(module, fn, recurse)
    _forget(module)
    return module


def reset_parameters(module: Any, *args: Any, **kwargs: Any) -> None:
    """Reset a module, then redraw its cores, so that generated weights have the same scale as dense ones."""
    method = _reset_parameters if isinstance(module, nn.MultiheadAttention) else reset_parameters
    with sharing(_placeholders(module)):
        _next(module, method)(module, *args, **kwargs)
    parametrizations: Any = module.parametrizations
    for name in generated_inside(module):
        parametrizations[name][0].reset_parameters()


def _reset_parameters(module: Any) -> None:
    reset_parameters(module)


def _placeholders(module: Any) -> dict[nn.Module, Tensor]:
    """Return tensors without memory, which may be overwritten, in place of the weights inside a module."""
    parts = [module.parametrizations[name][0] for name in generated_inside(module)]
    return {part: torch.empty(part.shape, device="meta") for part in parts}


_NAMES: dict[Any, str] = {
    _deepcopy: "__deepcopy__",
    _reduce: "__reduce_ex__",
    _register_parameter: "register_parameter",
}

#: The methods that modules of PyTorch with a generated weight override.
_OVERRIDES: dict[type, tuple[Any, ...]] = {
    nn.RNNBase: (forward, _apply, reset_parameters),
    nn.RNNCellBase: (reset_parameters,),
    nn.MultiheadAttention: (_reset_parameters,),
}
