"""Fit a network to a given weight with the gradient-based optimizers of optax."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp

from deeptn.base import Params, optional
from deeptn.fitting import Covariance, Fit, FitResult, fit_by_gradient
from deeptn.network import Network


def fit(
    net: Network, weight: jax.Array, params: Any = None, how: Fit | None = None, covariance: Covariance | None = None
) -> FitResult:
    """Find parameters whose generated weight is close to a given one.

    Parameters
    ----------
    net : deeptn.Network
    weight : jax.Array of shape ``net.shape``
        Real and finite (else `SpecError`). Half precision is fitted in float32; the result has its dtype.
    params : dict of str to jax.Array, optional
        Starting point, random by default. The result never has a larger error than the starting point.
    how : deeptn.fitting.Fit, optional
    covariance : deeptn.fitting.Covariance, optional
        Second moments of the layer's inputs: the error is then that of its outputs, instead of the Frobenius norm.

    Examples
    --------
    >>> import jax.numpy as jnp, deeptn as dtn
    >>> net = dtn.network(dtn.LowRank(rank=2), (8, 6))
    >>> W = jnp.outer(jnp.arange(1.0, 9.0), jnp.ones(6))
    >>> fit(net, W, how=dtn.fitting.Fit(method="lbfgs", steps=60)).error < 1e-3
    True
    """
    return fit_by_gradient(net, weight, params, how, "jax", _minimise, covariance)


def optax_dtypes() -> AbstractContextManager[Any]:
    """Let optax multiply numbers of different dtypes, as it does, under ``jax_numpy_dtype_promotion="strict"`` too.

    Examples
    --------
    >>> with jax.numpy_dtype_promotion("strict"), optax_dtypes():
    ...     print(0.9 ** jnp.ones((), "int32"))
    0.9
    """
    return jax.numpy_dtype_promotion("standard")


def _minimise(loss_of: Callable[[Params], jax.Array], start: Params, like: jax.Array, how: Fit) -> Any:
    """Minimize a loss with the optimizers of optax, in one compiled loop."""
    adam, steps = how.method == "adam", how.steps or 0
    begin = {name: jnp.asarray(array, like.dtype) for name, array in start.items()}
    if not steps:  # a loop without steps would be compiled all the same
        return begin, [float(loss_of(begin))]
    optax = optional("optax", "jax")
    if adam:
        optimizer = optax.adam(optax.cosine_decay_schedule(0.02 if how.lr is None else how.lr, steps))
    else:
        optimizer = optax.lbfgs(how.lr)

    def keep(best: Any, params: Any, loss: jax.Array) -> Any:
        better = loss < best[0]
        return jax.tree.map(lambda new, old: jnp.where(better, new, old), (loss, params), best)

    def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
        params, state, best = carry
        loss, gradient = jax.value_and_grad(loss_of)(params)
        more = {} if adam else {"value": loss, "grad": gradient, "value_fn": loss_of}
        with optax_dtypes():
            updates, state = optimizer.update(gradient, state, params, **more)
        return (optax.apply_updates(params, updates), state, keep(best, params, loss)), loss

    @jax.jit
    def run(params: Any) -> tuple[Any, jax.Array]:
        best = jnp.asarray(jnp.inf, like.dtype), params
        (params, _, best), losses = jax.lax.scan(step, (params, optimizer.init(params), best), length=steps)
        loss = loss_of(params)
        return keep(best, params, loss)[1], jnp.append(losses, loss)

    found, losses = run(begin)
    return found, losses.tolist()
