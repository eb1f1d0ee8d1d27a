"""Files: round trips, and what happens with damaged or hostile ones."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import deeptn as dtn
from deeptn.arrays import to_numpy
from deeptn.base import write_atomically
from deeptn.files import HEADER, network_from_dict, network_to_dict

from ..conftest import DTYPES, UNSUPPORTED
from ..market import NETWORKS


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
    old = Path(__file__).parents[1] / "data" / "network-1-bfloat16.safetensors"
    code = """
import sys, deeptn
assert not {"safetensors", "ml_dtypes"} & sys.modules.keys()
print(*(array.dtype for path in sys.argv[1:] for array in deeptn.load(path)[1].values()))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "w"), str(old)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert set(said.split()) == {"float32"}


def test_an_unregistered_topology_is_loaded_as_its_spec(tmp_path):
    net = NETWORKS["tree-relu"]
    data = network_to_dict(net)
    data["topology"]["name"] = "SomebodysTree"
    assert network_from_dict(data) == net
    assert network_from_dict(data).topology is None
    data["topology"] = {"name": "Tree", "rank": 7}
    assert network_from_dict(data).topology is None


def safetensors(metadata: dict, tensors: dict | None = None, raw: bytes = b"") -> bytes:
    """A safetensors file made by hand."""
    text = json.dumps({"__metadata__": metadata, **(tensors or {})}).encode()
    return struct.pack("<Q", len(text)) + text + raw


def header(data: dict, tensors: dict, raw: bytes) -> bytes:
    return safetensors({HEADER: json.dumps(data)}, tensors, raw)


def good() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "w")
        net = NETWORKS["lowrank"]
        dtn.save(path, net, net.init())
        with open(path, "rb") as file:
            return file.read()


GOOD = good()
LENGTH = struct.unpack("<Q", GOOD[:8])[0]
META = json.loads(json.loads(GOOD[8 : 8 + LENGTH])["__metadata__"][HEADER])
TENSORS = {k: v for k, v in json.loads(GOOD[8 : 8 + LENGTH]).items() if k != "__metadata__"}
RAW = GOOD[8 + LENGTH :]


def changed(**changes) -> bytes:
    return header(META | changes, TENSORS, RAW)


def deep(depth: int) -> str:
    return "[" * depth + "]" * depth


HOSTILE = {
    "empty": b"",
    "text": b"this is no safetensors file at all",
    "pickle": b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "huge header": struct.pack("<Q", 2**60) + b"{}",
    "truncated header": GOOD[: 8 + LENGTH // 2],
    "truncated data": GOOD[:-5],
    "surplus data": GOOD + b"\0" * 16,
    "no deeptn entry": struct.pack("<Q", 2) + b"{}",
    "entry no json": struct.pack("<Q", 40) + b'{"__metadata__": {"deeptn": "not json"}}',
    "entry deep json": safetensors({HEADER: deep(10**5)}),
    "other format": changed(format="deeptn.model"),
    "later version": changed(version=3),
    "version text": changed(version="1; import os"),
    "no layout": changed(layout=None),
    "layout list": changed(layout=[1, 2]),
    "layout negative": changed(layout=META["layout"] | {"shape": [-12, 10]}),
    "layout other": changed(layout={"shape": [2], "factors": [[2]], "order": "rows"}),
    "no spec": changed(spec={}),
    "spec node": changed(spec=META["spec"] | {"stages": [{"nodes": [{"name": "__import__"}]}]}),
    "spec activation": changed(
        spec=META["spec"] | {"stages": [META["spec"]["stages"][0] | {"activation": "os.system"}]}
    ),
    "spec sizes": changed(spec=META["spec"] | {"sizes": [["b0", 10**30]]}),
    "spec deep": changed(spec=json.loads(deep(500))),
    "topology activation": changed(topology={"name": "Tree", "activation": {}}),
    "topology rank": changed(topology={"name": "LowRank", "rank": "all"}),
    "dtypes missing": changed(dtypes={}),
    "dtypes unknown": changed(dtypes={"U": "object", "V": "object"}),
    "dtypes unhashable": changed(dtypes={"U": ["x"], "V": {}}),
    "tensor missing": header(META, {"U": TENSORS["U"]}, RAW[: TENSORS["U"]["data_offsets"][1]]),
    "tensor other shape": header(META, {k: v | {"shape": v["shape"][::-1]} for k, v in TENSORS.items()}, RAW),
    "tensor integers": header(META, {k: v | {"dtype": "I32"} for k, v in TENSORS.items()}, RAW),
    "tensor bfloat16": header(
        META, {k: v | {"dtype": "BF16", "shape": [*v["shape"], 2]} for k, v in TENSORS.items()}, RAW
    ),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files(content, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(dtn.FormatError):
        dtn.load(path)


def test_the_handmade_file_is_good(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(changed())
    assert dtn.load(path)[0] == NETWORKS["lowrank"]


def test_pairs_of_something_else_are_not_complex_numbers(tmp_path):
    path, net = tmp_path / "w.safetensors", NETWORKS["lowrank"]
    dtn.save(path, net, net.init(dtype="complex64"))
    content = path.read_bytes()
    assert content.count(b'"F32"') == len(net.spec.param_shapes)
    path.write_bytes(content.replace(b'"F32"', b'"I32"'))
    with pytest.raises(dtn.FormatError, match="pairs of int32"):
        dtn.load(path)


def test_messages(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        dtn.load(tmp_path / "nothing")
    (tmp_path / "text").write_text("x" * 100)
    with pytest.raises(dtn.FormatError, match="is no safetensors file"):
        dtn.load(tmp_path / "text")
    (tmp_path / "later").write_bytes(HOSTILE["later version"])
    with pytest.raises(dtn.FormatError, match="format version 3; this deeptn reads versions 1 to 2"):
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
    (tmp_path / "w").write_bytes(changed(topology={"name": "BrickWall", "layers": 10**12}))
    assert dtn.load(tmp_path / "w")[0].topology is None


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
        # Checkpoints of training hold an optimizer's state, which torch reads with its restricted unpickler.
        text = path.read_text().replace("torch.load(path, weights_only=True)", "")
        assert "import pickle" not in text, path
        assert "torch.load" not in text, path


def test_a_file_without_the_newer_keys_is_read():
    net = NETWORKS["brickwall-relu"]
    data = json.loads(json.dumps(network_to_dict(net)))
    for stage in data["spec"]["stages"]:
        for key in ("sources", "multiply", "add"):
            del stage[key]
        for node in stage["nodes"]:
            del node["isometric"]
    assert network_from_dict(data) == net


def test_nested_sizes_of_a_hostile_file_are_not_built():
    net = dtn.network(dtn.Sum(terms=(dtn.LowRank(rank=1), dtn.BrickWall(layers=1))), (4, 4))
    data = json.loads(json.dumps(network_to_dict(net)))
    assert network_from_dict(data).topology == net.topology
    data["topology"]["terms"][1]["layers"] = 10**9
    assert network_from_dict(data).topology is None
