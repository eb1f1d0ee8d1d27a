"""What is done to whole models: which layers are generated, by what, and what it cost."""

from .report import LayerReport, Report, layer_report
from .rules import Target, as_network, matches, resolve, select

__all__ = [
    "LayerReport",
    "Report",
    "Target",
    "as_network",
    "layer_report",
    "matches",
    "resolve",
    "select",
]
