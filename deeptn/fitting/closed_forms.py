"""Closed forms: compute the parameters of a network from a given weight, if its family defines how."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..arrays import convert_params, norm_of, to_numpy
from ..base import Array, Params, positive_int
from ..budget import at_budget
from ..errors import LayoutError, SpecError
from ..init import weight_exponents
from ..network import Network, network
from ..spec import Layout
from ..topologies import Topology, describe
from ..topologies import topology as as_topology
from .alternating import alternate, balanced, can_alternate, default_sweeps, from_scratch, is_multilinear
from .bonds import within_budget
from .covariance import Covariance, LegMetric, error_of, metric_of

#: ALS stops improving a closed form when a sweep lowers the error by less than this fraction of it.
POLISH = 1e-4

#: Number of ALS sweeps that compare bond sizes for families without a closed form.
TRIAL = 20


class Decomposition(NamedTuple):
    """A network, its parameters, and the error of the weight it generates.

    Attributes
    ----------
    net : Network
    params : dict of str to array
    error : float
        ``‖W - W'‖ / ‖W‖`` (Frobenius), where W' is the generated weight; with a covariance, `Covariance.error`.

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> dtn.decompose(np.eye(4), dtn.LowRank(rank=2)).error == 0.5**0.5
    True
    """

    net: Network
    params: Params
    error: float


def decompose(
    weight: Array,
    topology: Topology | str,
    layout: Layout | None = None,
    *,
    budget: int | None = None,
    sweeps: int | None = None,
    covariance: Covariance | None = None,
) -> Decomposition:
    """Find the parameters of a linear network for a weight: by a closed form, and by alternating least squares (ALS).

    The closed forms are SVD, TT-SVD, TT-matrix SVD, hierarchical SVD, and HOOI (Tucker). ALS improves their result, and
    finds that of the other linear families (CP, tensor ring, Kronecker, PEPS, …), starting from the network of half the
    size and from random cores.

    Parameters
    ----------
    weight : array
        Array of NumPy, PyTorch or JAX.
    topology : Topology or str
        The family and the ranks to keep. It must be linear and share no parameters between nodes, or have a
        `Topology.closed_form`. A tree reproduces a tensor train of rank r without error if its bonds have size r² or
        more. A brick wall with legs of size 2 reproduces one of rank 2 in its first layer; further layers pass it
        through.
    layout : Layout, optional
        Defaults to the topology's own layout.
    budget : int, optional
        Maximum number of parameters. The ranks in the topology are then ignored; the family's bonds get the sizes that
        suit the weight best, as far as its singular values (for a ring, short fits) can tell. The result is at least as
        good as that of `at_budget` (before ALS).
    sweeps : int, optional
        Maximum number of ALS sweeps, by default 100, or fewer for a large weight. They end earlier if the error no
        longer falls. With 0, there are only closed forms.
    covariance : Covariance, optional
        Second moments C of the layer's inputs: what becomes small is then ``‖(W - W') C^½‖``, the error of its outputs.

    Returns
    -------
    Decomposition
        ``(net, params, error)``; the arrays have the library, dtype and device of the weight. All cores of a linear
        network have the same norm.

    Raises
    ------
    SpecError
        For a network that is neither linear nor has a closed form (fit it by gradient), a weight with non-finite
        entries, or a budget below the smallest network.

    Notes
    -----
    SVD is optimal in the Frobenius norm (Eckart-Young); TT-SVD is within √(number of bonds) of the optimum (Oseledets,
    SIAM J. Sci. Comput. 33, 2295 (2011)). HOOI starts from the HOSVD and finds a local optimum (De Lathauwer, De Moor &
    Vandewalle, SIAM J. Matrix Anal. Appl. 21, 1324 (2000)). With a covariance, closed forms start from the weight whose
    input legs are whitened one by one; with a single input leg (low rank), that is the optimum (Wang et al., SVD-LLM,
    arXiv:2403.07378). Trees are decomposed from the legs up to the root
    (Grasedyck, SIAM J. Matrix Anal. Appl. 31, 2029 (2010)). ALS never increases the error, and ends at a local optimum.

    Examples
    --------
    >>> import numpy as np, deeptn as dtn
    >>> W = np.outer(np.arange(1.0, 9.0), np.ones(16))
    >>> net, params, error = dtn.decompose(W, dtn.LowRank(rank=1))
    >>> round(error, 12)
    0.0
    >>> W = np.kron(np.diag([8.0, 4.0, 2.0, 1.0]), np.ones((4, 4)))
    >>> net, params, error = dtn.decompose(W, "TensorTrain", budget=110)
    >>> net.topology.rank, net.num_params, error < 1e-12
    ((2, 4, 4, 4, 2, 1, 1), 108, True)
    """
    family = as_topology(topology)
    shape = getattr(weight, "shape", None)
    if shape is None:
        raise LayoutError(f"weight must be an array, got {type(weight).__name__}")
    if sweeps is not None and (isinstance(sweeps, bool) or not isinstance(sweeps, int) or sweeps < 0):
        raise SpecError(f"sweeps = {sweeps!r}; expected a non-negative integer")
    dense = to_numpy(weight)
    if not np.isfinite(dense).all():
        raise SpecError("weight has entries that are not finite (nan or inf); it cannot be decomposed")
    unit = unit_of(dense)
    goal = dense / unit if unit else np.ones_like(dense)
    if budget is None:
        net = network(family, tuple(shape), layout)
    elif not unit:
        net = at_budget(family, tuple(shape), budget, layout)
    else:
        trial = TRIAL if sweeps is None else min(TRIAL, sweeps)
        budget = positive_int(budget, "budget")
        net = within_budget(family, goal, layout, budget, lambda net: _trial(net, goal, trial, covariance))
    params = _decomposed(net, goal, sweeps, covariance)
    if unit != 1:
        params = scaled(net, params, unit) if unit else zeroed(net, params)
    # Convert to the weight's dtype first, so that the error is that of the returned arrays.
    params = convert_params(params, weight)
    return Decomposition(net, params, error_of(net.materialize(params), weight, covariance))


def _closed_form(net: Network, goal: np.ndarray, metric: LegMetric | None) -> Params | None:
    """Return the parameters of the closed form; None if there is none."""
    assert net.topology is not None
    tensor = legs = net.layout.to_legs(goal)
    plain = net.topology.closed_form(net.spec, tensor)
    if plain is None or metric is None or not is_multilinear(net):
        return plain
    roots = metric.roots()
    for axis, leg in enumerate(net.layout.legs):
        if leg.name in roots:
            tensor = _along(tensor, axis, roots[leg.name])
    found = net.topology.closed_form(net.spec, tensor)
    assert found is not None
    names = [leg.name for leg in net.layout.legs]
    for number in net.spec.summands:
        stage = net.spec.stages[number]
        for inner, name in zip(stage.output, names):
            (node,) = (node for node in stage.nodes if inner in node.indices)
            if name in roots and node.param is not None:
                root = roots[name]
                inverse = 1 / root if root.ndim == 1 else np.linalg.inv(root)
                found[node.param] = _along(found[node.param], node.indices.index(inner), inverse)
    return min((plain, found), key=lambda params: metric.norm(legs - net.layout.to_legs(net.materialize(params))))


def _along(tensor: np.ndarray, axis: int, matrix: np.ndarray) -> np.ndarray:
    """Multiply one axis of a tensor by a symmetric matrix, or a diagonal."""
    moved = np.moveaxis(tensor, axis, -1)
    return np.moveaxis(moved * matrix if matrix.ndim == 1 else moved @ matrix, -1, axis)


def _trial(net: Network, goal: np.ndarray, sweeps: int, covariance: Covariance | None) -> float:
    """Return the error of the closed form or of a short fit; infinity if there is neither."""
    metric = metric_of(net, covariance)
    params = _closed_form(net, goal, metric)
    if params is not None:
        return error_of(net.materialize(params), goal, covariance)
    if sweeps and can_alternate(net, metric and metric.coupling):
        return min(from_scratch(net, goal, sweeps, metric=metric)[1])
    return math.inf


def _decomposed(net: Network, goal: np.ndarray, sweeps: int | None, covariance: Covariance | None) -> Params:
    """Return parameters from the closed form, improved by ALS, or by ALS alone."""
    metric = metric_of(net, covariance)
    params = _closed_form(net, goal, metric)
    if not is_multilinear(net):
        if params is None:
            raise SpecError(
                f"{describe(net.topology)} has no closed-form decomposition; fit it by gradient: "
                "deeptn_torch.fit(net, weight)"
            )
        return params
    if params is None and not can_alternate(net, metric and metric.coupling):
        raise SpecError(
            f"{describe(net.topology)} has cores too large for ALS; fit it by gradient: deeptn_torch.fit(net, weight)"
        )
    if sweeps is None:
        sweeps = default_sweeps(net, params is None, metric and metric.coupling)
    if params is not None and sweeps:
        params, _ = alternate(net, goal, params, sweeps, POLISH, metric)
    elif params is None and sweeps:
        params, _ = from_scratch(net, goal, sweeps, metric=metric)
    elif params is None:
        raise SpecError(f"{describe(net.topology)} has no closed-form decomposition; write sweeps=100 to fit it by ALS")
    return balanced(net, params)


def unit_of(weight: np.ndarray, safe: float = 1e100) -> float:
    """Return what a weight should be divided by, so that squares of its entries are normal numbers.

    That is 1 for a weight whose norm is between ``1 / safe`` and `safe`, else its root mean square; 0 if it is zero.

    Examples
    --------
    >>> unit_of(np.ones(3)), unit_of(np.full(3, 1e-200)), unit_of(np.zeros(3))
    (1.0, 1e-200, 0.0)
    """
    norm = norm_of(weight)
    return 1.0 if 1 / safe < norm < safe else norm / math.sqrt(weight.size)


def scaled(net: Network, params: Params, factor: float) -> Params:
    """Multiply the weight by a factor; see `deeptn.init.weight_exponents`, which says when that is possible."""
    powers = weight_exponents(net.spec)
    return {name: array * factor ** powers[name] if name in powers else array for name, array in params.items()}


def zeroed(net: Network, params: Params) -> Params:
    """Make the weight zero by one parameter of each stage that sums to it, so that gradients still flow into these."""
    held = [[node.param for node in net.spec.stages[k].nodes if node.param is not None] for k in net.spec.summands]
    names = {params_of_stage[-1] for params_of_stage in held if params_of_stage}
    return {name: array * 0 if name in names else array for name, array in params.items()}
