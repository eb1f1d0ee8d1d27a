"""The networks that a page compares, and what the comparison says in one sentence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from ..base import kilobytes
from ..errors import SpecError
from ..models import Report

Role: TypeAlias = Literal["dense", "chosen", "family", "control"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network in a comparison.

    Parameters
    ----------
    label : str
    role : {"dense", "chosen", "family", "control"}
        The network before compression; the one that the page is about; other topologies of the same size; controls.
    params, bytes : int, optional
        All parameters, and bytes at rest, of the whole model.
    scores, before : tuple of float
        One for each seed, higher is better: in the end, and before healing. All rows of a comparison have the same
        seeds in the same order.
    seconds : float, optional
        Wall time, the mean over the seeds.
    note : str
        What the row is, or why it has no scores.

    Examples
    --------
    >>> row = Row(label="narrower dense", params=1000, scores=(91.0, 93.0))
    >>> row.mean, round(row.sd, 3)
    (92.0, 1.414)
    """

    label: str
    role: Role = "control"
    params: int | None = None
    bytes: int | None = None
    scores: tuple[float, ...] = ()
    before: tuple[float, ...] = ()
    seconds: float | None = None
    note: str = ""

    def __post_init__(self):
        if self.role not in get_args(Role):
            raise SpecError(f"Row.role = {self.role!r}; expected one of {', '.join(get_args(Role))}")
        if isinstance(self.scores, (int, float)) or isinstance(self.before, (int, float)):
            raise SpecError(f"the scores of {self.label!r} are one number; write a tuple, such as scores=(91.0,)")
        if not all(math.isfinite(score) for score in (*self.scores, *self.before)):
            raise SpecError(f"the scores of {self.label!r} are not all finite: {self.scores}, {self.before}")

    @property
    def mean(self) -> float | None:
        """Mean score; None without scores."""
        return statistics.fmean(self.scores) if self.scores else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation of the scores; None with fewer than two."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def cells(self) -> tuple[str, ...]:
        """Text for a table: label, parameters, bytes, score before healing, score, seconds."""
        size = "–" if self.params is None else f"{self.params:,}"
        stored = "–" if self.bytes is None else f"{self.bytes:,}"
        took = "–" if self.seconds is None else f"{self.seconds:.1f}"
        return self.label, size, stored, _score(self.before), _score(self.scores), took


#: Rows with at most so many times the bytes of another one count as equally small.
SLACK = 1.05

#: Headings of `Row.cells`.
HEADINGS = ("network", "parameters", "bytes", "before healing", "score", "seconds")


def _score(scores: Sequence[float]) -> str:
    if not scores:
        return "–"
    mean = f"{statistics.fmean(scores):.4g}"
    return mean if len(scores) == 1 else f"{mean} ± {statistics.stdev(scores):.2g}"


def check_rows(rows: Sequence[Row]) -> None:
    """Raise `SpecError` if the rows do not have the same seeds, or several are chosen."""
    counts = {len(row.scores) for row in rows if row.scores}
    if len(counts) > 1:
        found = " and ".join(map(str, sorted(counts)))
        raise SpecError(f"the rows have {found} scores; expected the same seeds in all")
    for role in ("dense", "chosen"):
        if sum(row.role == role for row in rows) > 1:
            raise SpecError(f"several rows have the role {role!r}; expected one")


def takeaway(report: Report, rows: Sequence[Row] = (), score: str = "score") -> list[str]:
    """Return what a compression costs, in one sentence, and what limits that sentence.

    Parameters
    ----------
    report : Report
    rows : sequence of Row
        What is compared; one has the role ``"chosen"``.
    score : str
        What the scores are.

    Examples
    --------
    >>> from deeptn.models import Report
    >>> report = Report((), 1000, 100, 4000, 400)
    >>> rows = [Row(label="dense", role="dense", scores=(95.0,)), Row(label="plan", role="chosen", scores=(94.0,))]
    >>> print(takeaway(report, rows, "accuracy [%]")[0])
    With 10.0 % of the parameters, the accuracy [%] is 94, after 95 before compression.
    """
    share = f"{100 * report.model_after / max(1, report.model_before):.1f} %"
    chosen = next((row for row in rows if row.role == "chosen"), None)
    if chosen is None or chosen.mean is None:
        text = f"The model has {share} of its parameters, and {kilobytes(report.bytes_after)} at rest"
        if report.layers:
            worst = max(report.layers, key=lambda layer: layer.error)
            text += f"; the largest error of a weight is {worst.error:.3f}, in {worst.name!r}"
        return [f"{text}.", "No score was measured, so this page cannot say what that costs."]
    dense = next((row for row in rows if row.role == "dense" and row.scores), None)
    text = f"With {share} of the parameters, the {score} is {chosen.mean:.4g}"
    if dense is not None:
        text += f", after {dense.mean:.4g} before compression"
    rivals = [row for row in rows if row.role in ("family", "control") and row.scores and _as_small(row, chosen)]
    best = max((row for row in rivals if row.role == "control"), key=_mean, default=None)
    if best is not None:
        text += f"; the best control of that size, {best.label}, reaches {best.mean:.4g}"
    more = []
    other = max((row for row in rivals if row.role == "family"), key=_mean, default=None)
    ends = {": here, the networks are not worth their work": best, "": other}
    better = {end: row for end, row in ends.items() if row is not None and paired(chosen, row)[0] <= 0}
    more += [f"{row.label} is at least as good at this size{end}." for end, row in better.items()]
    rival = max(rivals, key=_mean, default=None)
    if rival is not None and not better:
        difference, sd = paired(chosen, rival)
        if sd is not None and difference < sd:
            more.append(f"The lead over {rival.label} is smaller than its standard deviation over the seeds.")
    if len(chosen.scores) == 1:
        more.append("This is one seed: small differences mean little.")
    return [f"{text}.", *more]


def _as_small(row: Row, chosen: Row) -> bool:
    """Return whether a row needs at most the bytes of the chosen one, which may be a few less than its limit."""
    return row.bytes is None or chosen.bytes is None or row.bytes <= SLACK * chosen.bytes


def paired(first: Row, second: Row) -> tuple[float, float | None]:
    """Return the mean difference of two rows over their seeds, and its standard deviation."""
    differences = [a - b for a, b in zip(first.scores, second.scores)]
    return statistics.fmean(differences), statistics.stdev(differences) if len(differences) > 1 else None


def _mean(row: Row) -> Any:
    return row.mean
