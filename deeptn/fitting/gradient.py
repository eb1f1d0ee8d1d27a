"""Gradient fits: the parts that all libraries share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from autoray import do

from ..arrays import dtype_of, library_of, norm_of, relative_error, to_numpy
from ..base import Array, Params
from ..errors import SpecError, near_match
from ..network import Network
from .closed_forms import decompose, scaled, unit_of, zeroed


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How to fit the parameters of a network to a weight.

    Parameters
    ----------
    method : {"adam", "lbfgs"}
        Adam with a cosine schedule, or L-BFGS with a line search (strong Wolfe in torch, zoom in optax).
    steps : int
        Adam steps, or L-BFGS iterations; 0 keeps the starting point.
    lr : float, optional
        Learning rate, by default 0.02 for Adam and 1 for L-BFGS (in optax, the line search alone sets the step).
    seed : int
        Seed of the starting point, if none is given.

    Examples
    --------
    >>> Fit(method="lbfgs", steps=50)
    Fit(method='lbfgs', steps=50, lr=None, seed=0)
    """

    method: str = "adam"
    steps: int = 300
    lr: float | None = None
    seed: int = 0

    def __post_init__(self):
        if self.method not in ("adam", "lbfgs"):
            raise SpecError(f"Fit.method = {self.method!r}; {near_match(str(self.method), ('adam', 'lbfgs'))}")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 0:
            raise SpecError(f"Fit.steps must be a non-negative integer, got {self.steps!r}")
        if self.lr is not None and not (isinstance(self.lr, (int, float)) and 0 < self.lr < math.inf):
            raise SpecError(f"Fit.lr must be a positive number, got {self.lr!r}")


#: How to find the cores for a weight: type of the argument ``fit`` of ``compress`` and ``from_dense``.
How: TypeAlias = Fit | Literal["auto"] | None


class FitResult(NamedTuple):
    """Outcome of ``deeptn_torch.fit`` and ``deeptn_jax.fit``.

    Attributes
    ----------
    params : dict of str to array
        Parameters with the smallest error seen; without gradients.
    error : float
        ``‖W - W'‖ / ‖W‖`` (Frobenius).
    history : list of float
        The error at every step.

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
    net: Network, weight: Array, params: Params | None, how: Fit | None, library: str, minimise: Minimise
) -> FitResult:
    """Fit parameters to a weight in the Frobenius norm; each library has its own `minimise`, which runs the steps."""
    how = Fit() if how is None else how
    _check_goal(net, weight, library)
    dense = to_numpy(weight)
    unit = unit_of(dense, safe=1e10)  # squares are computed in float32
    if unit == 0.0:
        params = zeroed(net, net.init(how.seed, like=weight) if params is None else params)
        return FitResult(params, relative_error(net.materialize(params), weight), [0.0])
    if unit != 1.0:
        start = params and scaled(net, params, 1 / unit)
        found = fit_by_gradient(net, weight / unit, start, how, library, minimise)
        params = scaled(net, found.params, unit)
        return FitResult(params, relative_error(net.materialize(params), weight), found.history)
    goal = weight if dtype_of(weight) == "float64" else do("astype", weight, "float32")
    norm = norm_of(dense)
    scale = 1.0 / norm**2
    if params is None:  # random, with the root mean square of the weight
        params = net.init(how.seed, like=goal, std=norm / math.sqrt(net.size))
    found, losses = minimise(lambda params: do("sum", (net.materialize(params) - goal) ** 2) * scale, params, goal, how)
    if not any(loss < math.inf for loss in losses):
        raise SpecError("the fit diverged at its first step (error not finite); lower Fit.lr or change the start")
    found = {name: do("astype", array, dtype_of(weight)) for name, array in found.items()}
    return FitResult(found, relative_error(net.materialize(found), weight), [math.sqrt(loss) for loss in losses])


def find_params(
    net: Network, weight: Array, how: How, fit: Callable[..., FitResult], draw_seed: Callable[[], int]
) -> Params:
    """Carry out the ``fit=`` argument of ``compress`` and ``from_dense``.

    ``"auto"`` takes the closed form if it suffices (`Topology.closed_form_suffices`), else `Fit()`. A `Fit` runs by
    gradient, starting from such a closed form if there is one. None draws a random start with the weight's rms.
    """
    if how is not None and how != "auto" and not isinstance(how, Fit):
        raise SpecError(f"fit = {how!r}; expected 'auto', None or a deeptn.fitting.Fit")
    start = None
    if how is not None and net.topology is not None and net.topology.closed_form_suffices:
        start = decompose(weight, net.topology, net.layout).params
        if how == "auto":
            return start
    if how is None:
        how = Fit(steps=0, seed=draw_seed())
    return fit(net, weight, start, Fit() if how == "auto" else how).params
