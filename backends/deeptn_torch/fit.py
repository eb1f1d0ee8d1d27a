"""Fit a network to a given weight with gradient-based optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deeptn.base import Params
from deeptn.fitting import Covariance, Fit, FitResult, How, fit_by_gradient
from deeptn.fitting import gradient as fitting
from deeptn.network import Network


def fit(
    net: Network,
    weight: Tensor,
    params: dict[str, Tensor] | None = None,
    how: Fit | None = None,
    covariance: Covariance | None = None,
) -> FitResult:
    """Find parameters whose generated weight is close to a given one.

    Parameters
    ----------
    net : deeptn.Network
    weight : Tensor of shape ``net.shape``
        Real and finite (else `SpecError`). Half precision is fitted in float32; the result has its dtype and device.
    params : dict of str to Tensor, optional
        Starting point, random by default. The result never has a larger error than the starting point.
    how : deeptn.fitting.Fit, optional
    covariance : deeptn.fitting.Covariance, optional
        Second moments of the layer's inputs: the error is then that of its outputs, instead of the Frobenius norm.

    Examples
    --------
    >>> import torch, deeptn as dtn
    >>> net = dtn.network(dtn.LowRank(rank=2), (8, 6))
    >>> W = torch.outer(torch.arange(1.0, 9.0), torch.ones(6))
    >>> fit(net, W, how=dtn.fitting.Fit(method="lbfgs", steps=60)).error < 1e-3
    True
    """
    with torch.inference_mode(False):
        if isinstance(weight, Tensor):
            weight = weight.clone() if weight.is_inference() else weight.detach()
        return fit_by_gradient(net, weight, params, how, "torch", _minimise, covariance)


def _minimise(
    loss_of: Callable[[Params], Tensor], start: Params, like: Tensor, how: Fit
) -> tuple[dict[str, Tensor], list[float]]:
    """Minimize a loss with the optimizers of `torch.optim`."""
    steps = how.steps or 0
    leaves = {name: p.detach().to(like).clone().requires_grad_() for name, p in start.items()}
    losses: list[float] = []
    best: tuple[float, dict[str, Tensor]] = (math.inf, {})
    optimizer: Any

    def closure() -> Tensor:
        nonlocal best
        optimizer.zero_grad()
        loss = loss_of(leaves)
        loss.backward()
        losses.append(float(loss.detach()))
        if losses[-1] < best[0]:
            best = losses[-1], {name: p.detach().clone() for name, p in leaves.items()}
        return loss

    with torch.enable_grad():
        if how.method == "adam":
            optimizer = torch.optim.Adam(leaves.values(), lr=0.02 if how.lr is None else how.lr)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
            for _ in range(steps):
                optimizer.step(closure)
                schedule.step()
        else:
            lr = 1.0 if how.lr is None else how.lr
            optimizer = torch.optim.LBFGS(leaves.values(), lr=lr, max_iter=steps, line_search_fn="strong_wolfe")
            if steps:
                optimizer.step(closure)
        closure()
    return best[1], losses


def find_params(net: Network, weight: Tensor, how: How) -> dict[str, Tensor]:
    """Find cores as the ``fit=`` argument of `compress` says; random starts use a seed from torch's generator."""
    return fitting.find_params(net, weight, how, fit, draw_seed)


def draw_seed(generator: torch.Generator | None = None) -> int:
    """Draw a seed from a generator, by default torch's global one."""
    device = "cpu" if generator is None else generator.device  # whatever the default device is
    return int(torch.randint(2**62, (), generator=generator, device=device).item())
