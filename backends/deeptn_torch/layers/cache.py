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
    """The cores of a layer, by name; it notices when FSDP2 shards them, whose writing leaves no trace in a version."""

    sharded = False

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(value, "full_tensor"):
            self.__dict__["sharded"] = True
        super().__setattr__(name, value)


class CachedWeight(nn.Module):
    """A weight that is decoded from cores, and kept while it stays the same; abstract.

    The weight is decoded again whenever a gradient may flow into the cores. While none can (under ``torch.no_grad``, or
    with all cores frozen) the decoded weight is kept, and renewed when a core was replaced or written to in place.
    Writing into ``core.data`` (as ``layer.cores.double()`` does), or a fused optimizer's step in eval mode, leaves no
    trace that could be seen: call `clear_cache` after it.
    """

    network: Network
    cores: Cores
    recompute: bool | None = None
    _names: tuple[str, ...]

    def _cores(self) -> tuple[Tensor, ...]:
        """The cores in the order of the network's; one that was replaced is looked at."""
        held: dict[str, Any] = self._modules["cores"]._parameters  # type: ignore[union-attr]
        # nn.ParameterDict's own way, which is slow, follows parametrizations too.
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
        # A fused optimizer leaves no trace in the versions; where it may be about to step, nothing is kept.
        unseen = self.cores.sharded or (self.training and any(core.grad is not None for core in cores))
        if not unseen and all(isinstance(core, nn.Parameter) and not core.is_inference() for core in cores):
            weight = weight.contiguous()  # without the padding
            version = None if weight.is_inference() else weight._version
            self._cached = (cores, len(cores), sum(map(_VERSION, cores)), weight, version)
        return weight

    def _cached_weight(self) -> Tensor | None:
        """The weight that is kept, if it still is that of the cores and no gradient may flow into these."""
        if self._cached is None:
            return None
        cores, count, versions, weight, version = self._cached
        held = self._modules["cores"]._parameters  # type: ignore[union-attr]
        # Calls are counted here: a small layer takes a few microseconds. A version only ever grows, so that their sum
        # tells whether one has.
        if len(held) != count or not all(map(_IS, held.values(), cores)) or sum(map(_VERSION, cores)) != versions:
            return None
        if torch.is_grad_enabled() and trainable(cores):
            return None
        if version is None:
            return weight if torch.is_inference_mode_enabled() else None
        return weight if weight._version == version else None  # one that was written into is decoded again

    def clear_cache(self) -> None:
        """Forget the decoded weight."""
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
    """Whether a gradient may flow into any of the cores."""
    return any(core.requires_grad for core in cores)
