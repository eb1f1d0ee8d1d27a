"""The runner for PyTorch: reused buffers, gradients written by hand, and an operator for tracing."""

from deeptn.engine import register_runner

from .arrays import HOST, TORCH
from .operators import contract, contract_in_steps, register
from .runner import autocasts, gradients, is_followed, is_recorded, is_traced, is_transformed, run

register_runner("torch", run)

__all__ = [
    "HOST",
    "TORCH",
    "autocasts",
    "contract",
    "contract_in_steps",
    "gradients",
    "is_followed",
    "is_recorded",
    "is_traced",
    "is_transformed",
    "register",
    "run",
]
