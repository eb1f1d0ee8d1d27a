"""Networks of every family, and a check of an engine's values and gradients against NumPy in float64."""

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

#: Allowed difference between an engine in float32 and NumPy in float64; and between the reference gradient (torch on
#: the CPU in float64) and a difference quotient of two decodes in NumPy along a random direction.
TOLERANCE, SLOPE = 1e-5, 1e-5

#: Step of this difference quotient, relative to the size of the entries.
STEP = 1e-7

#: Values from which the fields of a family are drawn.
CHOICES: Mapping[str, Sequence[Any]] = {
    "activation": ("relu", "tanh", "silu", "gelu", "relu", None),
    "normalize": ("rms", None),
    "pattern": ("brick", "staircase"),
    "cyclic": (False, True),
    "bond": (None, 2),
    "arity": (2, 3),
}

Arrays = dict[str, np.ndarray]

#: Takes a case, its parameters, the incoming gradient and an input; returns W, W applied to the input (None if the
#: network is not linear), and the gradients.
Engine = Callable[["Case", Arrays, np.ndarray, np.ndarray], tuple[Any, Any, Mapping[str, Any]]]


@dataclass(frozen=True)
class Case:
    """A network to compute with the parameters of a seed.

    Attributes
    ----------
    net : deeptn.Network
    seed : int
    recompute : bool, optional
        Passed to `Network.materialize`.
    """

    net: dtn.Network
    seed: int
    recompute: bool | None = None

    @property
    def label(self) -> str:
        """The family, the shape, and whether states are recomputed."""
        more = ", recomputed" if self.recompute else ""
        return f"{type(self.net.topology).__name__} {' × '.join(map(str, self.net.shape))}{more}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything needed to reproduce the case."""
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
    """Yield networks of at most 2^14 entries without end, family after family, starting at number `first`."""
    names = [name for name in dtn.topologies.topology_names() if hasattr(dtn, name)]
    for number in itertools.count(first):
        random = np.random.default_rng((seed, number))
        net = None
        while net is None or net.num_params > 2**14 or net.cost().flops > 2**26:
            net = _drawn(names[number % len(names)], random)
        yield Case(net, number)


def _drawn(name: str, random: np.random.Generator) -> dtn.Network | None:
    """Draw a network of a family on legs of random sizes; None if the family cannot be built on them."""

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
    if name == "Graph":  # two stages; the second is a ring with three legs
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
    """Yield networks of about 2^legs entries; their gradients recompute the states."""
    side, short = 2 ** (legs // 2), 2 ** (legs // 2) - 2 ** (legs // 2 - 3) - 1
    families = (
        (dtn.BrickWall(layers=3, normalize=None), (side, side)),
        (dtn.BrickWall(layers=4, activation="tanh", cyclic=True), (short, side)),
        (dtn.BrickWall(layers=3), (2 * side, short)),  # an odd number of legs, so one node is constant
        (dtn.MERA(rank=4), (short, short)),
        (dtn.BrickWall(layers=4, activation="gelu", residual=True), (side, short)),
        (dtn.Sum(terms=(dtn.LowRank(rank=8), dtn.BrickWall(layers=3))), (short, side)),
        (dtn.TTMatrix(rank=16), (side, side)),
        (dtn.AugmentedTree(rank=4, activation="silu"), (side, short)),
    )
    for number, (family, shape) in enumerate(families):
        yield Case(dtn.network(family, shape), 1000 + number, recompute=True)


def parameters(case: Case) -> Arrays:
    """Return parameters in float32.

    The gradient jumps where the argument of a ReLU changes sign, so rounding alone could change it. With ReLU, all
    entries are therefore positive, except for signs along the open indices of each stage: no argument is a difference,
    and none comes near zero. The first sign of each index is positive, so that some values pass.
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
    """Compare an engine with the reference in one case.

    Returns
    -------
    dict
        ``network``; the relative errors ``value``, ``apply`` (None if the network is not linear), ``gradient`` (all
        cores together) and ``slope`` (of the reference gradient); ``passed`` and ``error``.
    """
    row: dict[str, Any] = {"label": case.label, "network": case.to_dict(), "passed": False, "error": None}
    try:
        row |= _errors(case, engine)
    except Exception as error:  # try the other networks anyway
        row["error"] = f"{type(error).__name__}: {error}"
        return row
    found = [row[name] for name in ("value", "apply", "gradient") if row[name] is not None]
    row["passed"] = all(error <= TOLERANCE for error in found) and row["slope"] <= SLOPE  # NaN does not pass
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
    """Return the relative error of gradients against a central difference in NumPy along a random direction."""
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
        raise RuntimeError(f"{library} programs do not run on deeptn's {library} engine, but on {runner_of(library)}")


def torch_engine(device: torch.device) -> Engine:
    """Return the engine of `deeptn_torch` on a device; it also checks that W without a gradient equals W with one."""
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
                raise RuntimeError(f"W computed without a gradient differs by {difference:.1e} from W with one")
            applied = case.net.apply(cores, torch.tensor(x, device=device)) if case.net.is_linear else None
        return weight, applied, {name: core.grad for name, core in cores.items()}

    return engine


def jax_engine(jax: Any) -> Engine:
    """Return the engine of `deeptn_jax` under jit, on JAX's default device."""
    import deeptn_jax  # noqa: F401 - registers its engine
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
