"""Fits of a network to a weight: by gradient, or by alternating least squares. The parts that all libraries share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from autoray import do

from ..arrays import convert_params, dtype_of, library_of, norm_of, to_numpy
from ..base import Array, Params, track
from ..errors import SpecError, near_match
from ..network import Network
from ..topologies import describe
from .alternating import FINE, alternate, balanced, can_alternate, default_sweeps, from_scratch, is_multilinear
from .closed_forms import decompose, scaled, unit_of, zeroed
from .covariance import Covariance, error_of, metric_of
from .growth import grown_into, shrunk


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How to fit the parameters of a network to a weight.

    Parameters
    ----------
    method : {"auto", "als", "lbfgs", "adam"}
        Alternating least squares (as in `decompose`; in NumPy, for linear networks without shared parameters), L-BFGS
        with a line search (strong Wolfe in torch, zoom in optax), or Adam with a cosine schedule. "auto" is ALS where
        it is possible, else L-BFGS: without a starting point, small networks are also fitted at all smaller sizes, so
        that the error does not rise with the size (see `fit_by_gradient`).
    steps : int, optional
        ALS sweeps, by default 100 (fewer for a large weight); L-BFGS iterations or Adam steps, by default 300. 0 keeps
        the starting point.
    lr : float, optional
        Learning rate, by default 0.02 for Adam and 1 for L-BFGS (in optax, the line search alone sets the step).
    seed : int
        Seed of the starting point, if none is given, and of those of `restarts`.
    restarts : int
        Number of further fits, from other random cores. The fit with the smallest error is kept: from random cores,
        deep networks end at local minima.

    Examples
    --------
    >>> Fit(method="lbfgs", steps=50).restarts
    0
    >>> import deeptn as dtn
    >>> from deeptn_torch import fit
    >>> import torch
    >>> net, weight = dtn.network(dtn.BrickWall(layers=1), (16, 16)), torch.randn(16, 16)
    >>> once, best = (fit(net, weight, how=Fit(steps=30, restarts=restarts)) for restarts in (0, 3))
    >>> best.error <= once.error
    True
    """

    method: str = "auto"
    steps: int | None = None
    lr: float | None = None
    seed: int = 0
    restarts: int = 0

    def __post_init__(self):
        if self.method not in METHODS:
            raise SpecError(f"Fit.method = {self.method!r}; {near_match(str(self.method), METHODS)}")
        for name in ("steps", "restarts"):
            number = getattr(self, name)
            if number is None and name == "steps":
                continue
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise SpecError(f"Fit.{name} must be a non-negative integer, got {number!r}")
        if isinstance(self.seed, bool) or not hasattr(self.seed, "__index__") or self.seed < 0:
            raise SpecError(f"Fit.seed = {self.seed!r}; expected a non-negative integer")
        if self.lr is not None and not (isinstance(self.lr, (int, float)) and 0 < self.lr < math.inf):
            raise SpecError(f"Fit.lr must be a positive number, got {self.lr!r}")
        if self.lr is not None and self.method in ("auto", "als"):
            raise SpecError(f"Fit.lr needs a method that has a learning rate: write Fit(method='adam', lr={self.lr})")

    def resolved(self, net: Network, covariance: Covariance | None = None) -> Fit:
        """Return the same with a definite method and number of steps, for one network and covariance.

        Examples
        --------
        >>> import deeptn as dtn
        >>> found = [Fit().resolved(dtn.network(name, (8, 8))) for name in ("CP", "BrickWall")]
        >>> [(how.method, how.steps) for how in found]
        [('als', 100), ('lbfgs', 300)]
        """
        method = self.method
        if method == "auto":
            method = "als" if _alternates(net, covariance) else "lbfgs"
        if method == "als" and not is_multilinear(net):
            what = describe(net.topology)
            raise SpecError(f"ALS needs a linear network without shared parameters, not {what}; write method='lbfgs'")
        steps = self.steps
        if steps is None:
            steps = default_sweeps(net, scratch=True) if method == "als" else 300
        return replace(self, method=method, steps=steps)


METHODS = ("auto", "als", "lbfgs", "adam")

#: Steps of L-BFGS that improve a closed form with a covariance, if ALS would have fewer than so many sweeps.
POLISHING, FEW = 100, 5

#: Networks are fitted at smaller sizes first if steps × operations to decode the weight are at most this: seconds.
EFFORT = 1e11

#: Keeps the seeds of restarts apart from other draws with the same seed.
RESTARTED = 1

#: Up to this size, a network is fitted at all smaller sizes first.
LINKS = 8

#: How to find the cores for a weight: type of the argument ``fit`` of ``compress`` and ``from_dense``.
How: TypeAlias = Fit | Literal["auto"] | None


