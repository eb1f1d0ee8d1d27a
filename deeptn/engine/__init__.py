"""From a specification to a result: search for a contraction order, compile a program, count its cost, run it."""

from .compiler import compile_network
from .cost import DECODED_ANYWAY, TYPICAL, Choice, Cost, CostMode, Machine, Mode, faster, seconds
from .program import BATCH, INPUT, Activate, Contract, Crop, Join, Pad, Permute, Program, Step, View, reads
from .rows import blocks_of, gather_rows, walk
from .runner import LARGE, TINY, Library, Pool, activate, execute, library, pieces, run, run_plain, start
from .stacking import LIMIT, merge_alike, schedule

__all__ = [
    "BATCH",
    "DECODED_ANYWAY",
    "INPUT",
    "LARGE",
    "LIMIT",
    "TINY",
    "TYPICAL",
    "Activate",
    "Choice",
    "Contract",
    "Cost",
    "CostMode",
    "Crop",
    "Join",
    "Library",
    "Machine",
    "Mode",
    "Pad",
    "Permute",
    "Pool",
    "Program",
    "Step",
    "View",
    "activate",
    "blocks_of",
    "compile_network",
    "execute",
    "faster",
    "gather_rows",
    "library",
    "merge_alike",
    "pieces",
    "reads",
    "run",
    "run_plain",
    "schedule",
    "seconds",
    "start",
    "walk",
]
