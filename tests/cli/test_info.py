"""Test ``deeptn``, ``deeptn list`` and ``deeptn info``."""

from __future__ import annotations

import json

import numpy as np
import pytest

import deeptn as dtn
from deeptn.cli import main
from deeptn.files import StoredLayer, StoredModel, write_tensors


def test_without_a_command_there_is_help_with_examples(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert [line.split()[:2] for line in said.splitlines() if line.startswith("  deeptn")] == [
        ["deeptn", "list"],
        ["deeptn", "draw"],
        ["deeptn", "inspect"],
        ["deeptn", "compress"],
        ["deeptn", "demo"],
    ]


def test_list_names_every_topology(capsys):
    assert main(["list", "--shape", "16,16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(dtn.topologies.topology_names())
    wall = next(line.split() for line in lines if line.startswith("BrickWall"))
    assert wall[1] == str(dtn.network(dtn.BrickWall(layers=1), (16, 16)).num_params)


def test_list_of_another_shape(capsys):
    assert main(["list", "--shape", "7"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "LowRank" in lines
    assert main(["list", "--shape", "seven"]) == 1
    assert "separate the sizes with commas" in capsys.readouterr().err


def test_info_about_a_network(tmp_path, capsys):
    net = dtn.network(dtn.BrickWall(layers=2), (120, 400))
    dtn.save(tmp_path / "w", net, net.init())
    assert main(["info", str(tmp_path / "w")]) == 0
    _, row, last = capsys.readouterr().out.splitlines()
    assert row.split() == ["weight", "120", "×", "400", "BrickWall(layers=2)", "384", "1,536", "192,000"]
    assert (
        last
        == f"{(tmp_path / 'w').stat().st_size / 1000:.1f} KB on disk; cores: 1.5 KB; the same weights dense: 192.0 KB"
    )


def test_info_about_a_model(tmp_path, capsys):
    net = dtn.network(dtn.TTMatrix(rank=2), (10, 64))
    tree = dtn.network(dtn.Tree(rank=2), (10, 10))
    own = dtn.Network(tree.spec, tree.layout)
    layers = {
        "fc": StoredLayer("linear", net, net.init(), np.zeros(10, "float32")),
        "head": StoredLayer("linear", own, own.init(), None),
    }
    dtn.save_model(StoredModel(layers, {"norm.weight": np.ones(64, "float32")}), tmp_path / "m")
    assert main(["info", str(tmp_path / "m")]) == 0
    _, first, second, others, last = capsys.readouterr().out.splitlines()
    assert first.split()[:2] == ["fc", "linear"]
    assert "TTMatrix(rank=2)" in first
    assert "custom network" in second
    assert others == "2 other tensors: 74 numbers, 296 bytes"
    assert last.endswith("the same weights dense: 3.0 KB")


def test_info_as_json(tmp_path, capsys):
    net, tree = dtn.network(dtn.TTMatrix(rank=2), (10, 64)), dtn.network(dtn.Tree(rank=2), (10, 10))
    shared = StoredLayer("linear", net, net.init(), None)
    layers = {"a": shared, "b": shared, "head": StoredLayer("linear", tree, tree.init(), np.zeros(10, "float32"))}
    tensors = {"norm.weight": np.ones(64, "float32"), "norm.running_mean": np.zeros(64, "float32")}
    dtn.save_model(StoredModel(layers, tensors), tmp_path / "m")
    assert main(["info", str(tmp_path / "m"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["format"] == "deeptn.model"
    assert [layer["name"] for layer in data["layers"]] == ["a", "b", "head"]
    first, params = data["layers"][0], net.num_params + tree.num_params
    assert first == {
        "name": "a",
        "kind": "linear",
        "shape": [10, 64],
        "topology": "TTMatrix(rank=2)",
        "params": net.num_params,
        "dense_params": 640,
        "ratio": 640 / net.num_params,
        "bytes": 4 * net.num_params,
        "dense_bytes": 2560,
        "decoded_bytes": 2560,
        "peak_bytes": 4 * net.cost().peak,
    }
    assert data["totals"] == {
        "disk_bytes": (tmp_path / "m").stat().st_size,
        "params_at_rest": params + 64 + 10,
        "bytes_at_rest": 4 * (params + 64 + 64 + 10),
        "params": params,
        "dense_params": 740,
        "bytes": 4 * params,
        "dense_bytes": 4 * 740,
        "ratio": 740 / params,
        "decoded_bytes": 4 * (640 + 740),
        "peak_bytes": 4 * max(net.cost().peak, tree.cost().peak),
    }
    assert (data["other_tensors"], data["other_numbers"], data["other_bytes"]) == (3, 138, 552)


def test_info_about_a_network_as_json(tmp_path, capsys):
    net = dtn.network(dtn.BrickWall(layers=2), (120, 400))
    dtn.save(tmp_path / "w", net, net.init())
    assert main(["info", str(tmp_path / "w"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["format"], data["totals"]["params_at_rest"], data["totals"]["ratio"]) == ("deeptn.network", 384, 125.0)
    assert main(["info", str(tmp_path / "none"), "--json"]) == 1
    assert capsys.readouterr().out == ""


def test_info_about_something_else(tmp_path, capsys):
    (tmp_path / "text").write_text("nothing of ours")
    assert main(["info", str(tmp_path / "text")]) == 1
    assert "is not a safetensors file" in capsys.readouterr().err
    write_tensors(tmp_path / "checkpoint", {"format": "deeptn-checkpoint"}, {"a": np.ones(2)})
    assert main(["info", str(tmp_path / "checkpoint")]) == 1
    assert "a file of the format 'deeptn-checkpoint'" in capsys.readouterr().err
    write_tensors(tmp_path / "none", {"format": "deeptn.model", "networks": [], "layers": {}}, {"a": np.ones(2)})
    assert main(["info", str(tmp_path / "none")]) == 1
    assert "the model has no generated layer" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["info"])
