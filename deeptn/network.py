"""`Network`: a specification and a layout, with the operations on them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from autoray import do

from .arrays import CPU, Tuning, check_alike, convert_params, library_of, target
from .base import Array, Params, ParamsLike, Shape, positive_int, positive_ints
from .engine import DECODED_ANYWAY, Choice, Cost, CostMode, Mode, Program, compile_network, faster, run, seconds
from .engine import rows as slicing
from .engine.machine import machine
from .errors import LayoutError, SpecError, near_match
from .init import draws, initialize
from .params import check_activations, check_runs
from .spec import Layout, NetworkSpec, rows_of
from .topologies import Topology, describe
from .topologies import topology as as_topology

#: Extra operations in `Network.apply`, in addition to its steps: reshapes of input and output.
AROUND = 2


@dataclass(frozen=True)
class Network:
    """A deep tensor network that generates a weight. Frozen and hashable; it contains no arrays.

    Make one with `network`, `at_budget`, `from_quimb`, …, or from your own spec and layout.

    Parameters
    ----------
    spec : NetworkSpec
        Nodes and stages.
    layout : Layout
        How the legs of the spec make up the weight.
    topology : Topology, optional
        The family that built the spec, if any; comparisons ignore it.

    Examples
    --------
    >>> import deeptn as dtn
    >>> net = dtn.network(dtn.LowRank(rank=2), (6, 4))
    >>> net == dtn.Network(net.spec, net.layout), net.shape, net.size, net.num_params, net.is_linear
    (True, (6, 4), 24, 20, True)
    """

    spec: NetworkSpec
    layout: Layout
    topology: Topology | None = field(default=None, compare=False)

    def __post_init__(self):
        if not isinstance(self.spec, NetworkSpec) or not isinstance(self.layout, Layout):
            raise SpecError(f"Network takes a NetworkSpec and a Layout, got {self.spec!r:.50} and {self.layout!r:.50}")
        if self.spec.legs != self.layout.legs:
            raise SpecError(f"the spec has legs {self.spec.legs}, but the layout has {self.layout.legs}")
        _ = self.spec.owner  # keeps what was compiled for an equal network

    def __repr__(self) -> str:
        facts = f"shape={self.shape}, legs={self.layout.leg_sizes}, num_params={self.num_params}"
        return f"Network({describe(self.topology)}, {facts})"

    @property
    def shape(self) -> Shape:
        """Shape of the weight."""
        return self.layout.shape

    @property
    def size(self) -> int:
        """Number of entries of the weight."""
        return math.prod(self.shape)

    @property
    def num_params(self) -> int:
        """Number of trainable entries."""
        return self.spec.num_params

    @property
    def is_linear(self) -> bool:
        """Whether the network has no activations, so that it can be applied to an input without forming W."""
        return self.spec.is_linear

    def init(
        self,
        seed: int = 0,
        like: Any = "numpy",
        dtype: Any = None,
        device: Any = None,
        scheme: str = "orthogonal",
        std: float | None = None,
    ) -> Params:
        """Draw parameters; the same seed gives the same numbers in every library.

        Parameters
        ----------
        seed : int
            Non-negative.
        like : {"numpy", "torch", "jax"} or array
            Library of the result; an array also sets the dtype and device.
        dtype : str or dtype, optional
            float32 by default; also float64, float16, bfloat16, complex64, complex128.
        device : optional
            A device in the library's own notation.
        scheme : {"orthogonal", "gaussian", "identity", "copy"}
            Random orthogonal (isometric) nodes, independent normal entries, identities on a uniform product state plus
            noise, or copy tensors plus noise.
        std : float, optional
            Root mean square of the weight, by default ``sqrt(2 / prod(shape[1:]))``.

        Returns
        -------
        dict of str to array
            Shapes as in ``spec.param_shapes``.

        Raises
        ------
        SpecError
            For an unknown library, dtype or scheme, a bad seed or std, or an activation undefined for complex numbers.
        MissingBackendError
            If the library is not installed.

        Examples
        --------
        >>> import deeptn as dtn
        >>> net = dtn.network(dtn.BrickWall(layers=2), (120, 400))
        >>> W = net.materialize(net.init(seed=0))
        >>> W.shape, round(float(W.std() / (2 / 400) ** 0.5), 2)
        ((120, 400), 1.0)
        """
        _, name, _ = target(like, dtype, device)
        check_activations(self.spec, name)
        normal = draws(self.spec, seed, name.startswith("complex"))
        return convert_params(initialize(self.spec, self.layout, normal, scheme, std), like, dtype, device)

    def materialize(self, params: ParamsLike, rows: slice | None = None, recompute: bool | None = None) -> Array:
        """Decode: contract the network into the weight.

        Parameters
        ----------
        params : mapping of str to array
            Arrays of NumPy, PyTorch or JAX with the shapes of ``spec.param_shapes``.
        rows : slice, optional
            Rows (entries of axis 0) to decode, with step 1. A linear network generates only these rows; one with
            activations is decoded completely and then sliced.
        recompute : bool, optional
            Whether a gradient (in torch and JAX) keeps only the states between the stages and recomputes the others.
            By default if they have 2^24 elements or more; see `Program.recompute`. JAX keeps all if stages join.

        Returns
        -------
        array of shape `shape`
            With `rows`, only those along axis 0. In the library, dtype and device of the parameters; differentiable in
            PyTorch and JAX.

        Raises
        ------
        SpecError
            If the parameters do not belong to this network, or `rows` is not a slice with step 1.

        Examples
        --------
        >>> import numpy as np, deeptn as dtn
        >>> net = dtn.network(dtn.TensorTrain(rank=4), (120, 400))
        >>> params = net.init()
        >>> rows = net.materialize(params, rows=slice(7, 30))
        >>> rows.shape, bool(np.allclose(rows, net.materialize(params)[7:30], atol=1e-6))
        ((23, 400), True)
        """
        check_runs(self.spec, params)
        if rows is None:
            return decode(self, [params[name] for name in self.spec.param_shapes], recompute)
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise SpecError(f"rows = {rows!r}; expected a slice with step 1, for example slice(0, 128)")
        start, stop, _ = rows.indices(rows_of(self.shape))
        if not self.is_linear or start >= stop:
            return self.materialize(params)[start:stop]
        return slicing.decode_rows(self.spec, self.layout, params, start, stop)

    def gather(self, params: ParamsLike, rows: Array) -> Array:
        """Decode selected rows of the weight, as in an embedding lookup.

        A linear network generates only these rows, each with about one small product per node; one with activations is
        decoded completely and then indexed.

        Parameters
        ----------
        params : mapping of str to array
            As for `materialize`.
        rows : integer array of any shape, or int, range or nested list of int
            Row numbers from ``0`` to ``shape[0] - 1``, in the library of the parameters or in NumPy. The range is not
            checked: for a number outside it, you get some other row or an error of the library.

        Returns
        -------
        array of shape ``(*rows.shape, *shape[1:])``
            Differentiable in PyTorch and JAX.

        Raises
        ------
        SpecError
            If the parameters do not belong to this network, or `rows` is a mask, or not of integers.

        Examples
        --------
        >>> import numpy as np, deeptn as dtn
        >>> net = dtn.network(dtn.TTMatrix(rank=4), (30_000, 512))
        >>> params = net.init()
        >>> rows = np.array([[7, 29_999], [0, 7]])
        >>> found = net.gather(params, rows)
        >>> found.shape, bool(np.allclose(found[0, 0], net.materialize(params, rows=slice(7, 8))[0], atol=1e-5))
        ((2, 2, 512), True)
        """
        check_runs(self.spec, params)
        rows = slicing.row_numbers(rows, next(iter(params.values())), rows_of(self.shape))
        shape = tuple(rows.shape)
        if not self.is_linear or 0 in shape or not isinstance(math.prod(shape), int):  # jax.export: no value
            return self.materialize(params)[rows]
        found = slicing.gather_rows(self.spec, self.layout, params, do("reshape", rows, (-1,)))
        return do("reshape", found, (*shape, *self.shape[1:]))

    def iter_blocks(self, params: ParamsLike, max_bytes: int) -> Iterator[tuple[slice, Array]]:
        """Decode the weight in blocks of rows with bounded memory.

        Parameters
        ----------
        params : mapping of str to array
            As for `materialize`.
        max_bytes : int
            Maximum memory in use at a time, including parameters: `Cost.peak` of a block, in bytes. Blocks are as
            large as this allows.

        Yields
        ------
        rows : slice
            In ascending order, without gaps.
        block : array of shape ``(number of rows, *shape[1:])``

        Raises
        ------
        SpecError
            If not even one row fits. A network with activations needs its whole state to fit (``cost().peak``
            elements). The message says how much memory is needed.

        Examples
        --------
        >>> import deeptn as dtn
        >>> net = dtn.network(dtn.TTMatrix(rank=2), (4096, 4096))
        >>> blocks = net.iter_blocks(net.init(), max_bytes=2**22)
        >>> rows, block = next(blocks)
        >>> rows, block.shape
        (slice(0, 64, None), (64, 4096))
        """
        check_runs(self.spec, params)
        limit = positive_int(max_bytes, "max_bytes")
        if self.is_linear:
            return slicing.decode_blocks(self.spec, self.layout, params, limit)
        if (peak := self.cost().peak * slicing.item_size(params)) > limit:
            raise SpecError(f"max_bytes = {limit}, but the state of a network with activations needs {peak} bytes")
        return iter([(slice(0, rows_of(self.shape)), self.materialize(params))])

    def apply(self, params: ParamsLike, x: Array) -> Array:
        """Multiply by the weight: ``x @ W.T``, with W viewed as ``(shape[0], prod(shape[1:]))``.

        A linear network is contracted with the input and never forms W; one with activations is decoded first.

        Parameters
        ----------
        params : mapping of str to array
            As for `materialize`.
        x : array of shape (..., prod(shape[1:]))
            Any leading axes.

        Returns
        -------
        array of shape (..., shape[0])

        Raises
        ------
        SpecError
            If the parameters do not belong to this network, or differ from each other or from `x` in library or dtype.
        LayoutError
            If the last axis of `x` has the wrong size.

        Examples
        --------
        >>> import numpy as np, deeptn as dtn
        >>> net = dtn.network(dtn.TensorTrain(rank=4), (120, 400))
        >>> params, x = net.init(dtype="float64"), np.ones((3, 7, 400))
        >>> y = net.apply(params, x)
        >>> y.shape, bool(np.allclose(y, x @ net.materialize(params).T))
        ((3, 7, 120), True)
        """
        rows, columns = rows_of(self.shape), math.prod(self.shape[1:])
        shape: Shape = tuple(getattr(x, "shape", ()))
        if not shape or shape[-1] != columns:
            raise LayoutError(f"x has shape {shape}, expected (..., {columns}) for a weight of shape {self.shape}")
        if not self.is_linear or len(self.shape) == 1 or 0 in shape[:-1]:
            weight = do("reshape", self.materialize(params), (rows, columns))
            check_alike(["the weight", "x"], [weight, x])
            return do("matmul", x, do("transpose", weight, (1, 0)))
        check_runs(self.spec, params)
        return multiply(self, [params[name] for name in self.spec.param_shapes], x)

    def cost(self, mode: CostMode = "materialize", batch: int = 1, tuning: Tuning = CPU) -> Cost:
        """Count the cost of one call without running it.

        Parameters
        ----------
        mode : {"materialize", "apply", "gather"}
            For a network with activations, the last two include decoding.
        batch : int
            Rows of the input for ``"apply"``, of the weight for ``"gather"`` (rounded up to a power of two).
        tuning : deeptn.arrays.Tuning
            Thresholds for the device that the call would run on, by default those for a CPU.

        Returns
        -------
        Cost
            Parameters, flops, written and peak elements, steps.

        Examples
        --------
        >>> import deeptn as dtn
        >>> net = dtn.network(dtn.TTMatrix(rank=8), (4096, 4096))
        >>> net.cost("apply", batch=1).flops < net.cost("materialize").flops
        True
        """
        if mode not in get_args(CostMode):
            raise SpecError(f"mode = {mode!r}; {near_match(str(mode), get_args(CostMode))}")
        batch = positive_int(batch, "batch")
        if mode == "gather" and self.is_linear:
            return slicing.gather_program(self.spec, self.layout, 1 << (batch - 1).bit_length(), tuning).cost
        if mode == "apply" and self.is_linear and len(self.shape) > 1:
            return self.program(mode, batch, tuning=tuning).cost
        decode = self.program("materialize", tuning=tuning).cost
        return decode.with_product(self.shape, batch) if mode == "apply" else decode

    def choose(self, batch: int, like: Any = "numpy") -> Choice:
        """Predict which way to multiply `batch` rows by W is faster, and say why.

        Parameters
        ----------
        batch : int
            Rows of the input.
        like : {"numpy", "torch", "jax"} or array
            Library (and device) of the arrays. The first call measures its speed on this machine, within about a
            second, and caches it on disk (``$DEEPTN_CACHE``).

        Returns
        -------
        Choice

        Raises
        ------
        SpecError
            If the batch is not a positive number, or the library is unknown.

        Examples
        --------
        >>> import deeptn as dtn
        >>> print(dtn.network("BrickWall", (16, 16)).choose(batch=8))
        materialize: the network has activations, so W has to be decoded to be used
        >>> dtn.network(dtn.TTMatrix(rank=2), (4096, 4096)).choose(batch=8).mode
        'apply'
        """
        tuning = CPU if isinstance(like, str) else library_of(like).tuning
        decode = self.cost(tuning=tuning).with_product(self.shape, positive_int(batch, "batch"))
        if not self.is_linear:
            return Choice("materialize", {"materialize": seconds(decode)}, DECODED_ANYWAY)
        apply = self.cost("apply", batch, tuning)
        apply = replace(apply, steps=apply.steps + AROUND)
        return faster(decode, apply, batch, machine(like))

    def program(self, mode: Mode, batch: int = 1, recompute: bool | None = None, tuning: Tuning = CPU) -> Program:
        """Return the compiled steps of `materialize`, or of `apply` (linear networks only) for `batch` rows.

        Examples
        --------
        >>> import deeptn as dtn
        >>> len(dtn.network(dtn.LowRank(rank=2), (4, 4)).program("materialize").steps)
        1
        """
        rows, columns = self.layout.sides
        padded, shape = self.layout.padded_shape, self.layout.shape
        if mode == "apply":
            crop, pad = (padded[:1], shape[:1]), (shape[1:], padded[1:])
            return compile_network(self.spec, rows, columns, batch, recompute, crop, pad, tuning)
        return compile_network(self.spec, rows + columns, recompute=recompute, crop=(padded, shape), tuning=tuning)


def decode(net: Network, inputs: Sequence[Array], recompute: bool | None = None) -> Array:
    """Run `Network.materialize` on parameters in the order of ``spec.param_shapes``, without checking them."""
    return run(net.program("materialize", recompute=recompute, tuning=library_of(inputs[0]).tuning), inputs)


def multiply(net: Network, inputs: Sequence[Array], x: Array, batch: int | None = None) -> Array:
    """Run `Network.apply` for a linear network without checks; `x` must have a row, and a last axis that fits.

    The contraction order is the one for `batch` rows, by default the number of rows in `x`.
    """
    lead = x.shape[:-1]
    batch = next(n for n in (batch, math.prod(lead), 128) if isinstance(n, int))  # jax.export: no value
    program = net.program("apply", 1 << (batch - 1).bit_length(), tuning=library_of(inputs[0]).tuning)
    return do("reshape", run(program, [*inputs, x]), (*lead, net.shape[0]))


def network(topology: Topology | str, shape: Sequence[int], layout: Layout | None = None) -> Network:
    """Make the network of a family for a weight.

    Parameters
    ----------
    topology : Topology or str
        For example ``BrickWall(layers=2)``; a name stands for the family with its defaults.
    shape : sequence of int
        Shape of the weight; any number of axes, with the outputs first.
    layout : Layout, optional
        How the weight is split into legs; by default the topology's own layout.

    Returns
    -------
    Network

    Raises
    ------
    SpecError
        For an unknown topology, or one that cannot be built on these legs.
    LayoutError
        If the layout has a different shape.

    Examples
    --------
    >>> import deeptn as dtn
    >>> dtn.network(dtn.BrickWall(layers=1), (4096, 4096)).num_params
    224
    >>> layout = dtn.Layout((4096, 4096), factors=((8, 8, 8, 8), (8, 8, 8, 8)), order="interleaved")
    >>> dtn.network(dtn.TTMatrix(rank=8), (4096, 4096), layout=layout).num_params
    9216
    """
    family = as_topology(topology)
    shape = positive_ints(shape, "shape", LayoutError)
    if layout is None:
        layout = family.default_layout(shape)
    elif not isinstance(layout, Layout):
        raise LayoutError(f"layout must be a deeptn.Layout, got {layout!r:.60}")
    elif layout.shape != shape:
        raise LayoutError(f"layout is for shape {layout.shape}, but the weight has shape {shape}")
    return Network(family.build(layout.legs), layout, family)
