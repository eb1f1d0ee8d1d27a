"""Place the vertices of a graph in the plane, for drawings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: At most so many iterations of the stress majorization, and of moving vertices apart; fewer for very large graphs.
ROUNDS, EFFORT = 200, 4e7


def spread(count: int, edges: Sequence[tuple[int, int]], apart: float) -> np.ndarray:
    """Place vertices so that their distances are like those in the graph, and at least `apart`.

    Parameters
    ----------
    count : int
        Number of vertices, at least 1.
    edges : sequence of (int, int)
        Each has about length 1.
    apart : float
        Smallest distance between two vertices.

    Returns
    -------
    array of shape (count, 2)
        The same for the same graph on one machine. Edges are as horizontal and vertical as a rotation can make them.

    Notes
    -----
    Stress majorization from classical scaling: Gansner, Koren & North, "Graph drawing by stress majorization" (2004).

    Examples
    --------
    >>> places = spread(3, [(0, 1), (1, 2)], apart=0.5)
    >>> places.shape, bool(np.linalg.norm(places[0] - places[2]) > 1.9)
    ((3, 2), True)
    """
    from scipy.sparse import coo_array  # slow to import, and only drawings need it
    from scipy.sparse.csgraph import shortest_path

    if count == 1:
        return np.zeros((1, 2))
    rounds = min(ROUNDS, int(EFFORT / count**2))
    ends = np.asarray([*edges], dtype=int).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), (count, count))
    distance = shortest_path(graph, directed=False, unweighted=True)
    distance[np.isinf(distance)] = 1.0 + max(1.0, distance[np.isfinite(distance)].max())  # parts without a bond
    center = np.eye(count) - 1.0 / count
    values, vectors = np.linalg.eigh(-0.5 * center @ distance**2 @ center)
    places = vectors[:, -2:] * np.sqrt(np.abs(values[-2:]))
    angles = 2.4 * np.arange(count)  # vertices with the same neighbors must not start at the same point
    places = places + 0.05 * np.stack([np.cos(angles), np.sin(angles)], 1)
    away = ~np.eye(count, dtype=bool)
    weights = np.where(away, 1.0 / np.where(away, distance, 1.0) ** 2, 0.0)
    inverse = np.linalg.pinv(np.diag(weights.sum(1)) - weights)
    for _ in range(rounds):
        found = np.linalg.norm(places[:, None] - places[None], axis=-1) + ~away
        pull = weights * distance / np.maximum(found, 1e-9)
        places = inverse @ ((np.diag(pull.sum(1)) - pull) @ places)
    if len(ends):
        along = (places[ends[:, 0]] - places[ends[:, 1]]) @ np.array([1.0, 1.0j])
        turn = np.angle((along**4).sum()) / 4
        places = places @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    for _ in range(rounds):
        step = places[:, None] - places[None]
        found = np.linalg.norm(step, axis=-1) + 9.0 * apart * ~away
        lack = np.maximum(1.01 * apart - found, 0.0)
        if not lack.any():
            break
        places = places + (step * (lack / 2 / np.maximum(found, 1e-9))[..., None]).sum(1)
    found = np.linalg.norm(places[:, None] - places[None], axis=-1)[away]
    return places * max(1.0, apart / max(float(found.min()), 1e-9))
