"""Find a plan for a model and a limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..arrays import to_raw
from ..base import Array, track, warn
from ..errors import DeepTNError, PlanError, SpecError
from ..files import network_from_dict, network_to_dict, release
from ..fitting import decompose
from ..models import Call, Weight, Workers, groups, key_of, naming, select, view_of, widened
from ..network import Network
from ..spec import Layout
from ..topologies import Topology, topology_to_dict
from .allocation import allocate
from .curves import SHARES, Candidate, Sensitivity, curve, layouts_of
from .limits import Limits
from .outputs import Points, changes, outputs_before
from .overrides import Settings, settings
from .plans import LayerPlan, Plan

#: Families that are tried unless others are named: those with a closed form whose size can be fine.
FAMILIES = ("LowRank", "TensorTrain", "TTMatrix", "Tucker")

#: Weights with fewer entries in all are planned in this process, because starting others would take longer.
ALONE = 2**20

#: What messages call the kinds of limits.
NAMES = {"params": "parameters", "bytes": "bytes", "flops": "operations"}

#: For weights with more entries, every other size is tried at first.
LARGE = 2**22

#: A larger error leaves nothing of a weight.
VICTIM = 0.9

#: So many layers that stay dense are not seen at a glance.
MANY = 8

#: Sizes that are tried around the chosen ones, and how often.
NEARBY, ROUNDS = (0.75, 0.85, 0.92, 1.08, 1.18, 1.33), 3


def plan(
    model: Any,
    budget: Mapping[str, int | str],
    *,
    targets: Iterable[str] = ("*",),
    ignore: Iterable[str] = (),
    topologies: Iterable[Topology | str] = FAMILIES,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    objective: str = "weights",
    inputs: Any = None,
    seed: int = 0,
    workers: Workers | int | None = None,
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
        Limits of the compressed model, one or several: ``{"params": 50_000}``, parameters; ``{"bytes": 250_000}``,
        bytes of the file that `save_model` writes; ``{"flops": …}``, floating-point operations of one row (a token, an
        image; in a convolution, a position) in all weights, each used as it is or decoded once, whichever needs fewer.
        Percentages such as ``{"params": "5%"}`` are of the whole model, with what stays dense.
    targets, ignore : iterable of str
        Patterns of layers that may be compressed, and of layers that stay dense (see `deeptn.models.matches`).
    topologies : iterable of Topology or str
        Families to try; their sizes are ignored.
    overrides : mapping of str to mapping, optional
        Settings for the layers that a pattern selects: ``"topologies"``; ``"max_error"``, above which a layer stays
        dense; ``"importance"``, a factor for its squared error (see `deeptn.planning.Settings`).
    objective : {"weights", "outputs"}
        What an error of a weight counts: the same for all layers; or what it changes in the outputs of the model for
        `inputs`, measured for some candidates of each layer.
    inputs : optional
        Inputs for ``"outputs"``: an array, a tuple of arguments or a mapping of keyword arguments of the model. In
        Equinox, arrays with a first axis over examples.
    seed : int
        Seed of the starting points of fits by gradient. The same seed gives the same plan.
    workers : Workers or int, optional
        Where the errors are measured, and a folder that keeps what is finished (`deeptn.models.Workers`); a number of
        processes. By default one process for small models, else as many as there are cores.

    Returns
    -------
    Plan

    Raises
    ------
    PlanError
        For a budget below the smallest model, or a pattern that matches nothing.

    Warns
    -----
    UserWarning
        If the largest layer has next to nothing left, while many others stay dense.

    Examples
    --------
    >>> import deeptn as dtn
    >>> W = np.random.default_rng(0).standard_normal((64, 8))
    >>> weights = {"a.weight": W @ W.T, "b.weight": np.eye(32)}
    >>> found = plan(dtn.files.StoredModel({}, weights), {"params": 2100})
    >>> [(name, layer.params, layer.error < 1e-6) for name, layer in found.layers.items()]
    [('a', 1024, True), ('b', 80, True)]
    """
    if objective not in ("weights", "outputs"):
        raise PlanError(f"objective = {objective!r:.40}; expected 'weights' or 'outputs'")
    if (inputs is None) == (objective == "outputs"):
        raise PlanError("objective='outputs' needs inputs=, and only that objective uses them")
    view = view_of(model)
    weights = {weight.name: weight for weight in view.weights() if weight.network is None}
    if not weights:
        raise PlanError("the model has no dense layer that can be compressed")
    generated = [weight.name for weight in view.weights() if weight.network is not None]
    kept = {name for found in select(ignore, [*weights, *generated], "ignore").values() for name in found}
    chosen = {name for found in select(targets, list(weights), "targets", generated).values() for name in found} - kept
    how = settings(list(weights), topologies, {} if overrides is None else overrides)
    free = {name: weight for name, weight in weights.items() if name in chosen and not weight.refused}
    limits = Limits(view, free, budget)
    before = outputs_before(view, inputs) if objective == "outputs" else None
    size = sum(math.prod(weight.shape) for weight in free.values())
    if not isinstance(workers, Workers):
        workers = Workers.of(1 if workers is None and size < ALONE else workers)
    search = _Search(free, how, limits, seed, workers)
    search.measure(SHARES)
    share = limits.limits.get("params", 0) - limits.fixed.get("params", 0)
    if 0 < share < size:  # what a uniform budget would give to every layer
        search.measure([share / size])
    search.check()
    if before is not None:
        search.changes |= changes(view, before, free, search.candidates, inputs, seed, workers.store)
    picked = search.refined()
    layers: dict[str, LayerPlan] = {}
    for name, weight in weights.items():
        if name in picked and (found := picked[name]).network is not None:
            layers[name] = LayerPlan(weight.shape, found.network, float(f"{found.error:.6g}"))
        elif name in picked:
            layers[name] = LayerPlan(weight.shape, None, 0.0, search.why_dense(name))
        else:
            why = weight.refused or ("ignored" if name in kept else "not among the targets")
            layers[name] = LayerPlan(weight.shape, None, 0.0, why)
    if before is None:
        _warn_of_a_victim(picked, free)
    after = limits.fixed_params + sum(layers[name].params for name in free)
    counts = {name: search.sensitivity(name) for name in free}
    curves = {name: list(search.allowed(name).values()) for name in free}
    given = {kind: value if isinstance(value, str) else int(value) for kind, value in budget.items()}
    return Plan(layers, given, limits.totals["params"], after, curves=curves, sensitivities=counts)


