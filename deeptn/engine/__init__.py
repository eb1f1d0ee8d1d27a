"""From a specification to a result: search for a contraction order, compile a program, count its cost, run it."""

from .compiler import compile_network
from .cost import DECODED_ANYWAY, TYPICAL, Choice, Cost, CostMode, Machine, Mode, faster, seconds
from .pool import Pool
from .program import BATCH, INPUT, Program
from .rows import blocks_of, gather_rows, walk
from .runner import activate, execute, register_runner, run, run_plain, runner_of, start
from .stacking import merge_alike, schedule
from .steps import Activate, Contract, Crop, Join, Pad, Permute, Run, Step

__all__ = [
    "BATCH",
    "DECODED_ANYWAY",
    "INPUT",
    "TYPICAL",
    "Activate",
    "Choice",
    "Contract",
    "Cost",
    "CostMode",
    "Crop",
    "Join",
    "Machine",
    "Mode",
    "Pad",
    "Permute",
    "Pool",
    "Program",
    "Run",
    "Step",
    "activate",
    "blocks_of",
    "compile_network",
    "execute",
    "faster",
    "gather_rows",
    "merge_alike",
    "register_runner",
    "run",
    "run_plain",
    "runner_of",
    "schedule",
    "seconds",
    "start",
    "walk",
]
