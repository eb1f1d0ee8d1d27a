"""Test files: round trips, and damaged or hostile files."""

from __future__ import annotations

import base64
import copy
import json
import math
import os
import struct
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import deeptn as dtn
from deeptn.arrays import to_numpy
from deeptn.base import write_atomically
from deeptn.files import HEADER, network_from_dict, network_to_dict
from deeptn.topologies import register_topology, registry

from ..conftest import DTYPES, UNSUPPORTED
from ..market import NETWORKS

DATA = Path(__file__).parents[1] / "data"


@pytest.mark.few(35)
@pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS)
def test_round_trip(net, tmp_path):
    params = net.init(seed=1)
    dtn.save(tmp_path / "w.safetensors", net, params)
    again, arrays = dtn.load(tmp_path / "w.safetensors")
    assert again == net
    assert again.topology == net.topology
    assert all(np.array_equal(arrays[name], params[name]) for name in params)
    assert list(tmp_path.iterdir()) == [tmp_path / "w.safetensors"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_survive(dtype, library, tmp_path):
    if (library, dtype) in UNSUPPORTED:
        return
    net = dtn.network(dtn.BrickWall(layers=2, activation=None), (12, 10))
    params = net.init(seed=1, like=library, dtype=dtype)
    dtn.save(tmp_path / "w", net, params)
    _, arrays = dtn.load(tmp_path / "w", like=library)
    for name, array in params.items():
        assert str(arrays[name].dtype) == str(array.dtype)
        assert np.array_equal(to_numpy(arrays[name]), to_numpy(array))


def test_half_precision_is_read_in_a_process_that_has_not_met_it(tmp_path, torch):
    net = dtn.network(dtn.LowRank(rank=1), (4, 4))
    dtn.save(tmp_path / "w", net, net.init(like="torch", dtype="bfloat16"))
    old = DATA / "network-1-bfloat16.safetensors"
    code = """
import sys, deeptn
assert not {"safetensors", "ml_dtypes"} & sys.modules.keys()
print(*(array.dtype for path in sys.argv[1:] for array in deeptn.load(path)[1].values()))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "w"), str(old)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert set(said.split()) == {"float32"}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_described_once(name):
    """A file describes a network by its family and layout if these build it, otherwise by its specification."""
    net = NETWORKS[name]
    data = described(net)
    assert ("spec" in data) == (net.topology is None)
    own = dtn.Network(net.spec, net.layout)
    assert "topology" not in described(own)
    assert network_from_dict(network_to_dict(own)) == own


def described(net: dtn.Network) -> dict:
    """Return the description of a network, decompressed."""
    data = json.loads(json.dumps(network_to_dict(net)))
    return json.loads(zlib.decompress(base64.b64decode(data["deflate"]))) if "deflate" in data else data


@dataclass(frozen=True, kw_only=True)
class Somebodys(dtn.LowRank):
    """A family that is registered here, but maybe not where a file is read."""


@pytest.mark.parametrize("topology", [Somebodys(rank=2), dtn.Sum(terms=(dtn.LowRank(), Somebodys(rank=2)))])
def test_a_family_of_your_own_is_read_without_it(topology, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", copy.deepcopy(registry._REGISTRY))
    register_topology(Somebodys)
    net = dtn.network(topology, (4, 6))
    data = described(net)
    assert network_from_dict(data).topology == topology
    data["topology"] = json.loads(json.dumps(data["topology"]).replace("Somebodys", "Nobodys"))
    assert network_from_dict(data) == net
    assert network_from_dict(data).topology is None
    data["topology"] = {"name": "LowRank", "rank": 3}
    assert network_from_dict(data) == net
    assert network_from_dict(data).topology is None


def test_a_family_that_builds_another_network_today_is_an_error():
    data = described(NETWORKS["tree-relu"])
    for change, message in (
        ({"topology": data["topology"] | {"rank": 7}}, "builds a different network"),
        ({"digest": "0" * 16}, "builds a different network"),
        ({"topology": data["topology"] | {"name": "OakTree"}}, "cannot build the network"),
        ({"topology": None}, "cannot build the network"),
    ):
        with pytest.raises(dtn.FormatError, match=message):
            network_from_dict(data | change)


def safetensors(metadata: dict, tensors: dict | None = None, raw: bytes = b"") -> bytes:
    """Build a safetensors file by hand."""
    text = json.dumps({"__metadata__": metadata, **(tensors or {})}).encode()
    return struct.pack("<Q", len(text)) + text + raw


def header(data: dict, tensors: dict, raw: bytes) -> bytes:
    return safetensors({HEADER: json.dumps(data)}, tensors, raw)


def good(name: str, own: bool = False) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "w")
        net = NETWORKS[name]
        dtn.save(path, dtn.Network(net.spec, net.layout) if own else net, net.init())
        with open(path, "rb") as file:
            return file.read()


GOOD = good("lowrank")
LENGTH = struct.unpack("<Q", GOOD[:8])[0]
META = json.loads(json.loads(GOOD[8 : 8 + LENGTH])["__metadata__"][HEADER])
TENSORS = {k: v for k, v in json.loads(GOOD[8 : 8 + LENGTH]).items() if k != "__metadata__"}
RAW = GOOD[8 + LENGTH :]
COUNT = len(RAW) // 4
NET = META["network"]
SPEC = json.loads(json.dumps({"layout": NET["layout"], "spec": NETWORKS["lowrank"].spec.to_dict()}))


def changed(**changes) -> bytes:
    """Return the file with a changed header."""
    return header(META | changes, TENSORS, RAW)


def other(**changes) -> bytes:
    """Return the file with a changed description of its network."""
    return changed(network=NET | changes)


def own(**changes) -> bytes:
    """Return the file with a specification instead of a family, changed."""
    return changed(network=SPEC | {"spec": SPEC["spec"] | changes})


def old(**changes) -> bytes:
    """Return the same network as a file of version 2, with one tensor per core."""
    tensors, start = {}, 0
    for name, shape in NETWORKS["lowrank"].spec.param_shapes.items():
        stop = start + 4 * shape[0] * shape[1]
        tensors[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    about = {"format": "deeptn.network", "version": 2, "topology": NET["topology"], **SPEC}
    return header(about | {"dtypes": dict.fromkeys(tensors, "float32")} | changes, tensors, RAW)


def deflated(data: bytes) -> bytes:
    return changed(network={"deflate": base64.b64encode(data).decode()})


def cores(dtype: str = "F32", shape: tuple[int, ...] = (), width: int = 4) -> dict:
    """Return another header entry for the file's single tensor."""
    shape = shape or tuple(TENSORS["cores"]["shape"])
    return {"cores": {"dtype": dtype, "shape": shape, "data_offsets": [0, width * math.prod(shape)]}}


def deep(depth: int) -> str:
    return "[" * depth + "]" * depth


HOSTILE = {
    "empty": b"",
    "text": b"this is not a safetensors file at all",
    "pickle": b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "huge header": struct.pack("<Q", 2**60) + b"{}",
    "truncated header": GOOD[: 8 + LENGTH // 2],
    "truncated data": GOOD[:-5],
    "surplus data": GOOD + b"\0" * 16,
    "no deeptn entry": struct.pack("<Q", 2) + b"{}",
    "entry no json": struct.pack("<Q", 40) + b'{"__metadata__": {"deeptn": "not json"}}',
    "entry deep json": safetensors({HEADER: deep(10**5)}),
    "other format": changed(format="deeptn.model"),
    "later version": changed(version=5),
    "version text": changed(version="1; import os"),
    "header of a later version": changed(scales={"cores": 2.0}),
    "network of a later version": other(seed=7),
    "no network": changed(network=None),
    "network list": changed(network=[1, 2]),
    "network deep": changed(network=json.loads(deep(500))),
    "no layout": other(layout=None),
    "layout list": other(layout=[1, 2]),
    "layout negative": other(layout=NET["layout"] | {"shape": [-12, 10]}),
    "layout other": other(layout={"shape": [2], "factors": [[2]], "order": "rows"}),
    "layout huge": other(layout={"shape": [2**30, 2**30], "factors": [[2] * 30] * 2, "order": "rows"}),
    "digest number": other(digest=7),
    "digest list": other(digest=[]),
    "topology activation": other(topology={"name": "Tree", "activation": {}}),
    "topology rank": other(topology={"name": "LowRank", "rank": "all"}),
    "topology name list": other(topology={"name": []}),
    "topology name inside": other(topology={"name": "Sum", "terms": [{"name": {}}]}),
    "topology endless": other(topology={"name": "BrickWall", "layers": 10**12}),
    "topology deep": other(topology={"name": "Sum", "terms": json.loads(deep(500))}),
    "deflated number": changed(network={"deflate": 7}),
    "deflated text": changed(network={"deflate": "not base64!"}),
    "deflated nothing": deflated(b""),
    "deflated garbage": deflated(b"x" * 100),
    "deflated cut off": deflated(zlib.compress(json.dumps(NET).encode())[:-8]),
    "deflated bomb": deflated(zlib.compress(b" " * 2**27, 9)),
    "deflated deep": deflated(zlib.compress(deep(10**5).encode())),
    "deflated twice": deflated(zlib.compress(json.dumps({"deflate": "x"}).encode())),
    "no spec": changed(network=SPEC | {"spec": {}}),
    "spec node": own(stages=[{"nodes": [{"name": "__import__"}]}]),
    "spec activation": own(stages=[SPEC["spec"]["stages"][0] | {"activation": "os.system"}]),
    "spec sizes": own(sizes=[["b0", 10**30]]),
    "spec deep": changed(network=SPEC | {"spec": json.loads(deep(500))}),
    "dtypes unknown": changed(dtypes={"cores": "object"}),
    "dtypes unhashable": changed(dtypes={"cores": ["x"]}),
    "dtypes complex": changed(dtypes={"cores": "complex64"}),
    "no cores": header(META, {}, b""),
    "cores of another name": header(META, {"other": TENSORS["cores"]}, RAW),
    "cores too short": header(META, cores(shape=(COUNT - 1,)), RAW[:-4]),
    "cores of another shape": header(META, cores(shape=(1, COUNT)), RAW),
    "cores integers": header(META, cores("I32"), RAW),
    "cores twice as narrow": header(META, cores("BF16", (2 * COUNT,), 2), RAW),
    "a core beside them": header(
        META, TENSORS | {"cores.U": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}, RAW
    ),
    "version 2, no layout": old(layout=None),
    "version 2, no spec": old(spec={}),
    "version 2, other spec": old(spec=NETWORKS["train"].spec.to_dict()),
    "version 2, topology": old(topology={"name": "LowRank", "rank": "all"}),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files(content, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(dtn.FormatError):
        dtn.load(path)


def test_the_handmade_file_is_good(tmp_path):
    path = tmp_path / "w.safetensors"
    for content in (changed(), other(), own(), old(), deflated(zlib.compress(json.dumps(NET).encode()))):
        path.write_bytes(content)
        net, params = dtn.load(path)
        assert net == NETWORKS["lowrank"]
        assert b"".join(params[name].tobytes() for name in net.spec.param_shapes) == RAW


def test_pairs_of_something_else_are_not_complex_numbers(tmp_path):
    path, net = tmp_path / "w.safetensors", NETWORKS["lowrank"]
    dtn.save(path, net, net.init(dtype="complex64"))
    content = path.read_bytes()
    assert content.count(b'"F32"') == 1
    path.write_bytes(content.replace(b'"F32"', b'"I32"'))
    with pytest.raises(dtn.FormatError, match="pairs of int32"):
        dtn.load(path)


def test_messages(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        dtn.load(tmp_path / "nothing")
    (tmp_path / "text").write_text("x" * 100)
    with pytest.raises(dtn.FormatError, match="is not a safetensors file"):
        dtn.load(tmp_path / "text")
    (tmp_path / "later").write_bytes(HOSTILE["later version"])
    with pytest.raises(dtn.FormatError, match="format version 5; this version of deeptn reads versions 1 to 4"):
        dtn.load(tmp_path / "later")
    net = NETWORKS["train"]
    with pytest.raises(dtn.SpecError, match="params of another network"):
        dtn.save(tmp_path / "w", net, NETWORKS["lowrank"].init())
    with pytest.raises(FileNotFoundError, match="no directory"):
        dtn.save(tmp_path / "deep" / "w", net, net.init())
    dtn.save(tmp_path / "w", net, net.init())
    with pytest.raises(dtn.SpecError, match="like = 'caffe'"):
        dtn.load(tmp_path / "w", like="caffe")


def test_a_file_cannot_ask_for_an_endless_build(tmp_path):
    (tmp_path / "w").write_bytes(old(topology={"name": "BrickWall", "layers": 10**12}))
    with pytest.raises(dtn.FormatError, match="more nodes than deeptn reads"):
        dtn.load(tmp_path / "w")
    net = dtn.network(dtn.Sum(terms=(dtn.LowRank(rank=1), dtn.BrickWall(layers=1))), (4, 4))
    data = described(net)
    assert network_from_dict(data).topology == net.topology
    data["topology"]["terms"][1]["layers"] = 10**9
    with pytest.raises(dtn.FormatError, match="more nodes than deeptn reads"):
        network_from_dict(data)


def test_a_failed_write_loses_nothing(tmp_path):
    path = tmp_path / "w"
    path.write_text("old")

    def fail(file):
        file.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_pickle_anywhere():
    import pathlib

    root = pathlib.Path(dtn.__file__).parent
    sources = [*root.rglob("*.py"), *(root.parent / "backends").rglob("*.py")]
    assert len(sources) > 30
    for path in sources:
        # Training checkpoints contain the optimizer's state, which torch reads with its restricted unpickler.
        text = path.read_text()
        assert "import pickle" not in text, path
        assert all("weights_only=True" in call.partition(")")[0] for call in text.split("torch.load(")[1:]), path


@pytest.mark.parametrize("name", ["network-2", "network-2-own", "network-3"])
def test_files_of_versions_2_and_3_are_read(name):
    net, params = dtn.load(DATA / f"{name}.safetensors")
    np.testing.assert_allclose(net.materialize(params), np.load(DATA / f"{name}.npy"), rtol=1e-5, atol=1e-6)
    assert (net.topology is None) == name.endswith("own")


def test_models_of_version_3_are_read():
    stored, wanted = dtn.load_model(DATA / "model-3.safetensors"), np.load(DATA / "model-3.npz")
    assert list(stored.layers) == ["fc", "tied", "head", "own"]
    for name, layer in stored.layers.items():
        cores = {core: to_numpy(array) for core, array in layer.params.items()}
        precise = name != "own"  # in bfloat16
        np.testing.assert_allclose(
            layer.network.materialize(cores), wanted[name], rtol=1e-5 if precise else 1e-2, atol=1e-6
        )
    assert np.shares_memory(stored.layers["fc"].params["L1_g0"], stored.layers["tied"].params["L1_g0"])
    assert np.array_equal(stored.layers["fc"].bias, np.arange(8.0))  # pyright: ignore[reportArgumentType]
    assert stored.tensors["a"] is stored.tensors["b"]
    assert [stored.tensors["c"].tolist(), stored.tensors["n"].tolist()] == [[1.0, 1.0], 3]
    layer = dtn.load_model(DATA / "model-3-int8.safetensors").layers["fc"]
    np.testing.assert_allclose(layer.network.materialize(layer.params), wanted["int8"], rtol=1e-5, atol=1e-6)


def test_models_of_version_2_are_read():
    stored, wanted = dtn.load_model(DATA / "model-2.safetensors"), np.load(DATA / "model-2.npz")
    assert list(stored.layers) == ["a", "again", "tree"]
    for name, layer in stored.layers.items():
        cores = {core: to_numpy(array) for core, array in layer.params.items()}
        half = name == "tree"
        weight = wanted["tree" if half else "a"]
        np.testing.assert_allclose(layer.network.materialize(cores), weight, rtol=5e-3 if half else 1e-6)
    assert stored.layers["tree"].params["L1_t0"].dtype.name == "bfloat16"
    assert [bias if bias is None else bias.tolist() for bias in (layer.bias for layer in stored.layers.values())] == [
        [0.0, 1.0, 2.0, 3.0],
        [1.0, 1.0, 1.0, 1.0],
        None,
    ]
    assert stored.tensors["head.weight"].tolist() == np.arange(8.0).reshape(2, 4).tolist()
    assert stored.tensors["z"].tolist() == [1 + 2j, 3 - 1j]
