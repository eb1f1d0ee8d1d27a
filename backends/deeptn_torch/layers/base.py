"""What all layers with a generated weight share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from deeptn.base import Shape
from deeptn.constraints import isometric_nodes, scaled_isometry
from deeptn.errors import SpecError, near_match
from deeptn.fitting import How, grow
from deeptn.init import NodeMatrix
from deeptn.models import Target, as_network, check_mode, is_faster
from deeptn.network import Network, decode
from deeptn.spec import Layout, Node
from deeptn.topologies import describe

from ..engine import contract, register
from ..fit import draw_seed, find_params
from .cache import CachedWeight, Cores, trainable


class TNLayer(CachedWeight):
    """What all layers with a generated weight share and take; `CachedWeight` says when the decoded weight is kept.

    Parameters
    ----------
    topology : deeptn.Topology, deeptn.Network or str
        What generates the weight.
    device, dtype : optional
    layout : deeptn.Layout, optional
        How the weight is cut into legs; by default the topology's own.
    mode : {"auto", "materialize", "apply"}
        ``"materialize"``: decode the weight, then use it. ``"apply"``: use a linear network without its weight.
        ``"auto"``: decode and keep the weight while no gradient is asked for, otherwise what is expected to be faster.

    Attributes
    ----------
    network : deeptn.Network
        What generates the weight.
    cores : nn.ParameterDict
        The trainable tensors, by the names of ``network.spec.param_shapes``.
    recompute : bool or None
        Whether the backward pass of a decode recomputes the states within a stage; None: as the program has it.
    """

    #: The dense layer that this one replaces, which of its arguments the two have in common, and how files name it.
    dense: ClassVar[Any]
    arguments: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[str]
    #: How a linear network is used without its weight.
    way: ClassVar[Literal["apply", "gather"]] = "apply"

    bias: nn.Parameter | None
    batch_hint: int | None = None

    def _make(
        self,
        shape: Shape,
        topology: Target,
        layout: Layout | None,
        device: Any,
        dtype: Any,
        mode: str = "materialize",
        outputs: int = 0,
    ) -> None:
        """Take up a network for a weight of some shape, and a bias of so many entries; draw both."""
        net = as_network(topology, shape, layout)
        self.mode = check_mode(mode)
        empty = partial(torch.empty, device=device, dtype=dtype)
        self._hold(net, {name: empty(sizes) for name, sizes in net.spec.param_shapes.items()})
        self.register_parameter("bias", nn.Parameter(empty(outputs)) if outputs else None)
        self._register()
        self.reset_parameters()

    def _hold(self, net: Network, tensors: Mapping[str, Tensor]) -> None:
        """Take a network and its cores."""
        clash = [name for name in net.spec.param_shapes if hasattr(Cores, name)]
        if clash:
            raise SpecError(f"a parameter named {clash[0]!r} cannot be held by torch.nn.ParameterDict; rename the node")
        self.network = net
        self._names = tuple(net.spec.param_shapes)
        self._forget()
        self.cores = Cores()
        for name in self._names:  # one by one: a dictionary would be sorted by name
            self.cores[name] = nn.Parameter(tensors[name])

    def constrain(self, nodes: Iterable[str] | None = None) -> None:
        """Keep nodes isometric in training, up to a positive factor; see `deeptn.isometrize`.

        Nodes go by their names, by default those that the topology marks. `SpecError` if there is none, one cannot be
        an isometry, or a core does not have full rank. Cores become parametrized (`torch.nn.utils.parametrize`): the
        ``state_dict`` holds the tensors before the map as ``cores.parametrizations.NAME.original``, and
        ``parametrize.remove_parametrizations`` ends it.

        Examples
        --------
        >>> import torch, deeptn as dtn
        >>> from deeptn_torch import TNLinear
        >>> layer = TNLinear(16, 16, dtn.Tree(rank=4))
        >>> layer.constrain()
        >>> A = layer.cores["L3_t0"].reshape(4, 4)
        >>> bool(torch.allclose(A @ A.T, (A @ A.T)[0, 0] * torch.eye(4), atol=1e-6))
        True
        """
        maps = {
            node.param: Isometry(node, tuple(self.cores[node.param].shape))
            for node in isometric_nodes(self.network, nodes)
            if node.param is not None and not parametrize.is_parametrized(self.cores, node.param)
        }
        for name, isometry in maps.items():
            values = torch.linalg.svdvals(isometry.view.matrix(self.cores[name].detach()).to(torch.complex128))
            if values[-1] <= 1e-6 * values[0]:
                raise SpecError(
                    f"the core {name!r} does not have full rank (as after growth), so its isometry is not determined; "
                    "train or perturb it first"
                )
        self.clear_cache()
        for name, isometry in maps.items():
            parametrize.register_parametrization(self.cores, name, isometry)

    def grow(self, size: int, noise: float | None = None) -> float:
        """Enlarge the network to a size of its family, without changing the weight; see `deeptn.fitting.grow`.

        Return ``‖W_new - W_old‖ / ‖W_old‖``. At a size that it has already the layer stays as it is. The cores become
        new parameters, of which an optimizer has to be told; frozen ones stay frozen, what is added is frozen if all
        were. `SpecError` where cores are constrained.
        """
        if parametrize.is_parametrized(self.cores):
            raise SpecError("the cores are constrained, and what is added to them is not; remove the constraint first")
        net, params, error = grow(self.network, dict(self.cores.items()), size, noise, draw_seed())
        if net is not self.network:
            flows = {name: core.requires_grad for name, core in self.cores.items()}
            self._hold(net, params)
            self._register()
            for name, core in self.cores.items():
                core.requires_grad_(flows.get(name, any(flows.values())))
        return error

    def _register(self) -> None:
        """Make known what `torch.compile` meets: the programs, and by which number each is called."""
        hint, net = self.batch_hint, self.network
        applies = hint is not None and net.is_linear and self.mode != "materialize"
        if hint is not None and self.mode == "auto":
            applies = applies and self._choose(hint)
        self._decode = register(net.program("materialize"))
        self._apply_number = register(net.program("apply", hint or 1)) if applies else None
        self._ways: dict[int, bool] = {}

    def _apply(self, fn: Any, recurse: bool = True):
        self._ways = {}
        return super()._apply(fn, recurse)

    def _choose(self, rows: int) -> bool:
        """Whether the network is expected to be used for some rows faster than it is decoded."""
        core = self.cores[self._names[0]]
        return is_faster(self.network, self.way, rows, core if core.is_cuda else "torch")

    def _weight_or_cores(self, rows: int) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """The weight, or no weight and the cores where the network is to be used for so many rows itself."""
        always = self.mode == "apply" and self.network.is_linear
        weight = None if always else self._cached_weight()
        if weight is not None:
            return weight, ()
        cores = self._cores()
        return None if self._applies(cores, rows) else self._decoded(cores), cores

    def _applies(self, cores: tuple[Tensor, ...], rows: int) -> bool:
        if self.mode == "materialize" or not self.network.is_linear or rows == 0:
            return False
        if self.mode == "apply":
            return True
        if not torch.is_grad_enabled() or not trainable(cores):
            return False
        rows = 1 << (rows - 1).bit_length()  # one search per power of two
        if rows not in self._ways:
            self._ways[rows] = self._choose(rows)
        return self._ways[rows]

    def requires_grad_(self, requires_grad: bool = True, stages: Iterable[int] | None = None) -> Any:
        """Freeze or free all parameters, or the cores of some stages, by their numbers; the last is -1.

        A core that several stages share goes with each.

        Examples
        --------
        >>> import deeptn as dtn
        >>> from deeptn_torch import TNLinear
        >>> layer = TNLinear(16, 8, dtn.BrickWall(layers=2)).requires_grad_(False, stages=[0])
        >>> layer.cores["L1_g0"].requires_grad, layer.cores["L2_g0"].requires_grad
        (False, True)
        """
        if stages is None:
            return super().requires_grad_(requires_grad)
        found, params = self.network.spec.stages, set[str]()
        for number in stages:
            if number not in range(-len(found), len(found)):
                raise SpecError(f"stage {number!r} of {len(found)}")
            params |= {node.param for node in found[number].nodes if node.param is not None}
        for name in params:
            self._stored(name).requires_grad_(requires_grad)
        return self

    def reset_parameters(self, scheme: str = "orthogonal", std: float | None = None) -> None:
        """Draw new cores, with a seed from torch's generator; the bias as `torch.nn.Linear` does.

        `scheme` and `std`, by default Kaiming's, are those of `deeptn.Network.init`.
        """
        first = next(iter(self.cores.values()))
        if first.is_meta:
            return
        self.load_cores(self.network.init(draw_seed(), like=first, scheme=scheme, std=std))
        if self.bias is not None:
            bound = 1 / math.sqrt(math.prod(self.network.shape[1:]))
            nn.init.uniform_(self.bias, -bound, bound)

    def load_cores(self, params: dict[str, Tensor]) -> None:
        """Copy tensors into the cores of their names; `SpecError` for an unknown name or another shape."""
        for name, tensor in params.items():
            if name not in self.cores:
                raise SpecError(f"unknown core {name!r}; {near_match(str(name), self.cores.keys())}")
            shape = tuple(self.cores[name].shape)
            if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
                came = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
                raise SpecError(f"core {name!r}: expected a tensor of shape {shape}, got {came}")
        with torch.no_grad():
            for name, tensor in params.items():
                self._stored(name).copy_(tensor)

    def _stored(self, name: str) -> Tensor:
        """The tensor that is trained for a core: that before the map of a constraint, if there is one."""
        if not parametrize.is_parametrized(self.cores, name):
            return self.cores[name]
        constrained: Any = self.cores.parametrizations
        return constrained[name].original

    @property
    def weight(self) -> Tensor:
        """The decoded weight, of the shape that the dense layer has."""
        if torch.compiler.is_compiling():
            cores = [self.cores[name] for name in self._names]
            exporting = torch.compiler.is_exporting()
            return decode(self.network, cores) if exporting else contract_traced(cores, self._decode)
        cached = self._cached_weight()
        return self._decoded(self._cores()) if cached is None else cached

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._register()

    @classmethod
    def from_dense(cls, dense: Any, topology: Target, fit: How = "auto", layout: Layout | None = None) -> Any:
        """Replace a trained layer. Device, dtype and bias are copied; frozen parameters stay frozen.

        `fit` says how the cores are found; see `deeptn.models.compress`.
        """
        net = as_network(topology, tuple(dense.weight.shape), layout)
        return cls.like(dense, net, find_params(net, dense.weight.detach(), fit))

    @classmethod
    def like(cls, dense: Any, net: Network, params: dict[str, Tensor]) -> Any:
        """Make a new layer with the arguments and the bias of a dense one, and given cores."""
        layer = cls(**cls._arguments(dense), topology=net, device="meta", dtype=dense.weight.dtype)
        return layer.filled(dense, dense.weight, params)

    def filled(self, module: Any, weight: nn.Parameter, params: dict[str, Tensor]) -> Any:
        """Take the place of a weight of a module, with given cores; the layer had no storage so far."""
        self.to_empty(device=weight.device)
        self.load_cores(params)
        self.cores.requires_grad_(weight.requires_grad)
        if self.bias is not None:
            copy_bias(self, module)
        return self.train(module.training)

    @classmethod
    def _arguments(cls, layer: Any) -> dict[str, Any]:
        """The arguments that a layer was made with, this one or the dense one that it replaces."""
        values = {name: getattr(layer, name) for name in cls.arguments}
        return {name: value is not None if name == "bias" else value for name, value in values.items()}

    def to_dense(self) -> Any:
        """Return the dense layer that computes the same; what was frozen stays frozen."""
        first = next(iter(self.cores.values()))
        dense = self.dense(**self._arguments(self), device=first.device, dtype=first.dtype)
        with torch.no_grad():
            dense.weight.copy_(self.weight)
        dense.weight.requires_grad_(trainable(self.cores.values()))
        copy_bias(dense, self)
        return dense.train(self.training)

    def extra_repr(self) -> str:
        about = self._arguments(self) if self.arguments else {"shape": self.network.shape}
        about |= {"topology": describe(self.network.topology), "num_params": self.network.num_params}
        return ", ".join(f"{name}={value}" for name, value in about.items())


_scaled_isometry: Any = torch.compiler.allow_in_graph(scaled_isometry)


class Isometry(nn.Module):
    """The map of `TNLayer.constrain` for one core; its gradient goes through the QR decomposition."""

    def __init__(self, node: Node, shape: Shape):
        super().__init__()
        self.view = NodeMatrix(node, shape)

    def forward(self, core: Tensor) -> Tensor:
        half = core.dtype in (torch.float16, torch.bfloat16)
        made = _scaled_isometry((core.float() if half else core).permute(self.view.order).reshape(self.view.sides))
        return made.reshape(self.view.sizes).permute(self.view.back).to(core.dtype)

    def right_inverse(self, core: Tensor) -> Tensor:
        return core


def contract_traced(arrays: list[Tensor], number: int) -> Tensor:
    """A registered program as one operator; half precision is contracted in float32."""
    dtype = arrays[0].dtype
    if dtype not in (torch.float16, torch.bfloat16):
        return contract(arrays, number)
    return contract([array.float() for array in arrays], number).to(dtype)


def layers_of(model: nn.Module) -> Iterator[TNLayer]:
    """The generated layers of a model, weights inside of modules included."""
    return (module for module in model.modules() if isinstance(module, TNLayer))


def copy_bias(to: Any, source: Any) -> None:
    """Give a layer the bias of another, if that has one; frozen if it is."""
    if getattr(source, "bias", None) is not None:
        with torch.no_grad():
            to.bias.copy_(source.bias)
        to.bias.requires_grad_(source.bias.requires_grad)
