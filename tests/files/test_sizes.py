"""Check that files are as small as the networks in them."""

from __future__ import annotations

import numpy as np
import pytest

import deeptn as dtn
from deeptn.files import StoredLayer, StoredModel

from ..market import NETWORKS
from ..tiers import grid

KB = 1024
#: Bytes that a file may contain in addition to its numbers: once, per tensor, and per node of a network that no
#: topology builds.
ONCE, DENSE, NODE = 4 * KB, 128, 48
#: All families at their defaults, and the networks of the other tests.
FAMILIES = dtn.topologies.topology_names()
ALL = {name: dtn.network(name, (24, 20)) for name in FAMILIES} | NETWORKS
OWN = {"family": False, "own": True}


def size(model: StoredModel, folder) -> int:
    dtn.save_model(model, folder / "m.safetensors")
    return (folder / "m.safetensors").stat().st_size


def numbers(*networks: dtn.Network) -> float:
    """Return the bytes allowed for parameters in single precision, and for nodes that no topology builds."""
    nodes = sum(len(net.spec.nodes) for net in networks if net.topology is None)
    return 1.1 * sum(4 * net.num_params for net in networks) + NODE * nodes


def test_the_vgg16_layers_of_the_paper(tmp_path):
    wall = dtn.network(dtn.BrickWall(layers=1), (4096, 4096))
    dtn.save(tmp_path / "w", wall, wall.init())
    assert wall.num_params == 224
    assert (tmp_path / "w").stat().st_size <= 1.6 * 1000
    nets = {"classifier.0": dtn.network(dtn.BrickWall(layers=1), (4096, 512)), "classifier.3": wall}
    layers = {name: StoredLayer("linear", net, net.init(), None) for name, net in nets.items()}
    assert sum(net.num_params for net in nets.values()) == 424
    assert size(StoredModel(layers, {}), tmp_path) <= 3 * 1000


@grid(
    lambda name, own: name in FAMILIES and (own == "family" or name in "BrickWall MERA TTMatrix"),
    name=list(ALL),
    own=OWN,
)
def test_any_network(name, own, tmp_path):
    net = dtn.Network(ALL[name].spec, ALL[name].layout) if own else ALL[name]
    layers = {"layer": StoredLayer("linear", net, net.init(), None)}
    assert size(StoredModel(layers, {}), tmp_path) <= ONCE + numbers(net)


def test_a_large_network_of_many_tensors(tmp_path):
    """The overhead of a file does not grow with the network if a topology builds it."""
    for layers in (1, 16):
        net = dtn.network(dtn.BrickWall(layers=layers), (1024, 1024))
        dtn.save(tmp_path / "w", net, net.init())
        assert (tmp_path / "w").stat().st_size - 4 * net.num_params < 700


@pytest.mark.slow
def test_a_model_of_many_layers(tmp_path):
    """Equal networks are described once."""
    net = dtn.network(dtn.BrickWall(layers=4), (512, 512))
    names = [f"encoder.layers.{k}.self_attn.{part}" for k in range(24) for part in ("q", "k", "v", "out")]
    layers = {name: StoredLayer("linear", net, net.init(seed=k), None) for k, name in enumerate(names)}
    rest = {f"encoder.layers.{k}.norm{n}.weight": np.ones(512, "float32") for k in range(24) for n in (1, 2)}
    bound = ONCE + numbers(*[net] * len(names)) + sum(DENSE + array.nbytes for array in rest.values())
    assert size(StoredModel(layers, rest), tmp_path) <= bound


def test_what_several_layers_share_is_stored_once(tmp_path):
    net = dtn.network(dtn.TTMatrix(rank=8), (256, 256))
    params = net.init()
    first = next(iter(params))
    one = StoredLayer("linear", net, params, None)
    other = StoredLayer("linear", net, net.init(seed=1) | {first: params[first]}, None)
    alone = size(StoredModel({"a": one}, {}), tmp_path)
    assert size(StoredModel({"a": one, "b": one, "c": one}, {}), tmp_path) < alone + 300
    stored = StoredModel({"a": one, "b": one, "c": other}, {})
    assert size(stored, tmp_path) < 2 * alone - 4 * params[first].size + 300
    read = dtn.load_model(tmp_path / "m.safetensors").layers
    for name, layer in stored.layers.items():
        for core, array in layer.params.items():
            np.testing.assert_array_equal(read[name].params[core], array)


@pytest.mark.parametrize("dtypes", [("float16", "float32"), ("complex64", "complex64"), ("float64", "complex128")])
def test_cores_of_several_dtypes(dtypes, tmp_path):
    net = dtn.network(dtn.TTMatrix(rank=3), (24, 20))
    cores = enumerate(net.init(dtype="float64").items())
    params = {}
    for k, (name, array) in cores:
        whole = array + 2j * array if dtypes[k % 2].startswith("c") else array
        params[name] = whole.astype(dtypes[k % 2])
    dtn.save(tmp_path / "w", net, params)
    read = dtn.load(tmp_path / "w")[1]
    for name, array in params.items():
        assert read[name].dtype == array.dtype
        assert read[name].tobytes() == array.tobytes()
