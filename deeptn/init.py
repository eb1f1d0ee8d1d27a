"""Initializers, calibrated on the generated tensor.

A scheme turns standard normal draws into tensors; it is written with autoray, so it runs on NumPy arrays as well as
under jax.jit. Then the nodes of the last stage are scaled so that the weight has the requested root mean square.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from autoray import do

from .arrays import cast_like, convert, library_of
from .base import Array, Params, cached
from .engine import activate, compile_network, run, seconds
from .errors import SpecError, near_match
from .spec import Layout, Leg, NetworkSpec, Node, Stage

#: Schemes whose states have no random signs: the last nodes before the legs get a random sign for each output.
STRUCTURED = ("identity", "copy")

#: Up to this many entries, a weight is decoded to measure it; above, the norm of a linear one may be contracted.
DECODE_LIMIT = 2**24

#: Standard deviation of the noise per entry that the schemes "identity" and "copy" add.
NOISE = 0.3

#: With more parameters than this, their product may overflow or underflow.
MANY = 200


def isometric(matrix: Array) -> Array:
    """Return the isometry Q of ``A = Q R``, R with a positive diagonal; a wide matrix is transposed first, and back.

    Source: Mezzadri, Notices of the AMS 54, 592 (2007).
    """
    tall = matrix.shape[0] >= matrix.shape[1]
    q, r = do("linalg.qr", matrix if tall else do("transpose", matrix, (1, 0)))
    diagonal = do("diagonal", r)
    diagonal = do("where", diagonal == 0, do("ones_like", diagonal), diagonal)
    signs = diagonal / cast_like(do("abs", diagonal), diagonal)
    q = q * do("reshape", signs, (1, -1))
    return q if tall else do("transpose", q, (1, 0))


class NodeMatrix:
    """Reshape the tensor of a node to the matrix from its inputs to its outputs, and back."""

    def __init__(self, node: Node, shape: Sequence[int]):
        outputs = [k for k, ix in enumerate(node.indices) if ix not in node.inputs]
        self.order = (*outputs, *(k for k in range(len(shape)) if k not in outputs))
        self.sizes = tuple(shape[k] for k in self.order)
        self.outputs, self.inputs = self.sizes[: len(outputs)], self.sizes[len(outputs) :]
        self.sides = math.prod(self.outputs), math.prod(self.inputs)
        self.back = tuple(sorted(range(len(shape)), key=self.order.__getitem__))

    def matrix(self, tensor: Array) -> Array:
        return do("reshape", do("transpose", tensor, self.order), self.sides)

    def tensor(self, matrix: Array) -> Array:
        return do("transpose", do("reshape", matrix, self.sizes), self.back)


def _gaussian(draw: Array, outputs: Sequence[int], inputs: Sequence[int]) -> Array:
    """Return independent entries of variance 1 / fan-in: on average, a node keeps the norm of its input."""
    return draw / math.sqrt(draw.shape[1])


def _orthogonal(draw: Array, outputs: Sequence[int], inputs: Sequence[int]) -> Array:
    """Return a Haar-random orthogonal (unitary) matrix; for a rectangular node, an isometry or co-isometry."""
    return isometric(draw)


def _identity(draw: Array, outputs: Sequence[int], inputs: Sequence[int]) -> Array:
    """Return the identity plus noise (without inputs: equal entries of norm one, a uniform product state)."""
    rows, columns = draw.shape
    base = np.eye(rows, columns) if columns > 1 else np.full((rows, 1), rows**-0.5)
    return convert(base, draw) + NOISE * draw


def _copy(draw: Array, outputs: Sequence[int], inputs: Sequence[int]) -> Array:
    """Return the copy tensor plus noise: ones where all indices are equal (modulo their sizes), columns of norm one.

    If there are as many outputs as inputs, each input is copied to the output at the same position: the identity.
    """
    if len(outputs) == len(inputs):
        return convert(np.eye(*draw.shape), draw) + NOISE * draw
    base = np.zeros((*outputs, *inputs))
    for k in range(max(base.shape)):
        base[tuple(k % size for size in base.shape)] = 1.0
    base = base.reshape(draw.shape)
    return convert(base / np.maximum(np.linalg.norm(base, axis=0), 1.0), draw) + NOISE * draw


#: For each scheme, a function of a standard normal (outputs, inputs) matrix and the sizes of outputs and inputs.
SCHEMES: dict[str, Callable[[Array, Sequence[int], Sequence[int]], Array]] = {
    "orthogonal": _orthogonal,
    "gaussian": _gaussian,
    "identity": _identity,
    "copy": _copy,
}


def target_std(layout: Layout) -> float:
    """Return the Kaiming standard deviation for ReLU, ``sqrt(2 / fan_in)`` with ``fan_in = prod(shape[1:])``.

    Source: He et al., arXiv:1502.01852, eq. (10).
    """
    return math.sqrt(2.0 / math.prod(layout.shape[1:]))


def draws(spec: NetworkSpec, seed: int, complex_valued: bool) -> dict[str, np.ndarray]:
    """Draw standard normal entries for every parameter with NumPy, in the order of ``spec.param_shapes``."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or seed < 0:
        raise SpecError(f"seed = {seed!r}; expected a non-negative integer")
    generator = np.random.default_rng(seed)
    result = {}
    for name, shape in spec.param_shapes.items():
        result[name] = generator.standard_normal(shape)
        if complex_valued:
            result[name] = (result[name] + 1j * generator.standard_normal(shape)) / math.sqrt(2.0)
    return result


