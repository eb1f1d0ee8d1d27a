"""Test that headers are accepted or refused within a second, and within 64 MB + twice their size."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import deeptn as dtn
from deeptn.files import network_to_dict
from deeptn.files.network_file import DESCRIPTION
from deeptn.files.tensors import LARGEST
from deeptn.planning.plans import LayerPlan, _from_dict
from deeptn.spec import ALL_NODES
from deeptn.topologies import topology_names, topology_to_dict

#: Time [s] of the process that reads: a second, and more on a busy machine.
QUICK = 3.0
NOTHING = {"format": "deeptn.model", "version": 4, "networks": [], "layers": {}, "checksums": ""}
SCRIPT = """
import resource, sys, time
import deeptn as dtn

def peak(what):
    with open("/proc/self/status") as lines:
        return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1024

net = dtn.network("LowRank", (8, 8))
dtn.save(sys.argv[1], net, net.init())  # imports everything
dtn.load(sys.argv[1])
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before, start = peak("VmRSS"), time.process_time()
try:
    dtn.load_model(sys.argv[2])
    said = "read"
except dtn.FormatError as error:
    said = "refused"
print(said, time.process_time() - start, peak("VmHWM") - before)
"""


def write(path: Path, header: dict[str, Any], table: dict[str, Any] | None = None) -> None:
    whole = {"__metadata__": {"deeptn": json.dumps(header, separators=(",", ":"))}} | (table or {})
    text = json.dumps(whole, separators=(",", ":")).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def spec(size: int) -> dict[str, Any]:
    """Return the description of a network with so many bytes, most of them indices."""
    nodes = [{"name": f"n{k}", "indices": ["ab"] * 200} for k in range(size // 1040)]
    stages = [{"nodes": nodes, "output": ["a0_0"]}]
    layout = {"shape": [2], "factors": [[2]], "order": "rows"}
    return {"layout": layout, "spec": {"legs": [["a0_0", 2, 0]], "sizes": [], "stages": stages}}


def deflated(data: Any) -> dict[str, str]:
    return {"deflate": base64.b64encode(zlib.compress(json.dumps(data, separators=(",", ":")).encode(), 9)).decode()}


def walls(count: int, layers: int) -> list[dict[str, Any]]:
    return [network_to_dict(dtn.network(dtn.BrickWall(layers=layers + k), (8, 12))) for k in range(count)]


def attack(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a header and a table of tensors."""
    whole = LARGEST - 1000
    if name == "many tensors":
        names = [f"t{k}" for k in range(whole // 72)]
        table = {name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in names}
        return NOTHING | {"checksums": "0" * 8 * len(names)}, table
    if name == "many layers":
        return NOTHING | {"layers": {f"l{k}": {"kind": "", "network": 0} for k in range(whole // 54)}}, {}
    if name == "many aliases":
        return NOTHING | {"aliases": {f"l{k}": "z" for k in range(whole // 20)}}, {}
    if name == "many networks":
        return NOTHING | {"networks": [{"deflate": ""}] * (whole // 20)}, {}
    if name == "a long specification":
        return NOTHING | {"networks": [spec(DESCRIPTION - 500)]}, {}
    if name == "a long specification, deflated":
        return NOTHING | {"networks": [deflated(spec(DESCRIPTION - 500))]}, {}
    if name == "long families":
        return NOTHING | {"networks": [{"topology": {"name": "Sum", "terms": [[]] * 2**16}}] * 15}, {}
    if name == "lists in lists":
        return NOTHING | {"networks": [json.loads("[" * 900 + "]" * 900)] * 2000}, {}
    if name == "networks of many nodes":
        return NOTHING | {"networks": walls(ALL_NODES // 7 // 600, 300)}, {}
    if name == "constants":
        return NOTHING | {"networks": [deflated(constants(1000 + k)) for k in range(20)]}, {}
    if name == "many small networks":
        nets = (dtn.network(dtn.LowRank(rank=1), (8 + k, 8)) for k in range(6000))
        return NOTHING | {"networks": [network_to_dict(net) for net in nets]}, {}
    if name == "networks of many legs":
        layout = dtn.Layout((2,), ((2, *[1] * 1000),))
        return NOTHING | {"networks": [network_to_dict(dtn.network(dtn.TensorTrain(rank=1), (2,), layout))] * 40}, {}
    if name == "inputs of a node":
        own = spec(1040)
        own["spec"]["stages"][0]["nodes"][0]["inputs"] = [f"{k}y" for k in range(DESCRIPTION // 12)]
        return NOTHING | {"networks": [own]}, {}
    if name == "stages that read all others":
        return NOTHING | {"networks": [deflated(readers(400, 200))]}, {}
    raise AssertionError(name)


def readers(stages: int, width: int) -> dict[str, Any]:
    """Return a network in which every stage reads all earlier ones."""
    layout = {"shape": [2], "factors": [[2]], "order": "rows"}
    outputs = [[f"s{k}_{j}" for j in range(width)] for k in range(stages)]
    found = [
        {
            "nodes": [{"name": f"n{k}", "indices": outputs[k]}],
            "output": outputs[k],
            "activation": "relu",
            "sources": list(range(k)),
        }
        for k in range(stages)
    ]
    sizes = [[index, 1] for own in outputs for index in own]
    return {"layout": layout, "spec": {"legs": [["a0_0", 2, 0]], "sizes": sizes, "stages": found}}


def constants(size: int) -> dict[str, Any]:
    """Return a network with a large constant."""
    nodes = [
        {"name": "A", "indices": ["a0_0", "x"]},
        {"name": "C", "indices": ["x", "y"], "constant": [0.5] * (400 * size)},
        {"name": "B", "indices": ["y", "a1_0"]},
    ]
    layout = {"shape": [2, 2], "factors": [[2], [2]], "order": "rows"}
    stages = [{"nodes": nodes, "output": ["a0_0", "a1_0"]}]
    legs = [["a0_0", 2, 0], ["a1_0", 2, 1]]
    return {"layout": layout, "spec": {"legs": legs, "sizes": [["x", 400], ["y", size]], "stages": stages}}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    "name",
    [
        "many tensors",
        "many layers",
        "many aliases",
        "many networks",
        "a long specification",
        "a long specification, deflated",
        "long families",
        "lists in lists",
        "networks of many nodes",
        "constants",
        "many small networks",
        "networks of many legs",
        "inputs of a node",
        "stages that read all others",
    ],
)
def test_time_and_memory(name, tmp_path):
    path = tmp_path / "m"
    write(path, *attack(name))
    size = path.stat().st_size / 2**20
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "small"), str(path)]
    said, seconds, memory = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    print(f"{name}: {size:.2f} MB, {said} after {float(seconds):.2f} s, {float(memory):.0f} MB")
    assert said == ("read" if name == "networks of many nodes" else "refused")
    assert float(seconds) < QUICK
    assert float(memory) < 64 + 2 * size


def test_a_header_that_could_not_be_read_is_not_written(tmp_path):
    net = dtn.network("LowRank", (8, 8))
    layer = dtn.files.StoredLayer("linear", net, net.init(), None)
    model = dtn.files.StoredModel({f"{k}" * 1000: layer for k in range(10, 900)}, {})
    with pytest.raises(dtn.SpecError, match=r"header .* bytes; files of deeptn have at most"):
        dtn.save_model(model, tmp_path / "m")
    assert not list(tmp_path.iterdir())


def plan(family: dict[str, Any]) -> str:
    data = {"format": "deeptn.plan", "version": 1, "budget": {}, "params_before": 1, "params_after": 1}
    return yaml.safe_dump(data | {"layers": {"fc": {"shape": [96, 64], "topology": family}}})


@pytest.mark.parametrize("size", [10**4, 10**9, 2**62, 10**30])
def test_sizes_of_families(size):
    for name in set(topology_names()) - {"Graph"}:  # which is not built by sizes
        topology = dtn.network(name, (96, 64)).topology
        assert topology is not None
        family = topology_to_dict(topology)
        assert dtn.Plan.from_yaml(plan(family)).targets["fc"].shape == (96, 64)
        for field in family.keys() - {"name"}:
            start = time.process_time()
            with suppress(dtn.FormatError):
                dtn.Plan.from_yaml(plan(family | {field: size}))
            assert time.process_time() - start < QUICK, (name, field)


PLANS = {
    "a tree of many legs": ([4, 2**1000], {"name": "Tree"}),
    "MERA with many legs": ([4, 2**3000], {"name": "MERA"}),
    "many axes": ([4] * 60, {"name": "Tree"}),
    "a train of many legs": ([2**40] * 60, {"name": "TensorTrain"}),
    "more digits than Python prints": ([2**20000], {"name": "Tucker"}),
    "a graph of many nodes": (
        [2, 2],
        {
            "name": "Graph",
            "nodes": [[["A", "".join(chr(0x4E00 + k) for k in range(20000))]], [[f"N{k}", "ab"] for k in range(4000)]],
            "output": "ab",
        },
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_plans(name):
    shape, family = PLANS[name]
    layers = {f"fc{k}": {"shape": [size + k * (size < 9) for size in shape], "topology": family} for k in range(8)}
    text = plan(family).replace("[96, 64]", "[1, 1]")
    data = yaml.safe_load(text) | {"layers": layers}
    start = time.process_time()
    with suppress(dtn.FormatError):
        print(_from_dict(data))  # without YAML, which is slow itself
    assert time.process_time() - start < QUICK


def test_a_plan_that_could_not_be_read_is_not_written(tmp_path):
    deep = dtn.network(dtn.BrickWall(layers=3000), (8, 12))
    with pytest.raises(dtn.PlanError, match="layer 'fc' of the plan: the networks of the file have more nodes"):
        dtn.Plan({"fc": LayerPlan((8, 12), deep, 0.5)}, {"params": 1}, 1, 1).save(tmp_path / "p.yaml")
    assert not list(tmp_path.iterdir())
    bare = dtn.Network(dtn.network("Tree", (8, 12)).spec, dtn.network("Tree", (8, 12)).layout)
    with pytest.raises(dtn.PlanError, match="a plan names families"):
        dtn.Plan({"fc": LayerPlan((8, 12), bare, 0.5)}, {"params": 1}, 1, 1).save(tmp_path / "p.yaml")
    good = dtn.Plan({"fc": LayerPlan((8, 12), dtn.network("Tree", (8, 12)), 0.5)}, {"params": np.int64(9)}, 1, 1)
    good.save(tmp_path / "p.yaml")
    assert dtn.Plan.load(tmp_path / "p.yaml") == good


def test_ranks_above_the_bonds_are_stored(tmp_path):
    for topology in (dtn.LowRank(rank=5000), dtn.TTMatrix(rank=10**6), dtn.TensorTrain(rank=4097)):
        net = dtn.network(topology, (6, 4))
        dtn.save(tmp_path / "w", net, net.init())
        assert dtn.load(tmp_path / "w")[0].topology == topology


def test_messages_are_short():
    order = list(range(300_000))
    for change in ({"order": order}, {"order": "x" * 10**6}):
        with pytest.raises(dtn.FormatError) as found:
            dtn.Layout.from_dict({"shape": [4], "factors": [[2, 2]]} | change)
        assert len(str(found.value)) < 1000
    long = spec(1040)
    for part in ({"name": "n" * 10**6}, {"indices": ["i" * 10**6]}):
        long["spec"]["stages"][0]["nodes"][0] |= part
        with pytest.raises(dtn.FormatError) as found:
            dtn.files.network_from_dict(long)
        assert len(str(found.value)) < 1000
    long["spec"]["stages"][0] |= {"activation": "a" * 10**6, "nodes": [{"name": "A", "indices": ["a0_0"]}]}
    with pytest.raises(dtn.FormatError) as found:
        dtn.files.network_from_dict(long)
    assert len(str(found.value)) < 1000
