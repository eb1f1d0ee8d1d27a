"""The base class of the layers for all JAX libraries, and helpers."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import getattr_static
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from deeptn.errors import SpecError
from deeptn.fitting import How, find_params
from deeptn.models import Kind, Target, as_network, is_faster
from deeptn.network import Network
from deeptn.spec import Layout
from deeptn.topologies import describe

from .fit import fit as fit_by_gradient
from .view import Slot, seed_of

Cores = Mapping[str, jax.Array]


class Layer:
    """Abstract base class of layers whose weight a network generates.

    Attributes
    ----------
    cores : mapping of str to array
        The trainable tensors, with the names in ``network.spec.param_shapes``. In a grouped model, a `Slot`.
    dense : object
        The dense layer that this one replaces, with its options and bias. Its weight is None; a grouped model puts the
        decoded weight there while it is called.
    network : deeptn.Network
        Generates the weight in PyTorch's order of axes, so that files and topologies are the same in all frameworks.
    mode : str
        How to use the weight, if there is a choice; see `deeptn.models.Mode`.
    """

    #: The dense class that this one replaces, its attributes that determine the weight's shape and the bias, the name
    #: of the kind in files (``{}`` is the number of spatial axes), and the attribute that is generated.
    like: ClassVar[Any]
    arguments: ClassVar[tuple[str, ...]]
    form: str
    attribute: str = "weight"

    cores: Any
    dense: Any
    network: Network
    mode: str

    @property
    def arrays(self) -> dict[str, jax.Array]:
        """The values of the cores."""
        return self.cores

    def decode(self) -> jax.Array:
        """Return the weight, in PyTorch's order of axes; its shape if the cores are mere shapes."""
        if isinstance(self.cores, Slot):
            if (weight := self._held()) is None:
                raise SpecError(
                    f"the cores of this {type(self).__name__} are stacked in a grouped model, which decodes them when "
                    "you call it; call the grouped model itself, or first write model = ungroup(grouped)"
                )
            return weight
        arrays = self.arrays
        abstract = any(isinstance(array, jax.ShapeDtypeStruct) for array in arrays.values())
        return jax.eval_shape(self.network.materialize, arrays) if abstract else self.network.materialize(arrays)

    def _held(self) -> Any:
        """Return the weight that a grouped model has put into the dense layer, in PyTorch's order of axes, or None."""
        raise NotImplementedError

    @property
    def decodes(self) -> bool:
        """Whether a grouped model decodes the weight: in mode ``"auto"``, all but the tables of linear networks."""
        looks_up = self.form == "embedding" and self.mode == "auto"
        return not self.network.is_linear or not (looks_up or self.mode == "apply")

    @property
    def kind(self) -> str:
        """The name of the kind in files."""
        return self.form.format(len(self.network.shape) - 2)

    @property
    def bias(self) -> Any:
        """The bias of the dense layer, or None."""
        return getattr(self.dense, "bias", None)

    @property
    def facts(self) -> dict[str, Any]:
        """What a printed model shows of the layer."""
        net = self.network
        return {"shape": net.shape, "topology": describe(net.topology), "num_params": net.num_params}

    def __getattr__(self, name: str) -> Any:
        """Return what else the dense layer has: sizes and options. Its methods and properties would miss the weight."""
        if name == "dense" or name.startswith("_") or hasattr(type(self), name):
            return object.__getattribute__(self, name)  # raises the error of a property of ours that has failed
        computed = getattr_static(type(self.dense), name, None)
        if hasattr(computed, "__get__") and name not in vars(self.dense):
            what, call = ("method", "(…)") if callable(getattr(type(self.dense), name)) else ("property", "")
            raise AttributeError(f"{name!r} is a {what} of the dense layer; write layer.to_dense().{name}{call}")
        return getattr(self.dense, name)

    def to_dense(self) -> Any:
        """Return the equivalent dense layer."""
        raise NotImplementedError

    @classmethod
    def from_dense(
        cls, dense: Any, topology: Target, fit: How = "auto", layout: Layout | None = None, key: Any = None
    ) -> Any:
        """Create a layer from a trained dense one, which is not modified.

        `topology` and `layout` are those of `deeptn.network`; `fit` and `key` are those of `compress`.
        """
        weight = cls._weight_of(dense)
        net = as_network(topology, tuple(weight.shape), layout)
        return cls._of(dense, net, find_params(net, weight, fit, fit_by_gradient, lambda: seed_of(key)))

    @classmethod
    def _weight_of(cls, dense: Any) -> jax.Array:
        """Return the weight of a dense layer, in PyTorch's order of axes."""
        return getattr(dense, cls.attribute)

    @classmethod
    def _of(cls, dense: Any, net: Network, cores: Cores) -> Any:
        """Create a layer with the options of a dense one and with these cores."""
        raise NotImplementedError

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.to_dense()(*args, **options)

    def _applies(self, rows: int, way: Literal["apply", "gather"] = "apply") -> bool:
        """Return whether to use the network itself, for rows of an input (``"apply"``) or its weight (``"gather"``).

        In mode ``"auto"``: if that is expected to be faster than decoding the weight.
        """
        if self.mode == "materialize" or not self.network.is_linear or len(self.network.shape) == 1:
            return False
        if isinstance(self.cores, Slot):
            return False
        if self.mode == "apply":
            return True
        if not isinstance(rows, int):  # a size without a value, of jax.export: nothing can be predicted
            return False
        with jax.ensure_compile_time_eval():
            return is_faster(self.network, way, rows, "jax")


def kinds_of(*layers: type[Layer]) -> dict[type, Kind]:
    """Map classes of dense layers to kinds; a subclass has the kind of its closest base."""
    return {made.like: Kind(made.form, made._of, made.like, made.attribute) for made in layers}


def wide(indices: jax.Array) -> jax.Array:
    """Convert indices to a type that can represent the size of the table."""
    if jnp.issubdtype(indices.dtype, jnp.unsignedinteger):  # what is out of range stays out of range
        indices = jnp.minimum(indices, jnp.iinfo(jnp.int32).max)
    return indices if indices.dtype.kind == "i" and indices.dtype.itemsize > 4 else indices.astype(jnp.int32)


def look_up(net: Network, cores: Cores, indices: jax.Array) -> jax.Array:
    """Return rows without decoding the table; negative indices count from the end, out-of-range ones are clipped."""
    indices = wide(indices)
    rows = jnp.where(indices < 0, indices + net.shape[0], indices)
    return net.gather({name: jnp.asarray(core) for name, core in cores.items()}, jnp.clip(rows, 0, net.shape[0] - 1))
