"""Replace dense weights with networks, and networks with dense weights, in models of any framework."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from autoray import do

from ..arrays import dtype_of, from_raw, library_of, to_numpy, to_raw
from ..base import Array, Params, track, warn
from ..errors import DeepTNError, PlanError
from ..files import network_to_dict, release
from ..fitting import FitResult, How, find
from ..network import Network, network
from ..spec import Layout
from ..topologies import describe
from .calibration import Calibration, warn_about_missing, writable_biases
from .matching import Matching, errors_of, order_of_use
from .report import LayerReport, Report, layer_report
from .rules import Rules, resolve, select
from .view import Entry, Generated, ModelView, Weight, at_rest, count, naming, widened
from .work import Call, Workers, groups, key_of


def compress(
    view: ModelView,
    targets: Rules,
    ignore: Iterable[str] = (),
    fit: How = "auto",
    seed: Any = None,
    workers: Workers | int | None = None,
    calibration: Calibration | Matching | None = None,
    working: Any = None,
) -> tuple[Any, Report]:
    """Let networks generate chosen weights of a model. Either all of them are replaced, or none.

    Parameters
    ----------
    view : ModelView
    targets : mapping of str to deeptn.Topology, deeptn.Network or str; or deeptn.Plan
        What each layer becomes. A key is a layer's name, a glob (``"classifier.*"``), or ``"re:…"``, a regular
        expression for the whole name. If several keys match, an exact name wins, then the first key.
    ignore : iterable of str
        Patterns of layers to leave alone.
    fit : {"auto"}, deeptn.fitting.Fit or None
        ``"auto"``: the closed form if the family has one (`deeptn.decompose`), else a fit by gradient with the
        defaults of `deeptn.fitting.Fit`. A `Fit`: by gradient, starting from the closed form if there is one. None:
        random cores; W keeps its root mean square.
    seed : optional
        Seed of the random cores, which differ from layer to layer: an integer, or the framework's own object (a
        generator, a key). By default a fresh seed.
    workers : Workers or int, optional
        Processes or a cluster that find the cores, and a folder that keeps them as soon as they are found: after an
        interruption, a call with the same folder (and the same seed) goes on and ends with the same cores. A number: so
        many processes.
    calibration : Calibration or Matching, optional
        Inputs of the layers (`calibrate`): fits then count the errors of outputs, and the report states them. Or data
        on which weights are fitted one after another to the outputs of the original model. With either, the biases of
        these layers change, too: they make up for the mean error.
    working : WatchedView, optional
        The view of a copy of the model, for a `Matching`, which changes it.

    Returns
    -------
    model : object
        The model of the view.
    report : Report
        Shape, topology, parameters, error of W and cost of each layer; ``print`` it, show it with rich, or ``to_json``.

    Warns
    -----
    UserWarning
        If a network has as many parameters as its weight has entries.

    Raises
    ------
    PlanError
        If a pattern matches no layer, or only generated ones; or if a chosen layer has its own computation or hooks,
        or shares its weight or bias with another module.

    Examples
    --------
    >>> import deeptn as dtn
    >>> from torch import nn
    >>> from deeptn_torch.view import TorchModel
    >>> model = nn.Sequential(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 10))
    >>> _, report = compress(TorchModel(model), {"0": dtn.TensorTrain(rank=4)})
    >>> report.params_before, report.params_after
    (48000, 424)
    """
    weights = view.weights()
    dense = {weight.name: weight for weight in weights if weight.network is None}
    generated = [weight.name for weight in weights if weight.network is not None]
    networks = resolve({name: weight.shape for name, weight in dense.items()}, targets, ignore, generated)
    if "" in networks:
        raise PlanError("the model is a single layer; write from_dense on the class of its replacement")
    for name in networks:
        check_free(dense[name], f", or add {name!r} to ignore")
        _warn_if_large(name, networks[name])
    if calibration is not None and not isinstance(calibration, (Calibration, Matching)):
        what = type(calibration).__name__
        raise PlanError(f"calibration is a {what}; write calibration=calibrate(model, data), or Matching(data)")
    if isinstance(calibration, Calibration):
        warn_about_missing([name for name in networks if name not in calibration.inputs])
    before, seeds = (count(view), at_rest(view)), _seeds(view, seed)
    found: dict[str, _Found] = {}
    if isinstance(calibration, Matching):
        if workers is not None:
            raise PlanError("matching fits one weight after another; leave out workers, or pass calibrate(…)")
        found = _found_by_matching(view, working, dense, networks, fit, seeds, calibration)
    elif workers is None:
        for name, net in track(list(networks.items()), lambda item: f"layer {item[0]}"):
            with naming(name):
                weight = dense[name].read()
                found[name] = _found(name, net, weight, fit, view.fit, lambda: next(seeds), _part(calibration, name))
                release(weight)
    else:
        found = _found_by_workers(Workers.of(workers), view, dense, networks, fit, seeds, calibration)
    entries = writable_biases(view, dense.values())
    biases = _shifted(entries, dense, {name: found[name].shift for name in networks})
    view.replace({name: Generated(net, found[name].params) for name, net in networks.items()})
    if biases:
        view.write(biases)
    rows = tuple(found[name].report for name in networks)
    return view.model, Report(rows, before[0], count(view), before[1], at_rest(view))


class _Found(NamedTuple):
    """What was found for one weight; `shift` is what its layer's bias gains, if anything."""

    params: Params
    report: LayerReport
    shift: np.ndarray | None