def check_scheme(scheme: str, std: float | None) -> None:
    """Raise `SpecError` for an unknown scheme, or a std that is not positive."""
    if scheme not in tuple(SCHEMES):
        raise SpecError(f"scheme = {scheme!r}; {near_match(str(scheme), SCHEMES)}")
    if std is not None and (isinstance(std, bool) or not isinstance(std, (int, float)) or not 0.0 < std < math.inf):
        raise SpecError(f"std = {std!r}; expected a positive number")


def initialize(
    spec: NetworkSpec, layout: Layout, normal: Mapping[str, Array], scheme: str = "orthogonal", std: float | None = None
) -> Params:
    """Turn normal draws into calibrated parameters.

    Parameters
    ----------
    spec, layout
        The network.
    normal : mapping of str to array
        Standard normal entries for every parameter.
    scheme : {"orthogonal", "gaussian", "identity", "copy"}
        How each node is made from its draw.
    std : float, optional
        Root mean square of the entries of the weight, by default `target_std`.

    Raises
    ------
    SpecError
        For an unknown scheme, or a std that is not positive.
    """
    check_scheme(scheme, std)
    goal = target_std(layout) if std is None else std
    params: Params = {}
    legs = {leg.name for leg in spec.legs}
    for number, stage in enumerate(spec.stages):
        directed = any(node.inputs for node in stage.nodes)
        for node in stage.nodes:
            if node.param is not None and node.param not in params:
                last = number in spec.summands and not legs.isdisjoint(node.outputs)
                array = _fill(spec, node, normal[node.param], SCHEMES[scheme], scheme in STRUCTURED and last)
                params[node.param] = array if directed else _undirected(spec, node, stage, array)
    if not spec.is_linear:
        params = _revive(spec, params)
    shares, elsewhere = _shares(spec)
    if len(shares) > MANY and library_of(next(iter(params.values()))).is_eager:
        params = _into_range(spec, layout, params, shares)
    return _calibrate(spec, layout, params, shares, goal, passes=12 if elsewhere else 1)


@cached
def _shares(spec: NetworkSpec) -> tuple[dict[str, float], bool]:
    """Return exponents that spread a factor of W over parameters, and whether stages share parameters or results.

    If they share none, W is multiplied by exactly that factor, since it is multilinear in the stages that sum to it.
    """
    stages = [Counter(n.param for n in stage.nodes if n.param is not None) for stage in spec.stages]
    shares = {name: 1.0 / stages[k].total() for k in spec.summands for name in stages[k]}
    elsewhere = sum(len(uses) for uses in stages) > len(set().union(*stages))
    read = {k for number, stage in enumerate(spec.stages) for k in spec.sources(number) + stage.multiply}
    return shares, elsewhere or bool(read & set(spec.summands))


def weight_exponents(spec: NetworkSpec) -> dict[str, float]:
    """Return for each parameter the power of a factor to multiply it by, so that W is multiplied by the factor.

    Raises
    ------
    SpecError
        If stages share parameters, or another stage uses the result of one that is added to W: no such powers exist.
    """
    shares, elsewhere = _shares(spec)
    if elsewhere:
        raise SpecError("the last stage shares parameters or its result with others, so its cores cannot scale W")
    return shares


