"""The base class of all layers with a generated weight."""

from __future__ import annotations

import contextlib
import math
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.fx._symbolic_trace import is_fx_symbolic_tracing
from torch.nn.utils import parametrize

from deeptn.arrays import relative_error
from deeptn.base import Shape
from deeptn.constraints import isometric_nodes, scaled_isometry
from deeptn.errors import SpecError, near_match
from deeptn.fitting import How, grow
from deeptn.init import NodeMatrix
from deeptn.models import Target, as_network, check_mode, is_faster
from deeptn.network import Network
from deeptn.spec import Layout, Node
from deeptn.topologies import describe

from ..engine import contract, contract_in_steps, is_followed, is_transformed, register
from ..fit import draw_seed, find_params
from .cache import CachedWeight, trainable
from .cores import Cores, check_cores, load, refuse_computed, refuse_pruned, stored
from .generated import GeneratedWeight, OwnParameters, check_assigned, check_attribute, is_only_read, refuse_mask


class TNLayer(CachedWeight):
    """Base class of all layers with a generated weight; `CachedWeight` says when the decoded weight is kept.

    Parameters
    ----------
    topology : deeptn.Topology, deeptn.Network or str
        The network that generates the weight, or its family.
    device, dtype : optional
    layout : deeptn.Layout, optional
        How the weight is split into legs; by default, the topology's default layout.
    mode : {"auto", "materialize", "apply"}
        ``"materialize"``: decode the weight, then use it. ``"apply"``: use a linear network without decoding it.
        ``"auto"``: decode and cache the weight while no gradient is needed, otherwise use what is probably faster.

    Attributes
    ----------
    network : deeptn.Network
        Generates the weight.
    cores : nn.ParameterDict
        The trainable tensors, with the names in ``network.spec.param_shapes``.
    recompute : bool or None
        Whether the backward pass of decoding recomputes the states within a stage; None: as the program says.
    """

    #: The dense class that this one replaces, the arguments that the two share, and the name of the kind in files.
    dense: ClassVar[Any]
    arguments: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[str]
    #: How a linear network is used without decoding its weight.
    way: ClassVar[Literal["apply", "gather"]] = "apply"
    #: The root mean square of a new weight; None for Kaiming's.
    std: float | None = None

    bias: nn.Parameter | None
    batch_hint: int | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.__dict__["_parameters"] = OwnParameters()

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
        """Set up a network for a weight of this shape, and a bias with `outputs` entries; draw both."""
        net = as_network(topology, shape, layout)
        self.mode = check_mode(mode)
        empty = partial(torch.empty, device=device, dtype=dtype)
        self._hold(net, {name: empty(sizes) for name, sizes in net.spec.param_shapes.items()})
        self.register_parameter("bias", nn.Parameter(empty(outputs)) if outputs else None)
        self._register()
        self.reset_parameters()

    def _hold(self, net: Network, tensors: Mapping[str, Tensor]) -> None:
        """Set the network and its cores."""
        self.network = net
        # Interned, as setattr does with the keys of the cores: the same strings compare faster.
        self._names = tuple(sys.intern(str(name)) for name in net.spec.param_shapes)
        self._forget()
        self.cores = Cores(net, tensors, self.std)

    def constrain(self, nodes: Iterable[str] | None = None) -> None:
        """Keep nodes isometric during training, up to a positive factor; see `deeptn.isometrize`.

        `nodes` are names; by default, all nodes that the topology marks. Raises `SpecError` if there are none, a node
        cannot be an isometry, or a core does not have full rank. The cores become parametrized
        (`torch.nn.utils.parametrize`): the ``state_dict`` contains the tensors before the map as
        ``cores.parametrizations.NAME.original``. ``parametrize.remove_parametrizations`` removes the constraint.

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
        refuse_pruned(self.cores)
        maps = {
            node.param: Isometry(node, tuple(self.cores[node.param].shape))
            for node in isometric_nodes(self.network, nodes)
            if node.param is not None and not parametrize.is_parametrized(self.cores, node.param)
        }
        for name, isometry in maps.items():
            values = torch.linalg.svdvals(isometry.view.matrix(self.cores[name].detach()).to(torch.complex128))
            if values[-1] <= 1e-6 * values[0]:
                raise SpecError(
                    f"the core {name!r} does not have full rank (as after growth), so its isometry is not unique; "
                    "train or perturb it first"
                )
        self.unfreeze()
        for name, isometry in maps.items():
            parametrize.register_parametrization(self.cores, name, isometry)

    def grow(self, size: int, noise: float | None = None) -> float:
        """Enlarge the network within its family, without changing the weight; see `deeptn.fitting.grow`.

        Returns ``‖W_new - W_old‖ / ‖W_old‖``. A layer of this size or larger stays unchanged. The cores become new
        parameters, so pass them to the optimizer again. Frozen cores stay frozen; added cores are frozen if all cores
        were. Raises `SpecError` if cores are constrained.
        """
        refuse_computed(self.cores)
        net, params, error = grow(self.network, dict(self.cores.items()), size, noise, draw_seed())
        if net is not self.network:
            flows = {name: core.requires_grad for name, core in self.cores.items()}
            self._hold(net, params)
            self._register()
            for name, core in self.cores.items():
                core.requires_grad_(flows.get(name, any(flows.values())))
        return error

    def _register(self) -> None:
        """Register the programs that `torch.compile` calls, and store their numbers."""
        hint, net = self.batch_hint, self.network
        applies = hint is not None and net.is_linear and self.mode != "materialize"
        applies = applies and (self.mode != "auto" or self._choose(hint or 1))
        self._owner = net.spec.owner  # of the programs; copies of the layer keep it, too
        self._decode = register(net.program("materialize"), self._owner)
        self._apply_number = register(net.program("apply", hint or 1), self._owner) if applies else None
        self._ways: dict[int, bool] = {}

    def _apply(self, fn: Any, recurse: bool = True):
        self._ways = {}
        return super()._apply(fn, recurse)

    def _choose(self, rows: int) -> bool:
        """Return whether using the network for `rows` rows is expected to be faster than decoding it."""
        core = self.cores[self._names[0]]
        return is_faster(self.network, self.way, rows, core if core.is_cuda else "torch")

    def _weight_or_cores(self, rows: int) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """Return the decoded weight, or None to use the network itself for `rows` rows; and the cores."""
        cores = self._cores()
        return None if self._applies(cores, rows) else self._decoded(cores), cores

    def _applies(self, cores: tuple[Tensor, ...], rows: int) -> bool:
        if not self.network.is_linear or (rows == 0 and not self._is_huge(cores)):
            return False
        if self.mode == "apply" or self._is_huge(cores):
            return True
        if self.mode == "materialize":
            return False
        if self._may_keep(cores) and self._fits(cores[0]):
            return False
        return self._is_faster(rows)

    def _is_faster(self, rows: int) -> bool:
        rows = 1 << (rows - 1).bit_length()  # one search per power of two
        if rows not in self._ways:
            self._ways[rows] = self._choose(rows)
        return self._ways[rows]

    def requires_grad_(self, requires_grad: bool = True, stages: Iterable[int] | None = None) -> Any:
        """Freeze or unfreeze all parameters, or only the cores of the stages with these numbers; the last is -1.

        A core that several stages share belongs to each of them.

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
                raise SpecError(f"stage {number!r} does not exist; number of stages: {len(found)}")
            params |= {node.param for node in found[number].nodes if node.param is not None}
        for name in params:
            stored(self.cores, name).requires_grad_(requires_grad)
        return self

    def reset_parameters(self, scheme: str = "orthogonal", std: float | None = None) -> None:
        """Draw new cores, with a seed from torch's generator, and a new bias as in `torch.nn.Linear`.

        `scheme` and `std` (by default Kaiming's) are passed to `deeptn.Network.init`. What is on the meta device is
        left alone.
        """
        self.unfreeze()
        self.cores.reset_parameters(scheme, std)
        bias = self.bias
        if bias is not None and not bias.is_meta:
            bound = 1 / math.sqrt(math.prod(self.network.shape[1:]))
            nn.init.uniform_(bias, -bound, bound)

    def load_cores(self, params: dict[str, Tensor]) -> None:
        """Copy tensors into the cores with the same names; `SpecError` for an unknown name or a wrong shape."""
        for name, tensor in params.items():
            if name not in self.cores:
                raise SpecError(f"unknown core {name!r}; {near_match(str(name), self.cores.keys())}")
            shape = tuple(self.cores[name].shape)
            if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
                came = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
                raise SpecError(f"core {name!r}: expected a tensor of shape {shape}, got {came}")
        self.unfreeze()
        load(self.cores, params)

    @property
    def weight(self) -> Tensor:
        """The decoded weight, in the shape of the dense layer's weight."""
        core = self.cores[self._names[0]] if is_fx_symbolic_tracing() else None  # a constrained one takes time
        if isinstance(core, Proxy):  # torch.fx; its graph reads the weight when it runs
            tracer: Any = core.tracer
            return tracer.create_proxy("get_attr", tracer.path_of_module(self), (), {}).weight
        weight = self._weight()
        if is_transformed([weight]) or is_only_read():
            return weight
        own = weight.clone() if weight.grad_fn is None else weight.contiguous()  # a kept weight is not handed out
        return own.as_subclass(GeneratedWeight)

    @weight.setter
    def weight(self, weight: Tensor) -> None:
        check_assigned(weight)
        self.fit(weight)

    def _weight(self) -> Tensor:
        """Return the weight, kept or decoded; it must not be modified or handed out."""
        if torch.compiler.is_compiling():
            cores = [self.cores[name] for name in self._names]
            return contract_traced(cores, self._decode)
        kept = self._kept_weight()
        return self._decoded(self._cores()) if kept is None else kept

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":  # nn.Module would register a parameter of this name
            object.__setattr__(self, name, value)
            return
        if name == "cores":
            check_cores(value)
        check_attribute(name, value)
        super().__setattr__(name, value)

    def fit(self, weight: Tensor, fit: How = "auto") -> None:
        """Fit the cores to a weight; ``layer.weight = …`` does the same.

        Parameters
        ----------
        weight : tensor of shape ``network.shape``
        fit
            As for `from_dense`.

        Warns
        -----
        UserWarning
            If the relative error of the decoded weight exceeds 1 %.

        Raises
        ------
        SpecError
            If the weight has another shape.

        Examples
        --------
        >>> import torch, deeptn as dtn
        >>> from deeptn_torch import TNLinear
        >>> layer = TNLinear(16, 8, dtn.LowRank(rank=8))
        >>> layer.weight = torch.ones(8, 16)
        >>> bool(torch.allclose(layer.weight, torch.ones(8, 16), atol=1e-5))
        True
        """
        if not isinstance(weight, Tensor) or tuple(weight.shape) != self.network.shape:
            came = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
            raise SpecError(f"the weight has shape {self.network.shape}, got {came}")
        with torch.no_grad():
            self.load_cores(find_params(self.network, weight.detach(), fit))
            error = relative_error(self._weight(), weight.detach())
        if error > 0.01:
            warnings.warn(f"the cores give the assigned weight with a relative error of {error:.2g}", stacklevel=2)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget()
        self._register()

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        if name == "weight_orig":  # of torch.nn.utils.prune
            refuse_mask("weight")
        super().register_parameter(name, param)

    def __prepare_scriptable__(self) -> Any:
        raise SpecError("torch.jit.script cannot read generated layers; use torch.jit.trace, torch.export, or fold_")

    @classmethod
    def from_dense(cls, dense: Any, topology: Target, fit: How = "auto", layout: Layout | None = None) -> Any:
        """Create a layer from a trained dense one, with its device, dtype and bias; frozen parameters stay frozen.

        `fit` says how to find the cores; see `deeptn.models.compress`.
        """
        net = as_network(topology, tuple(dense.weight.shape), layout)
        return cls.like(dense, net, find_params(net, dense.weight.detach(), fit))

    @classmethod
    def like(cls, dense: Any, net: Network, params: dict[str, Tensor]) -> Any:
        """Create a layer with the arguments and the bias of a dense one, and with given cores."""
        layer = cls(**cls._arguments(dense), topology=net, device="meta", dtype=dense.weight.dtype)
        return layer.filled(dense, dense.weight, params)

    def filled(self, module: Any, weight: nn.Parameter, params: dict[str, Tensor]) -> Any:
        """Allocate this layer, which has no storage yet, and fill it with given cores to replace a weight."""
        self.to_empty(device=weight.device)
        self.load_cores(params)
        self.cores.requires_grad_(weight.requires_grad)
        if self.bias is not None:
            copy_bias(self, module)
        return self.train(module.training)

    @classmethod
    def _arguments(cls, layer: Any) -> dict[str, Any]:
        """Return the arguments with which a layer was created: this one, or the dense one that it replaces."""
        values = {name: getattr(layer, name) for name in cls.arguments}
        return {name: value is not None if name == "bias" else value for name, value in values.items()}

    def to_dense(self) -> Any:
        """Return the equivalent dense layer; what was frozen stays frozen."""
        first = next(iter(self.cores.values()))
        dense = self.dense(**self._arguments(self), device=first.device, dtype=first.dtype)
        with torch.no_grad():
            dense.weight.copy_(self._weight())
        dense.weight.requires_grad_(trainable(self.cores.values()))
        copy_bias(dense, self)
        return dense.train(self.training)

    def __repr__(self) -> str:  # one line, not one for each core
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        about = self._arguments(self) if self.arguments else {"shape": self.network.shape}
        about |= {"topology": describe(self.network.topology), "num_params": self.network.num_params}
        return ", ".join(f"{name}={value}" for name, value in about.items())


