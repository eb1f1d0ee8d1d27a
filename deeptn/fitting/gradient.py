"""What fits by gradient have in common, whatever library they run in."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from autoray import do

from ..arrays import dtype_of, library_of
from ..base import Array, Params
from ..errors import SpecError, near_match
from ..network import Network
from .closed_forms import decompose


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
        Adam 0.02; L-BFGS 1 (optax: the line search alone).
    seed : int
        Of the starting point, where none is given.

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


class FitResult(NamedTuple):
    """Outcome of ``deeptn_torch.fit`` and ``deeptn_jax.fit``.

    Attributes
    ----------
    params : dict of str to array
        Those of the smallest error that was seen; without gradients.
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


def check_goal(net: Network, weight: Any, library: str) -> None:
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


def start_of_fit(net: Network, goal: Array, norm: float, how: Fit) -> Params:
    """Random parameters of the root mean square of the weight."""
    rms = norm / math.sqrt(net.size)
    return net.init(how.seed, like=goal, std=rms if rms > 0 else None)


def find_params(
    net: Network, weight: Array, how: Any, fit: Callable[..., FitResult], draw_seed: Callable[[], int]
) -> Params:
    """Carry out the ``fit=`` argument of ``compress`` and of ``from_linear``.

    ``"auto"``: the closed form where the family has one, else `Fit()`. A `Fit`: by gradient, from the closed form where
    there is one. None: a random start of the root mean square of the weight.
    """
    if how is not None and how != "auto" and not isinstance(how, Fit):
        raise SpecError(f"fit = {how!r}; expected 'auto', None or a deeptn.Fit")
    start = None
    if how is not None and net.topology is not None and net.topology.closed_form_suffices:
        start = decompose(weight, net.topology, net.layout).params
        if how == "auto":
            return start
    if how is None:
        how = Fit(steps=0, seed=draw_seed())
    return fit(net, weight, start, Fit() if how == "auto" else how).params
