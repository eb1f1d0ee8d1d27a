"""A decoded weight as users get it: any use is fine, but a write, which would be lost, is refused."""

from __future__ import annotations

import gc
import operator
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, final

import autoray
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from deeptn.errors import SpecError

_REFUSAL = (
    "{name} would change a decoded copy of the weight, not the layer. Fit the cores with layer.weight = …, change "
    "them (layer.load_cores, layer.reset_parameters), or take a copy first (layer.weight.detach())"
)

_LOST = (
    "{name} would act on this decoded weight only, and the next use of the layer decodes another; call it on a core "
    "(layer.cores), or on a tensor made from the weight that you use yourself (layer.weight * 1)"
)


@final
class GeneratedWeight(Tensor):
    """A decoded weight. Operations return ordinary tensors; those that write into it, or into a view, are refused.

    ``detach()`` returns an ordinary tensor with its own values, and ends the protection.
    """

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if torch.compiler.is_compiling():
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **options)
        name = getattr(func, "__name__", "").partition(".")[0]  # of an operator: "add_.Tensor"
        if isinstance(_target(name, args, options), GeneratedWeight):
            raise SpecError(_REFUSAL.format(name="this assignment" if name.startswith("__") else f"{name!r}"))
        if name in ("register_hook", "register_post_accumulate_grad_hook", "retain_grad"):
            raise SpecError(_LOST.format(name=name))
        if not all(issubclass(one, (GeneratedWeight, nn.Parameter)) or one is Tensor for one in types):
            with torch._C.DisableTorchFunctionSubclass():
                args, options = tree_map_only(GeneratedWeight, lambda w: w.as_subclass(Tensor), (args, options))
            return func(*args, **options)  # the other class decides
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **options)
            if name == "__get__" and func.__self__.__name__ == "_base":  # torch.compile follows it until there is none
                return found
            whole: Any = next((one for one in (*args, *options.values()) if isinstance(one, GeneratedWeight)), None)
            if isinstance(found, np.ndarray) and found.ctypes.data == whole.data_ptr():  # writes would be lost
                found.flags.writeable = False
            if name != "detach":
                return _protected_views(found, whole)
            whole.__class__ = Tensor  # nn.Parameter(layer.weight) needs a tensor of the same class as its detach()
            return found

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._plain().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: Any) -> Tensor:
        return self._plain().clone()

    def __format__(self, spec: str) -> str:
        return self._plain().__format__(spec)

    def _plain(self) -> Tensor:
        """Return the values as an ordinary tensor; this one stays protected."""
        with torch._C.DisableTorchFunctionSubclass():
            return self.detach()


#: Augmented assignments: ``__iadd__`` beside ``__add__``, and so on.
_AUGMENTED = {name for name in dir(operator) if name.startswith("__i") and f"__{name[3:]}" in dir(operator)}

#: Methods with other names than ``…_`` that write into their first argument.
_WRITES = {"__setitem__", "__set__", "__delete__"} | _AUGMENTED


def _target(name: str, args: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """Return the tensor into which a function writes, or None."""
    out = options.get("out")
    if out is not None:
        found = out if isinstance(out, (tuple, list)) else [out]
        return next((tensor for tensor in found if isinstance(tensor, GeneratedWeight)), None)
    if options.get("inplace") or options.get("max_norm") is not None:  # options of F.relu and F.embedding
        return next((one for one in (*args, *options.values()) if isinstance(one, GeneratedWeight)), None)
    if name == "requires_grad_" and all([*args[1:], *options.values()]):
        return None
    if name in _WRITES or (name.endswith("_") and not name.endswith("__")):
        first = options.get("input", args[0] if args else next(iter(options.values()), None))
        found = first if isinstance(first, (tuple, list)) else [first]  # a list for torch._foreach_add_
        return next((one for one in found if isinstance(one, GeneratedWeight)), None)
    return None


def _protected_views(found: Any, whole: Any) -> Any:
    """Protect results that share memory with a weight."""
    if isinstance(found, (tuple, list)) and type(found) in (tuple, list):
        return type(found)(_protected_views(part, whole) for part in found)
    if found is whole or not isinstance(found, Tensor) or not isinstance(whole, Tensor):
        return found
    try:
        memory = found.untyped_storage().data_ptr()
        shares = memory != 0 and memory == whole.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse, or inside a transformation of torch
        return found
    return found.as_subclass(GeneratedWeight) if shares else found


def check_assigned(weight: Any) -> None:
    """Raise `SpecError` if fitting a network to what is assigned to its weight would be wrong without a word."""
    frame = sys._getframe(1)
    for _ in range(8):  # functional_call swaps tensors, and swaps them back
        if frame is None:
            break
        if frame.f_code.co_name == "swap_tensor":
            raise SpecError("functional_call cannot replace a weight that is generated; pass the cores: cores.NAME")
        frame = frame.f_back
    if isinstance(weight, GeneratedWeight):
        raise SpecError(
            "two generated weights cannot be tied by assignment; use one layer in both places, or assign the values: "
            "weight.detach()"
        )
    if isinstance(weight, nn.Parameter) and _is_held(weight):
        raise SpecError(
            "this parameter belongs to a module, and a generated weight cannot be tied to it; use one layer in both "
            "places, or assign the values: weight.detach()"
        )


def _is_held(param: nn.Parameter) -> bool:
    """Return whether a parameter is in a module: among the parameters in a module's attributes."""
    holders = [held for held in gc.get_referrers(param) if isinstance(held, dict)]
    owners = ((held, owner) for held in holders for owner in gc.get_referrers(held))
    # From Python 3.13 on, an object refers to the values of its attributes itself.
    found = ((held, vars(owner) if isinstance(owner, nn.Module) else owner) for held, owner in owners)
    return any(isinstance(attributes, dict) and attributes.get("_parameters") is held for held, attributes in found)


class Parameters(dict[str, Any]):
    """The parameters of a generated layer; to look for its weight here, as `nn.utils.weight_norm` does, is an error."""

    def __missing__(self, name: str) -> NoReturn:
        self._check(name)
        raise KeyError(name)

    def __setitem__(self, name: str, value: Any) -> None:
        self._check(name)
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        self._check(name)
        super().__delitem__(name)

    @staticmethod
    def _check(name: str) -> None:
        if name == "weight":
            raise SpecError(
                "the weight is generated, so it is not among the parameters of its layer; fit the cores with "
                "layer.weight = …, parametrize a core, or call fold_ first"
            )


def refuse_mask(name: str) -> NoReturn:
    """Raise `SpecError` for a mask on a generated weight."""
    raise SpecError(f"{name!r} is generated, so its entries cannot be pruned; prune the cores, or call fold_ first")


autoray.register_backend(GeneratedWeight, "torch")
