"""Sensitivity curves: the error of a weight against the number of parameters, over families, layouts and sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..arrays import relative_error, to_numpy
from ..base import Shape, track
from ..budget import at_budget
from ..errors import DeepTNError, LayoutError, MissingBackendError, SpecError
from ..fitting import Fit, can_alternate, decompose
from ..models import fit_arrays
from ..network import Network
from ..spec import Layout
from ..topologies import Topology, describe

#: Budgets that are tried for every layer, as fractions of its entries.
SHARES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8)

#: Sweeps of alternating least squares for families without a closed form, and steps of L-BFGS for nonlinear networks.
SWEEPS, STEPS = 20, 60


class Candidate(NamedTuple):
    """What a layer could become.

    Attributes
    ----------
    network : Network or None
        None: the layer stays dense.
    error : float
        ``‖W - W'‖ / ‖W‖``, by the closed form or a short fit; `compress` may find a smaller one.

    Examples
    --------
    >>> Candidate(None, 0.0).name
    'dense'
    """

    network: Network | None
    error: float

    @property
    def name(self) -> str:
        """The topology with its size, or "dense"."""
        return "dense" if self.network is None else describe(self.network.topology)


#: Smallest cosine between outputs that is told apart.
LEAST = 1e-3


class Sensitivity(NamedTuple):
    """What the error of a layer's weight counts.

    Attributes
    ----------
    importance : float
        A factor.
    measured : tuple of (float, float)
        Errors of the weight, from small to large, and by how much each changes the outputs of the model, both relative.
        Between them, logarithms are interpolated; outside them, changes are proportional to errors.

    Notes
    -----
    For outputs of equal norm, a relative change d leaves a cosine of ``1 − d²/2`` between the outputs before and after.
    The cosines of several layers multiply, so ``−2·log(1 − d²/2)`` is added up: d² for a small change, but much more
    for one after which nothing is left of the outputs. The sum of d² itself sacrifices one large layer to the others.

    Examples
    --------
    >>> Sensitivity()(0.5), Sensitivity(4.0)(0.5), round(Sensitivity(measured=((0.1, 0.3),))(0.2), 6)
    (0.25, 1.0, 0.396902)
    """

    importance: float = 1.0
    measured: tuple[tuple[float, float], ...] = ()

    def __call__(self, error: float) -> float:
        """Return what an error costs: its square, or that of the change that was measured, times the importance."""
        if not self.measured or not error:
            return self.importance * error**2
        errors, changes = np.array(self.measured).T
        within = float(np.clip(error, errors[0], errors[-1]))
        logarithms = np.log(np.maximum(changes, 1e-30))  # a change may be zero
        change = float(np.exp(np.interp(np.log(within), np.log(errors), logarithms)))
        kept = 1.0 - (change * error / within) ** 2 / 2.0
        return 0.0 - 2.0 * self.importance * math.log(max(LEAST, kept))


def curve(
    weight: np.ndarray, family: Topology, layout: Layout | None, budgets: Sequence[int], seed: int = 0
) -> list[Candidate]:
    """Return the networks of a family for some budgets, with the errors of their closed forms or short fits.

    Parameters
    ----------
    weight : array
        NumPy array of any floating-point dtype.
    family : Topology
    layout : Layout or None
        By default the family's own layout.
    budgets : sequence of int
        Numbers of parameters. A budget below the smallest network of the family is skipped.
    seed : int
        Seed of the starting points of fits by gradient.

    Examples
    --------
    >>> import deeptn as dtn
    >>> W = np.diag([8.0, 4.0, 2.0, 1.0]) @ np.ones((4, 12)) + np.eye(4, 12)
    >>> [(found.name, round(found.error, 3)) for found in curve(W, dtn.LowRank(), None, (16, 32))]
    [('LowRank(rank=1)', 0.052), ('LowRank(rank=2)', 0.042)]
    """
    networks: dict[Network, None] = {}
    for budget in budgets:
        try:
            networks[at_budget(family, weight.shape, budget, layout)] = None
        except (SpecError, LayoutError):
            continue
    return measured(weight, networks, seed)


def measured(weight: np.ndarray, networks: Iterable[Network], seed: int = 0) -> list[Candidate]:
    """Return the networks that are smaller than a weight, with the errors of their closed forms or short fits.

    Networks that have neither are left out.

    Examples
    --------
    >>> import deeptn as dtn
    >>> W, nets = np.eye(8), [dtn.network(dtn.LowRank(rank=rank), (8, 8)) for rank in (2, 8)]
    >>> [(found.name, round(found.error, 3)) for found in measured(W, nets)]
    [('LowRank(rank=2)', 0.866)]
    """
    dense = to_numpy(weight)
    found: list[Candidate] = []
    for net in track(list(networks), lambda net: describe(net.topology)):
        if net.num_params < dense.size:
            try:
                found.append(Candidate(net, _error(net, dense, seed)))
            except MissingBackendError:
                raise
            except DeepTNError:  # neither a closed form nor a fit, or too large for one
                continue
    return found


def layouts_of(family: Topology, shape: Shape) -> Iterator[Layout]:
    """Yield the layouts to try for a family: its own, and balanced factors with the legs in both orders.

    Examples
    --------
    >>> import deeptn as dtn
    >>> [(layout.factors, layout.order) for layout in layouts_of(dtn.TTMatrix(), (16, 64))]
    [(((4, 4), (8, 8)), 'interleaved'), (((16,), (8, 8)), 'rows'), (((16,), (8, 8)), 'interleaved')]
    """
    own = family.default_layout(shape)
    yield own
    if own != Layout.single(shape):
        for order in ("rows", "interleaved"):
            layout = Layout.balanced(shape, order=order, pad=True)
            if layout != own:
                yield layout


def _error(net: Network, dense: np.ndarray, seed: int) -> float:
    assert net.topology is not None
    if net.is_linear:
        try:
            return decompose(dense, net.topology, net.layout, sweeps=0).error
        except SpecError:
            if can_alternate(net):
                return decompose(dense, net.topology, net.layout, sweeps=SWEEPS).error
    single = dense.astype("complex64" if np.iscomplexobj(dense) else "float32")
    found = fit_arrays(net, single, None, Fit(method="lbfgs", steps=STEPS, seed=seed))
    return relative_error(net.materialize(found.params), dense)