class FitResult(NamedTuple):
    """Outcome of ``deeptn_torch.fit`` and ``deeptn_jax.fit``.

    Attributes
    ----------
    params : dict of str to array
        Parameters with the smallest error seen; without gradients.
    error : float
        ``‖W - W'‖ / ‖W‖`` (Frobenius); with a covariance, `Covariance.error`.
    history : list of float
        The error at every step; for ALS, at the start and after every sweep.

    Examples
    --------
    >>> FitResult({}, 0.5, [1.0, 0.5]).error
    0.5
    """

    params: Params
    error: float
    history: list[float]


def _check_goal(net: Network, weight: Any, library: str) -> None:
    """Raise `SpecError` unless a weight can be fitted: right library and shape, real, finite."""
    shape = getattr(weight, "shape", None)
    foreign = library_of(weight).name != library
    if shape is None or foreign or tuple(shape) != net.shape:
        came = type(weight).__name__ if shape is None or foreign else tuple(shape)
        raise SpecError(f"weight must be a {library} array of shape {net.shape}, got {came}")
    if "float" not in dtype_of(weight):
        raise SpecError(f"weight must be real and floating-point, got {weight.dtype}")
    if not bool(do("all", do("isfinite", weight))):
        raise SpecError("weight has entries that are not finite (nan or inf)")


#: Takes a loss, a starting point, an array that sets dtype and device, and a `Fit`. Returns the parameters with the
#: smallest loss seen, without gradients, and the losses of all steps, including the final one.
Minimise: TypeAlias = Callable[[Callable[[Params], Array], Params, Array, Fit], tuple[Params, list[float]]]


def fit_by_gradient(
    net: Network,
    weight: Array,
    params: Params | None,
    how: Fit | None,
    library: str,
    minimise: Minimise,
    covariance: Covariance | None = None,
) -> FitResult:
    """Fit parameters to a weight; each library has its own `minimise`, which runs the steps.

    The error is that of the weight in the Frobenius norm or, with a covariance, that of the layer's outputs.

    Scale the result as a whole so that the error is as small as it can be, and so never above 1, the error of W' = 0.

    L-BFGS from random cores ends at a local minimum, and a larger network may end at a worse one than a smaller network
    of its family. So ``Fit(method="auto")`` fits the next smaller network too, in the same way, and if that has the
    smaller error, goes on from its cores, enlarged (`Topology.grown`). That is done for networks of at most `EFFORT`
    operations per fit: up to size `LINKS` for all smaller sizes, above it for half the size.
    """
    how = Fit() if how is None else how
    if how.restarts:
        once = replace(how, restarts=0)
        seeds = np.random.default_rng((how.seed, RESTARTED)).integers(2**62, size=how.restarts).tolist()
        starts = [(params, once), *((None, replace(once, seed=seed)) for seed in seeds)]
        fits = [
            fit_by_gradient(net, weight, start, one, library, minimise, covariance)
            for start, one in track(starts, "restarts")
        ]
        return min(fits, key=lambda found: found.error)
    wanted, how = how, how.resolved(net, covariance)
    _check_goal(net, weight, library)
    dense = to_numpy(weight)
    unit = unit_of(dense, safe=1e10)  # squares are computed in float32
    if unit == 0.0:
        params = zeroed(net, net.init(how.seed, like=weight) if params is None else params)
        return FitResult(params, error_of(net.materialize(params), weight, covariance), [0.0])
    if unit != 1.0:
        start = params and scaled(net, params, 1 / unit)
        found = fit_by_gradient(net, weight / unit, start, wanted, library, minimise, covariance)
        params = scaled(net, found.params, unit)
        return FitResult(params, error_of(net.materialize(params), weight, covariance), found.history)
    if how.method == "als" and how.steps:
        return _fit_by_als(net, weight, params, how, covariance)
    goal = weight if dtype_of(weight) == "float64" else do("astype", weight, "float32")
    norm = norm_of(dense)
    root = across = None
    scale = 1.0 / norm**2
    if covariance is not None:
        covariance.check(net.shape)
        root = covariance.root()
        across = convert_params({"root": root}, goal)["root"]
        scale = 1.0 / (norm_of(covariance.times_root(dense.reshape(len(dense), -1), root)) or norm) ** 2

    def loss_of(params: Params) -> Array:
        gap = net.materialize(params) - goal
        if covariance is not None:
            gap = covariance.times_root(do("reshape", gap, (net.shape[0], -1)), across)
        return do("sum", gap**2) * scale

    alone = params is not None or wanted.method != "auto" or not how.steps
    if params is None:  # random, with the root mean square of the weight
        params = net.init(how.seed, like=goal, std=norm / math.sqrt(net.size))
    found, losses = minimise(loss_of, params, goal, how)
    if not any(loss < math.inf for loss in losses):
        raise SpecError("the fit diverged at its first step (error not finite); lower Fit.lr or change the start")
    if not alone and (smaller := _smaller(net, how)) is not None:
        start = fit_by_gradient(smaller, goal, None, wanted, library, minimise, covariance).params
        start = grown_into(smaller, start, net).params
        if error_of(net.materialize(start), goal, covariance) < math.sqrt(min(losses)):
            found, losses = minimise(loss_of, start, goal, how)
    if how.steps:
        found = _best_scaled(net, found, dense, covariance, root)
    found = {name: do("astype", array, dtype_of(weight)) for name, array in found.items()}
    error = error_of(net.materialize(found), weight, covariance)
    return FitResult(found, error, [math.sqrt(loss) for loss in losses])


