"""What users do to modules, each done to a dense module of PyTorch and to its twin, whose weights networks generate."""

from . import attachments, copies, functions, inputs, memory, modes, moves, tracing, training, wrappers
from .operations import OPERATIONS, expected, outcome
from .sides import KINDS

#: All operations with all kinds of modules.
CASES = [(name, kind) for name, found in OPERATIONS.items() for kind in found.kinds]

#: The groups of operations, in the order of the page.
GROUPS = [
    module.GROUP
    for module in (modes, copies, moves, wrappers, attachments, functions, memory, tracing, inputs, training)
]

__all__ = ["CASES", "GROUPS", "KINDS", "OPERATIONS", "expected", "outcome"]
