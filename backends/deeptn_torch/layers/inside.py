"""Generated weights inside modules for which deeptn has no layer: recurrent modules, attention, your own."""

from __future__ import annotations

import contextlib
import copy
import re
import weakref
from collections.abc import Callable, Iterator
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
from .cache import trainable
from .generated import Parameters, check_assigned, check_attribute, refuse_mask
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
    keys = list(module._parameters)
    others = generated_inside(module)
    weight.followers = tuple(keys[keys.index(name) + 1 :])
    _own_class(module)
    parametrize.register_parametrization(module, name, weight, unsafe=True)  # the stored tensor has another shape
    parametrizations: Any = module.parametrizations
    del parametrizations[name]._parameters["original"]
    module.__dict__["_parameters"] = Parameters.without((*others, name), module._parameters)
    parametrizations[name].__class__ = Generating
    weight.std = weight.cores._std = _std(module, weight.shape)
    _override(module)


def unregister(module: nn.Module, name: str) -> None:
    """Replace a generated weight by its decoded value, in its old place among the parameters."""
    _own_class(module)
    parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()


def generated_inside(module: nn.Module) -> list[str]:
    """Return the names of the generated weights inside a module."""
    parametrizations: Any = module._modules.get("parametrizations")  # a wrapper's attribute would be that of its module
    if not isinstance(parametrizations, nn.ModuleDict):
        return []
    return [name for name, parts in parametrizations.items() if isinstance(parts, Generating)]


def weights_of(module: nn.Module) -> list[str]:
    """Return the names of weights that `compress` can replace one by one: those of recurrent modules and attention."""
    recurrent = isinstance(module, (nn.RNNBase, nn.RNNCellBase))
    if not recurrent and not isinstance(module, nn.MultiheadAttention):
        return []
    held = [name for name, weight in module._parameters.items() if weight is not None]
    return [name for name in held if (_RECURRENT.fullmatch(name) if recurrent else name.endswith("_proj_weight"))]


#: The weights of recurrent modules, but not what norms and masks keep of them.
_RECURRENT = re.compile(r"weight_(ih|hh|hr)(_l\d+(_reverse)?)?")


class Generating(parametrize.ParametrizationList):
    """The parametrizations of a generated weight: its network, and those that were put on top."""

    @property
    def original(self) -> nn.Parameter:  # type: ignore[override]
        """What PyTorch would store of the weight itself: nothing. `remove_parametrizations` fills it."""
        made: Any = self[0]
        core = next(iter(made.cores.values()))
        original: Any = nn.Parameter(core.detach().new_empty(0), core.requires_grad)
        original._deeptn_weight = made
        return original

    def forward(self) -> Tensor:
        parts: list[Any] = [*self]
        first, *others = parts
        weight = first()
        for parametrization in others if first.placeholder() is None else ():
            weight = parametrization(weight)
        return weight

    def append(self, module: Any) -> Any:
        """Put another parametrization on top; refuse those that only work with tensors of their own."""
        try:
            with torch.no_grad():
                weight = self()
                module(weight)
                if hasattr(module, "right_inverse"):
                    with contextlib.suppress(NotImplementedError):
                        self._keep(weight, module.right_inverse(weight))
        except (TypeError, RuntimeError) as error:
            raise SpecError(
                f"{type(module).__name__} cannot follow the network that generates the weight ({error}); parametrize a "
                "core, or call fold_ first"
            ) from error
        return super().append(module)

    def _keep(self, weight: Tensor, inverse: Any) -> None:
        """Fit the network so that the parametrization of its weight is the weight of before."""
        first: Any = self[0]
        if len(self) == 1 and isinstance(inverse, Tensor) and not torch.equal(inverse, weight):
            first.fit(inverse.permute(first.axes))


def _std(module: Any, shape: Shape) -> float | None:
    """Return the standard deviation that new weights of a module have, if it is not Kaiming's."""
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return (3 * module.hidden_size) ** -0.5
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return 1.0
    return (2 / sum(shape)) ** 0.5 if isinstance(module, nn.MultiheadAttention) else None


# --- The methods that modules with generated weights inside override


def _override(module: nn.Module) -> None:
    """Give the class of a module with generated weights the methods that differ."""
    own, is_recurrent = type(module), isinstance(module, nn.RNNBase)
    for name, override in _OVERRIDES.items():
        needed = name in _ALWAYS or (hasattr(own, name) if name in _RESETS else is_recurrent)
        if needed:
            setattr(own, name, override)
    if is_recurrent:
        _init_flat_weights(module)


def _own_class(module: nn.Module) -> None:
    """Give a parametrized module its own class, because PyTorch sets and deletes properties on it."""
    if parametrize.is_parametrized(module):
        old = type(module)
        names = {name: value for name, value in vars(old).items() if name not in ("__dict__", "__weakref__")}
        own: Any = type(old.__name__, old.__bases__, names)
        module.__class__ = own


def _next(module: Any, ours: Callable[..., Any]) -> Any:
    """Return the method that a module would have without ours, if any, even if a class created later calls ours."""
    found = [vars(base).get(_NAMES[ours]) for base in type(module).__mro__]
    last = max(number for number, method in enumerate(found) if method is ours)
    return next((method for method in found[last + 1 :] if method is not None), None)


def _deepcopy(module: Any, memo: Any) -> Any:
    """Copy a module; the copy gets a class of its own, too."""
    inherited = _next(module, _deepcopy)
    if inherited is not None:
        replica = inherited(module, memo)
        _own_class(replica)
        return replica
    base = _base(module)
    replica = memo[id(module)] = base.__new__(base)
    return _filled(replica, copy.deepcopy(base.__getstate__(module), memo))


