"""The kept weight of a layer: when it is kept, and how a change of the cores is noticed."""

from __future__ import annotations

import copy
import ctypes
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from deeptn.errors import SpecError
from deeptn.network import Network, decode
from deeptn.params import check_activations, check_params

from ..engine import is_traced, is_transformed
from .cores import Cores

#: Cores with more bytes are compared one by one, without a copy.
SMALL = 2**14

#: The order of memory is compared too if a network has so few cores: for more, it would take as long as all the rest.
FEW = 8

#: A linear network whose weight has more bytes, and is not kept, is used without decoding the weight as a whole.
HUGE = 2**26


@final
class Snapshot:
    """Copies of cores on the CPU, and the means to tell quickly whether a core has changed since.

    A write to ``core.data``, by another thread or process, or by an optimizer that changes no version, is noticed too,
    because the bytes are compared. Whoever decodes `copies` gets the weight that belongs to the snapshot, even if the
    cores change meanwhile.
    """

    __slots__ = (
        *("_bytes", "_conjugable", "_held", "_large", "_names", "_parts", "_pointers", "_simple", "_strides"),
        "copies",
    )

    def __init__(self, named: Mapping[str, Tensor]):
        cores = list(named.values())
        self._names = [*named]
        self._held = [core.detach() for core in cores]  # also keeps the memory alive if a core gets other memory
        self._pointers = [*map(_POINTER, self._held)]
        ordered = all(map(_IS_CONTIGUOUS, cores))
        self._strides = [*map(_STRIDE, cores)] if len(cores) <= FEW or not ordered else None
        self._conjugable = any(core.is_complex() for core in cores)
        self.copies = [core.clone(memory_format=torch.preserve_format) for core in self._held]
        small = [core.numel() * core.itemsize <= SMALL for core in cores]
        self._parts = [_memory(core) for core, is_small in zip(self._held, small) if is_small]
        self._bytes = b"".join(_memory(copy) for copy, is_small in zip(self.copies, small) if is_small)
        pairs = zip(self._held, self.copies, small)
        self._large = [(_as_integers(core), _as_integers(copy)) for core, copy, is_small in pairs if not is_small]
        self._simple = self._strides is None and not self._conjugable and not self._large

    @staticmethod
    def is_possible(cores: Sequence[Tensor]) -> bool:
        """Return whether all cores are ordinary parameters with their own memory on the CPU."""
        return all(
            type(core) is nn.Parameter
            and core.is_cpu
            and core.data_ptr() != 0
            and not (core.is_inference() or core.is_conj() or core.is_neg())
            and _is_dense(core)
            for core in cores
        )

    def holds(self, named: Mapping[str, Tensor]) -> bool:
        """Return whether cores have these names, in this order, and these values. Takes only microseconds."""
        cores = named.values()
        if [*named] != self._names or [*map(_POINTER, cores)] != self._pointers:
            return False
        if b"".join(self._parts) != self._bytes:
            return False
        return self._simple or (
            (self._strides is None or [*map(_STRIDE, cores)] == self._strides)
            and not (self._conjugable and any(core.is_conj() for core in cores))
            and all(torch.equal(now, then) for now, then in self._large)
        )


