"""Fitting a network to a given weight by gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deeptn import Network, SpecError, decompose
from deeptn.decomposition import has_closed_form
from deeptn.errors import near_match
from deeptn.params import relative_error


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How to fit the parameters of a network to a weight.

    Parameters
    ----------
    method : {"adam", "lbfgs"}
        Adam with a cosine schedule, or L-BFGS with strong-Wolfe line search.
    steps : int
        Adam steps, or L-BFGS iterations; 0 keeps the starting point.
    lr : float, optional
        Adam 0.02; L-BFGS 1.
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
    """Outcome of `fit`.

    Attributes
    ----------
    params : dict of str to Tensor
        Those of the smallest error that was seen; without gradients.
    error : float
        ``‖W - W'‖ / ‖W‖`` (Frobenius).
    history : list of float
        The error at every step.

    Examples
    --------
    >>> import torch, deeptn as dtn
    >>> result = fit(dtn.network(dtn.LowRank(rank=1), (4, 4)), torch.ones(4, 4), how=Fit(steps=5))
    >>> len(result.history)
    6
    """

    params: dict[str, Tensor]
    error: float
    history: list[float]


def fit(net: Network, weight: Tensor, params: dict[str, Tensor] | None = None, how: Fit | None = None) -> FitResult:
    """Find parameters whose generated weight is close to a given one in the Frobenius norm.

    Parameters
    ----------
    net : deeptn.Network
    weight : Tensor of shape ``net.shape``
        Floating point; the fit runs on its device, half precision in float32.
    params : dict of str to Tensor, optional
        Starting point. By default a random one (see `deeptn.Network.init`) of the root mean square of the weight.
    how : Fit, optional

    Returns
    -------
    FitResult
        ``(params, error, history)`` in the dtype of the weight. The error is never above that of the start.

    Raises
    ------
    deeptn.SpecError
        If the weight has another shape, is not floating point or not finite.

    Examples
    --------
    >>> import torch, deeptn as dtn
    >>> net = dtn.network(dtn.LowRank(rank=2), (8, 6))
    >>> W = torch.outer(torch.arange(1.0, 9.0), torch.ones(6))
    >>> fit(net, W, how=Fit(method="lbfgs", steps=60)).error < 1e-3
    True
    """
    how = Fit() if how is None else how
    if not isinstance(weight, Tensor) or tuple(weight.shape) != net.shape:
        came = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
        raise SpecError(f"weight must be a torch tensor of shape {net.shape}, got {came}")
    if not weight.is_floating_point():
        raise SpecError(f"weight must be real and floating-point, got {weight.dtype}")
    if not bool(torch.isfinite(weight).all()):
        raise SpecError("weight has entries that are not finite (nan or inf)")
    goal = weight.detach().to(torch.float64 if weight.dtype == torch.float64 else torch.float32)
    norm = float(goal.norm())
    if params is None:
        rms = float(goal.square().mean().sqrt())
        params = net.init(how.seed, like=goal, std=rms if rms > 0 else None)
    leaves = {name: p.detach().to(goal).clone().requires_grad_() for name, p in params.items()}
    scale = 1.0 / norm**2 if norm > 0 else 1.0
    history: list[float] = []
    best: tuple[float, dict[str, Tensor]] = (math.inf, {})

    def closure() -> Tensor:
        nonlocal best
        optimizer.zero_grad()
        loss = (net.materialize(leaves) - goal).square().sum() * scale
        loss.backward()
        error = math.sqrt(float(loss.detach()))
        history.append(error)
        if error < best[0]:
            best = (error, {name: p.detach().clone() for name, p in leaves.items()})
        return loss

    optimizer: Any
    with torch.enable_grad():
        if how.method == "adam":
            optimizer = torch.optim.Adam(leaves.values(), lr=0.02 if how.lr is None else how.lr)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(how.steps, 1))
            for _ in range(how.steps):
                optimizer.step(closure)
                schedule.step()
        else:
            lr = 1.0 if how.lr is None else how.lr
            optimizer = torch.optim.LBFGS(leaves.values(), lr=lr, max_iter=how.steps, line_search_fn="strong_wolfe")
            if how.steps:
                optimizer.step(closure)
        closure()
    if not best[1]:
        raise SpecError("the fit diverged at its first step; the error is not finite. Lower Fit.lr or change the start")
    found = {name: p.to(weight.dtype) for name, p in best[1].items()}
    return FitResult(found, relative_error(net.materialize(found), weight), history)


def find_params(net: Network, weight: Tensor, how: Any) -> dict[str, Tensor]:
    """Carry out the ``fit=`` argument of `compress` and of ``from_linear``.

    ``"auto"``: the closed form where the family has one, else `Fit()`. A `Fit`: by gradient, from the closed form where
    there is one. None: a random start of the root mean square of the weight.
    """
    if how is not None and how != "auto" and not isinstance(how, Fit):
        raise SpecError(f"fit = {how!r}; expected 'auto', None or a deeptn_torch.Fit")
    start = None
    if how is not None and net.topology is not None and has_closed_form(net.topology):
        start = decompose(weight, net.topology, net.layout).params
        if how == "auto":
            return start
    steps = (
        Fit(steps=0, seed=int(torch.randint(2**62, ()).item())) if how is None else (Fit() if how == "auto" else how)
    )
    return fit(net, weight, start, steps).params