def _into_range(spec: NetworkSpec, layout: Layout, params: Params, names: Collection[str]) -> Params:
    """Scale all `names` by one factor, found by bisection, so that their product neither vanishes nor overflows."""
    low, high, power = -math.inf, math.inf, 0.0
    scaled = params
    for _ in range(64):
        with np.errstate(all="ignore"):
            measured = float(root_mean_square(spec, layout, scaled))
        if 0.0 < measured < math.inf:
            break
        if measured == 0.0:
            low = power
        else:
            high = power
        if math.isinf(low) or math.isinf(high):
            power = low + 0.5 if math.isinf(high) else high - 0.5
        else:
            power = (low + high) / 2
        scaled = {name: array * (math.exp(power) if name in names else 1.0) for name, array in params.items()}
    return scaled


def _calibrate(
    spec: NetworkSpec, layout: Layout, params: Params, shares: Mapping[str, float], goal: float, passes: int
) -> Params:
    """Scale the parameters in `shares`, each by a power of one factor, to give the weight the root mean square `goal`.

    This is the secant method for log(root mean square) as a function of log(factor), with initial slope 1. It has no
    data-dependent branches, so `jax.jit` can trace it. An all-zero weight cannot be scaled and stays as it is.
    """
    before, slope, step = None, 1.0, 0.0
    for _ in range(passes):
        measured = root_mean_square(spec, layout, params)
        lack = do("log", goal / do("where", measured == 0, goal, measured))
        if before is not None:
            still = abs(step) < 1e-9
            slope = do("where", still, 1.0, (before - lack) / do("where", still, 1.0, step))
            slope = do("where", slope > 0.2, slope, 0.2)
        before, step = lack, lack / slope
        factor = do("exp", step)
        params = params | {
            name: params[name] * cast_like(factor**power, params[name]) for name, power in shares.items()
        }
    return params


def _revive(spec: NetworkSpec, params: Params) -> Params:
    """Flip the sign of a parameter wherever an activation would set a whole state to zero.

    All entries of a small state may be negative; ReLU then makes it zero, and with it all gradients through it.
    """
    tuning = library_of(next(iter(params.values()))).tuning
    one = do("ones_like", do("reshape", next(iter(params.values())), (-1,))[0])
    results: list[Array] = []
    for number, stage in enumerate(spec.stages[:-1]):
        sources = spec.sources(number)
        alone = _alone(spec, number)
        arrays = {name: params[name] for name in alone.param_shapes if name in params}
        arrays |= {f"{_STATE}{k}": state for k, state in enumerate([results[source] for source in sources] or [one])}
        uses = Counter(node.param for node in stage.nodes)
        odd = [name for name, count in uses.items() if name is not None and count % 2]
        program = compile_network(alone, stage.output, tuning=tuning)
        contracted = run(program, [arrays[name] for name in program.inputs])
        after = _join_and_activate(stage, contracted, results)
        if odd and stage.activation:
            sign = do("where", do("sum", do("abs", after)) == 0.0, -one, one)
            params = params | {odd[0]: params[odd[0]] * sign}
            after = _join_and_activate(stage, contracted * sign, results)
        results.append(after)
    return params


@cached
def _alone(spec: NetworkSpec, number: int) -> NetworkSpec:
    """Return a stage as a network that takes the results of others as parameters."""
    sources = spec.sources(number)
    return _single_stage(spec, spec.stages[number], [spec.stages[source].output for source in sources] or [()])


def _join_and_activate(stage: Stage, state: Array, results: Sequence[Array]) -> Array:
    for other in stage.multiply:
        state = state * results[other]
    for other in stage.add:
        state = state + results[other]
    return activate(state, stage.activation, stage.normalize is not None)


_STATE = "__state"


def _single_stage(spec: NetworkSpec, stage: Stage, entering: Sequence[tuple[str, ...]]) -> NetworkSpec:
    """Return one stage as its own network; the incoming states become parameters, named `_STATE` plus a number."""
    sizes = spec.index_sizes
    nodes = (*(Node(f"{_STATE}{k}", indices) for k, indices in enumerate(entering)), *stage.nodes)
    used = {ix for node in nodes for ix in node.indices} - set(stage.output)
    legs = tuple(Leg(ix, sizes[ix], 0) for ix in stage.output)
    return NetworkSpec(legs, (Stage(nodes, stage.output),), tuple((ix, sizes[ix]) for ix in used))


