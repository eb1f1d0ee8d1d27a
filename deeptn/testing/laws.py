"""Laws that every network must obey."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import convert_params, library
from ..base import ParamsLike
from ..budget import at_budget
from ..errors import SpecError
from ..files import load, save
from ..fitting import decompose, grow
from ..init import target_std
from ..network import Network, network
from ..spec import Layout, NetworkSpec
from ..topologies import Topology, topology_from_dict, topology_to_dict
from .oracle import reference


def check_laws(
    given: Topology | Network | str,
    shape: Sequence[int] = (12, 10),
    layout: Layout | None = None,
    libraries: Sequence[str] = ("numpy",),
    seed: int = 0,
) -> Network:
    """Check the laws that every network must obey.

    Decoding equals the einsum of the definition. `apply` is the product with W. Parameters match the spec. Spec,
    layout, topology and hash survive JSON. The same seed gives the same numbers. `init` reaches the target standard
    deviation. Files are read as written. `at_budget` stays within the budget. If the closed form suffices, it recovers
    any weight of the family (without padding). A linear network that grows keeps its weight. Other libraries give the
    same values and gradients.

    Parameters
    ----------
    given : Topology, Network or str
    shape : sequence of int
        Shape of the weight, if `given` is a topology.
    layout : Layout, optional
    libraries : sequence of str
        Any of ``"numpy"``, ``"torch"``, ``"jax"``.
    seed : int

    Returns
    -------
    Network
        The network that was checked.

    Raises
    ------
    AssertionError
        If a law is broken; the message names the law, the network and what was found.

    Examples
    --------
    >>> import deeptn as dtn
    >>> check_laws(dtn.MERA(rank=3), (6, 8)).num_params
    137
    """
    net = given if isinstance(given, Network) else network(given, shape, layout)
    params = net.init(seed=seed, dtype="float64")
    weight = np.asarray(net.materialize(params))
    laws: dict[str, Callable[[], None]] = {
        "einsum": lambda: _near(weight, reference(net, params), 1e-10),
        "apply": lambda: _check_apply(net, params, weight, seed),
        "parameters": lambda: _check_parameters(net, params),
        "json": lambda: _check_json(net),
        "seed": lambda: _check_seed(net, params, seed),
        "init": lambda: _check_init(net, weight),
        "file": lambda: _check_file(net, params),
        "budget": lambda: _check_budget(net),
        "closed form": lambda: _check_closed_form(net, weight),
        "growth": lambda: _check_growth(net, params, weight),
    }
    for name in libraries:
        if library(name).has_gradients:
            laws[name] = lambda name=name: _check_library(net, params, weight, name, seed)
    for name, law in laws.items():
        try:
            law()
        except AssertionError as error:
            raise AssertionError(f"law {name!r} of {net!r}: {error}") from error
    return net


def _near(found: Any, expected: Any, tolerance: float) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"shape {found.shape} instead of {expected.shape}"
    assert np.isfinite(found).all(), "not finite"
    difference = np.abs(found - expected).max(initial=0.0) / max(1e-30, np.abs(expected).max(initial=0.0))
    assert difference <= tolerance, f"differs by {difference:.1e} of the largest entry"


def _check_apply(net: Network, params: ParamsLike, weight: np.ndarray, seed: int) -> None:
    if len(net.shape) > 1:
        matrix = weight.reshape(net.shape[0], -1)
        x = np.random.default_rng(seed).standard_normal((2, 3, matrix.shape[1]))
        _near(net.apply(params, x), x @ matrix.T, 1e-9)


def _check_parameters(net: Network, params: ParamsLike) -> None:
    shapes = {name: tuple(array.shape) for name, array in params.items()}
    assert shapes == net.spec.param_shapes, f"parameters {shapes} instead of {net.spec.param_shapes}"
    assert net.num_params == sum(map(math.prod, shapes.values())) == net.cost().params, "num_params is wrong"


def _check_json(net: Network) -> None:
    spec = NetworkSpec.from_dict(json.loads(json.dumps(net.spec.to_dict())))
    layout = Layout.from_dict(json.loads(json.dumps(net.layout.to_dict())))
    assert (spec, layout) == (net.spec, net.layout), "comes back from JSON as a different network"
    assert hash(Network(spec, layout)) == hash(net), "comes back from JSON with a different hash"
    if net.topology is not None:
        again = topology_from_dict(json.loads(json.dumps(topology_to_dict(net.topology))))
        assert again == net.topology, f"the topology comes back from JSON as {again!r}"
        assert again.build(net.layout.legs) == net.spec, "the topology builds another network the second time"


def _check_seed(net: Network, params: ParamsLike, seed: int) -> None:
    again, other = net.init(seed=seed, dtype="float64"), net.init(seed=seed + 1, dtype="float64")
    assert all(np.array_equal(again[name], params[name]) for name in params), "different numbers from the same seed"
    if net.num_params > 8:  # a few orthogonal entries may coincide
        assert any(not np.array_equal(other[name], params[name]) for name in params), "the same numbers from two seeds"


def _check_init(net: Network, weight: np.ndarray) -> None:
    if net.size < 8:  # few entries may cancel, or all be zero after an activation
        return
    found, goal = math.sqrt(float(np.mean(np.abs(weight) ** 2))), target_std(net.layout)
    assert abs(found - goal) <= 1e-3 * goal, f"root mean square {found:.3g} instead of {goal:.3g}"


def _check_file(net: Network, params: ParamsLike) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        save(path, net, dict(params))
        again, arrays = load(path)
    assert (again, again.topology) == (net, net.topology), "the network read differs from the one written"
    assert all(np.array_equal(arrays[name], params[name]) for name in params), (
        "the numbers read differ from those written"
    )


def _check_budget(net: Network) -> None:
    if net.topology is not None:
        found = at_budget(net.topology, net.shape, net.num_params, net.layout)
        assert found.num_params <= net.num_params, f"at_budget({net.num_params}) has {found.num_params} parameters"


def _check_closed_form(net: Network, weight: np.ndarray) -> None:
    if net.topology is None or net.layout.is_padded:  # the closed form takes the cropped part as zero
        return
    if net.topology.closed_form_suffices:
        found = decompose(weight, net.topology, net.layout, sweeps=0)
        assert found.error <= 1e-7, f"a weight of the family is decomposed with an error of {found.error:.1e}"


def _check_growth(net: Network, params: ParamsLike, weight: np.ndarray) -> None:
    if net.topology is None:
        return
    size = net.topology.size
    assert net.topology.resized(size).size == size, f"resized({size}) has the size {net.topology.resized(size).size}"
    try:
        found = grow(net, params, size + 1)
    except SpecError:  # some networks cannot keep the weight, and say so
        return
    assert found.net.topology == net.topology.resized(size + 1), f"grows to {found.net!r}"
    _check_parameters(found.net, found.params)
    if net.is_linear:
        _near(found.net.materialize(found.params), weight, 1e-9)


def _check_library(net: Network, params: ParamsLike, weight: np.ndarray, name: str, seed: int) -> None:
    """Check values, and the derivative along a direction against a central difference in NumPy."""
    arrays = convert_params(dict(params), name, "float32")
    generator = np.random.default_rng(seed)
    probe = generator.standard_normal(net.shape).astype("float32")
    found, gradients = library(name).pull_back(net.materialize, arrays, probe)
    _near(found, weight, 1e-4)
    step = {name: generator.standard_normal(array.shape) for name, array in params.items()}
    size = 1e-6

    def loss(sign: float) -> float:
        moved = {name: array + sign * size * step[name] for name, array in params.items()}
        return float((np.asarray(net.materialize(moved)) * probe).sum())

    expected = (loss(1.0) - loss(-1.0)) / (2.0 * size)
    found = sum(float((gradients[name] * step[name]).sum()) for name in step)
    scale = sum(float(np.abs(gradients[name] * step[name]).sum()) for name in step)
    assert abs(found - expected) <= 2e-3 * scale + 1e-6, f"derivative {found:.6g} instead of {expected:.6g}"
