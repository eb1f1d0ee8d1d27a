"""Inspect the weights of a model: their spectra, and how far each could be compressed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..analysis import Cut, Needed, measure_cut
from ..arrays import to_raw
from ..base import Shape, positive_int, track
from ..engine import Cost, seconds
from ..engine.machine import machine
from ..errors import PlanError, SpecError
from ..files import release
from ..models import Call, Weight, Workers, can_fit, count, naming, select, view_of, widened
from ..network import Network
from ..topologies import LowRank, Topology, describe
from ..topologies import topology as as_topology
from .inspected import Inspected, Inspection, percent, typical
from .search import ALONE
from .sizes import NONE_SMALLER, Sizes, params_of, smallest, smallest_ranks

#: Families that are tried unless others are named: those with a closed form that takes seconds.
QUICK = ("LowRank", "TensorTrain", "TTMatrix")

#: A deep family that is tried too, where an installed library can fit it by gradient.
DEEP = "BrickWall"

#: Accuracies in decibels.
LEVELS = (10.0, 20.0, 40.0)

#: Above this share of the parameters, and from this share of the full rank on, compression promises little.
MOST, FLAT = 0.5, 0.5

#: A call that takes longer than the dense one by more than this factor is mentioned.
SLOWER = 1.2


def inspect_model(
    model: Any,
    *,
    targets: Iterable[str] = ("*",),
    ignore: Iterable[str] = (),
    topologies: Iterable[Topology | str] | None = None,
    levels: Iterable[float] = LEVELS,
    batch: int = 1,
    workers: Workers | int | None = None,
    seed: int = 0,
) -> Inspection:
    """Look at the weights of a model: their spectra, and the parameters that families need to approximate them.

    Low ranks follow exactly from the singular values. For other families with a closed form, bisection finds a size
    within 2 % of the smallest. Families without one (brick walls, trees, …) are tried by short fits, as in `plan`, up
    to the size at which a fit takes a few seconds; the fits need PyTorch, or JAX with optax. One weight is in memory
    at a time.

    Parameters
    ----------
    model : path, StoredModel, ModelView or model
        As for `plan`. It is not changed.
    targets, ignore : iterable of str
        Patterns of layers to inspect, and of layers to leave out (see `deeptn.models.matches`).
    topologies : iterable of Topology or str, optional
        Families to try; their sizes are ignored. By default `QUICK`, and `DEEP` where PyTorch, or JAX with optax, is
        installed.
    levels : iterable of float
        Accuracies in decibels, ``-20 log10(‖W - W'‖ / ‖W‖)``: 20 dB is an error of 10 %.
    batch : int
        Rows of input (or of an embedding) in a call, for the times.
    workers : Workers or int, optional
        Where the families of a layer are tried, as for `plan`.
    seed : int
        Seed of the starting points of fits by gradient.

    Returns
    -------
    Inspection
        A weight that cannot be compressed, or that has entries that are not finite, is listed with the reason.

    Raises
    ------
    PlanError
        If the model has no weight, or a pattern matches none.
    SpecError
        For levels that are not positive numbers, or topologies that are not a list.
    MissingBackendError
        If a family needs a fit by gradient, and neither library is installed.

    Examples
    --------
    >>> import deeptn as dtn
    >>> draw = np.random.default_rng(0)
    >>> W = draw.standard_normal((64, 2)) @ draw.standard_normal((2, 48))
    >>> found = inspect_model(dtn.files.StoredModel({}, {"a.weight": W, "b.weight": np.full((2, 2), np.nan)}))
    >>> [(layer.name, round(layer.effective_rank or 0, 1), layer.refused) for layer in found.layers]
    [('a', 2.0, ''), ('b', 0, 'has entries that are not finite (nan or inf)')]
    >>> [(one.decibels, one.params) for one in found.layers[0].needed if one.label.startswith("LowRank")]
    [(10.0, 224), (20.0, 224), (40.0, 224)]
    """
    families, wanted, batch = _families(topologies), _levels(levels), positive_int(batch, "batch")
    view = view_of(model)
    weights = {weight.name: weight for weight in view.weights()}
    if not weights:
        raise PlanError("the model has no weight to inspect: no floating-point array with two or more axes")
    left = {name for found in select(ignore, list(weights), "ignore").values() for name in found}
    chosen = {name for found in select(targets, list(weights), "targets").values() for name in found} - left
    if not chosen:
        raise PlanError("every layer that targets selects is also in ignore")
    small = sum(math.prod(weights[name].shape) for name in chosen) < ALONE
    workers = Workers.of(1 if workers is None and small else workers)
    layers: list[Inspected] = []
    for name, weight in track([item for item in weights.items() if item[0] in chosen], lambda item: f"layer {item[0]}"):
        with naming(name):
            layers.append(_inspected(weight, families, wanted, batch, workers, seed))
    return Inspection(tuple(layers), tuple(type(family).__name__ for family in families), wanted, batch, count(view))


def _families(topologies: Iterable[Topology | str] | None) -> list[Topology]:
    if topologies is None:
        topologies = (*QUICK, DEEP) if can_fit() else QUICK
    if isinstance(topologies, (str, Topology)):
        raise SpecError(f"topologies = {topologies!r:.60}; expected a list, for example ['LowRank', 'TTMatrix']")
    families = [as_topology(family) for family in topologies]
    if not families:
        raise SpecError("topologies is empty; name at least one family, for example ['LowRank']")
    return families


def _levels(levels: Iterable[float]) -> tuple[float, ...]:
    try:
        found = tuple(float(level) for level in levels)
    except (TypeError, ValueError):
        found = ()
    if not found or not all(0 < level < math.inf for level in found):
        raise SpecError(f"levels = {levels!r:.60}; expected positive numbers of decibels, for example (10, 20, 40)")
    return found


def _inspected(
    weight: Weight, families: Sequence[Topology], levels: tuple[float, ...], batch: int, workers: Workers, seed: int
) -> Inspected:
    shape = tuple(weight.shape)
    start = Inspected(weight.name, weight.kind, shape, math.prod(shape))
    if weight.network is not None:
        return replace(start, refused=f"is already generated by {describe(weight.network.topology)}; fold it first")
    if weight.refused:
        return replace(start, refused=weight.refused)
    raw = to_raw(weight.read())
    if not np.isfinite(raw).all():
        return replace(start, refused="has entries that are not finite (nan or inf)")
    cut, sizes = _measured(weight.name, widened(raw), families, sorted(set(levels)), workers, seed)
    release(raw)
    level = typical(levels)
    reached = [found.reached[level] for found in sizes if level in found.reached]
    net = min(reached, key=params_of).network if reached else None
    before, after, way = _times(weight.kind, shape, net, batch)
    found = replace(
        start,
        spectrum=cut.spectrum,
        rank=cut.rank,
        effective_rank=cut.effective_rank,
        needed=tuple(_needed(*pair, level) for pair in zip(families, sizes) for level in levels),
        network=net,
        seconds_before=before,
        seconds_after=after,
        way=way,
    )
    return replace(found, advice=_advice(found, level, any(one.limited for one in sizes)))


def _measured(
    name: str, array: np.ndarray, families: Sequence[Topology], levels: Sequence[float], workers: Workers, seed: int
) -> tuple[Cut, list[Sizes]]:
    """Return the cut rows | columns of a weight, and what every family needs for it."""
    others = [family for family in families if not isinstance(family, LowRank)]
    calls = [Call(name, 0, measure_cut, (array.reshape(len(array), -1),))]
    calls += [Call(name, k, smallest, (array, family, levels, seed)) for k, family in enumerate(others, 1)]
    results = dict(workers.run(calls))
    cut, by_fits = results.pop(0), iter([results[number] for number in sorted(results)])
    sizes = [
        smallest_ranks(cut.spectrum, array.shape, family, levels) if isinstance(family, LowRank) else next(by_fits)
        for family in families
    ]
    return cut, sizes


def _needed(family: Topology, sizes: Sizes, level: float) -> Needed:
    found = sizes.reached.get(level)
    if found is None:
        return Needed(type(family).__name__, level, None, sizes.error, note=sizes.note)
    return Needed(found.name, level, params_of(found), found.error)


def _times(kind: str, shape: Shape, net: Network | None, batch: int) -> tuple[float, float | None, str]:
    """Return the estimated time of a dense call, that of a call with a network, and how the network is used."""
    figures, columns = machine("numpy"), math.prod(shape[1:])
    if kind != "embedding":
        dense = Cost(0, 0, 0, 0, 0).with_product(shape, batch)
        choice = None if net is None else net.choose(batch)
        return seconds(dense, figures), choice and choice.seconds[choice.mode], choice.mode if choice else ""
    look_up = Cost(0, 0, batch * columns, batch * columns, 1)
    before = seconds(look_up, figures)
    if net is None:
        return before, None, ""
    ways = {"materialize": seconds(net.cost(), figures) + before, "gather": seconds(net.cost("gather", batch), figures)}
    way = min(ways, key=ways.__getitem__)
    return before, ways[way], way


def _advice(layer: Inspected, level: float, limited: bool) -> str:
    """Say in one sentence what the numbers suggest."""
    if layer.rank == 0:
        return "All entries are zero."
    if all(one.note == NONE_SMALLER for one in layer.needed):
        return "No network of these families is smaller; leave it dense."
    flat = (layer.effective_rank or 0.0) >= FLAT * len(layer.spectrum)
    start, leave = "Flat spectrum: " if flat else "", "leave it dense or train a narrower layer."
    net = layer.network
    if net is None and limited:
        start += _begun("no network tried reaches", flat)
        return f"{start} {level:g} dB (a larger deep one would need a longer fit); {leave}"
    if net is None:
        return f"{start}{_begun('no smaller network reaches', flat)} {level:g} dB; {leave}"
    share = net.num_params / layer.params
    if share > MOST:
        return f"{start}{level:g} dB takes {percent(share)} of the parameters; {leave}"
    text = f"{_described(net)} reaches {level:g} dB with {percent(share)} of the parameters"
    before, after = layer.seconds_before, layer.seconds_after
    slower = after / before if before and after else 0.0
    return f"{text}, but a call takes {slower:.2g} times as long." if slower > SLOWER else f"{text}."


def _begun(text: str, inside: bool) -> str:
    return text if inside else text[0].upper() + text[1:]


def _described(net: Network) -> str:
    """Return a family with its size in words: "A TTMatrix of rank 9"."""
    family = net.topology
    assert family is not None
    name, size = type(family).__name__, getattr(family, family.size_field)
    article = "An" if name[0] in "AEIOU" else "A"
    if isinstance(size, tuple):
        return f"{article} {name} of {family.size_field} up to {family.size}"
    return f"{article} {name} of {family.size_field} {size}"