_scaled_isometry: Any = torch.compiler.allow_in_graph(scaled_isometry)


class Isometry(nn.Module):
    """The map of `TNLayer.constrain` for one core; gradients flow through its QR decomposition."""

    def __init__(self, node: Node, shape: Shape):
        super().__init__()
        self.view = NodeMatrix(node, shape)

    def forward(self, core: Tensor) -> Tensor:
        half = core.dtype in (torch.float16, torch.bfloat16)
        made = _scaled_isometry((core.float() if half else core).permute(self.view.order).reshape(self.view.sides))
        return made.reshape(self.view.sizes).permute(self.view.back).to(core.dtype)

    def right_inverse(self, core: Tensor) -> Tensor:
        return core


def as_leaf(layer: TNLayer, *args: Any) -> Any:
    """Let `torch.fx` record one call of the layer, as it does for torch's own layers."""
    tracer = args[0].tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(layer), args, {})


def contract_traced(arrays: list[Tensor], number: int) -> Tensor:
    """Run a registered program for a compiler or tracer; half precision is contracted in float32."""
    dtype = arrays[0].dtype
    if any(array.dtype != dtype for array in arrays):
        raise SpecError(f"cores have the dtypes {sorted({str(array.dtype) for array in arrays})}; convert them to one")
    run: Any = contract_in_steps if is_followed() else contract
    if dtype not in (torch.float16, torch.bfloat16):
        return run(arrays, number)
    return run([array.float() for array in arrays], number).to(dtype)


def layers_of(model: nn.Module) -> Iterator[TNLayer]:
    """Iterate over the generated layers of a model, including generated weights inside modules."""
    return (module for module in model.modules() if isinstance(module, TNLayer))


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Keep the decoded weights of a model inside a ``with`` block, on any device; see `TNLayer.freeze`.

    Layers that were frozen before stay frozen afterwards.

    Examples
    --------
    >>> import torch
    >>> from deeptn_torch import TNLinear, frozen
    >>> model = torch.nn.Sequential(TNLinear(16, 8), torch.nn.ReLU())
    >>> with torch.no_grad(), frozen(model):
    ...     y = model(torch.ones(2, 16))
    """
    layers = [layer for layer in layers_of(model) if not layer.is_frozen]
    try:
        for layer in layers:
            layer.freeze()
        yield model
    finally:
        for layer in layers:
            layer.unfreeze()


def copy_bias(to: Any, source: Any) -> None:
    """Copy the bias of a layer to another, if it has one; a frozen bias stays frozen."""
    if getattr(source, "bias", None) is not None:
        with torch.no_grad():
            to.bias.copy_(source.bias)
        to.bias.requires_grad_(source.bias.requires_grad)
