"""Find a plan for a model and a limit."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from ..arrays import to_raw
from ..base import track
from ..errors import DeepTNError, PlanError, SpecError
from ..fitting import decompose
from ..models import Weight, count, naming, select, view_of
from ..spec import Layout
from ..topologies import Topology
from ..topologies import topology as as_topology
from .allocation import allocate
from .curves import SHARES, Candidate, curve, layouts_of
from .plans import LayerPlan, Plan

#: Families that are tried unless others are named: those with a closed form whose size can be fine.
FAMILIES = ("LowRank", "TensorTrain", "TTMatrix", "Tucker")

#: Weights with fewer entries in all are planned in this process, because starting others would take longer.
ALONE = 2**20

#: Sizes that are tried around the chosen ones, and how often.
NEARBY, ROUNDS = (0.75, 0.85, 0.92, 1.08, 1.18, 1.33), 3


def plan(
    model: Any,
    budget: Mapping[str, int | str],
    *,
    targets: Iterable[str] = ("*",),
    ignore: Iterable[str] = (),
    topologies: Iterable[Topology | str] = FAMILIES,
    seed: int = 0,
    jobs: int | None = None,
) -> Plan:
    """Choose a network for every layer of a model, so that the model keeps a limit and the weights change least.

    The error of every layer is measured for several families, layouts and sizes (`curve`). From these candidates and
    "stay dense", an exact solver chooses one for each layer, so that the sum of the squared relative errors is
    smallest (`allocate`). Then sizes close to the chosen ones are tried too.

    Parameters
    ----------
    model : path, StoredModel, ModelView or model
        A checkpoint (see `deeptn.files.load_checkpoint`), or a model of PyTorch, Equinox or NNX. It is not changed.
    budget : mapping
        ``{"params": 50_000}`` or ``{"params": "5%"}``: the largest number of parameters of the compressed model. It
        includes what stays dense, and percentages are of all parameters of the model.
    targets, ignore : iterable of str
        Patterns of layers that may be compressed, and of layers that stay dense (see `deeptn.models.matches`).
    topologies : iterable of Topology or str
        Families to try; their sizes are ignored.
    seed : int
        Seed of the starting points of fits by gradient. The same seed gives the same plan.
    jobs : int, optional
        Number of processes, each with one thread for linear algebra. By default 1 for small models, else as many as
        there are cores.

    Returns
    -------
    Plan

    Raises
    ------
    PlanError
        For a budget below the smallest model, or a pattern that matches nothing.

    Examples
    --------
    >>> import deeptn as dtn
    >>> W = np.random.default_rng(0).standard_normal((64, 8))
    >>> weights = {"a.weight": W @ W.T, "b.weight": np.eye(32)}
    >>> found = plan(dtn.files.StoredModel({}, weights), {"params": 2100})
    >>> [(name, layer.params, layer.error < 1e-6) for name, layer in found.layers.items()]
    [('a', 1024, True), ('b', 80, True)]
    """
    view = view_of(model)
    total = count(view)
    limit = limit_of(budget, total)
    weights = {weight.name: weight for weight in view.weights() if weight.network is None}
    if not weights:
        raise PlanError("the model has no dense layer that can be compressed")
    kept = {name for found in select(ignore, list(weights), "ignore").values() for name in found}
    chosen = {name for found in select(targets, list(weights), "targets").values() for name in found} - kept
    families = [as_topology(family) for family in topologies]
    free = {name: weight for name, weight in weights.items() if name in chosen and not weight.refused}
    sizes = {name: math.prod(weight.shape) for name, weight in free.items()}
    fixed = total - sum(sizes.values())
    share = max(0.0, limit - fixed) / max(1, sum(sizes.values()))
    if jobs is None:
        jobs = 1 if sum(sizes.values()) < ALONE else os.cpu_count() or 1
    curves: dict[str, list[Candidate]] = {}
    for name, weight in track(list(free.items()), lambda item: f"errors of layer {item[0]}"):
        with naming(name):
            curves[name] = _candidates(weight, families, share, seed, jobs)
    least = fixed + sum(min(_params(one, sizes[name]) for one in found) for name, found in curves.items())
    if least > limit:
        raise PlanError(
            f"the budget is {limit:,} of {total:,} parameters; with these layers and families at least {least:,} are "
            f"needed, {fixed:,} of them outside these layers"
        )
    picked = _allocated(curves, sizes, limit - fixed)
    for _ in range(ROUNDS):
        before, left = picked, limit - fixed - sum(_params(one, sizes[name]) for name, one in picked.items())
        for name, weight in track(list(free.items()), lambda item: f"sizes of layer {item[0]}"):
            with naming(name):
                known = {candidate.network for candidate in curves[name]}
                curves[name] += [one for one in _nearby(weight, before[name], left, seed) if one.network not in known]
        picked = _allocated(curves, sizes, limit - fixed)
        if picked == before:
            break
    layers: dict[str, LayerPlan] = {}
    for name, weight in weights.items():
        if name in picked:
            layers[name] = _layer(weight, picked[name], len(curves[name]) > 1)
        else:
            why = weight.refused or ("ignored" if name in kept else "not among the targets")
            layers[name] = LayerPlan(weight.shape, None, 0.0, why)
    after = fixed + sum(layers[name].params for name in free)
    return Plan(layers, dict(budget), total, after, curves)


def limit_of(budget: Mapping[str, int | str], total: int) -> int:
    """Return the largest number of parameters that a budget allows.

    Parameters
    ----------
    budget : mapping
        ``{"params": 50_000}`` or ``{"params": "5%"}``.
    total : int
        The number of parameters that percentages refer to.

    Raises
    ------
    PlanError
        For anything else.

    Examples
    --------
    >>> limit_of({"params": "5%"}, 48_000)
    2400
    """
    if not isinstance(budget, Mapping) or list(budget) != ["params"]:
        raise PlanError(f"budget = {budget!r:.60}; write {{'params': 50_000}} or {{'params': '5%'}}")
    value = budget["params"]
    try:
        if isinstance(value, str) and value.endswith("%"):
            share = float(value[:-1])
            found = int(total * share / 100) if 0 < share <= 100 else 0
        else:
            found = 0 if isinstance(value, (bool, float)) else int(value)
    except ValueError:
        found = 0
    if found < 1:
        raise PlanError(f"budget: 'params' is {value!r:.40}; expected a positive number or a percentage such as '5%'")
    return found


def _allocated(curves: Mapping[str, Sequence[Candidate]], sizes: Mapping[str, int], limit: int) -> dict[str, Candidate]:
    """Return the best candidate of each layer, if all together may have so many parameters."""
    values = [np.array([candidate.error**2 for candidate in found]) for found in curves.values()]
    costs = [np.array([[_params(candidate, sizes[name])] for candidate in found]) for name, found in curves.items()]
    return {name: curves[name][number] for name, number in zip(curves, allocate(values, costs, [limit]))}


def _params(candidate: Candidate, size: int) -> int:
    return size if candidate.network is None else candidate.network.num_params


def _array(weight: Weight) -> np.ndarray:
    """Read a weight in a dtype that NumPy's linear algebra has."""
    array = to_raw(weight.read())
    if not np.isfinite(array).all():
        raise PlanError("the weight has entries that are not finite (nan or inf); add the layer to ignore")
    return readable(array)


