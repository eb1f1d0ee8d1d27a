"""Fit the weights of a model one after another, each to the outputs of the original model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from ..arrays import dtype_of, to_numpy, to_raw
from ..base import Array, Shape
from ..errors import PlanError, SpecError
from ..fitting import Covariance
from .batches import one_pass
from .calibration import WatchedView, varies
from .view import naming


class Matching:
    """Data on which a compressed model should do layer by layer what the original does; for ``compress(calibration=)``.

    A layer of a compressed model gets other inputs than that of the original, because the layers before it are
    compressed. So each weight, in the order in which the model uses them, is fitted to the outputs of the original:
    ``‖W X - W' X'‖`` is minimized, where X are the inputs in the original model, and X' those in the model of which
    the layers before are compressed already.

    Parameters
    ----------
    data : iterable
        Batches, as for `calibrate`. They are run once for every weight.
    held_out : iterable, optional
        Other data, for the report.
    damping : float
        As for `calibrate`.

    Notes
    -----
    The minimum without a network is ``W E[X X'ᵀ] E[X' X'ᵀ]⁻¹``; a network is fitted to that, with the covariance of X'.
    Layers that add a bias are matched up to it: the moments are about the means, and the bias makes up for these.
    Recurrent modules are matched as if their states were inputs that do not depend on the weight.

    Examples
    --------
    >>> import deeptn as dtn, torch
    >>> from deeptn_torch import compress
    >>> model = torch.nn.Sequential(torch.nn.Linear(20, 16), torch.nn.ReLU(), torch.nn.Linear(16, 12))
    >>> rules = {"*": dtn.LowRank(rank=4)}
    >>> small, report = compress(model, rules, calibration=Matching([torch.randn(200, 20)]))
    >>> [layer.output_error is not None for layer in report.layers]
    [True, True]
    """

    def __init__(self, data: Any, held_out: Any = None, damping: float = 0.01):
        if callable(data) or callable(held_out):
            raise SpecError("matching runs two models on the same batches; pass batches, not a function")
        if not 0 <= damping < math.inf:
            raise SpecError(f"damping must be a number of at least 0, got {damping!r}")
        if any(iter(one) is one for one in (data, held_out) if one is not None):
            raise SpecError("the data can be iterated only once, but every weight needs it; pass list(data)")
        self.data, self.held_out, self.damping = data, held_out, damping

    def pair(
        self, original: WatchedView, view: WatchedView, name: str, shape: Shape, has_bias: bool
    ) -> tuple[Pair | None, Pair | None]:
        """Return the moments of the inputs of one weight in both models; None if the data does not reach it."""
        found, held_out = (
            None if data is None else _paired(original, view, name, shape, data) for data in (self.data, self.held_out)
        )
        if found is not None and has_bias and varies(found.own) and varies(found.other):
            means = found.own.mean, found.other.mean
            return found.about(means), None if held_out is None else held_out.about(means)
        return found, held_out


class Pair:
    """Second moments of the inputs of a weight in two models, x in the original and y in the other."""

    def __init__(self, size: int, axis: Literal[0, 1], diagonal: bool):
        self.own = Covariance(size, axis=axis, diagonal=diagonal)
        self.other = Covariance(size, axis=axis, diagonal=diagonal)
        self._cross = None if diagonal else np.zeros((size, size))
        self._centers: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, x: Array, y: Array) -> None:
        """Add inputs of both models, row by row those of the same example."""
        if tuple(x.shape) != tuple(y.shape):
            raise SpecError(
                f"the inputs have shape {tuple(x.shape)} in the original model, but {tuple(y.shape)} in the other"
            )
        if self._cross is None:  # both look up the same rows
            self.own.add_indices(x)
            self.other.add_indices(y)
            return
        self.own.add(x)
        self.other.add(y)
        self._cross += to_numpy(x).reshape(-1, len(self._cross)).T @ to_numpy(y).reshape(-1, len(self._cross))

    def about(self, centers: tuple[np.ndarray, np.ndarray]) -> Pair:
        """Return the moments of ``x - centers[0]`` and ``y - centers[1]``."""
        assert self._cross is not None, "inputs that choose rows have no bias"
        found = Pair(self.own.size, self.own.axis, diagonal=False)
        found.own, found.other, found._centers = self.own.about(centers[0]), self.other.about(centers[1]), centers
        # Σ (x - c)(y - d)ᵀ = Σ x yᵀ - Σx dᵀ - c Σ(y - d)ᵀ
        rest = self.other.count * found.other.mean
        found._cross = self._cross - np.outer(self.own.count * self.own.mean, centers[1]) - np.outer(centers[0], rest)
        return found

    def for_fit(self, damping: float) -> Covariance | None:
        """Return the covariance of y with which the weight is fitted; None if all inputs are zero."""
        return self.other.damped(damping) if self.other.moments.any() else None

    def shift(self, found: Array, weight: np.ndarray) -> np.ndarray | None:
        """Return what the bias of the layer gains if W becomes W'; None if it stays as it is."""
        if self._centers is None:
            return None
        dense, made = (to_numpy(array).reshape(len(array), -1).astype(np.float64) for array in (weight, found))
        return dense @ self._centers[0] - made @ self._centers[1]

    def goal(self, weight: np.ndarray, damping: float) -> np.ndarray:
        """Return the weight that makes of y what the original makes of x."""
        if self._cross is None:
            return weight
        flat = weight.reshape(len(weight), -1).astype(np.float64)
        extra = damping * np.trace(self.other.matrix) / self.other.size * np.eye(self.other.size)
        cross, moments = self._cross / self.other.count + extra, self.other.matrix + extra
        # Inputs without any variance leave their columns as they are.
        dead = np.eye(len(moments)) * (np.finfo(float).eps * max(np.trace(moments), np.finfo(float).tiny))
        if self.own.axis == 0:
            return np.linalg.solve(moments + dead, (cross + dead).T @ flat).reshape(weight.shape)
        return np.linalg.solve(moments + dead, (flat @ (cross + dead)).T).T.reshape(weight.shape)

    def error(self, found: Array, weight: Array) -> float:
        """Return ``‖W X - W' X'‖ / ‖W X‖``."""
        if self._cross is None:
            return self.own.error(found, weight)
        dense, made = (to_numpy(array).reshape(len(array), -1).astype(np.float64) for array in (weight, found))
        scale, rest = self.own.norm(dense), self.other.norm(made)
        cross = self._cross / self.own.count
        product = (dense * (cross @ made)).sum() if self.own.axis == 0 else ((dense @ cross) * made).sum()
        gap = math.sqrt(max(scale**2 - 2 * float(product) + rest**2, 0.0))
        return gap / scale if scale else (0.0 if gap == 0.0 else math.inf)


def _paired(original: WatchedView, view: WatchedView, name: str, shape: Shape, data: Iterable[Any]) -> Pair | None:
    seen: tuple[list[tuple[Array, Literal[0, 1]]], ...] = [], []
    pair: Pair | None = None

    def receiver(side: int) -> Any:
        def receive(name: str, inputs: Array, axis: Literal[0, 1] = 1) -> None:
            # A copy, because the model may write into its inputs afterwards.
            kept = to_raw(inputs) if "int" in dtype_of(inputs) else to_numpy(inputs)
            seen[side].append((np.array(kept), axis))

        return receive

    with (
        naming(name),
        original.watched([name], receiver(0)) as (_, run_original),
        view.watched([name], receiver(1)) as (_, run),
    ):
        for batch in one_pass(data):
            run_original(batch)
            run(batch)
            if len(seen[0]) != len(seen[1]):
                raise PlanError("is called another number of times in the compressed model; calibrate without matching")
            for (x, axis), (y, _) in zip(*seen):
                if pair is None:
                    size = math.prod(shape[1:] if axis else shape[:1])
                    pair = Pair(size, axis, "int" in dtype_of(x))
                pair.add(x, y)
            for side in seen:
                side.clear()
    return pair


def order_of_use(view: WatchedView, names: Iterable[str], data: Iterable[Any]) -> list[str]:
    """Return names of weights in the order in which a model uses them; those that it does not use come last."""
    found: dict[str, None] = {}
    names = list(names)

    def receive(name: str, inputs: Array, axis: Literal[0, 1] = 1) -> None:
        found.setdefault(name)

    with view.watched(names, receive) as (_, run):
        for batch in one_pass(data):
            run(batch)
            break
        else:
            raise SpecError("data has no batches")
    return [*found, *(name for name in names if name not in found)]


def errors_of(pairs: tuple[Pair | None, Pair | None], found: Array, weight: Array) -> Mapping[str, float | None]:
    """Return the errors of outputs for a report."""
    errors = [None if pair is None else pair.error(found, weight) for pair in pairs]
    return {"output_error": errors[0], "held_out_error": errors[1]}
