"""Analyze networks and the weights they generate: ranks, spectra, comparisons of families, drawings."""

from .comparison import Compared, Comparison, compare
from .compressibility import Compressibility, Needed, compressibility
from .cuts import Cut, light_cone, measure_cut, rank_bound
from .drawing import draw, summary
from .spectra import Analysis, Moments, analyze, inspect

__all__ = [
    "Analysis",
    "Compared",
    "Comparison",
    "Compressibility",
    "Cut",
    "Moments",
    "Needed",
    "analyze",
    "compare",
    "compressibility",
    "draw",
    "inspect",
    "light_cone",
    "measure_cut",
    "rank_bound",
    "summary",
]
