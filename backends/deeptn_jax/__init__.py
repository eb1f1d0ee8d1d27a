"""JAX front-end: pure functions of ``(net, params)`` that jit, vmap and grad go through."""

from .functional import apply, init, materialize

__all__ = ["apply", "init", "materialize"]
