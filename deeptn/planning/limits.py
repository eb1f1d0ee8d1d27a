"""Limits of a plan: what a budget allows, and what every weight costs, dense or generated."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arrays import numpy_dtype
from ..errors import PlanError, SpecError
from ..files import network_to_dict
from ..models import ModelView, Weight, count, size_of
from ..network import Network

#: What a budget can limit: parameters of the model, bytes of its file, operations per row.
KINDS = ("params", "bytes", "flops")

#: Bytes in the header of a file for one generated layer, beside its network.
HEADER = 60


class Limits:
    """The limits of a budget for the weights of a model that may become generated.

    Parameters
    ----------
    view : ModelView
    free : mapping of str to Weight
    budget : mapping of str to int or str

    Examples
    --------
    >>> import deeptn as dtn
    >>> view = dtn.models.StoredView(dtn.files.StoredModel({}, {"fc.weight": np.ones((8, 8)), "fc.bias": np.ones(8)}))
    >>> limits = Limits(view, {"fc": view.weights()[0]}, {"params": "50%"})
    >>> limits.limits, limits.fixed, limits.cost("fc", dtn.network(dtn.LowRank(rank=1), (8, 8)))
    ({'params': 36}, {'params': 8}, [16])
    """

    def __init__(self, view: ModelView, free: Mapping[str, Weight], budget: Mapping[str, Any]):
        if not isinstance(budget, Mapping) or not budget or not set(budget) <= set(KINDS):
            hint = "; for a drop of the score, call search_by_drop" if "drop" in str(budget) else ""
            raise PlanError(
                f"budget = {budget!r:.60}; write {{'params': 50_000}}, {{'params': '5%'}}, 'bytes' or 'flops'{hint}"
            )
        self.view, self.free, self.budget = view, free, dict(budget)
        self.totals = {kind: self._total(kind) for kind in {"params": None, **self.budget}}
        self.limits = {kind: limit_of(kind, value, self.totals[kind]) for kind, value in budget.items()}
        dense = np.array([self.cost(name, None) for name in free]).reshape(len(free), len(budget)).sum(0)
        self.fixed = {kind: self.totals[kind] - int(cost) for kind, cost in zip(self.limits, dense)}
        self.fixed_params = self.totals["params"] - sum(math.prod(weight.shape) for weight in free.values())
        self.slack = dict.fromkeys(self.limits, 0)

    def _total(self, kind: str) -> int:
        """Return what the model costs before."""
        if kind == "params":
            return count(self.view)
        if kind == "flops":
            return sum(self._flops(weight, weight.network) for weight in self.view.weights())
        try:
            return size_of(self.view, {})
        except (SpecError, TypeError) as error:
            raise PlanError(f"the size of the file is not known: {error}") from error

    @property
    def left(self) -> list[int]:
        """What the weights may cost together."""
        return [self.limits[kind] - self.fixed[kind] - self.slack[kind] for kind in self.limits]

    def cost(self, name: str, net: Network | None) -> list[int]:
        """Return what a weight costs, for every limit; it is dense if the network is None."""
        weight = self.free[name]
        params = math.prod(weight.shape) if net is None else net.num_params
        found: dict[str, int] = {"params": params}
        if "bytes" in self.budget:
            found["bytes"] = params * numpy_dtype(weight.dtype or "float32").itemsize
            found["bytes"] += 0 if net is None else len(str(network_to_dict(net))) + len(name) + HEADER
        if "flops" in self.budget:
            found["flops"] = self._flops(weight, net)
        return [found[kind] for kind in self.budget]

    def about(self, chosen: Mapping[str, Network | None]) -> dict[str, int]:
        """Return what the model costs with the chosen networks; the header of its file is estimated."""
        costs = np.array([self.cost(name, net) for name, net in chosen.items()]).reshape(-1, len(self.limits)).sum(0)
        return {kind: self.fixed[kind] + int(cost) for kind, cost in zip(self.limits, costs)}

    def after(self, chosen: Mapping[str, Network | None]) -> dict[str, int]:
        """Return what the model costs with the chosen networks, exactly."""
        found = self.about(chosen)
        if "bytes" in found:
            found["bytes"] = size_of(self.view, {name: net for name, net in chosen.items() if net is not None})
        return found

    def spare(self, chosen: Mapping[str, Network | None]) -> int:
        """Return how many parameters could be added to one of the chosen networks, roughly."""
        left = {kind: self.limits[kind] - self.slack[kind] - cost for kind, cost in self.about(chosen).items()}
        size = max((numpy_dtype(weight.dtype or "float32").itemsize for weight in self.free.values()), default=1)
        return max(
            0, min((left[kind] // (size if kind == "bytes" else 1) for kind in left if kind != "flops"), default=0)
        )

    def allow(self, chosen: Mapping[str, Network | None]) -> bool:
        """Return whether all limits are kept with the chosen networks, exactly."""
        after = self.after(chosen)
        return all(after[kind] <= limit for kind, limit in self.limits.items())

    def calibrate(self, kind: str, chosen: Mapping[str, Network | None]) -> None:
        """Correct the estimates of one kind as if they were wrong by as much as for the chosen networks."""
        self.slack[kind] = self.after(chosen)[kind] - self.about(chosen)[kind]

    def tighten(self, chosen: Mapping[str, Network | None]) -> bool:
        """Return whether all limits are kept; where they are not, allow less from now on."""
        over = {kind: max(0, after - self.limits[kind]) for kind, after in self.after(chosen).items()}
        self.slack = {kind: slack + over[kind] for kind, slack in self.slack.items()}
        return not any(over.values())

    @staticmethod
    def _flops(weight: Weight, net: Network | None) -> int:
        """Return the operations for one row; a dense weight is a matrix, or a table that is only read."""
        dense = 0 if weight.kind.startswith("embedding") else 2 * math.prod(weight.shape)
        if net is None or not net.is_linear or len(weight.shape) != 2:
            return dense
        return min(dense, net.cost("apply", 1).flops)


def limit_of(kind: str, value: Any, total: int) -> int:
    """Return the largest number that one entry of a budget allows.

    Parameters
    ----------
    kind : str
        For the error message.
    value : int or str
        A number, or a percentage of `total`.
    total : int

    Raises
    ------
    PlanError
        For anything else.

    Examples
    --------
    >>> limit_of("params", "5%", 48_000)
    2400
    """
    share, found = math.nan, 0
    try:
        if isinstance(value, str) and value.endswith("%"):
            share = float(value[:-1])
        elif not isinstance(value, bool):
            found = int(value) if isinstance(value, str) else operator.index(value)
    except (TypeError, ValueError):
        pass
    if 0 < share <= 100:
        found = int(total * share / 100)
        if found < 1:
            raise PlanError(f"budget: {kind!r} is {value!r}, which is less than 1 of {total:,}")
    if found < 1:
        raise PlanError(
            f"budget: {kind!r} is {value!r:.40}; expected a positive whole number or a percentage such as '5%', "
            "up to '100%'"
        )
    return found
