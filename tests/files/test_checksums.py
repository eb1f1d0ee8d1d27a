"""Test that damage is found when a damaged tensor is read, and not before."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import deeptn as dtn
from deeptn.files import HEADER, StoredLayer, StoredModel, load_checkpoint, save_checkpoint
from deeptn.models import StoredView, compress

DATA = Path(__file__).parent.parent / "data"
DAMAGED = r"is damaged: tensor '{}' does not have its checksum"


@pytest.fixture
def path(tmp_path):
    net = dtn.network(dtn.LowRank(rank=2), (6, 4))
    shared = np.arange(12.0, dtype="float32").reshape(3, 4)
    tensors = {"a.weight": shared, "b.weight": shared, "c.weight": np.ones((5, 3)), "d": np.ones(3, "complex64")}
    tensors["empty"] = np.empty((0, 2), "float32")
    path = tmp_path / "model.safetensors"
    dtn.save_model(StoredModel({"fc": StoredLayer("linear", net, net.init(), np.zeros(6, "float32"))}, tensors), path)
    return path


def damage(path: Path, name: str) -> None:
    """Change one bit of a tensor."""
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start + json.loads(content[8:start])[name]["data_offsets"][0]] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["a.weight", "c.weight", "d", "fc.cores", "fc.bias"])
def test_models(path, name):
    assert len(dtn.load_model(path).tensors) == 5
    damage(path, name)
    with pytest.raises(dtn.FormatError, match=DAMAGED.format(name)):
        dtn.load_model(path)


def test_networks(tmp_path):
    net = dtn.network(dtn.LowRank(rank=2), (6, 4))
    dtn.save(tmp_path / "w", net, net.init())
    damage(tmp_path / "w", "cores")
    with pytest.raises(dtn.FormatError, match=DAMAGED.format("cores")):
        dtn.load(tmp_path / "w")


@pytest.mark.parametrize("name", ["a.weight", "b.weight"])
def test_only_what_is_read_is_checked(path, name):
    damage(path, "a.weight")  # which b.weight shares
    model = load_checkpoint(path)
    view = StoredView(model)
    assert {weight.name: weight.shape for weight in view.weights()} == {"fc": (6, 4), "a": (3, 4), "c": (5, 3)}
    assert model.tensors["c.weight"].shape == (5, 3)
    with pytest.raises(dtn.FormatError, match=DAMAGED.format(name)):
        model.tensors[name]
    with pytest.raises(dtn.FormatError, match=DAMAGED.format("a.weight")):
        next(weight for weight in view.weights() if weight.name == "a").read()


@pytest.mark.parametrize("sharded", [False, True])
def test_networks_as_checkpoints(tmp_path, sharded):
    net = dtn.network(dtn.LowRank(rank=2), (6, 4))
    dtn.save(tmp_path / "w.safetensors", net, net.init())
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"cores": "w.safetensors"}}))
    file = index if sharded else tmp_path / "w.safetensors"
    assert load_checkpoint(file).tensors["cores"].shape == (20,)
    damage(tmp_path / "w.safetensors", "cores")
    tensors = load_checkpoint(file).tensors
    assert len(tensors) == 1
    with pytest.raises(dtn.FormatError, match=r"w\.safetensors' " + DAMAGED.format("cores")):
        tensors["cores"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"checksums":"', '"checksums":3,"x":"'),
        ('"version":4', '"version";4'),
        ('"version":4', '"version":0'),
        ('"version":4', '"version":3'),
        ('"version":4', '"version":5'),
    ],
)
@pytest.mark.parametrize("kind", ["network", "model"])
def test_a_damaged_header_does_not_switch_checksums_off(old, new, kind, path, tmp_path):
    if kind == "network":
        path = tmp_path / "w.safetensors"
        net = dtn.network(dtn.LowRank(rank=2), (6, 4))
        dtn.save(path, net, net.init())
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    table = json.loads(content[8:start])
    assert old in table["__metadata__"][HEADER]
    table["__metadata__"][HEADER] = table["__metadata__"][HEADER].replace(old, new)
    text = json.dumps(table, separators=(",", ":")).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[start:])
    for read in (load_checkpoint, dtn.load if kind == "network" else dtn.load_model):
        with pytest.raises(dtn.FormatError):
            read(path)


def test_damage_is_not_written_on(path, tmp_path):
    damage(path, "c.weight")
    with pytest.raises(dtn.FormatError, match=DAMAGED.format("c.weight")):
        save_checkpoint(load_checkpoint(path), tmp_path / "dense")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_cores_of_a_mapped_model_are_checked(path):
    damage(path, "fc.cores")
    with pytest.raises(dtn.FormatError, match=DAMAGED.format("fc.cores")):
        load_checkpoint(path)


@pytest.mark.parametrize("sums", ["", "0" * 8, "x" * 80, 3, None])
def test_checksums_that_are_none(path, sums):
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    table = json.loads(content[8:start])
    table["__metadata__"][HEADER] = json.dumps(json.loads(table["__metadata__"][HEADER]) | {"checksums": sums})
    text = json.dumps(table).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[start:])
    with pytest.raises(dtn.FormatError):
        dtn.load_model(path)


def test_other_programs_may_sort_the_tensors_anew(path):
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    before = dtn.load_model(path)
    save_file(load_file(path), path, metadata=header["__metadata__"])
    after = dtn.load_model(path)
    assert all(np.array_equal(after.tensors[name], array) for name, array in before.tensors.items())


def test_older_versions_have_none(tmp_path):
    for version in (1, 2):
        shutil.copy(DATA / f"model-{version}.safetensors", tmp_path / "m")
        text = (tmp_path / "m").read_bytes()
        assert not re.search(rb"checksums", text)
        assert dtn.load_model(tmp_path / "m").layers


def test_what_does_not_need_a_tensor_does_not_read_it(path):
    damage(path, "a.weight")
    model = load_checkpoint(path)
    view = StoredView(model)
    assert view.entries()["a.weight"].shape == (3, 4)
    moved = model.renamed({"a": "first", "c": "third"})
    assert moved.tensors["third.weight"].shape == (5, 3)
    with pytest.raises(dtn.FormatError, match=DAMAGED.format("first.weight")):
        moved.tensors["first.weight"]
    small, _ = compress(view, {"c": dtn.LowRank(rank=1)})
    assert isinstance(small, StoredModel)
    assert set(small.layers) == {"fc", "c"}
    with pytest.raises(dtn.FormatError, match=DAMAGED.format("a.weight")):
        small.tensors["a.weight"]
