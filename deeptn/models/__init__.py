"""Operations on whole models: choose the layers to generate, compress, fold, report, train, save and load."""

from ..base import path_of
from .arguments import expect_model
from .batches import Batch, Batches, Data, Rows, as_data, check_labels, loss_for, one_pass, rows_of
from .calibration import Calibration, Receive, WatchedView, calibrate, unfolding
from .compress import compress, fold
from .files import from_stored, load_model, rounding_errors, save_model, size_of, to_stored
from .kinds import Kind, kind_of
from .matching import Matching
from .modes import Mode, check_mode, is_faster
from .report import LayerReport, Report, layer_report, report_on
from .rules import Rules, Target, as_network, matches, resolve, select
from .stored import StoredView, can_fit, fit_arrays
from .training import Epoch, History, Trainer, about_of, carry_out, check_loss, check_recipe, check_score, check_teacher
from .view import Entry, Generated, ModelView, Weight, at_rest, count, naming, refuse, tied, widened
from .views import library_of_model, view_of
from .work import Call, Store, Workers, groups, key_of

__all__ = [
    "Batch",
    "Batches",
    "Calibration",
    "Call",
    "Data",
    "Entry",
    "Epoch",
    "Generated",
    "History",
    "Kind",
    "LayerReport",
    "Matching",
    "Mode",
    "ModelView",
    "Receive",
    "Report",
    "Rows",
    "Rules",
    "Store",
    "StoredView",
    "Target",
    "Trainer",
    "WatchedView",
    "Weight",
    "Workers",
    "about_of",
    "as_data",
    "as_network",
    "at_rest",
    "calibrate",
    "can_fit",
    "carry_out",
    "check_labels",
    "check_loss",
    "check_mode",
    "check_recipe",
    "check_score",
    "check_teacher",
    "compress",
    "count",
    "expect_model",
    "fit_arrays",
    "fold",
    "from_stored",
    "groups",
    "is_faster",
    "key_of",
    "kind_of",
    "layer_report",
    "library_of_model",
    "load_model",
    "loss_for",
    "matches",
    "naming",
    "one_pass",
    "path_of",
    "refuse",
    "report_on",
    "resolve",
    "rounding_errors",
    "rows_of",
    "save_model",
    "select",
    "size_of",
    "tied",
    "to_stored",
    "unfolding",
    "view_of",
    "widened",
]
