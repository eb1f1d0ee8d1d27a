"""What is done to whole models: which layers are generated, by what, what it cost, and their files."""

from .compress import compress, fold
from .files import from_stored, load_model, save_model, to_stored
from .report import LayerReport, Report, layer_report
from .rules import Target, as_network, matches, resolve, select
from .view import Entry, Generated, ModelView, Weight, count, kind_of, own_method, path_of, refuse, tied

__all__ = [
    "Entry",
    "Generated",
    "LayerReport",
    "ModelView",
    "Report",
    "Target",
    "Weight",
    "as_network",
    "compress",
    "count",
    "fold",
    "from_stored",
    "kind_of",
    "layer_report",
    "load_model",
    "matches",
    "own_method",
    "path_of",
    "refuse",
    "resolve",
    "save_model",
    "select",
    "tied",
    "to_stored",
]