def _smaller(net: Network, how: Fit) -> Network | None:
    """Return the next smaller network of the family to fit first; None if there is none, or it would take too long."""
    if net.topology is None or net.cost().flops * (how.steps or 0) > EFFORT:
        return None
    few = net.topology.size <= LINKS
    smaller = shrunk(net, lambda size: size - 1 if few else size // 2)
    if smaller is not None:
        try:
            grown_into(smaller, smaller.init(0), net)
        except SpecError:  # some families cannot grow from size 1
            return None
    return smaller


def _fit_by_als(
    net: Network, weight: Array, params: Params | None, how: Fit, covariance: Covariance | None
) -> FitResult:
    dense, sweeps = to_numpy(weight), how.steps or 0
    metric = metric_of(net, covariance)
    if params is None:
        found, errors = from_scratch(net, dense, sweeps, how.seed, metric)
    else:
        start = {name: to_numpy(array) for name, array in params.items()}
        found, errors = alternate(net, dense, start, sweeps, FINE, metric)
    found = convert_params(balanced(net, found), weight)
    return FitResult(found, error_of(net.materialize(found), weight, covariance), errors)


def _best_scaled(
    net: Network, params: Params, weight: np.ndarray, covariance: Covariance | None, root: np.ndarray | None
) -> Params:
    """Multiply W' by the factor with the smallest error; return the parameters unchanged if they cannot scale W'."""
    made = to_numpy(net.materialize(params)).astype(np.float64)
    if covariance is not None:
        made, weight = (covariance.times_root(array.reshape(len(array), -1), root) for array in (made, weight))
    size = np.vdot(made, made)
    factor = float(np.vdot(made, weight) / size) if 0 < size < math.inf else 1.0
    try:
        return scaled(net, params, factor) if factor > 0 else zeroed(net, params)
    except SpecError:
        return params


def find_params(
    net: Network,
    weight: Array,
    how: How,
    fit: Callable[..., FitResult],
    draw_seed: Callable[[], int],
    covariance: Covariance | None = None,
) -> Params:
    """Carry out the ``fit=`` argument of ``compress`` and ``from_dense``; see `find`."""
    return find(net, weight, how, fit, draw_seed, covariance).params


def find(
    net: Network,
    weight: Array,
    how: How,
    fit: Callable[..., FitResult],
    draw_seed: Callable[[], int],
    covariance: Covariance | None = None,
) -> FitResult:
    """Find parameters as the ``fit=`` argument of ``compress`` and ``from_dense`` says.

    ``"auto"`` is `decompose` for linear networks without shared parameters, else `Fit()`. A `Fit` starts from the
    closed form if that suffices (`Topology.closed_form_suffices`). None draws a random start with the weight's rms.

    With a covariance, a closed form is only a start. Where ALS cannot improve it, because the legs of the inputs make
    its equations too large, ``"auto"`` goes on by gradient.
    """
    if how is not None and how != "auto" and not isinstance(how, Fit):
        raise SpecError(f"fit = {how!r}; expected 'auto', None or a deeptn.fitting.Fit")
    start = None
    if how is not None and net.topology is not None:
        suffices = net.topology.closed_form_suffices and _has_metric(net, covariance)
        if how == "auto" and (suffices or _alternates(net, covariance)):
            found = decompose(weight, net.topology, net.layout, covariance=covariance)
            if covariance is None or _polishes(net, covariance):
                return FitResult(found.params, found.error, [found.error])
            return fit(net, weight, found.params, Fit(method="lbfgs", steps=POLISHING), covariance)
        if suffices:
            start = decompose(weight, net.topology, net.layout, sweeps=0, covariance=covariance).params
    if how is None:
        how = Fit(steps=0, seed=draw_seed())
    return fit(net, weight, start, Fit() if how == "auto" else how, covariance)


def _has_metric(net: Network, covariance: Covariance | None) -> bool:
    """Return whether closed forms and ALS can use a covariance."""
    try:
        metric_of(net, covariance)
    except SpecError:
        return False
    return True


def _polishes(net: Network, covariance: Covariance) -> bool:
    """Return whether ALS improves closed forms with a covariance."""
    metric = metric_of(net, covariance)
    assert metric is not None
    return _alternates(net, covariance) and default_sweeps(net, scratch=False, coupling=metric.coupling) >= FEW


def _alternates(net: Network, covariance: Covariance | None) -> bool:
    """Return whether ALS can fit a network, with a covariance or without."""
    if not _has_metric(net, covariance) or not can_alternate(net):
        return False
    metric = metric_of(net, covariance)
    return metric is None or can_alternate(net, metric.coupling)