def _warn_of_a_victim(picked: Mapping[str, Candidate], free: Mapping[str, Weight]) -> None:
    """Warn if the largest layer, say a table of embeddings, is sacrificed to many small ones."""
    sizes = {name: math.prod(weight.shape) for name, weight in free.items()}
    name = max(sizes, key=sizes.__getitem__, default="")
    dense = sum(one.network is None for one in picked.values())
    if name and picked[name].error > VICTIM and sizes[name] > sum(sizes.values()) / 4 and dense >= MANY:
        share = sizes[name] / sum(sizes.values())
        warn(
            f"{name!r}, {share:.0%} of all entries, gets an error of {picked[name].error:.0%}, "
            f"and {dense} others stay dense: the errors of all layers count the same. If this layer matters, pass "
            "objective='outputs' and inputs=, or give it an importance in overrides="
        )


@dataclass
class _Search:
    """The candidates that have been measured, and the choice among them."""

    free: Mapping[str, Weight]
    settings: Mapping[str, Settings]
    limits: Limits
    seed: int
    workers: Workers
    found: dict[str, dict[Network | None, Candidate]] = field(default_factory=dict)
    changes: dict[str, Points] = field(default_factory=dict[str, Points])

    def __post_init__(self):
        self.found = {name: {None: Candidate(None, 0.0)} for name in self.free}

    @property
    def candidates(self) -> dict[str, list[Candidate]]:
        """What every layer could become."""
        return {name: list(found.values()) for name, found in self.found.items()}

    def measure(self, shares: Sequence[float]) -> None:
        """Measure the errors of all families and layouts of every layer, for parameters in parts of the dense ones."""
        wanted: dict[str, list[tuple[Topology, Layout, Sequence[int]]]] = {}
        for name, weight in self.free.items():
            size = math.prod(weight.shape)
            budgets = sorted({int(size * share) for share in shares[:: 2 if size > LARGE else 1]} - {0})
            wanted[name] = []
            for family in self.settings[name].topologies:
                with suppress(DeepTNError):  # a family that has no layout for this shape
                    wanted[name] += [(family, layout, budgets) for layout in layouts_of(family, weight.shape)]
        self._run("errors", curve, wanted)

    def check(self) -> None:
        """Raise `PlanError` if the budget is below the smallest model."""
        for number, (kind, limit) in enumerate(self.limits.limits.items()):
            least = self.limits.after(self._smallest(number))[kind]
            if least > limit:
                raise PlanError(
                    f"the budget is {limit:,} of {self.limits.totals[kind]:,} {NAMES[kind]}; with these layers and "
                    f"families at least {least:,} are needed, {self.limits.fixed[kind]:,} of them outside these layers"
                    + self._hint()
                )

    def _smallest(self, number: int) -> dict[str, Network | None]:
        """Return the networks that cost least, for the limit with this number."""
        costs = {name: {net: self.limits.cost(name, net)[number] for net in self.allowed(name)} for name in self.found}
        return {name: min(cost, key=lambda net: cost[net]) for name, cost in costs.items()}

    def _hint(self) -> str:
        """Say what else the smallest model depends on."""
        strict = [name for name in self.found if len(self.allowed(name)) < len(self.found[name])]
        if strict:
            return f"; max_error excludes smaller networks of {', '.join(map(repr, strict[:3]))}"
        generated = [weight.name for weight in self.limits.view.weights() if weight.network is not None]
        return f"; compressed already: {', '.join(map(repr, generated[:3]))}" if generated else ""

    def refined(self) -> dict[str, Candidate]:
        """Return the best choice, after trying sizes close to it, with the bonds that suit the weights."""
        picked = self._allocated()
        for _ in range(ROUNDS):
            spare = self.limits.spare({name: one.network for name, one in picked.items()})
            wanted = {}
            for name, (net, _) in picked.items():
                if net is not None and net.topology is not None:
                    sizes = [int(net.num_params * part) for part in NEARBY]
                    wanted[name] = [(net.topology, net.layout, [*sizes, net.num_params + spare])]
            self._run("sizes", curve, wanted)
            before, picked = picked, self._allocated()
            if picked == before:
                break
        return self._with_better_bonds(picked)

    def sensitivity(self, name: str) -> Sensitivity:
        """Return what the error of a layer counts."""
        return Sensitivity(self.settings[name].importance, self.changes.get(name, ()))

    def why_dense(self, name: str) -> str:
        """Say why a layer stays dense."""
        if len(self.found[name]) == 1:
            return "no network is smaller"
        if len(self.allowed(name)) == 1:
            return f"every network has an error above {self.settings[name].max_error}"
        return "its parameters are worth most here"

    def allowed(self, name: str) -> dict[Network | None, Candidate]:
        """Return the candidates of a layer within its largest error."""
        most = self.settings[name].max_error
        return {net: one for net, one in self.found[name].items() if most is None or one.error <= most}

    def _allocated(self) -> dict[str, Candidate]:
        """Return the best candidate of each layer, so that all limits are kept exactly."""
        allowed = {name: list(self.allowed(name).values()) for name in self.found}
        counts = {name: self.sensitivity(name) for name in allowed}
        values = [np.array([counts[name](one.error) for one in found]) for name, found in allowed.items()]
        costs = [np.array([self.limits.cost(name, one.network) for one in found]) for name, found in allowed.items()]
        for number, kind in enumerate(self.limits.limits):
            self.limits.calibrate(kind, self._smallest(number))
        while True:
            try:
                numbers = allocate(values, costs, self.limits.left) if allowed else []
            except PlanError as error:
                kinds = " and ".join(f"{limit:,} {NAMES[kind]}" for kind, limit in self.limits.limits.items())
                raise PlanError(f"no choice of networks keeps {kinds}; allow a little more" + self._hint()) from error
            picked = {name: found[number] for (name, found), number in zip(allowed.items(), numbers)}
            if self.limits.tighten({name: one.network for name, one in picked.items()}):
                return picked

    def _with_better_bonds(self, picked: dict[str, Candidate]) -> dict[str, Candidate]:
        """For the chosen sizes, choose the bonds that suit the weights."""
        wanted = {
            name: [(net.topology, net.layout, [net.num_params])]
            for name, (net, _) in picked.items()
            if net is not None and net.topology is not None and net.is_linear and net.topology.bonds(net.spec)
        }
        better = self._run("bonds", _with_best_bonds, wanted)
        for name, found in better.items():
            count = self.sensitivity(name)
            best = min([picked[name], *found], key=lambda one: (count(one.error), one.error))
            changed = picked | {name: best}
            if best != picked[name] and self.limits.allow({name: one.network for name, one in changed.items()}):
                picked = changed
        return picked

    def _run(
        self,
        what: str,
        function: Callable[..., list[Candidate]],
        wanted: Mapping[str, Sequence[tuple[Topology, Layout, Sequence[int]]]],
    ) -> dict[str, list[Candidate]]:
        """Measure candidates, or read them from the folder; add them to the known ones and return them."""
        results: dict[tuple[str, int], list[Candidate]] = {}
        store = self.workers.store
        for names in groups({name: math.prod(self.free[name].shape) for name in wanted}):
            calls: list[Call] = []
            read: list[Array] = []
            for name in names:
                raw = to_raw(self.free[name].read())
                with naming(name):
                    array = _finite(raw)
                read.append(raw)
                digest = "" if store.folder is None else key_of(array)
                for number, given in enumerate(wanted[name]):
                    family, layout, budgets = given
                    key = key_of(what, digest, topology_to_dict(family), layout.to_dict(), budgets, self.seed)
                    known = _candidates(store.find(key))
                    if known is None:
                        calls.append(Call(name, (name, number, key), function, (array, *given, self.seed)))
                    else:
                        results[name, number] = known
            steps = self.workers.run(calls)
            for (name, number, key), found in track(steps, lambda step: f"{what} of layer {step[0][0]}", len(calls)):
                results[name, number] = found
                store.keep(key, [(network_to_dict(one.network), one.error) for one in found])
            for raw in read:
                release(raw)
        new: dict[str, list[Candidate]] = {}
        for name in wanted:  # in this order, whichever ended first
            new[name] = [one for number in range(len(wanted[name])) for one in results[name, number]]
            for one in new[name]:
                self.found[name].setdefault(one.network, one)
        return new


def _candidates(data: Any) -> list[Candidate] | None:
    """Return candidates from plain data; None if it is damaged."""
    if data is None:
        return None
    try:
        return [Candidate(network_from_dict(net), float(error)) for net, error in data]
    except (DeepTNError, TypeError, ValueError):
        return None


def _finite(array: np.ndarray) -> np.ndarray:
    """Return a weight in a dtype that NumPy's linear algebra has."""
    if not np.isfinite(array).all():
        raise PlanError("the weight has entries that are not finite (nan or inf); add the layer to ignore")
    return widened(array)


def _with_best_bonds(
    weight: Array, family: Topology, layout: Layout, budgets: Sequence[int], seed: int
) -> list[Candidate]:
    """Return the network of each size whose bonds suit the weight; none for a family without a closed form."""
    found: list[Candidate] = []
    for budget in budgets:
        with suppress(SpecError):
            better = decompose(weight, family, layout, budget=budget, sweeps=0)
            found.append(Candidate(better.net, better.error))
    return found