class CachedWeight(nn.Module):
    """Abstract base of layers whose weight is decoded from cores, and kept where that is safe.

    The weight is decoded at every use if a gradient may flow into the cores. Otherwise (under ``torch.no_grad``, or
    with all cores frozen) a weight on the CPU is kept, together with the bytes of the cores. Every use compares them
    with those of the cores, so any change of a core counts, whoever made it. (One kind goes unnoticed: if ``core.data``
    becomes another view of the same memory, with another shape or dtype or, with more than eight cores, another order.)
    Weights with more bytes than `max_kept` are not kept. On other devices, the comparison would have to wait for the
    device, so nothing is kept: there, `freeze` keeps the weight.

    Attributes
    ----------
    max_kept : int
        Most bytes of a weight that is kept. Set it on the class or on a layer; 0 keeps nothing.
    """

    max_kept: int = 2**28

    network: Network
    cores: Cores
    mode: str
    recompute: bool | None = None
    _names: tuple[str, ...]

    def _cores(self) -> tuple[Tensor, ...]:
        """Return the cores in the order of the network; check them if one was replaced."""
        held: dict[str, Any] = self._modules["cores"]._parameters  # type: ignore[union-attr]
        if tuple(held) != self._names and held.keys() == set(self._names):  # a core was removed and added again
            for name in self._names:
                held[name] = held.pop(name)
        # Indexing nn.ParameterDict is slow, but handles parametrizations too.
        cores = tuple(held.values()) if tuple(held) == self._names else tuple(self.cores[n] for n in self._names)
        if len(cores) != len(self._checked) or not all(map(_IS, cores, self._checked)):
            check_params(self.network.spec, dict(zip(self._names, cores)))
            check_activations(self.network.spec, str(cores[0].dtype).removeprefix("torch."))
            self._checked = cores if all(isinstance(core, nn.Parameter) for core in cores) else ()
        return cores

    def _decoded(self, cores: tuple[Tensor, ...]) -> Tensor:
        """Decode the weight, and keep it where that is safe. It must not be modified or handed out."""
        if self.is_frozen:
            return decode(self.network, cores, self.recompute)
        if self._kept is not None:  # nn.Module sets attributes slowly
            self._kept = None
        if not self._may_keep(cores) or not self._fits(cores[0]):
            return decode(self.network, cores, self.recompute)
        with torch.inference_mode(False), torch.no_grad():  # normal tensors, which every mode may use
            snapshot = Snapshot(dict(zip(self._names, cores)))
            weight = decode(self.network, snapshot.copies).contiguous()  # drops the padding
        self._kept = weight, snapshot, cores, self.network
        return weight

    def _fits(self, core: Tensor) -> bool:
        """Return whether the weight is small enough to be kept."""
        return math.prod(self.network.shape) * core.itemsize <= self.max_kept

    def _is_huge(self, cores: tuple[Tensor, ...]) -> bool:
        """Return whether a weight that needs no gradient is too large to be decoded as a whole."""
        size = math.prod(self.network.shape) * cores[0].itemsize
        return size > max(self.max_kept, HUGE) and not (torch.is_grad_enabled() and trainable(cores))

    def _may_keep(self, cores: tuple[Tensor, ...]) -> bool:
        if (torch.is_grad_enabled() and trainable(cores)) or (self.mode == "apply" and self.network.is_linear):
            return False
        # Tracers first: torch.jit.trace would record the questions about sizes.
        return not is_transformed(cores) and not getattr(self.cores, "sharded", False) and Snapshot.is_possible(cores)

    def _kept_weight(self) -> Tensor | None:
        """Return the kept weight if it still belongs to the cores and no gradient may flow into them, else None."""
        kept = self._kept  # read once: another thread may replace it
        if kept is None:
            return None
        weight, snapshot, cores, network = kept
        if network is not self.network or is_traced():
            return None
        held: dict[str, Any] = self._modules["cores"]._parameters  # type: ignore[union-attr]
        now: Iterable[Tensor] = held.values()
        if snapshot is None:  # frozen; cores may be computed from other tensors
            unchanged = len(held) == len(cores) and all(map(_IS, now, cores))
            now = now if tuple(held) == self._names else self.cores.parameters()
        else:
            unchanged = snapshot.holds(held)
        return None if not unchanged or (torch.is_grad_enabled() and trainable(now)) else weight

    def freeze(self) -> Any:
        """Decode the weight now and keep it on any device, without looking at the cores again.

        This is a promise that the cores do not change until `unfreeze`, which `train`, loading, `load_cores` and
        changes of device or dtype call as well. Where a gradient may flow into the cores, the weight is still decoded
        at every use.

        Examples
        --------
        >>> import torch
        >>> from deeptn_torch import TNLinear
        >>> layer = TNLinear(16, 8).eval().freeze()
        >>> with torch.no_grad():
        ...     y = layer(torch.ones(2, 16))
        """
        cores = self._cores()
        if is_traced():
            raise SpecError("freeze() inside a transformation or tracer of torch would keep its tensors; freeze before")
        with torch.inference_mode(False), torch.no_grad():
            weight = decode(self.network, [core.detach() for core in cores])
            held: Any = tuple(self._modules["cores"]._parameters.values())  # type: ignore[union-attr]
            self._kept = weight.clone(memory_format=torch.contiguous_format), None, held, self.network
        return self

    def unfreeze(self) -> Any:
        """Discard the kept weight; the next use decodes it again."""
        self._kept = None
        return self

    @property
    def is_frozen(self) -> bool:
        """Whether `freeze` is in force."""
        kept = self._kept
        return kept is not None and kept[1] is None

    def _forget(self) -> None:
        self._kept: tuple[Tensor, Snapshot | None, tuple[Tensor, ...], Network] | None = None
        self._checked: tuple[Tensor, ...] = ()

    def train(self, mode: bool = True):
        if mode:
            self._kept = None
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True):
        self._kept = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._kept = None
        super()._load_from_state_dict(*args, **kwargs)

    def _replicate_for_data_parallel(self) -> Any:
        replica: Any = super()._replicate_for_data_parallel()  # type: ignore[misc]
        replica._forget()  # a frozen weight is on another device
        return replica

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return state | {"_kept": None, "_checked": ()}

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # torch.nn.utils.parametrize would add a method that copies all attributes, and refuses __getstate__.
        own: Any = type(self)
        base = own.__bases__[0] if parametrize.is_parametrized(self) else own
        replica = memo[id(self)] = own.__new__(own)
        replica.__setstate__(copy.deepcopy(base.__getstate__(self), memo))
        return replica


_IS = operator.is_
_POINTER = Tensor.data_ptr
_STRIDE = Tensor.stride
_IS_CONTIGUOUS = Tensor.is_contiguous


def trainable(cores: Iterable[Tensor]) -> bool:
    """Return whether a gradient may flow into any of the cores."""
    return any(core.requires_grad for core in cores)


def _is_dense(core: Tensor) -> bool:
    """Return whether the entries fill one piece of memory, in whatever order."""
    order = sorted(range(core.ndim), key=lambda axis: (core.stride(axis), core.shape[axis]), reverse=True)
    return core.is_contiguous() or core.permute(order).is_contiguous()


def _memory(core: Tensor) -> memoryview:
    """Return the memory of a dense tensor, without telling torch, which could not resize memory shared with NumPy."""
    return memoryview((ctypes.c_char * (core.numel() * core.itemsize)).from_address(core.data_ptr())).cast("B")


def _as_integers(core: Tensor) -> Tensor:
    """Return a dense tensor as integers, for which NaN equals NaN."""
    whole = core.as_strided((core.numel(),), (1,))
    whole = torch.view_as_real(whole) if whole.is_complex() else whole
    return whole.view({8: torch.int64, 4: torch.int32, 2: torch.int16}[whole.itemsize])
