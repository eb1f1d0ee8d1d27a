"""What the layers of all JAX libraries share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from deeptn.fitting import How, find_params
from deeptn.models import Kind, Target, as_network, is_faster
from deeptn.network import Network
from deeptn.spec import Layout

from .fit import fit as fit_by_gradient
from .view import seed_of

Cores = Mapping[str, jax.Array]


class Layer:
    """A layer whose weight a network generates; abstract.

    Attributes
    ----------
    cores : mapping of str to array
        The trainable tensors, by the names of ``network.spec.param_shapes``.
    dense : object
        The dense layer that this one stands for, with its options and its bias; its weight is None.
    network : deeptn.Network
        What generates the weight, in PyTorch's order of axes, so that files and topologies are the same everywhere.
    mode : str
        How the weight meets the input, where there is a choice.
    """

    #: The dense layer that this one stands for, which of its attributes make the weight's shape and the bias, how files
    #: name it (by the number of spatial axes), and which of its attributes is generated.
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
        """Return the weight, in PyTorch's order of axes."""
        return self.network.materialize(self.arrays)

    @property
    def kind(self) -> str:
        """How files name the layer."""
        return self.form.format(len(self.network.shape) - 2)

    @property
    def bias(self) -> Any:
        """That of the dense layer, or None."""
        return getattr(self.dense, "bias", None)

    def to_dense(self) -> Any:
        """Return the dense layer that computes the same."""
        raise NotImplementedError

    @classmethod
    def from_dense(
        cls, dense: Any, topology: Target, fit: How = "auto", layout: Layout | None = None, key: Any = None
    ) -> Any:
        """Replace a trained layer, which is left as it is.

        `topology` and `layout` are as for `deeptn.network`, `fit` and `key` as for `compress`.
        """
        weight = cls._weight_of(dense)
        net = as_network(topology, tuple(weight.shape), layout)
        return cls._of(dense, net, find_params(net, weight, fit, fit_by_gradient, lambda: seed_of(key)))

    @classmethod
    def _weight_of(cls, dense: Any) -> jax.Array:
        """The weight of a dense layer, in PyTorch's order of axes."""
        return getattr(dense, cls.attribute)

    @classmethod
    def _of(cls, dense: Any, net: Network, cores: Cores) -> Any:
        """A layer with the options of a dense one, and these cores."""
        raise NotImplementedError

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.to_dense()(*args, **options)

    def _applies(self, rows: int, way: Literal["apply", "gather"] = "apply") -> bool:
        """Whether the network itself is used for rows of an input (``"apply"``) or of its weight (``"gather"``).

        Where there is a choice: if that is expected to be faster.
        """
        if self.mode == "materialize" or not self.network.is_linear or len(self.network.shape) == 1:
            return False
        if self.mode == "apply":
            return True
        with jax.ensure_compile_time_eval():
            return is_faster(self.network, way, rows, "jax")


def kinds_of(*layers: type[Layer]) -> dict[type, Kind]:
    """Kinds by the classes of dense layers; a subclass is of the kind of its closest base."""
    return {made.like: Kind(made.form, made._of, made.like, made.attribute) for made in layers}


def wide(indices: jax.Array) -> jax.Array:
    """Indices of a type that the size of the table fits into."""
    if jnp.issubdtype(indices.dtype, jnp.unsignedinteger):  # beyond every table stays beyond it
        indices = jnp.minimum(indices, jnp.iinfo(jnp.int32).max)
    return indices.astype(jnp.promote_types(jnp.int32, indices.dtype) if indices.dtype.kind == "i" else jnp.int32)


def look_up(net: Network, cores: Cores, indices: jax.Array) -> jax.Array:
    """Rows of a table that is not formed; negative indices count from the end, those beyond it are that of the end."""
    indices = wide(indices)
    rows = jnp.where(indices < 0, indices + net.shape[0], indices)
    return net.gather(cores, jnp.clip(rows, 0, net.shape[0] - 1))
