"""Test topologies as data: names, fields, JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

import deeptn as dtn
from deeptn.topologies import topology_from_dict, topology_to_dict


@pytest.mark.parametrize(
    "family",
    [
        dtn.BrickWall(layers=3, activation="leaky_relu:0.2", normalize=None),
        dtn.TensorTrain(rank=(2, 3)),
        dtn.Graph(nodes={"A": "ax", "B": "xb"}, sizes={"x": 3}, output="ab"),
    ],
)
def test_topologies_survive_json(family):
    again = topology_from_dict(json.loads(json.dumps(topology_to_dict(family))))
    assert again == family
    assert hash(again) == hash(family)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "Nope"}, "unknown topology"),
        ({"layers": 2}, "needs a 'name'"),
        ({"name": "Tree", "rnk": 2}, "did you mean 'rank'"),
        ({"name": "Tree", "rank": 0}, "at least 1"),
    ],
)
def test_bad_topology_json(data, message):
    with pytest.raises(dtn.FormatError, match=message):
        topology_from_dict(data)


def test_numpy_integers_are_integers():
    family = dtn.BrickWall(layers=np.int64(2))  # type: ignore[arg-type]
    layout = dtn.Layout((4, 4), order=tuple(np.array([3, 1, 0, 2])))
    assert json.dumps(topology_to_dict(family))
    assert json.dumps(layout.to_dict())