def _shifted(
    entries: Mapping[str, Entry], weights: Mapping[str, Weight], shifts: Mapping[str, np.ndarray | None]
) -> dict[str, np.ndarray]:
    """Return new biases, by the names of their entries; `entries` has those that can change, by weight."""
    found = {}
    for name, shift in shifts.items():
        if shift is not None and name in entries:
            old = to_raw(entries[name].read())
            new = old.astype(np.float64) + shift.reshape(old.shape)
            found[weights[name].entry("bias")] = new.astype(old.dtype)
    return found


def _found(
    name: str,
    net: Network,
    weight: Array,
    fit: How,
    by_gradient: Callable[..., FitResult],
    seed: Callable[[], int],
    calibration: Calibration | None = None,
) -> _Found:
    """Return the cores for a weight, and what they cost."""
    wide = widened(weight)
    covariance = None if calibration is None else calibration.for_fit(name)
    params, _, history = find(net, wide, fit, by_gradient, seed, covariance)
    if wide is not weight:
        params = {core: array.astype(weight.dtype) for core, array in params.items()}
    return _described(name, net, params, weight, calibration, history)


def _described(
    name: str,
    net: Network,
    params: Params,
    weight: Array,
    calibration: Calibration | None,
    history: Sequence[float] = (),
) -> _Found:
    made, shift = net.materialize(params), None
    if calibration is not None and name in calibration.centers:  # in NumPy, so that cores from a folder give the same
        shift = calibration.shift(name, net.materialize({core: to_numpy(own) for core, own in params.items()}), weight)
    return _Found(params, layer_report(name, net, weight, made, calibration, history), shift)


def _found_by_matching(
    view: Any,
    working: Any,
    dense: Mapping[str, Weight],
    networks: Mapping[str, Network],
    fit: How,
    seeds: Iterator[int],
    matching: Matching,
) -> dict[str, _Found]:
    """Find the cores of all layers, in the order in which the model uses them, and put each into the copy."""
    order, missing = order_of_use(view, networks, matching.data), list[str]()
    biased = writable_biases(view, [dense[name] for name in networks])
    found: dict[str, _Found] = {}
    for name in track(order, lambda name: f"layer {name}"):
        net, like = networks[name], dense[name].read()
        weight = to_raw(like)
        pair, held_out = matching.pair(view, working, name, net.shape, name in biased)
        with naming(name):
            covariance, goal = None, weight
            if pair is None:
                missing.append(name)
            else:
                covariance = pair.for_fit(matching.damping)
                goal = pair.goal(to_numpy(weight), matching.damping)
            wide = from_raw(goal.astype("float64" if weight.dtype == np.float64 else "float32"), library_of(like).name)
            params, _, history = find(net, wide, fit, view.fit, lambda: next(seeds), covariance)
            params = {core: do("astype", array, dtype_of(like)) for core, array in params.items()}
            made = net.materialize(params)
            about = layer_report(name, net, like, made, history=history)
            shift = None if pair is None else pair.shift(made, weight)
            found[name] = _Found(params, replace(about, **errors_of((pair, held_out), made, weight)), shift)
        new_bias = _shifted(biased, dense, {name: shift})
        working.replace({name: Generated(net, params)})
        if new_bias:
            working.write(new_bias)
    warn_about_missing(missing)
    return found


