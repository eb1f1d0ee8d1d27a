"""PyTorch's way to run a program: buffers that are used again, gradients written by hand, an operator for tracing."""

from deeptn.engine import register_runner

from .arrays import HOST, TORCH
from .operators import contract, register
from .runner import autocasts, gradients, run

register_runner("torch", run)

__all__ = ["HOST", "TORCH", "autocasts", "contract", "gradients", "register", "run"]
