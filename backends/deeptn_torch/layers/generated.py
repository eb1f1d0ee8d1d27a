"""A decoded weight as users get it: any use is fine, but a write, which would be lost, is refused."""

from __future__ import annotations

import gc
import operator
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, final

import autoray
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
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

_SHARED = "DLPack shares memory, and what others write there would be lost; share a copy instead: layer.weight.detach()"

#: Methods of PyTorch that only read weights. Those with a fast path take it only for plain tensors.
_READERS = {cls.forward.__code__ for cls in (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)}

#: The files of what is called between a reader and a weight.
_BETWEEN = {
    *(code.co_filename for code in (nn.Module._call_impl.__code__, parametrize.is_parametrized.__code__)),
    *(str(Path(__file__).with_name(name)) for name in ("base.py", "inside.py", "weight.py")),
}


def is_only_read() -> bool:
    """Return whether a method that only reads weights is about to get one."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename in _BETWEEN:
        frame = frame.f_back
    return frame is not None and frame.f_code in _READERS


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
        if name == "__dlpack__":
            raise SpecError(_SHARED)
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


#: Functions of PyTorch that assign a weight, but not as users do.
_ASSIGN = {
    # It swaps the tensors back.
    "swap_tensor": "functional_call cannot replace a weight that is generated; pass the cores: cores.NAME",
    # The network would only give an approximation.
    **dict.fromkeys(
        ("fuse_conv_bn_eval", "fuse_linear_bn_eval"),
        "a batch norm cannot be fused into a weight that is generated; call fold_ first",
    ),
}


def check_assigned(weight: Any) -> None:
    """Raise `SpecError` if fitting a network to what is assigned to its weight would be wrong without a word."""
    frame = sys._getframe(1)
    for _ in range(8):
        if frame is None:
            break
        if refusal := _ASSIGN.get(frame.f_code.co_name):
            raise SpecError(refusal)
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
    """The parameters of a module with generated weights; to look for one of these here is an error.

    `torch.nn.utils.weight_norm` and `torch.nn.utils.parametrize` look for a weight here.
    """

    #: The names of the weights.
    generated: tuple[str, ...] = ()

    @classmethod
    def without(cls, generated: tuple[str, ...], params: Mapping[str, Any]) -> Parameters:
        """Return the parameters of a module as this class."""
        found = cls(params)
        found.generated = generated
        return found

    def __contains__(self, name: object) -> bool:
        found = super().__contains__(name)
        if not found and name in self.generated and sys._getframe(1).f_code.co_name == "register_parametrization":
            self._refuse(str(name))
        return found

    def __missing__(self, name: str) -> NoReturn:
        self._refuse(name)

    def __delitem__(self, name: str) -> None:
        if not super().__contains__(name):
            self._refuse(name)
        super().__delitem__(name)

    def _refuse(self, name: str) -> NoReturn:
        if name not in self.generated:
            raise KeyError(name)
        raise SpecError(
            f"{name!r} is generated, so it is not among the parameters of its module; parametrize a core, generate the "
            f"weight inside a dense module (parametrize_) and put a parametrization on top, or call fold_ first"
        )


class OwnParameters(Parameters):
    """The parameters of a generated layer, which never have its weight among them."""

    generated = ("weight",)

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self.generated:
            self._refuse(name)
        super().__setitem__(name, value)


#: Functions of `torch.ao.quantization` that replace modules.
_QUANTIZE = {"prepare", "prepare_qat", "quantize_dynamic"}


def check_attribute(name: str, value: Any) -> None:
    """Raise `SpecError` if quantization in eager mode starts on a generated weight; in graph mode it is left out."""
    frame = sys._getframe(1) if name == "qconfig" and value is not None else None
    while frame is not None:
        if frame.f_code.co_name in _QUANTIZE and frame.f_code.co_filename.endswith("quantize.py"):
            raise SpecError(
                f"{frame.f_code.co_name!r} cannot quantize a module whose weight is generated; leave it out (set its "
                "qconfig to None, with a DeQuantStub before it), or call fold_ first"
            )
        frame = frame.f_back


def refuse_mask(name: str) -> NoReturn:
    """Raise `SpecError` for a mask on a generated weight."""
    raise SpecError(f"{name!r} is generated, so its entries cannot be pruned; prune the cores, or call fold_ first")


autoray.register_backend(GeneratedWeight, "torch")
