"""JAX front-end: pure functions of ``(net, params)`` that jit, vmap and grad go through; training with optax."""

from .functional import apply, init, materialize
from .train import Trained, train, weights

__all__ = ["Trained", "apply", "init", "materialize", "train", "weights"]