def _fill(spec: NetworkSpec, node: Node, draw: Array, scheme: Callable[..., Array], signed: bool) -> Array:
    """Apply a scheme to a node's matrix from inputs to outputs; with `signed`, each row gets a random sign."""
    view = NodeMatrix(node, spec.node_shape(node))
    drawn = view.matrix(draw)
    matrix = scheme(drawn, view.outputs, view.inputs)
    if signed:
        # Take the sign from a digit of the draw; the draw's own sign would be correlated with the noise.
        digits = do("floor", do("real", drawn[:, :1]) * 2.0**8) % 2.0
        matrix = matrix * cast_like(1.0 - 2.0 * digits, matrix)
    return view.tensor(matrix)


def _undirected(spec: NetworkSpec, node: Node, stage: Stage, array: Array) -> Array:
    """Scale a node of an undirected stage to preserve the mean square; each end of a bond takes half of its sum."""
    sizes = spec.index_sizes
    bonds = math.prod(sizes[ix] for ix in node.indices if ix not in stage.output)
    size = do("abs", array)
    factor = math.sqrt(math.prod(spec.node_shape(node))) * bonds**-0.25 / do("sqrt", do("sum", size * size))
    return array * cast_like(factor, array)


def root_mean_square(spec: NetworkSpec, layout: Layout, params: Mapping[str, Array]) -> Array:
    """Return the root mean square of the entries of the generated weight, excluding padding.

    Up to 2^24 entries, or with several stages, W is decoded. Beyond, ``‖W‖²`` of a single stage is contracted as its
    own network (two copies, and for each padded axis a chain that selects the entries kept) if that is cheaper.
    """
    kept = math.prod(layout.shape)
    crop = (layout.padded_shape, layout.shape)
    tuning = library_of(next(iter(params.values()))).tuning
    decode = compile_network(spec, tuple(leg.name for leg in layout.axis_legs), crop=crop, tuning=tuning)
    if len(spec.stages) == 1 and math.prod(layout.padded_shape) > DECODE_LIMIT:
        norm = compile_network(_norm_network(spec, layout), (), tuning=tuning)
        if seconds(norm.cost) < seconds(decode.cost):
            conjugated = {f"{name}{_CONJ}": do("conj", array) for name, array in params.items()}
            both = {**params, **conjugated}
            return do("sqrt", do("abs", run(norm, [both[name] for name in norm.inputs])) / kept)
    size = do("abs", run(decode, [params[name] for name in decode.inputs]))
    return do("sqrt", do("sum", size * size) / kept)


_CONJ = "__conj"


@cached
def _norm_network(spec: NetworkSpec, layout: Layout) -> NetworkSpec:
    """Return the closed network of ``‖W‖²``, summed over the entries that the layout keeps."""
    legs = {leg.name for leg in spec.legs}
    sizes = dict(spec.index_sizes)
    sizes |= {ix + _CONJ: size for ix, size in spec.sizes}
    nodes = list(spec.nodes)
    for node in spec.nodes:
        indices = tuple(ix if ix in legs else ix + _CONJ for ix in node.indices)
        param = None if node.param is None else node.param + _CONJ
        nodes.append(Node(node.name + _CONJ, indices, param=param, constant=node.constant))
    for axis, n in enumerate(layout.shape):
        if n < layout.padded_shape[axis]:
            nodes += _counting_chain([leg for leg in layout.axis_legs if leg.axis == axis], n, sizes)
    return NetworkSpec((), (Stage(tuple(nodes), ()),), tuple(sizes.items()))


def _counting_chain(legs: Sequence[Leg], n: int, sizes: dict[str, int]) -> list[Node]:
    """Return constant cores that contract to 1 if the number that the legs spell is below `n`, else to 0.

    The bond records whether the digits so far equal those of ``n - 1`` (0) or are already below (1).
    """
    last, digits = n - 1, []
    for leg in reversed(legs):
        last, digit = divmod(last, leg.size)
        digits.insert(0, digit)
    nodes = []
    for k, (leg, digit) in enumerate(zip(legs, digits)):
        core = np.zeros((2, leg.size, 2))
        core[0, :digit, 1] = core[0, digit, 0] = 1.0
        core[1, :, 1] = 1.0
        indices = (f"{leg.name}__below", leg.name, f"{leg.name}__to")
        if k == 0:
            core, indices = core[0], indices[1:]
        else:
            indices = (f"{legs[k - 1].name}__to", *indices[1:])
        if k == len(legs) - 1:
            core, indices = core.sum(-1), indices[:-1]
        else:
            sizes[indices[-1]] = 2
        nodes.append(Node(f"{leg.name}__keep", indices, constant=tuple(core.ravel())))
    return nodes
