"""The cache of a decoded weight: when it is kept, and when it is stale."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from deeptn.network import Network, decode
from deeptn.params import check_params


class Cores(nn.ParameterDict):
    """The cores of a layer, by name. Records whether FSDP2 shards them, because its writes do not change versions."""

    sharded = False

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(value, "full_tensor"):
            self.__dict__["sharded"] = True
        super().__setattr__(name, value)


class CachedWeight(nn.Module):
    """Abstract base of layers whose weight is decoded from cores and cached while it stays valid.

    The weight is decoded at every use if a gradient may flow into the cores. Otherwise (under ``torch.no_grad``, or
    with all cores frozen) it is cached, and decoded again after a core was replaced or modified in place. Writes to
    ``core.data`` (as in ``layer.cores.double()``) and a fused optimizer's step in eval mode cannot be detected: call
    `clear_cache` after them.
    """

    network: Network
    cores: Cores
    recompute: bool | None = None
    _names: tuple[str, ...]

    def _cores(self) -> tuple[Tensor, ...]:
        """Return the cores in the order of the network; check them if one was replaced."""
        held: dict[str, Any] = self._modules["cores"]._parameters  # type: ignore[union-attr]
        # Indexing nn.ParameterDict is slow, but handles parametrizations too.
        cores = tuple(held.values()) if tuple(held) == self._names else tuple(self.cores[n] for n in self._names)
        if len(cores) != len(self._checked) or not all(map(_IS, cores, self._checked)):
            check_params(self.network.spec, dict(zip(self._names, cores)))
            self._checked = cores if all(isinstance(core, nn.Parameter) for core in cores) else ()
        return cores

    def _decoded(self, cores: tuple[Tensor, ...]) -> Tensor:
        weight = decode(self.network, cores, self.recompute)
        self._cached = None
        if weight.requires_grad:
            return weight
        # A fused optimizer does not change versions; if it may be about to step, nothing is cached.
        unseen = self.cores.sharded or (self.training and any(core.grad is not None for core in cores))
        if not unseen and all(isinstance(core, nn.Parameter) and not core.is_inference() for core in cores):
            weight = weight.contiguous()  # drops the padding
            version = None if weight.is_inference() else weight._version
            self._cached = (cores, len(cores), sum(map(_VERSION, cores)), weight, version)
        return weight

    def _cached_weight(self) -> Tensor | None:
        """Return the cached weight if it still belongs to the cores and no gradient may flow into them, else None."""
        if self._cached is None:
            return None
        cores, count, versions, weight, version = self._cached
        held = self._modules["cores"]._parameters  # type: ignore[union-attr]
        # Every call counts here: a small layer takes a few microseconds. Versions only increase, so their sum shows
        # whether one has changed.
        if len(held) != count or not all(map(_IS, held.values(), cores)) or sum(map(_VERSION, cores)) != versions:
            return None
        if torch.is_grad_enabled() and trainable(cores):
            return None
        if version is None:
            return weight if torch.is_inference_mode_enabled() else None
        return weight if weight._version == version else None  # decode again if it was modified in place

    def clear_cache(self) -> None:
        """Discard the cached weight."""
        self._cached = None

    def _forget(self) -> None:
        self._cached: tuple[tuple[Tensor, ...], int, int, Tensor, int | None] | None = None
        self._checked: tuple[Tensor, ...] = ()

    def train(self, mode: bool = True):
        self._cached = None
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True):
        self._cached = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._cached = None
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cached": None, "_checked": ()}


_IS = operator.is_
_VERSION = operator.attrgetter("_version")


def trainable(cores: Iterable[Tensor]) -> bool:
    """Return whether a gradient may flow into any of the cores."""
    return any(core.requires_grad for core in cores)