def _part(calibration: Calibration | None, name: str) -> Calibration | None:
    """Return what a calibration has on one layer: a process gets no more."""
    return None if calibration is None else calibration.only(name)


def _found_by_workers(
    workers: Workers,
    view: ModelView,
    dense: Mapping[str, Weight],
    networks: Mapping[str, Network],
    fit: How,
    seeds: Iterator[int],
    calibration: Calibration | None,
) -> dict[str, _Found]:
    """Find the cores of all layers, or read them from the folder."""
    found: dict[str, _Found] = {}
    for names in groups({name: math.prod(net.shape) for name, net in networks.items()}):
        calls: list[Call] = []
        read: list[Array] = []
        for name in names:
            with naming(name):
                net, weight, seed = networks[name], dense[name].read(), next(seeds) if fit is None else 0
                read.append(weight)
                part = _part(calibration, name)
                about = () if part is None else part.parts(name)
                key = key_of("cores", weight, network_to_dict(net), fit, seed, view.fit.__module__, *about)
                params = workers.store.find_params(key, net)
                if params is None:
                    given = name, net, weight, fit, view.fit, partial(int, seed), part
                    calls.append(Call(name, (name, key), _found, given))
                else:
                    found[name] = _described(name, net, params, to_raw(weight), part)
        steps = workers.run(calls)
        for (name, key), result in track(steps, lambda step: f"layer {step[0][0]}", len(calls)):
            found[name] = result
            workers.store.keep_params(key, networks[name], result.params)
        for weight in read:
            release(weight)
    return found


def fold(view: ModelView, targets: Iterable[str] | None = None) -> tuple[Any, list[str]]:
    """Replace generated weights with dense ones. Either all of them are replaced, or none.

    Parameters
    ----------
    view : ModelView
    targets : iterable of str, optional
        Patterns as in `compress`; by default all generated layers.

    Returns
    -------
    model : object
        The model of the view.
    names : list of str
        Names of the layers that were replaced.

    Raises
    ------
    PlanError
        If the model has no generated layer, a pattern matches none, or a layer cannot become dense.

    Examples
    --------
    >>> from torch import nn
    >>> from deeptn_torch import TNLinear
    >>> from deeptn_torch.view import TorchModel
    >>> fold(TorchModel(nn.Sequential(TNLinear(16, 8), nn.ReLU())))[1]
    ['0']
    """
    generated = {weight.name: weight for weight in view.weights() if weight.network is not None}
    if not generated or "" in generated:
        raise PlanError("the model has no generated layer inside; on a single generated layer, call to_dense()")
    wanted = select(["*"] if targets is None else targets, list(generated), "targets").values()
    names = [name for name in generated if any(name in found for found in wanted)]
    for name in names:
        check_free(generated[name])
    view.replace(dict.fromkeys(names))
    return view.model, names


def _warn_if_large(name: str, net: Network) -> None:
    """Warn about a network with as many parameters as its weight has entries, and name a layout with fewer."""
    if net.num_params < net.size:
        return
    text = f"layer {name!r}: {describe(net.topology)} has {net.num_params:,} parameters for a weight of {net.size:,}"
    try:
        padded = None if net.topology is None else network(net.topology, net.shape, Layout.padded(net.shape))
    except DeepTNError:
        padded = None
    if padded is not None and padded.num_params < net.size:
        text += f"; deeptn.Layout.padded({net.shape}) needs {padded.num_params:,}: write deeptn.network(topology, "
        text += f"{net.shape}, layout) as the target"
    warn(text)


def check_free(weight: Weight, remedy: str = "") -> None:
    """Raise `PlanError` if a weight cannot become generated, or dense."""
    if weight.refused:
        raise PlanError(f"layer {weight.name!r} {weight.refused}{remedy}")


def _seeds(view: ModelView, given: Any) -> Iterator[int]:
    """Yield seeds for the layers; draw nothing before the first one is requested."""
    draw = np.random.default_rng(view.seed(given))
    while True:
        yield int(draw.integers(2**62))