def readable(array: np.ndarray) -> np.ndarray:
    """Return an array in a dtype that NumPy's linear algebra has; float32 in place of narrower ones."""
    return array.astype("float32") if array.dtype.kind == "V" or array.dtype.itemsize < 4 else array


def _candidates(weight: Weight, families: Sequence[Topology], share: float, seed: int, jobs: int) -> list[Candidate]:
    """Return "stay dense" and what every family, layout and size makes of a weight."""
    from joblib import Parallel, delayed, parallel_config
    from threadpoolctl import threadpool_limits

    array = _array(weight)
    budgets = sorted({int(array.size * part) for part in (*SHARES, min(share, 1.0))} - {0})
    tasks: list[tuple[Topology, Layout]] = []
    for family in families:
        with suppress(DeepTNError):  # a family that has no layout for this shape
            tasks += [(family, layout) for layout in layouts_of(family, array.shape)]
    with parallel_config(backend="loky", inner_max_num_threads=1), threadpool_limits(1):
        found: Any = Parallel(n_jobs=max(1, min(jobs, len(tasks))))(
            delayed(curve)(array, family, layout, budgets, seed) for family, layout in tasks
        )
    candidates = {candidate.network: candidate for part in found for candidate in part}
    return [Candidate(None, 0.0), *candidates.values()]


def _nearby(weight: Weight, chosen: Candidate, left: int, seed: int) -> list[Candidate]:
    """Return candidates of a few more and fewer parameters than the chosen one, and of all that are left."""
    from threadpoolctl import threadpool_limits

    net = chosen.network
    if net is None or net.topology is None:
        return []
    with threadpool_limits(1):
        budgets = [*(int(net.num_params * part) for part in NEARBY), net.num_params + left]
        return curve(_array(weight), net.topology, net.layout, budgets, seed)


def _layer(weight: Weight, chosen: Candidate, has_others: bool) -> LayerPlan:
    """Return the plan of a layer; for a chosen size, choose the bonds that suit the weight."""
    from threadpoolctl import threadpool_limits

    net, error = chosen
    if net is None:
        why = "its parameters are worth most here" if has_others else "no network is smaller"
        return LayerPlan(weight.shape, None, 0.0, why)
    assert net.topology is not None
    if net.is_linear and net.topology.bonds(net.spec):
        with threadpool_limits(1), suppress(SpecError):  # families without a closed form
            better = decompose(_array(weight), net.topology, net.layout, budget=net.num_params, sweeps=0)
            if better.error < error:
                net, error = better.net, better.error
    return LayerPlan(weight.shape, net, float(f"{error:.6g}"))
