"""The cores of a layer as a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake
from torch.nn.utils import parametrize

from deeptn.errors import SpecError
from deeptn.network import Network

from ..fit import draw_seed


class Cores(nn.ParameterDict):
    """The cores of a layer, by name; with few names of its own, because those of the cores are attributes too.

    Parameters
    ----------
    network : deeptn.Network
        The network to which the cores belong.
    tensors : mapping of str to Tensor
    std : float, optional
        The root mean square of the weight when new cores are drawn, by default Kaiming's.

    Attributes
    ----------
    sharded : bool
        Whether FSDP2 shards the cores, because their memory is then not their own.
    """

    sharded = False

    def __init__(self, network: Network, tensors: Mapping[str, Tensor], std: float | None = None):
        super().__init__()
        self._network, self._std = network, std
        clash = [name for name in network.spec.param_shapes if hasattr(self, name)]
        if clash:
            raise SpecError(f"torch.nn.ParameterDict cannot store a parameter named {clash[0]!r}; rename the node")
        for name in network.spec.param_shapes:  # one by one, because a dictionary would be sorted by name
            self[name] = nn.Parameter(tensors[name])

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(value, "full_tensor"):
            self.__dict__["sharded"] = True
        if name == "__class__" and any(base.__name__ == "FSDPModule" for base in value.__mro__):
            raise SpecError("FSDP cannot shard the cores of a layer without the layer; write fully_shard(layer)")
        super().__setattr__(name, value)

    def __getitem__(self, key: str) -> Any:
        # Nobody calls this module, so hooks that compute a core, as those of torch.nn.utils.prune, run here.
        for hook in self._forward_pre_hooks.values():
            if key in (getattr(hook, "_tensor_name", None), getattr(hook, "name", None)):
                hook(self, ())
        return super().__getitem__(key)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # Formats such as channels_last are for images and kernels: cores keep their order of memory.
        return super()._apply(lambda t: fn(t.reshape(-1)).reshape(t.shape) if _is_ordered(t) else fn(t), recurse)

    def reset_parameters(self, scheme: str = "orthogonal", std: float | None = None) -> None:
        """Draw new cores with a seed from torch's generator; see `deeptn.Network.init`.

        FSDP calls this for every module that has parameters of its own, once they have memory.
        """
        first = local(next(iter(self.values())))
        if not (first.is_meta or is_fake(first)):
            std = self._std if std is None else std
            load(self, self._network.init(draw_seed(), like=first, scheme=scheme, std=std))


def load(cores: Cores, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the cores with the same names."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            core = stored(cores, name)
            core.copy_(sharded_as(tensor, core))


def stored(cores: Cores, name: str) -> Tensor:
    """Return the tensor that is trained: the core itself or, if it is constrained or pruned, the tensor before that."""
    if parametrize.is_parametrized(cores, name):
        constrained: Any = cores.parametrizations
        return constrained[name].original
    if f"{name}_g" in cores._parameters or f"{name}_u" in cores._buffers:
        raise SpecError(f"the core {name!r} has a norm of torch.nn.utils; use one of torch.nn.utils.parametrizations")
    pruned = cores._parameters.get(f"{name}_orig")
    return cores[name] if pruned is None else pruned


def are_computed(cores: Cores) -> bool:
    """Return whether cores are computed from other tensors: constrained or pruned."""
    return parametrize.is_parametrized(cores) or bool(cores._forward_pre_hooks)


def refuse_computed(cores: Cores) -> None:
    """Raise `SpecError` if cores that should grow are constrained or pruned."""
    if are_computed(cores):
        raise SpecError(
            "cores are constrained or pruned, but what growth adds is not; remove the constraint or the mask first"
        )


def refuse_pruned(cores: Cores) -> None:
    """Raise `SpecError` if cores are pruned."""
    if cores._forward_pre_hooks:
        raise SpecError("cores are pruned, and a mask does not keep them isometric; call prune.remove first")


def check_cores(value: Any) -> None:
    """Raise `SpecError` if the cores of a layer would become another kind of module."""
    if not isinstance(value, Cores):
        raise SpecError(
            f"the cores of a layer cannot become a {type(value).__name__}; write layer.load_cores(…), or for FSDP an "
            "auto_wrap_policy that wraps whole layers"
        )


def _is_ordered(core: Tensor) -> bool:
    return core.ndim in (4, 5) and core.is_contiguous() and not hasattr(core, "full_tensor")


def local(tensor: Any) -> Tensor:
    """Return the part of a sharded tensor that this process has; other tensors are returned as they are."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def sharded_as(tensor: Tensor, like: Any) -> Tensor:
    """Shard a tensor as another one is, with the values of the first process; unless that one is not sharded."""
    if not hasattr(like, "full_tensor") or hasattr(tensor, "full_tensor"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements)
