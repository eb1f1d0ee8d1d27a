"""Networks of every family, and whether an engine computes their values and gradients as NumPy does in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

import deeptn as dtn
from deeptn.arrays import relative_error, to_numpy
from deeptn.engine import runner_of

#: An engine in float32 may differ by so much from NumPy in float64; and so much may the gradient in float64, which is
#: torch's on the CPU, from a difference of two decodings in NumPy along a random direction.
TOLERANCE, SLOPE = 1e-5, 1e-5

#: Length of the step of that difference, in times of the entries.
STEP = 1e-7

#: What the fields of a family are drawn among.
CHOICES: Mapping[str, Sequence[Any]] = {
    "activation": ("relu", "tanh", "silu", "gelu", "relu", None),
    "normalize": ("rms", None),
    "pattern": ("brick", "staircase"),
    "cyclic": (False, True),
    "bond": (None, 2),
    "arity": (2, 3),
}

Arrays = dict[str, np.ndarray]

#: From a network, its parameters, the gradient that comes in, an input and whether states are recomputed: W, W applied
#: to the input (where the network is linear), and the gradients.
Engine = Callable[["Case", Arrays, np.ndarray, np.ndarray], tuple[Any, Any, Mapping[str, Any]]]


@dataclass(frozen=True)
class Case:
    """A network to be computed with parameters of a seed.

    Attributes
    ----------
    net : deeptn.Network
    seed : int
    recompute : bool, optional
        As for `Network.materialize`.
    """

    net: dtn.Network
    seed: int
    recompute: bool | None = None

    @property
    def label(self) -> str:
        """The family and the shape."""
        more = ", recomputed" if self.recompute else ""
        return f"{type(self.net.topology).__name__} {' × '.join(map(str, self.net.shape))}{more}"

    def to_dict(self) -> dict[str, Any]:
        """Everything needed to reproduce the case."""
        layout, cost = self.net.layout, self.net.cost()
        return {
            "topology": repr(self.net.topology),
            "shape": layout.shape,
            "factors": layout.factors,
            "order": layout.order,
            "params": self.net.num_params,
            "steps": cost.steps,
            "written": cost.write,
            "recompute": self.net.program("materialize", recompute=self.recompute).recompute,
            "seed": self.seed,
        }


def small(seed: int, first: int = 0) -> Iterator[Case]:
    """Networks of up to 2^14 entries, endlessly, one family after another from the one of number `first` on."""
    names = [name for name in dtn.topologies.topology_names() if hasattr(dtn, name)]
    for number in itertools.count(first):
        random = np.random.default_rng((seed, number))
        net = None
        while net is None or net.num_params > 2**14 or net.cost().flops > 2**26:
            net = _drawn(names[number % len(names)], random)
        yield Case(net, number)


def _drawn(name: str, random: np.random.Generator) -> dtn.Network | None:
    """A network of a family on legs of random sizes; None where the family cannot be built on them."""

    def one_of(some: Sequence[Any]) -> Any:
        return some[int(random.integers(len(some)))]

    count = int(random.integers(4, 11))
    sizes = [one_of((2, 2, 3) if count > 7 else (2, 3, 4, 5)) for _ in range(count)]
    while math.prod(sizes) > 2**14:
        sizes.pop()
    cut = len(sizes) // 2
    layout_factors: tuple[tuple[int, ...], ...] = (tuple(sizes[:cut]), tuple(sizes[cut:]))
    family: dtn.Topology
    activation = one_of(CHOICES["activation"])
    if name == "Graph":  # two stages, a ring under three legs
        layout_factors = (tuple(sizes[:2]), tuple(sizes[2:3]))
        family = dtn.Graph(nodes=[{"S": "pq"}, {"U": "pax", "V": "xby", "W": "ycqx"}], output=["pq", "abc"], rank=3)
    elif name in ("Sum", "Product"):
        wall = dtn.BrickWall(layers=2, activation=activation)
        family = getattr(dtn, name)(terms=(dtn.LowRank(rank=2), wall))
    else:
        cls = getattr(dtn, name)
        values = {field.name: one_of(CHOICES[field.name]) for field in fields(cls) if field.name in CHOICES}
        values |= {"activation": activation} if "activation" in values else {}
        family = cls(**values, **{cls.size_field: int(random.integers(1, 4))})
    padding = random.integers(0, 3, 2)
    shape = tuple(max(1, math.prod(some) - int(less)) for some, less in zip(layout_factors, padding))
    order = one_of(("rows", "interleaved", tuple(map(int, random.permutation(sum(map(len, layout_factors)))))))
    try:
        return dtn.network(family, shape, dtn.Layout(shape, layout_factors, "rows" if name == "Graph" else order))
    except dtn.SpecError:
        return None


def large(legs: int) -> Iterator[Case]:
    """Networks of about 2^legs entries whose states a gradient makes again."""
    side, short = 2 ** (legs // 2), 2 ** (legs // 2) - 2 ** (legs // 2 - 3) - 1
    families = (
        (dtn.BrickWall(layers=3, normalize=None), (side, side)),
        (dtn.BrickWall(layers=4, activation="tanh", cyclic=True), (short, side)),
        (dtn.BrickWall(layers=3), (2 * side, short)),  # an odd number of legs: one constant
        (dtn.MERA(rank=4), (short, short)),
        (dtn.BrickWall(layers=4, activation="gelu", residual=True), (side, short)),
        (dtn.Sum(terms=(dtn.LowRank(rank=8), dtn.BrickWall(layers=3))), (short, side)),
        (dtn.TTMatrix(rank=16), (side, side)),
        (dtn.AugmentedTree(rank=4, activation="silu"), (side, short)),
    )
    for number, (family, shape) in enumerate(families):
        yield Case(dtn.network(family, shape), 1000 + number, recompute=True)


def parameters(case: Case) -> Arrays:
    """Parameters in float32.

    The gradient jumps where the argument of a ReLU changes its sign, so that rounding alone would change it. There all
    entries are positive but for the signs of the open indices of each stage: no argument is a difference, and none
    comes near zero. The first sign of an index is positive, so that something passes.
    """
    params = case.net.init(case.seed)
    stages = case.net.spec.stages
    if not any(stage.activation == "relu" for stage in stages):
        return params
    random = np.random.default_rng(case.seed)
    params = {name: np.abs(array) for name, array in params.items()}
    uses = [node.param for stage in stages for node in stage.nodes]
    for stage in stages:
        for node in stage.nodes:
            if node.param is None or uses.count(node.param) > 1:
                continue
            for axis, index in enumerate(node.indices):
                if index in stage.output:
                    signs = random.choice(np.array([-1, 1], "float32"), params[node.param].shape[axis])
                    signs[0] = 1
                    params[node.param] *= signs.reshape([-1 if k == axis else 1 for k in range(len(node.indices))])
    return params


def check(case: Case, engine: Engine) -> dict[str, Any]:
    """Compare an engine with the reference.

    Returns
    -------
    dict
        ``network``, the relative errors ``value``, ``apply`` (None where the network is not linear), ``gradient``
        (all cores together) and ``slope`` (of the reference itself), ``passed`` and ``error``.
    """
    row: dict[str, Any] = {"label": case.label, "network": case.to_dict(), "passed": False, "error": None}
    try:
        row |= _errors(case, engine)
    except Exception as error:  # the other networks are to be tried too
        row["error"] = f"{type(error).__name__}: {error}"
        return row
    found = [row[name] for name in ("value", "apply", "gradient") if row[name] is not None]
    row["passed"] = all(error <= TOLERANCE for error in found) and row["slope"] <= SLOPE  # not a number: no
    return row


def _errors(case: Case, engine: Engine) -> dict[str, float | None]:
    net, params = case.net, parameters(case)
    random = np.random.default_rng(case.seed)
    incoming = random.standard_normal(net.shape, "float32")
    x = random.standard_normal((5, math.prod(net.shape[1:])), "float32")
    double = {name: array.astype("float64") for name, array in params.items()}
    cores = {name: torch.from_numpy(array).requires_grad_() for name, array in double.items()}
    net.materialize(cores).backward(torch.from_numpy(incoming).double())
    slopes = {name: to_numpy(core.grad) for name, core in cores.items() if core.grad is not None}
    weight = net.materialize(double)
    found, applied, grads = engine(case, params, incoming, x)
    flat = [np.concatenate([to_numpy(some[name]).ravel() for name in slopes]) for some in (grads, slopes)]
    return {
        "value": relative_error(found, weight),
        "apply": relative_error(applied, x @ weight.reshape(len(weight), -1).T) if net.is_linear else None,
        "gradient": relative_error(*flat),
        "slope": _slope_error(net, double, incoming, slopes, random),
    }


def _slope_error(
    net: dtn.Network, params: Arrays, incoming: np.ndarray, slopes: Arrays, random: np.random.Generator
) -> float:
    """How far gradients are from a central difference in NumPy, relative to what a random direction gives."""
    ways = {name: STEP * np.std(array) * random.standard_normal(array.shape) for name, array in params.items()}
    ahead, behind = (
        net.materialize({name: array + sign * ways[name] for name, array in params.items()}) for sign in (1, -1)
    )
    difference = float(np.vdot(ahead - behind, incoming)) / 2
    slope = sum(float(np.vdot(slopes[name], way)) for name, way in ways.items())
    scale = math.sqrt(sum(float(np.linalg.norm(slopes[name] * way)) ** 2 for name, way in ways.items()))
    return abs(difference - slope) / scale


def _check_runner(library: str, run: Any) -> None:
    if runner_of(library) is not run:
        raise RuntimeError(f"programs of {library} are not run by its own engine, but by {runner_of(library)}")


def torch_engine(device: torch.device) -> Engine:
    """The engine of `deeptn_torch` on a device; W with and without a gradient have to be the same."""
    from deeptn_torch.engine import run

    _check_runner("torch", run)

    def engine(case: Case, params: Arrays, incoming: np.ndarray, x: np.ndarray) -> Any:
        cores = {name: torch.tensor(array, device=device, requires_grad=True) for name, array in params.items()}
        weight = case.net.materialize(cores, recompute=case.recompute)
        weight.backward(torch.tensor(incoming, device=device))
        with torch.no_grad():
            plain = case.net.materialize(cores, recompute=case.recompute)
            difference = relative_error(plain, weight)
            if not difference <= TOLERANCE:
                raise RuntimeError(f"W without a gradient differs by {difference:.1e} from W with one")
            applied = case.net.apply(cores, torch.tensor(x, device=device)) if case.net.is_linear else None
        return weight, applied, {name: core.grad for name, core in cores.items()}

    return engine


def jax_engine(jax: Any) -> Engine:
    """The engine of `deeptn_jax` under jit, on JAX's default device."""
    import deeptn_jax  # noqa: F401 - makes its engine known
    from deeptn_jax.engine import run

    _check_runner("jax", run)

    def engine(case: Case, params: Arrays, incoming: np.ndarray, x: np.ndarray) -> Any:
        def loss(cores: Any) -> Any:
            weight = case.net.materialize(cores, recompute=case.recompute)
            return (weight * incoming).sum(), weight

        cores = {name: jax.numpy.asarray(array) for name, array in params.items()}
        grads, weight = jax.jit(jax.grad(loss, has_aux=True))(cores)
        applied = jax.jit(case.net.apply)(cores, jax.numpy.asarray(x)) if case.net.is_linear else None
        return weight, applied, grads

    return engine
