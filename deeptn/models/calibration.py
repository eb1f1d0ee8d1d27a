"""Read the inputs of the layers of a model while it runs on data, so that fits count the errors of outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from ..arrays import dtype_of, to_numpy
from ..base import Array, Shape, track, warn
from ..errors import PlanError, SpecError
from ..fitting import Covariance
from .batches import length_of, one_pass
from .rules import select
from .view import Entry, ModelView, Weight, naming

#: Share of the second moments below which a variance is a rounding error.
_ROUNDING = 1e-9


class Receive(Protocol):
    """Takes inputs that a weight has met: rows of shape (…, size), or integers that choose rows of a table.

    `axis` is that of `deeptn.fitting.Covariance`: 1 if the inputs multiply the columns of the weight, 0 for its rows.
    """

    def __call__(self, name: str, inputs: Array, axis: Literal[0, 1] = 1) -> None: ...


class WatchedView(ModelView, Protocol):
    """A `ModelView` whose model can be watched while it runs."""

    def watched(
        self, names: Iterable[str], receive: Receive
    ) -> AbstractContextManager[tuple[Any, Callable[[Any], object]]]:
        """Return a model that passes on the inputs of weights, and a function that runs it on a batch."""
        ...


@dataclass(frozen=True)
class Calibration:
    """Second moments of the inputs of the layers of a model; `calibrate` makes it, `compress` uses it.

    Attributes
    ----------
    inputs : dict of str to Covariance
        By the names of the weights; fits use these.
    held_out : dict of str to Covariance
        The same on other data: reports state the errors on both.
    damping : float
        See `Covariance.damped`; for the fits alone.
    centers : dict of str to array
        Means of the inputs of layers that add a bias to W x. Their second moments, of held-out inputs too, are about
        these means: `compress` sets the bias to ``bias + (W - W') center``, which makes up for the rest.
    """

    inputs: Mapping[str, Covariance]
    held_out: Mapping[str, Covariance] = field(default_factory=dict)
    damping: float = 0.01
    centers: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)

    def for_fit(self, name: str) -> Covariance | None:
        """Return the covariance with which a weight is fitted; None if its inputs are unknown, or all zero."""
        found = self.inputs.get(name)
        return found.damped(self.damping) if found is not None and found.moments.any() else None

    def only(self, name: str) -> Calibration:
        """Return the part for one weight."""
        inputs, held_out = ({name: side[name]} if name in side else {} for side in (self.inputs, self.held_out))
        centers = {name: self.centers[name]} if name in self.centers else {}
        return Calibration(inputs, held_out, self.damping, centers)

    def parts(self, name: str) -> tuple[Any, ...]:
        """Return everything on which the fit of a weight depends."""
        found = self.for_fit(name)
        return () if found is None else (found.moments, found.axis)

    def shift(self, name: str, found: Array, weight: Array) -> np.ndarray | None:
        """Return what the bias of the layer gains if W becomes W'; None if it stays as it is."""
        center = self.centers.get(name)
        if center is None:
            return None
        dense, made = (to_numpy(array).reshape(len(array), -1) for array in (weight, found))
        return (dense - made) @ center

    def errors(self, name: str, found: Array, weight: Array) -> tuple[float | None, float | None]:
        """Return the relative error of a layer's outputs on the calibration data, and on held-out data."""
        known = self.inputs.get(name), self.held_out.get(name)
        error, held_out = (None if one is None else one.error(found, weight) for one in known)
        return error, held_out


def calibrate(
    view: WatchedView,
    data: Any,
    held_out: Any = None,
    targets: Iterable[str] = ("*",),
    ignore: Iterable[str] = (),
    damping: float = 0.01,
) -> Calibration:
    """Run a model on data, and sum up the inputs of its weights.

    Parameters
    ----------
    view : WatchedView
    data : iterable or callable
        As for training: arrays with one row per example, or batches (a `DataLoader`, a list). A batch is an array; a
        list or tuple, whose last entry has the labels, which do not matter here; or a mapping of keyword arguments. Or
        a function of the model that runs it on anything.
    held_out : iterable or callable, optional
        Other data, for reports: what a fit does to inputs that it has not seen.
    targets, ignore
        Patterns of weights, as in `deeptn.models.compress`.
    damping : float
        Share of the mean variance that fits add to every direction of the inputs; see `Covariance.damped`.

    Returns
    -------
    Calibration
        Weights that the data did not reach are left out.

    Raises
    ------
    SpecError
        If data has no batches, or an input is not finite.
    PlanError
        If a pattern matches no weight, or nothing was reached.

    Notes
    -----
    Layers that add a bias to W x need the second moments about the mean alone; see `Calibration.centers`. That leaves
    out biases that other layers share, and convolutions with groups, which differ in their means.

    Convolutions sum up patches, those with groups all groups together. Transposed convolutions count every position of
    the input by itself, as if its contributions to the output did not overlap. Embeddings count indices.
    """
    if not 0 <= damping < np.inf:
        raise SpecError(f"damping must be a number of at least 0, got {damping!r}")
    weights = {weight.name: weight for weight in view.weights()}
    chosen = {name for names in select(targets, list(weights), "targets").values() for name in names}
    left = {name for names in select(ignore, list(weights), "ignore").values() for name in names}
    weights = {name: weight for name, weight in weights.items() if name in chosen - left}
    found = _summed(view, data, weights, "data")
    if not found:
        listed = ", ".join(map(repr, list(weights)[:4]))
        raise PlanError(f"the data reached none of {listed}; check targets, or pass a function that calls the model")
    others = {} if held_out is None else _summed(view, held_out, weights, "held_out")
    biases = writable_biases(view, weights.values())
    centers = {name: one.mean for name, one in found.items() if name in biases and varies(one)}
    for name, center in centers.items():
        found[name] = found[name].about(center)
        if name in others:
            others[name] = others[name].about(center)
    return Calibration(found, others, damping, centers)


def writable_biases(view: ModelView, weights: Iterable[Weight]) -> dict[str, Entry]:
    """Return the entries of biases that can make up for errors of weights, by the names of the weights."""
    entries, found = view.entries(), dict[str, Entry]()
    users: dict[Hashable, set[str]] = {}
    for name, entry in entries.items():
        users.setdefault(entry.tie, set()).add(name)
    for weight in weights:
        entry = entries.get(weight.entry("bias")) if weight.affine else None
        if entry is None or entry.refused is not None or users[entry.tie] - weight.owned:
            continue
        if math.prod(entry.shape) == weight.shape[0]:
            found[weight.name] = entry
    return found


def varies(covariance: Covariance) -> bool:
    """Return whether inputs differ from their mean, by more than rounding; only if they multiply columns."""
    if covariance.diagonal or covariance.axis == 0:
        return False
    whole = float(np.trace(covariance.matrix))
    return whole - float(covariance.mean @ covariance.mean) > _ROUNDING * whole


def _summed(view: WatchedView, data: Any, weights: Mapping[str, Weight], what: str) -> dict[str, Covariance]:
    found: dict[str, Covariance] = {}

    def receive(name: str, inputs: Array, axis: Literal[0, 1] = 1) -> None:
        with naming(name):
            chooses, shape = "int" in dtype_of(inputs), weights[name].shape
            if name not in found:
                found[name] = Covariance(int(np.prod(shape[1:] if axis else shape[:1])), axis=axis, diagonal=chooses)
            (found[name].add_indices if chooses else found[name].add)(inputs)

    with view.watched(weights, receive) as (model, run):
        if callable(data):
            data(model)
        else:
            count = 0
            for batch in track(one_pass(data), what, None if hasattr(data, "shape") else length_of(data)):
                run(batch)
                count += 1
            if not count:
                raise SpecError(f"{what} has no batches; a generator can be used only once")
    return found


def warn_about_missing(missing: list[str]) -> None:
    """Warn about weights that are fitted without their inputs, if there are any."""
    if missing:
        listed = ", ".join(map(repr, missing[:5])) + (", …" if len(missing) > 5 else "")
        warn(f"the calibration data did not reach {listed}; fitted without the inputs")


def unfolding(shape: Shape, groups: int) -> np.ndarray:
    """Return the weight of a convolution whose output at a position is the patch of its input there, for every group.

    Padding, strides and dilation are then those of the layer itself.

    Parameters
    ----------
    shape : tuple of int
        Shape of the layer's own weight, ``(out, in // groups, *kernel size)``.

    Examples
    --------
    >>> unfolding((5, 1, 2), 1).tolist()
    [[[1.0, 0.0]], [[0.0, 1.0]]]
    """
    size = int(np.prod(shape[1:]))
    return np.tile(np.eye(size, dtype="float32"), (groups, 1)).reshape(groups * size, *shape[1:])
