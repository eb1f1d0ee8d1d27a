"""Test files that ask for endless work, have parts of other types, or lie about their tensors."""

from __future__ import annotations

import copy
import json
import time
from typing import Any

import numpy as np
import pytest

import deeptn as dtn
from deeptn.base import decoded
from deeptn.files import StoredLayer, StoredModel, network_from_dict
from deeptn.files.model_file import OldModelHeader, _networks
from deeptn.planning import Plan
from deeptn.spec import NODES, Node, limited_nodes
from deeptn.topologies import topology_to_dict

LAYOUT = {"shape": [8, 12], "factors": [[2, 2, 2], [2, 2, 3]], "order": "rows"}
WALL = dtn.network(dtn.BrickWall(layers=2), (8, 12))
SPEC = WALL.spec.to_dict()

#: Time until a file is refused [s]: a second, and more on a busy machine.
QUICK = 6.0


def many(count: int, inner: dict[str, Any]) -> dict[str, Any]:
    return {"name": "Sum", "terms": [inner] * count}


def wall(layers: int) -> dict[str, Any]:
    return {"name": "BrickWall", "layers": layers}


ENDLESS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a large prime": ({"shape": [2**61 - 1, 12], "factors": None}, wall(2)),
    "two large primes": ({"shape": [(2**31 - 1) * (2**31 - 19), 12], "factors": None}, wall(2)),
    "many layers": ({}, wall(4096)),
    "endless layers": ({}, wall(10**12)),
    "a sum of many": ({}, many(1000, wall(4096))),
    "a sum of small ones": ({}, many(30, wall(100))),
    "nested sums": ({}, many(20, many(20, many(20, wall(50))))),
    "many legs": ({"factors": [[2, 2, 2] + [1] * 20000, [2, 2, 3]]}, wall(4000)),
    "many axes": ({"shape": [8, 12, *[1] * 100], "factors": [[2, 2, 2], [2, 2, 3], *[[1]] * 100]}, wall(2)),
    "a tree of many legs": ({"factors": [[2, 2, 2] + [1] * 5000, [2, 2, 3]]}, {"name": "Tree", "rank": 2}),
}


@pytest.mark.few(5)
@pytest.mark.parametrize("name", ENDLESS)
def test_what_would_take_for_ever_is_refused_soon(name):
    layout, topology = ENDLESS[name]
    data = {"layout": LAYOUT | layout, "topology": topology, "digest": "0" * 16}
    started = time.monotonic()
    with pytest.raises(dtn.FormatError):
        network_from_dict(data)
    assert time.monotonic() - started < QUICK


def test_a_large_axis_needs_factors():
    with pytest.raises(dtn.LayoutError, match=r"too large to be split into legs; pass a layout with factors"):
        dtn.Layout((2**61 - 1,))
    assert dtn.Layout((2**61 - 1,), ((2**61 - 1,),)).leg_sizes == (2**61 - 1,)
    assert dtn.Layout((2**40 - 87,)).leg_sizes == (2**40 - 87,)  # a prime


def test_networks_that_could_not_be_read_are_not_written(tmp_path):
    net = dtn.network(dtn.BrickWall(layers=3000), (8, 12))
    zeros = {name: np.zeros(shape, "float32") for name, shape in net.spec.param_shapes.items()}
    with pytest.raises(dtn.FormatError, match=f"more nodes than deeptn reads and writes .{NODES:,}"):
        dtn.save(tmp_path / "w", net, zeros)
    assert not list(tmp_path.iterdir())
    large = dtn.network(dtn.BrickWall(layers=200), (8, 12))
    zeros = {name: np.zeros(shape, "float32") for name, shape in large.spec.param_shapes.items()}
    for given in (large, dtn.Network(large.spec, large.layout)):  # by its family, and by its specification
        dtn.save(tmp_path / "w", given, zeros)
        assert dtn.load(tmp_path / "w")[0] == large


def test_every_limit_holds():
    with limited_nodes(2), pytest.raises(dtn.FormatError, match=r"more nodes than .*\(2\)"):  # noqa: PT012
        for name in "abc":
            with limited_nodes():
                Node(name, ("i",))


WRONG: dict[str, tuple[tuple[Any, ...], Any]] = {
    "an index that is a list": (("stages", 0, "nodes", 0, "indices", 0), ["x"]),
    "a flag that is a list": (("stages", 0, "nodes", 0, "isometric"), [1]),
    "a flag that is a word": (("stages", 0, "nodes", 0, "isometric"), "no"),
    "a flag that is a number": (("stages", 0, "nodes", 0, "isometric"), 1),
    "a constant that is a word": (("stages", 0, "nodes", 0, "constant"), ["x"] * 4),
    "a constant out of range": (("stages", 0, "nodes", 0, "constant"), [10**400] * 4),
    "an activation that is a list": (("stages", 0, "activation"), ["relu"]),
    "a source that is a flag": (("stages", 1, "sources"), [False]),
    "a source that is a float": (("stages", 1, "sources"), [0.0]),
    "an infinite leg": (("legs", 0, 1), float("inf")),
    "a leg without a name": (("legs", 0, 0), 3),
    "an axis that is a word": (("legs", 0, 2), "0"),
    "an axis that is a flag": (("legs", 0, 2), False),
    "an axis below zero": (("legs", 0, 2), -1),
    "a size of a flag": (("sizes", 0, 1), True),
    "a size without a name": (("sizes", 0, 0), 1),
}


