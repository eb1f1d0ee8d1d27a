"""JAX front-end: pure functions of ``(net, params)`` for jit, vmap and grad; fitting and training with optax.

Layers for Equinox and Flax NNX are in `deeptn_jax.equinox` and `deeptn_jax.nnx`.
"""

from deeptn.engine import register_runner
from deeptn.fitting import Fit, FitResult

from .engine import run
from .fit import fit
from .functional import apply, init, materialize
from .train import Trained, train, weights

register_runner("jax", run)

__all__ = ["Fit", "FitResult", "Trained", "apply", "fit", "init", "materialize", "train", "weights"]
