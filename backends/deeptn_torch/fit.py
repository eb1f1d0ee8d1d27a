"""Fitting a network to a given weight by gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from deeptn.arrays import relative_error
from deeptn.errors import SpecError
from deeptn.fitting import Fit, FitResult, check_goal, start_of_fit
from deeptn.fitting import gradient as fitting
from deeptn.network import Network


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
    >>> fit(net, W, how=dtn.Fit(method="lbfgs", steps=60)).error < 1e-3
    True
    """
    how = Fit() if how is None else how
    check_goal(net, weight, "torch")
    goal = weight.detach().to(torch.float64 if weight.dtype == torch.float64 else torch.float32)
    norm = float(goal.norm())
    if params is None:
        params = start_of_fit(net, goal, norm, how)
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
    """Carry out the ``fit=`` argument of `compress`; random starts by a seed from torch's generator."""
    return fitting.find_params(net, weight, how, fit, lambda: int(torch.randint(2**62, ()).item()))