def _reduce(module: Any, protocol: Any) -> Any:
    """Tell pickle how to rebuild the module: PyTorch refuses, because it creates the class at run time."""
    if len(generated_inside(module)) < len(module.parametrizations):
        return _next(module, _reduce)(module, protocol)
    return _rebuilt, (_base(module), dict(_base(module).__getstate__(module)))


def _base(module: Any) -> Any:
    """Return the class of a module before it got generated weights."""
    return next(own for own in type(module).__mro__ if vars(own).get("__deepcopy__") is _deepcopy).__bases__[0]


def _rebuilt(base: Any, state: dict[str, Any]) -> nn.Module:
    """Make a module with generated weights from its state."""
    return _filled(base.__new__(base), state)


def _filled(module: Any, state: dict[str, Any]) -> nn.Module:
    module.__setstate__(state)
    parametrize._inject_new_class(module)  # type: ignore[attr-defined]
    for name in state["_modules"]["parametrizations"]:
        parametrize._inject_property(module, name)  # type: ignore[attr-defined]
    _override(module)
    return module


def _register_parameter(module: Any, name: str, param: Any) -> None:
    """Register a parameter: fit a generated weight to it, and refuse what `torch.nn.utils.prune` would keep of one."""
    inside = generated_inside(module)
    made = getattr(param, "__dict__", {}).pop("_deeptn_weight", None)
    if made is not None and param.shape == (0,):  # remove_parametrizations leaves W, without what is on top
        weight = made().detach().clone(memory_format=torch.contiguous_format)
        param = nn.Parameter(weight, requires_grad=trainable(made.cores.values()))
    if name.endswith("_orig") and name.removesuffix("_orig") in inside:
        refuse_mask(name.removesuffix("_orig"))
    if name in inside:
        check_assigned(param)
        module.parametrizations[name].right_inverse(param.detach())  # type: ignore[union-attr]
    else:
        _next(module, _register_parameter)(module, name, param)
    if made is not None:
        module.__dict__["_parameters"] = Parameters.without(tuple(inside), module._parameters)
        for other in [key for key in module._parameters if key in made.followers]:
            module._parameters[other] = module._parameters.pop(other)


def _flat_weights(module: Any) -> list[Tensor | None]:
    """Return the weights of a recurrent module, each decoded once."""
    return [getattr(module, name, None) for name in module._flat_weights_names]


def _init_flat_weights(module: Any) -> None:
    """Keep no references to decoded weights; because of dead ones, PyTorch reads the weights once none is generated."""
    count, dead = len(module._flat_weights_names), weakref.ref(nn.Identity())
    module.__dict__ |= {"_flat_weights": [None] * count, "_flat_weight_refs": [dead] * count}


def _setattr(module: Any, name: str, value: Any) -> None:
    """Set an attribute; a recurrent module notes its parameters in the list of its weights."""
    check_attribute(name, value)
    is_weight = name in module.__dict__.get("_flat_weights_names", ())
    with _standing_in(module) if is_weight else contextlib.nullcontext():
        _next(module, _setattr)(module, name, value)


def _nothing(module: Any, *args: Any) -> None:
    """Do nothing, in place of what keeps or compares decoded weights."""


def check_input(module: Any, *args: Any) -> None:
    """Check the input of a recurrent module, for which PyTorch reads the dtype of a weight."""
    with contextlib.nullcontext() if torch.compiler.is_compiling() else _standing_in(module):
        _next(module, check_input)(module, *args)


def reset_parameters(module: Any, *args: Any, **kwargs: Any) -> None:
    """Reset a module, then redraw its cores."""
    _reset(module, reset_parameters, *args, **kwargs)


def _reset_parameters(module: Any, *args: Any, **kwargs: Any) -> None:
    _reset(module, _reset_parameters, *args, **kwargs)


def _reset(module: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    _forget_cached(module)
    with _standing_in(module):
        _next(module, method)(module, *args, **kwargs)
    for name in generated_inside(module):
        module.parametrizations[name][0].reset_parameters()


@contextlib.contextmanager
def _standing_in(module: Any) -> Iterator[None]:
    """Let tensors without memory, which may be overwritten, stand for the weights inside a module."""
    parts = [module.parametrizations[name][0] for name in generated_inside(module)]
    dtypes = [next(iter(part.cores.values())).dtype for part in parts]
    with sharing({part: torch.empty(part.shape, dtype=one, device="meta") for part, one in zip(parts, dtypes)}):
        try:
            yield
        finally:
            _forget_cached(module, only_meta=True)


def _forget_cached(module: Any, only_meta: bool = False) -> None:
    """Remove weights from the cache of `torch.nn.utils.parametrize.cached`, or only what stood for them."""
    cache: Any = parametrize._cache  # type: ignore[attr-defined]
    for name in generated_inside(module) if cache else ():
        found = cache.get((id(module), name))
        if found is not None and (found.is_meta or not only_meta):
            del cache[id(module), name]


#: What the class of a module with generated weights has instead of what its base has, where its base has it.
_OVERRIDES: dict[str, Any] = {
    "__deepcopy__": _deepcopy,
    "__reduce_ex__": _reduce,
    "register_parameter": _register_parameter,
    "reset_parameters": reset_parameters,
    "_reset_parameters": _reset_parameters,
    "_flat_weights": property(_flat_weights, _nothing),
    "__setattr__": _setattr,
    "_update_flat_weights": _nothing,
    "_init_flat_weights": _init_flat_weights,
    "flatten_parameters": _nothing,
    "check_input": check_input,
}
_NAMES = {override: name for name, override in _OVERRIDES.items()}
#: Overrides for all modules, and those for recurrent ones.
_ALWAYS, _RESETS = (
    ("__deepcopy__", "__reduce_ex__", "__setattr__", "register_parameter"),
    ("reset_parameters", "_reset_parameters"),
)
