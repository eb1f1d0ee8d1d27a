"""Test files of models, as NumPy reads and writes them."""

from __future__ import annotations

import numpy as np
import pytest

import deeptn as dtn
from deeptn.files import StoredLayer, StoredModel


@pytest.mark.parametrize("bare_first", [True, False])
def test_equal_networks_are_stored_once_and_with_their_family(bare_first, tmp_path):
    net = dtn.network(dtn.TTMatrix(rank=2), (10, 64))
    bare = dtn.Network(net.spec, net.layout)
    assert bare == net
    assert bare.topology is None
    nets = (bare, net) if bare_first else (net, bare)
    layers = {name: StoredLayer("linear", one, net.init(seed=k), None) for k, (name, one) in enumerate(zip("ab", nets))}
    dtn.save_model(StoredModel(layers, {}), tmp_path / "m")
    read = dtn.load_model(tmp_path / "m").layers
    assert [layer.network.topology for layer in read.values()] == [dtn.TTMatrix(rank=2)] * 2
    dtn.save_model(StoredModel({"a": layers["a"]}, {}), tmp_path / "one")
    assert (tmp_path / "m").stat().st_size < 2 * (tmp_path / "one").stat().st_size


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("fc.cores", "belongs to the generated layer 'fc'; rename it"),
        ("fc.cores.U", "belongs to the generated layer 'fc'; rename it"),
        ("fc.cores.zzz", "belongs to the generated layer 'fc'; rename it"),
        ("fc.bias", "belongs to the generated layer 'fc'; rename it"),
        ("__metadata__", "safetensors files keep their header there"),
        ("a\ud800", "is not valid Unicode"),
    ],
)
def test_names_that_are_taken(name, match, tmp_path):
    net = dtn.network(dtn.LowRank(rank=2), (6, 4))
    layers = {"fc": StoredLayer("linear", net, net.init(), None)}
    (tmp_path / "m").write_text("old")
    with pytest.raises(dtn.SpecError, match=match):
        dtn.save_model(StoredModel(layers, {name: np.ones(6, "float32")}), tmp_path / "m")
    assert (tmp_path / "m").read_text() == "old"
    dtn.save_model(StoredModel(layers, {"fc.cores2": np.ones(6), "cores.fc": np.ones(6)}), tmp_path / "m")
    assert dtn.load_model(tmp_path / "m").tensors.keys() == {"fc.cores2", "cores.fc"}
