"""What users do to modules, each done to a dense module of PyTorch and to its twin, whose weights networks generate."""

from . import attachments, copies, functions, inputs, memory, modes, moves, tracing, training, wrappers
from .operations import OPERATIONS, expected, outcome

#: All operations with all kinds of modules.
CASES = [(name, kind) for name, found in OPERATIONS.items() for kind in found.kinds]

GROUPS = (modes, copies, moves, wrappers, attachments, functions, memory, tracing, inputs, training)

__all__ = ["CASES", "GROUPS", "OPERATIONS", "expected", "outcome"]