@pytest.mark.parametrize("name", WRONG)
def test_parts_of_other_types_are_refused(name):
    path, value = WRONG[name]
    spec = copy.deepcopy(SPEC)
    box: Any = spec
    for key in path[:-1]:
        box = box[key]
    box[path[-1]] = value
    with pytest.raises(dtn.FormatError):
        network_from_dict({"layout": LAYOUT, "spec": spec})


def changed(path, change):
    """Rewrite a file after a change of its table of tensors and the header of deeptn."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    table, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    own = json.loads(table["__metadata__"]["deeptn"])
    change(table, own)
    table["__metadata__"]["deeptn"] = json.dumps(own)
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "XYZ"])
def test_dtypes_that_files_cannot_have(tmp_path, dtype):
    dtn.save(tmp_path / "w", WALL, WALL.init())

    def change(table, own):
        entry = table["cores"]
        entry["dtype"], entry["shape"] = dtype, [entry["shape"][0] * (8 if dtype == "F4" else 4)]

    changed(tmp_path / "w", change)
    with pytest.raises(dtn.FormatError, match=r"has the dtype (F|float8)|not a safetensors file"):
        dtn.load(tmp_path / "w")


def test_rounded_cores_that_would_become_infinite(tmp_path):
    params = {name: 1e30 * array for name, array in WALL.init().items()}
    dtn.save_model(StoredModel({"fc": StoredLayer("linear", WALL, params, None)}, {}), tmp_path / "m", "bfloat16")
    changed(tmp_path / "m", lambda table, own: own["layers"]["fc"].update(rounded="float16"))
    with pytest.raises(dtn.FormatError, match="too large for its dtype before rounding, float16"):
        dtn.load_model(tmp_path / "m")


def test_version_1_that_lies_about_half_precision(tmp_path):
    dtn.save(tmp_path / "w", WALL, {name: 1e30 * array for name, array in WALL.init().items()})

    def change(table, own):
        own |= {"version": 1, "dtypes": {"cores": "float16"}, "checksums": ""}

    changed(tmp_path / "w", change)
    with pytest.raises(dtn.FormatError, match="'cores' has entries that its dtype in the header, float16, does not"):
        dtn.load(tmp_path / "w")


def test_aliases_take_no_memory(tmp_path):
    dtn.save_model(
        StoredModel({"fc": StoredLayer("linear", WALL, WALL.init(), None)}, {"x": np.zeros(10**6)}), tmp_path / "m"
    )
    changed(tmp_path / "m", lambda table, own: own.update(aliases={f"y{k}": "x" for k in range(300)}))
    tensors = dtn.load_model(tmp_path / "m").tensors
    assert len(tensors) == 301
    assert len({array.ctypes.data for array in tensors.values()}) == 1


def test_many_equal_layers_are_no_attack():
    """Each of them alone would be built from 368 nodes."""
    text = json.dumps({"name": "BrickWall", "layers": 8})
    layer = f'{{"shape": [4096, 4096], "topology": {text}}}'
    layers = ", ".join(f'"l{k}": {layer}' for k in range(1000))
    head = '"format": "deeptn.plan", "version": 1, "budget": {"params": 1}, "params_before": 1, "params_after": 1'
    assert len(Plan.from_yaml(f'{{{head}, "layers": {{{layers}}}}}').targets) == 1000
    net = dtn.network(dtn.BrickWall(layers=8), (4096, 4096))
    entry = {
        "kind": "linear",
        "layout": net.layout.to_dict(),
        "spec": net.spec.to_dict(),
        "topology": topology_to_dict(dtn.BrickWall(layers=8)),
    }
    old = {"format": "deeptn.model", "version": 2, "layers": {f"l{k}": entry for k in range(1000)}}
    assert len(_networks(decoded(json.dumps(old), OldModelHeader, "the header"))) == 1000


@pytest.mark.slow
def test_many_networks_in_one_model(tmp_path):
    nets = [dtn.network(dtn.BrickWall(layers=7 + k % 3), (4096, 4000 + k)) for k in range(60)]
    layers = {}
    for k, net in enumerate(nets):
        params = {name: np.zeros(shape, "float32") for name, shape in net.spec.param_shapes.items()}
        layers[f"l{k}"] = StoredLayer("linear", net, params, None)
    dtn.save_model(StoredModel(layers, {}), tmp_path / "m")
    assert [layer.network for layer in dtn.load_model(tmp_path / "m").layers.values()] == nets


def test_plans_that_would_take_for_ever():
    layer = {"shape": [8, 12], "topology": wall(10**9)}
    text = json.dumps(
        {"format": "deeptn.plan", "version": 1, "budget": {"params": 1}, "params_before": 1, "params_after": 1}
        | {"layers": {"a": layer}}
    )
    started = time.monotonic()
    with pytest.raises(dtn.FormatError, match="more nodes"):
        Plan.from_yaml(text)
    assert time.monotonic() - started < QUICK
