"""What is done to whole models: which layers are generated, by what, and what it cost."""

from .modes import Mode, check_mode, is_faster
from .report import LayerReport, Report, layer_report
from .rules import Target, as_network, matches, resolve, select
from .training import Trainer, carry_out, check_loss, check_teacher

__all__ = [
    "LayerReport",
    "Mode",
    "Report",
    "Target",
    "Trainer",
    "as_network",
    "carry_out",
    "check_loss",
    "check_mode",
    "check_teacher",
    "is_faster",
    "layer_report",
    "matches",
    "resolve",
    "select",
]
